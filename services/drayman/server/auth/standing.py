"""What a caller may do now, whatever their token said when it was made."""

from __future__ import annotations

from drayman.server.auth.store import Store
from drayman.server.platform.errors import Refusal
from drayman.server.platform.trust import Caller


async def require_present(store: Store, caller: Caller) -> bool:
    """Raise Refusal (TOKEN_INVALID) if the caller is gone or disabled; returns whether they are an administrator now.

    Services hear of a change a moment after it. Auth, which knows better, goes by what it has stored, in both directions.
    """
    standing = await store.standing(caller.username)
    if standing is None:
        raise Refusal("TOKEN_INVALID", f"user {caller.username} not found", metadata={"user": caller.username})
    admin, disabled = standing
    if disabled:
        raise Refusal("TOKEN_INVALID", f"user {caller.username} is disabled", metadata={"user": caller.username})
    return admin


async def require_admin(store: Store, caller: Caller) -> None:
    """Raise Refusal (TOKEN_INVALID, ADMIN_ONLY) unless the caller is an administrator now."""
    if not await require_present(store, caller):
        raise _admin_only(caller)


async def require_self_or_admin(store: Store, caller: Caller, username: str) -> None:
    """Raise Refusal (TOKEN_INVALID, ADMIN_ONLY) unless the caller is this user or an administrator."""
    if not await require_present(store, caller) and caller.username != username:
        raise _admin_only(caller)


def _admin_only(caller: Caller) -> Refusal:
    return Refusal("ADMIN_ONLY", "Not authorized: for administrators", metadata={"user": caller.username})
