"""A registry of one's own, for tests and to try things out: real services on loopback, in the folders that are given."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drayman.client.channel import parse_url
from drayman.client.errors import AlreadyExistsError
from drayman.client.registry import RegistryClient
from drayman.pygobbler.connections import CONNECTIONS

if TYPE_CHECKING:
    from drayman.testing import LocalStack

#: Options of the mirrored server: the setting that means the same; None = it has no meaning here.
_OPTIONS = {
    "probation": "DRAYMAN_PROBATION_DAYS",
    "whitelist": "DRAYMAN_REGISTRY_WHITELIST",
    "spoof": "DRAYMAN_REGISTRY_SPOOF",
    "concurrency": None,
    "prefix": None,
}


class _Running:
    """The stack that runs, of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stack: LocalStack | None = None
        self.stop = contextlib.ExitStack()
        self.pid = 0

    @property
    def mine(self) -> bool:
        """Whether one runs that this process started: a child must leave it alone."""
        return self.stack is not None and self.pid == os.getpid()


_running = _Running()


def start_gobbler(
    staging: str | None = None,
    registry: str | None = None,
    port: int | None = None,
    wait: float = 1,
    version: str = "0.5.0",
    overwrite: bool = False,
    admin: Sequence[str] | None = None,
    extra_args: Sequence[str] = [],
) -> tuple[bool, str, str, str]:
    """Start all services with a database of their own, unless they run; returns whether it did, staging, registry and URL.

    None = temporary folders, which stay, and a free port. A registry that is there is taken over. `admin` names the administrators; None =
    the user of this process. Calls without a token are that user's. `extra_args` are options of the mirrored server: `-probation`,
    `-whitelist` and `-spoof` mean what they mean there, others nothing. `wait`, `version` and `overwrite` have no meaning: it is ready when
    this returns. While it runs, other arguments change nothing. It ends with the process.

    Raises `drayman.testing.StackError` if it does not start, ValueError for an option that there is not. Needs `drayman[local]`.
    """
    from drayman.testing import local_stack  # noqa: PLC0415 - of the server's installation

    with _running.lock:
        if _running.mine and _running.stack is not None and _running.stack.running:
            stack = _running.stack
            return False, str(stack.staging), str(stack.registry), stack.url
        _stop()
        settings = _settings(extra_args)
        folders = [Path(given or tempfile.mkdtemp(prefix="gobbler-")).absolute() for given in (staging, registry)]
        with contextlib.ExitStack() as failed:
            stack = failed.enter_context(
                local_stack(staging=folders[0], registry=folders[1], port=port or 0, settings=settings)
            )
            token = _make_users(stack, admin)
            if any(folders[1].iterdir()):
                _adopt(stack.url, stack.token(stack.admin[0]))
            address = parse_url(stack.url)
            CONNECTIONS.tokens[address] = token
            failed.callback(CONNECTIONS.tokens.pop, address, None)
            _running.stop = failed.pop_all()
        _running.stack, _running.pid = stack, os.getpid()
        atexit.register(stop_gobbler)
        return True, str(stack.staging), str(stack.registry), stack.url


def stop_gobbler() -> None:
    """End what `start_gobbler` started, if it runs. The folders stay."""
    with _running.lock:
        _stop()


def _stop() -> None:
    if _running.mine:
        atexit.unregister(stop_gobbler)
        _running.stack = None
        _running.stop.close()


def _make_users(stack: LocalStack, admin: Sequence[str] | None) -> str:
    """Make the administrators and the user of this process; returns that one's token."""
    me = pwd.getpwuid(os.getuid()).pw_name
    admins = [me] if admin is None else list(admin)
    for name in dict.fromkeys([*admins, me]):
        with contextlib.suppress(AlreadyExistsError):  # the stack has an administrator of its own
            stack.add_user(name, admin=name in admins)
    return stack.token(me)


def _adopt(url: str, token: str) -> None:
    async def adopt(_client: RegistryClient) -> None:
        # the stack's administrator may, whoever the caller is
        async with RegistryClient(url, token) as client:
            async for _ in client.adopt():
                pass

    CONNECTIONS.run(url, adopt)


def _settings(arguments: Sequence[str]) -> dict[str, str]:
    """Read options of the mirrored server: `-name value` or `-name=value`."""
    settings: dict[str, str] = {}
    words: Iterator[str] = iter(arguments)
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in _OPTIONS:
            expected = ", ".join(f"-{option}" for option in _OPTIONS)
            raise ValueError(f"extra_args: {word!r}: expected one of {expected}")
        if not equals:
            value = next(words, "")
        if name == "probation":
            value = str(max(int(value), 0))
        variable = _OPTIONS[name]
        if variable is not None:
            settings[variable] = value
    return settings
