"""Users and roles of another system, created here: all of them or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn

from drayman.server.auth import identities as rules
from drayman.server.auth.audit import Author, Event
from drayman.server.auth.digest import SHA256, Secret
from drayman.server.auth.directory import apply_standing, description, difference
from drayman.server.auth.identities import Identity
from drayman.server.auth.store import Changes, Store, User
from drayman.server.platform.errors import Refusal

_LEFT_ALONE = "exists and is left as it is"


class Result(Enum):
    """What became of an entry."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class UserEntry:
    """A user to create, well-formed; `notes` say what was left out of what was asked."""

    name: str
    full_name: str
    email: str
    admin: bool
    disabled: bool
    secrets: Sequence[Secret]
    identities: Sequence[Identity]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class RoleEntry:
    """A role to create, well-formed."""

    name: str
    members: Sequence[str]


@dataclass(slots=True)
class Outcome:
    """What became of an entry, and for people what did not."""

    name: str
    result: Result
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of all entries, each in its order."""

    users: Sequence[Outcome]
    roles: Sequence[Outcome]


class _DryRun(Exception):
    """Undoes what was tried."""


class UserImport:
    """Creates users and roles in one transaction. `update` changes those who exist, and takes nothing away from them."""

    def __init__(self, store: Store, realm: str) -> None:
        self._store = store
        self._realm = realm

    async def run(
        self, author: Author, users: Sequence[UserEntry], roles: Sequence[RoleEntry], *, update: bool, dry_run: bool
    ) -> Outcomes:
        """Import, or with `dry_run` say what would become of it.

        Raises Refusal (UNKNOWN_NAME for a member who is nowhere, LAST_ADMIN, INVALID_FIELD for too many identities).
        """
        outcomes = Outcomes([], [])
        try:
            async with self._store.changes() as changes:
                # one administers before, and one must afterwards
                outcomes = await _Run(changes, author, self._realm, update=update).run(users, roles)
                if not await changes.other_admins(""):
                    raise Refusal("LAST_ADMIN", "nobody could administer the deployment afterwards")
                if dry_run:
                    _undo()
        except _DryRun:
            pass
        return outcomes


class _Run:
    """The import within its transaction."""

    def __init__(self, changes: Changes, author: Author, realm: str, *, update: bool) -> None:
        self._changes = changes
        self._author = author
        self._realm = realm
        self._update = update

    async def run(self, users: Sequence[UserEntry], roles: Sequence[RoleEntry]) -> Outcomes:
        known = await self._changes.users(entry.name for entry in users)
        done = Outcomes(
            [await self._user(place, entry, known.get(entry.name)) for place, entry in enumerate(users)], []
        )
        await self._require_members(roles)
        existing = await self._changes.known_roles(role.name for role in roles)
        created = {outcome.name for outcome in done.users if outcome.result is Result.CREATED}
        joined: set[str] = set()
        outcomes = [await self._role(entry, entry.name in existing, joined) for entry in roles]
        # who was created just now has no token that could say less
        await self._changes.raise_standing(joined - created)
        done = Outcomes(done.users, outcomes)
        if any(outcome.result is not Result.UNCHANGED for outcome in (*done.users, *done.roles)):
            detail = {"users": _counts(done.users), "roles": _counts(done.roles)}
            await self._changes.record(Event("USERS_IMPORTED", self._author, "", detail=detail))
        return done

    async def _user(self, place: int, entry: UserEntry, known: User | None) -> Outcome:
        notes = list(entry.notes)
        if known is None:
            await self._create(entry)
            return Outcome(entry.name, Result.CREATED, notes)
        if not self._update:
            return Outcome(entry.name, Result.UNCHANGED, [_LEFT_ALONE])
        changed = await self._change(f"users[{place}].identities", entry, known, notes)
        return Outcome(entry.name, Result.UPDATED if changed else Result.UNCHANGED, notes)

    async def _create(self, entry: UserEntry) -> None:
        await self._changes.insert_user(
            entry.name, admin=entry.admin, disabled=entry.disabled, full_name=entry.full_name, email=entry.email
        )
        await self._changes.insert_secrets(entry.name, entry.secrets)
        await self._changes.insert_identities(entry.name, entry.identities)
        created = await self._changes.user(entry.name)
        assert created is not None, "it was just created"
        detail = description(created, entry.secrets)
        await self._changes.record(Event("USER_CREATED", self._author, entry.name, detail=detail))

    async def _change(self, path: str, entry: UserEntry, before: User, notes: list[str]) -> bool:
        """Set and add what the entry has; returns whether that changed anything."""
        name = entry.name
        await self._changes.update_user(
            name,
            admin=entry.admin or None,
            disabled=entry.disabled or None,
            full_name=entry.full_name or None,
            email=entry.email or None,
        )
        added = await self._changes.insert_identities(name, entry.identities)
        after = await self._changes.user(name)
        assert after is not None, "nobody removes users meanwhile"
        rules.require_room(path, after.identities)
        algorithms = await self._set_secrets(entry, notes)
        ended = await apply_standing(self._changes, before, after)
        if algorithms:
            await self._changes.lock_users([name])
            ended += await self._changes.end_sessions(name, method="digest")
        detail: dict[str, object] = difference(before, after)
        if added:
            detail["identities_added"] = [str(identity) for identity in added]
        if algorithms:
            detail["algorithms"] = algorithms
        if not detail:
            return False
        if ended:
            detail["sessions_ended"] = ended
        await self._changes.record(Event("USER_CHANGED", self._author, name, detail=detail))
        return True

    async def _set_secrets(self, entry: UserEntry, notes: list[str]) -> list[str]:
        """Store the hashes that are new; returns their algorithms."""
        if not entry.secrets:
            return []
        stored = await self._changes.secrets(entry.name, self._realm)
        brought = {secret.algorithm for secret in entry.secrets}
        fresh = [secret for secret in entry.secrets if stored.get(secret.algorithm) != secret]
        # Who has set a password here has a better hash than the imported one: the old password must not come back.
        if SHA256 in stored and SHA256 not in brought:
            notes += [f"the {secret.algorithm} hash is left out: the user has a password here" for secret in fresh]
            fresh = []
        await self._changes.put_secrets(entry.name, fresh)
        return sorted(secret.algorithm for secret in fresh)

    async def _role(self, entry: RoleEntry, exists: bool, joined: set[str]) -> Outcome:
        if exists and not self._update:
            return Outcome(entry.name, Result.UNCHANGED, [_LEFT_ALONE])
        await self._changes.insert_roles([entry.name])
        added = [user for _, user in await self._changes.insert_memberships([entry.name], entry.members)]
        joined.update(added)
        if exists and not added:
            return Outcome(entry.name, Result.UNCHANGED)
        if exists:
            event = Event("ROLE_CHANGED", self._author, entry.name, detail={"added": added})
        else:
            event = Event("ROLE_CREATED", self._author, entry.name, detail={"members": added} if added else {})
        await self._changes.record(event)
        return Outcome(entry.name, Result.UPDATED if exists else Result.CREATED)

    async def _require_members(self, roles: Sequence[RoleEntry]) -> None:
        known = await self._changes.known_users({member for role in roles for member in role.members})
        for place, role in enumerate(roles):
            for index, member in enumerate(role.members):
                if member not in known:
                    path = f"roles[{place}].members[{index}]"
                    raise Refusal("UNKNOWN_NAME", f"unknown user: {member}", path, {"user": member})


def _undo() -> NoReturn:
    raise _DryRun


def _counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(sorted(Counter(outcome.result.value for outcome in outcomes).items()))
