"""Lines of `htdigest` files: secrets of users who come from another system."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping

from drayman.cli.output import Failure, printable
from drayman.client.users import Secret

_ALGORITHMS = {32: "MD5", 64: "SHA-256"}


async def read_secrets(lines: AsyncIterator[tuple[int, str]]) -> Mapping[str, list[Secret]]:
    """Read `username:realm:ha1` lines into secrets by user, in order. Raises Failure, which never repeats the hash."""
    found: dict[str, dict[str, Secret]] = {}
    async for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.strip().split(":")
        if len(parts) != 3 or not parts[0]:
            raise Failure(f"line {number}: expected username:realm:hash")
        username, realm, ha1 = parts[0], parts[1], parts[2].lower()
        algorithm = _ALGORITHMS.get(len(ha1))
        if algorithm is None or not re.fullmatch("[0-9a-f]+", ha1):
            raise Failure(f"line {number}: the hash is neither MD5 (32 hex digits) nor SHA-256 (64)")
        secrets = found.setdefault(username, {})
        if algorithm in secrets:
            raise Failure(f"line {number}: a second {algorithm} hash of {printable(username)}")
        secrets[algorithm] = Secret(algorithm, realm, ha1)
    return {username: list(secrets.values()) for username, secrets in found.items()}
