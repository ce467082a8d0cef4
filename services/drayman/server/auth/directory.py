"""Changes of users and roles, each of them whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drayman.server.auth.digest import Secret
from drayman.server.auth.store import Changes, Role, Store, User
from drayman.server.platform.errors import Refusal


def user_not_found(name: str) -> Refusal:
    """Say that no user has this name."""
    return Refusal("USER_NOT_FOUND", f"user {name} not found", "username", {"user": name})


def role_not_found(name: str) -> Refusal:
    """Say that no role has this name."""
    return Refusal("ROLE_NOT_FOUND", f"role {name} not found", "name", {"role": name})


class Directory:
    """The users and roles of the deployment, to be changed. Names that come in are well-formed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create_user(
        self,
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
                await changes.insert_roles(roles)
            else:
                _require("role", "roles", roles, await changes.known_roles(roles))
            await changes.insert_memberships(roles, [name])
            await changes.insert_secrets(name, secrets)
            return await _existing_user(changes, name)

    async def update_user(
        self, name: str, *, admin: bool | None, disabled: bool | None, full_name: str | None, email: str | None
    ) -> User:
        """Change what is not None. Raises Refusal (USER_NOT_FOUND, LAST_ADMIN)."""
        async with self._store.changes() as changes:
            before = await _existing_user(changes, name)
            await changes.update_user(name, admin=admin, disabled=disabled, full_name=full_name, email=email)
            after = await _existing_user(changes, name)
            if before.administers and not after.administers:
                await _require_other_admin(changes, name)
            return after

    async def delete_user(self, name: str) -> None:
        """Remove a user. Raises Refusal (USER_NOT_FOUND, LAST_ADMIN)."""
        async with self._store.changes() as changes:
            if (await _existing_user(changes, name)).administers:
                await _require_other_admin(changes, name)
            await changes.delete_user(name)

    async def set_secrets(self, name: str, secrets: Sequence[Secret]) -> None:
        """Replace all secrets of a user. Raises Refusal (USER_NOT_FOUND)."""
        async with self._store.changes() as changes:
            await _existing_user(changes, name)
            await changes.delete_secrets(name)
            await changes.insert_secrets(name, secrets)

    async def create_role(self, name: str, members: Sequence[str]) -> Role:
        """Add a role. Raises Refusal (ROLE_EXISTS, UNKNOWN_NAME)."""
        async with self._store.changes() as changes:
            if not await changes.insert_roles([name]):
                raise Refusal("ROLE_EXISTS", f"role {name} exists", "name", {"role": name})
            _require("user", "members", members, await changes.known_users(members))
            await changes.insert_memberships([name], members)
            return await _existing_role(changes, name)

    async def update_role(self, name: str, add: Sequence[str], remove: Iterable[str]) -> Role:
        """Add and remove members. Raises Refusal (ROLE_NOT_FOUND, UNKNOWN_NAME)."""
        async with self._store.changes() as changes:
            await _existing_role(changes, name)
            _require("user", "add_members", add, await changes.known_users(add))
            await changes.insert_memberships([name], add)
            await changes.delete_members(name, remove)
            return await _existing_role(changes, name)

    async def delete_role(self, name: str) -> None:
        """Remove a role. Raises Refusal (ROLE_NOT_FOUND)."""
        async with self._store.changes() as changes:
            await _existing_role(changes, name)
            await changes.delete_role(name)


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
