"""Changes of users, roles and identities, each of them whole or not at all.

Every change leaves its event in the audit log and, where what somebody may do changes, a new version of their standing, from which the
services learn it. Both are written in the transaction of the change. What changes nothing leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from drayman.server.auth import identities as rules
from drayman.server.auth.audit import Author, Event
from drayman.server.auth.digest import Secret
from drayman.server.auth.identities import Identity
from drayman.server.auth.store import Changes, Role, Store, User
from drayman.server.platform.errors import Refusal

#: Logins by password over challenge and response: what a new password ends.
_BY_PASSWORD = "digest"  # noqa: S105 - the name of a method

_CHANGEABLE = ("admin", "disabled", "full_name", "email")


def user_not_found(name: str) -> Refusal:
    """Say that no user has this name."""
    return Refusal("USER_NOT_FOUND", f"user {name} not found", "username", {"user": name})


def role_not_found(name: str) -> Refusal:
    """Say that no role has this name."""
    return Refusal("ROLE_NOT_FOUND", f"role {name} not found", "name", {"role": name})


class Directory:
    """The users and roles of the deployment, to be changed by `author`. Names and identities that come in are well-formed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create_user(
        self,
        author: Author,
        name: str,
        secrets: Sequence[Secret],
        *,
        admin: bool,
        roles: Sequence[str],
        create_roles: bool,
        full_name: str,
        email: str,
    ) -> User:
        """Add a user. Raises Refusal (USER_EXISTS, UNKNOWN_NAME)."""
        async with self._store.changes() as changes:
            if not await changes.insert_user(name, admin=admin, full_name=full_name, email=email):
                raise Refusal("USER_EXISTS", f"user {name} exists", "username", {"user": name})
            if create_roles:
                new = await changes.insert_roles(roles)
                await changes.record(*(Event("ROLE_CREATED", author, role) for role in sorted(new)))
            else:
                _require("role", "roles", roles, await changes.known_roles(roles))
            await changes.insert_memberships(roles, [name])
            await changes.insert_secrets(name, secrets)
            created = await _existing_user(changes, name)
            await changes.record(Event("USER_CREATED", author, name, detail=description(created, secrets)))
            return created

    async def update_user(
        self,
        author: Author,
        name: str,
        *,
        admin: bool | None,
        disabled: bool | None,
        full_name: str | None,
        email: str | None,
    ) -> User:
        """Change what is not None. Raises Refusal (USER_NOT_FOUND, LAST_ADMIN)."""
        async with self._store.changes() as changes:
            before = await _existing_user(changes, name)
            await changes.update_user(name, admin=admin, disabled=disabled, full_name=full_name, email=email)
            after = await _existing_user(changes, name)
            if before.administers and not after.administers:
                await _require_other_admin(changes, name)
            detail = difference(before, after)
            if detail:
                ended = await apply_standing(changes, before, after)
                await changes.record(Event("USER_CHANGED", author, name, detail={**detail, **_ended(ended)}))
            return after

    async def delete_user(self, author: Author, name: str) -> None:
        """Remove a user. Raises Refusal (USER_NOT_FOUND, LAST_ADMIN)."""
        async with self._store.changes() as changes:
            user = await _existing_user(changes, name)
            if user.administers:
                await _require_other_admin(changes, name)
            # before the removal, which takes the sessions with it: services must hear of them
            await changes.raise_standing([name], revoke=True)
            ended = await changes.end_sessions(name)
            await changes.delete_user(name)
            await changes.record(Event("USER_DELETED", author, name, detail={**description(user, ()), **_ended(ended)}))

    async def set_secrets(
        self, author: Author, name: str, secrets: Sequence[Secret], *, session: UUID | None = None
    ) -> None:
        """Replace all secrets of a user. Sessions that a password began end, but for `session`, the author's.

        Raises Refusal (USER_NOT_FOUND).
        """
        async with self._store.changes() as changes:
            await _existing_user(changes, name)
            # logins by the old password come to their end first, and their sessions are found
            await changes.lock_users([name])
            await changes.delete_secrets(name)
            await changes.insert_secrets(name, secrets)
            ended = await changes.end_sessions(name, keep=session, method=_BY_PASSWORD)
            detail = {"algorithms": _algorithms(secrets), **_ended(ended)}
            await changes.record(Event("PASSWORD_SET", author, name, detail=detail))

    async def update_identities(
        self,
        author: Author,
        name: str,
        add: Sequence[Identity],
        remove: Sequence[Identity],
        *,
        session: UUID | None = None,
    ) -> User:
        """Register and remove identities. Sessions that a removed kind of identity began end, but for `session`, the author's.

        Raises Refusal (USER_NOT_FOUND; INVALID_FIELD for too many).
        """
        async with self._store.changes() as changes:
            await _existing_user(changes, name)
            await changes.lock_users([name])
            removed = await changes.delete_identities(name, remove)
            added = await changes.insert_identities(name, add)
            after = await _existing_user(changes, name)
            rules.require_room("add", after.identities)
            if added or removed:
                ended = 0
                for kind in sorted({each.kind for each in removed}):
                    ended += await changes.end_sessions(name, keep=session, method=kind)
                detail = {**_unless_empty(added=_texts(added), removed=_texts(removed)), **_ended(ended)}
                await changes.record(Event("IDENTITIES_CHANGED", author, name, detail=detail))
            return after

    async def create_role(self, author: Author, name: str, members: Sequence[str]) -> Role:
        """Add a role. Raises Refusal (ROLE_EXISTS, UNKNOWN_NAME)."""
        async with self._store.changes() as changes:
            if not await changes.insert_roles([name]):
                raise Refusal("ROLE_EXISTS", f"role {name} exists", "name", {"role": name})
            _require("user", "members", members, await changes.known_users(members))
            await changes.insert_memberships([name], members)
            await changes.raise_standing(members)
            created = await _existing_role(changes, name)
            detail = _unless_empty(members=list(created.members))
            await changes.record(Event("ROLE_CREATED", author, name, detail=detail))
            return created

    async def update_role(self, author: Author, name: str, add: Sequence[str], remove: Iterable[str]) -> Role:
        """Add and remove members. Raises Refusal (ROLE_NOT_FOUND, UNKNOWN_NAME)."""
        async with self._store.changes() as changes:
            await _existing_role(changes, name)
            _require("user", "add_members", add, await changes.known_users(add))
            added = [user for _, user in await changes.insert_memberships([name], add)]
            removed = await changes.delete_members(name, remove)
            if added or removed:
                await changes.raise_standing([*added, *removed])
                detail = _unless_empty(added=added, removed=removed)
                await changes.record(Event("ROLE_CHANGED", author, name, detail=detail))
            return await _existing_role(changes, name)

    async def delete_role(self, author: Author, name: str) -> None:
        """Remove a role. Raises Refusal (ROLE_NOT_FOUND)."""
        async with self._store.changes() as changes:
            members = list((await _existing_role(changes, name)).members)
            await changes.delete_role(name)
            await changes.raise_standing(members)
            await changes.record(Event("ROLE_DELETED", author, name, detail=_unless_empty(members=members)))


def description(user: User, secrets: Sequence[Secret]) -> dict[str, object]:
    """Say in the audit log what a user is who comes or goes: what is set, and never a hash."""
    return _unless_empty(
        admin=user.admin,
        disabled=user.disabled,
        full_name=user.full_name,
        email=user.email,
        roles=list(user.roles),
        algorithms=_algorithms(secrets),
        identities=_texts(user.identities),
    )


def difference(before: User, after: User) -> dict[str, object]:
    """Say in the audit log how a user was changed: old and new values by field; empty if nothing was."""
    return {
        field: {"old": getattr(before, field), "new": getattr(after, field)}
        for field in _CHANGEABLE
        if getattr(before, field) != getattr(after, field)
    }


async def apply_standing(changes: Changes, before: User, after: User) -> int:
    """Let services learn what a user may do now, if it changed: who was disabled is out. Returns how many sessions ended."""
    if after.disabled and not before.disabled:
        await changes.raise_standing([after.name], revoke=True)
        return await changes.end_sessions(after.name)
    if (before.admin, before.disabled, before.roles) != (after.admin, after.disabled, after.roles):
        await changes.raise_standing([after.name])
    return 0


async def _existing_user(changes: Changes, name: str) -> User:
    user = await changes.user(name)
    if user is None:
        raise user_not_found(name)
    return user


async def _existing_role(changes: Changes, name: str) -> Role:
    role = await changes.role(name)
    if role is None:
        raise role_not_found(name)
    return role


async def _require_other_admin(changes: Changes, name: str) -> None:
    if not await changes.other_admins(name):
        message = f"{name} is the last administrator: make another user administrator first"
        raise Refusal("LAST_ADMIN", message, "username", {"user": name})


def _require(kind: str, field: str, asked: Sequence[str], known: set[str]) -> None:
    """Raise Refusal (UNKNOWN_NAME) for the first name that is not known."""
    for place, name in enumerate(asked):
        if name not in known:
            raise Refusal("UNKNOWN_NAME", f"unknown {kind}: {name}", f"{field}[{place}]", {kind: name})


def _algorithms(secrets: Sequence[Secret]) -> list[str]:
    return [secret.algorithm for secret in secrets]


def _texts(identities: Iterable[Identity]) -> list[str]:
    return [str(identity) for identity in identities]


def _ended(sessions: int) -> Mapping[str, object]:
    return _unless_empty(sessions_ended=sessions)


def _unless_empty(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value}
