"""What can be a DID. Pure but for the refusal."""

from __future__ import annotations

from drayman.server.platform.errors import invalid

#: Bytes of a namespace and a name together: they are keys of indexes, whose entries must fit on a third of a page.
LONGEST = 2500


def check_did(namespace: str, name: str, field: str, what: str) -> None:
    """Raise Refusal (INVALID_FIELD) for what can be no DID; `what` tells the user which entry it is."""
    if not name or "\x00" in name or "\x00" in namespace:
        raise invalid(field, f"{what}: {f'{namespace}:{name}'!r} is no DID: a name is needed, without NUL")
    # characters first: it is cheap, and most names are short
    if len(namespace) + len(name) > LONGEST // 4 and len((namespace + name).encode()) > LONGEST:
        raise invalid(field, f"{what}: {f'{namespace}:{name}'[:80]!r}... is too long: at most {LONGEST} bytes")
