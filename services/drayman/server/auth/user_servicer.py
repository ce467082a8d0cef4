"""UserService: the users and roles of a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from drayman.auth.v1 import user_service_pb2 as pb
from drayman.server.auth import digest, identities, names, pages
from drayman.server.auth.audit import Author, Event, author_of
from drayman.server.auth.auth_servicer import session_token, timestamp
from drayman.server.auth.digest import Secret
from drayman.server.auth.directory import Directory, user_not_found
from drayman.server.auth.identities import Identity
from drayman.server.auth.sessions import Sessions
from drayman.server.auth.standing import require_admin, require_present, require_self_or_admin
from drayman.server.auth.store import Role, Store, User
from drayman.server.auth.user_import import Outcome, Result, RoleEntry, UserEntry, UserImport
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid

_LONGEST_LIFETIME = 366 * 86_400.0

_RESULTS = {
    Result.CREATED: pb.ImportOutcome.RESULT_CREATED,
    Result.UPDATED: pb.ImportOutcome.RESULT_UPDATED,
    Result.UNCHANGED: pb.ImportOutcome.RESULT_UNCHANGED,
}


class UserServicer:
    """Creates, reads and changes users and roles.

    The door lets in who is an administrator by what was last heard; here the database is asked, and what is refused is written down.
    """

    def __init__(self, store: Store, sessions: Sessions, realm: str) -> None:
        self._store = store
        self._directory = Directory(store)
        self._import = UserImport(store, realm)
        self._sessions = sessions
        self._realm = realm

    async def CreateUser(self, request: pb.CreateUserRequest, call: Call) -> pb.CreateUserResponse:
        """Add a user."""
        author = await self._administrator(call, "USER_CREATED", request.username)
        user = await self._directory.create_user(
            author,
            names.check("username", request.username),
            self._secrets(request.secrets),
            admin=request.admin,
            roles=_names("roles", request.roles),
            create_roles=request.create_roles,
            full_name=names.check_text("full_name", request.full_name),
            email=names.check_text("email", request.email),
        )
        return pb.CreateUserResponse(user=_user(user))

    async def GetUser(self, request: pb.GetUserRequest, call: Call) -> pb.GetUserResponse:
        """Read oneself; administrators read anybody."""
        username = names.check("username", request.username)
        await require_self_or_admin(self._store, call.caller, username)
        return pb.GetUserResponse(user=_user(await self._existing(username)))

    async def ListUsers(self, request: pb.ListUsersRequest, call: Call) -> pb.ListUsersResponse:
        """Read a page of users."""
        await require_admin(self._store, call.caller)
        size, start = pages.page_size(request.page_size), pages.page_start(request.page_token)
        users = await self._store.users(start, size + 1)
        following = pages.page_token(users[size - 1].name) if len(users) > size else ""
        return pb.ListUsersResponse(users=map(_user, users[:size]), next_page_token=following)

    async def UpdateUser(self, request: pb.UpdateUserRequest, call: Call) -> pb.UpdateUserResponse:
        """Change the fields that are set."""
        author = await self._administrator(call, "USER_CHANGED", request.username)
        user = await self._directory.update_user(
            author,
            names.check("username", request.username),
            admin=request.admin if request.HasField("admin") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
            full_name=names.check_text("full_name", request.full_name) if request.HasField("full_name") else None,
            email=names.check_text("email", request.email) if request.HasField("email") else None,
        )
        return pb.UpdateUserResponse(user=_user(user))

    async def DeleteUser(self, request: pb.DeleteUserRequest, call: Call) -> pb.DeleteUserResponse:
        """Remove a user."""
        author = await self._administrator(call, "USER_DELETED", request.username)
        await self._directory.delete_user(author, names.check("username", request.username))
        return pb.DeleteUserResponse()

    async def SetPassword(self, request: pb.SetPasswordRequest, call: Call) -> pb.SetPasswordResponse:
        """Replace one's own secrets; administrators replace anybody's."""
        username = names.check("username", request.username)
        author = author_of(call)
        try:
            await require_self_or_admin(self._store, call.caller, username)
        except Refusal as refusal:
            await self._note(refusal, "PASSWORD_SET", author, username)
            raise
        await self._directory.set_secrets(
            author, username, self._secrets(request.secrets), session=_own(call, username)
        )
        return pb.SetPasswordResponse()

    async def CreateRole(self, request: pb.CreateRoleRequest, call: Call) -> pb.CreateRoleResponse:
        """Add a role."""
        author = await self._administrator(call, "ROLE_CREATED", request.name)
        name, members = names.check("name", request.name), _names("members", request.members)
        return pb.CreateRoleResponse(role=_role(await self._directory.create_role(author, name, members)))

    async def ListRoles(self, _request: pb.ListRolesRequest, call: Call) -> pb.ListRolesResponse:
        """Read all roles."""
        await require_present(self._store, call.caller)
        return pb.ListRolesResponse(roles=map(_role, await self._store.roles()))

    async def UpdateRole(self, request: pb.UpdateRoleRequest, call: Call) -> pb.UpdateRoleResponse:
        """Add and remove members."""
        author = await self._administrator(call, "ROLE_CHANGED", request.name)
        name, add = names.check("name", request.name), _names("add_members", request.add_members)
        remove = _names("remove_members", request.remove_members)
        for place, member in enumerate(remove):
            if member in add:
                raise invalid(f"remove_members[{place}]", f"{member} is to be added as well", value=member)
        return pb.UpdateRoleResponse(role=_role(await self._directory.update_role(author, name, add, remove)))

    async def DeleteRole(self, request: pb.DeleteRoleRequest, call: Call) -> pb.DeleteRoleResponse:
        """Remove a role."""
        author = await self._administrator(call, "ROLE_DELETED", request.name)
        await self._directory.delete_role(author, names.check("name", request.name))
        return pb.DeleteRoleResponse()

    async def CheckNames(self, request: pb.CheckNamesRequest, call: Call) -> pb.CheckNamesResponse:
        """Tell which names are not known."""
        await require_present(self._store, call.caller)
        users = await self._store.known_users(_possible(request.usernames))
        roles = await self._store.known_roles(_possible(request.roles))
        return pb.CheckNamesResponse(
            unknown_usernames=[name for name in request.usernames if name not in users],
            unknown_roles=[name for name in request.roles if name not in roles],
        )

    async def UpdateIdentities(self, request: pb.UpdateIdentitiesRequest, call: Call) -> pb.UpdateIdentitiesResponse:
        """Register and remove identities of a user."""
        author = await self._administrator(call, "IDENTITIES_CHANGED", request.username)
        username = names.check("username", request.username)
        add = [_identity(f"add[{place}]", message) for place, message in enumerate(request.add)]
        remove = [_identity(f"remove[{place}]", message) for place, message in enumerate(request.remove)]
        identities.require_room("add", add)
        for place, identity in enumerate(remove):
            if identity in add:
                raise invalid(f"remove[{place}]", f"{identity} is to be added as well", value=identity)
        session = _own(call, username)
        user = await self._directory.update_identities(author, username, add, remove, session=session)
        return pb.UpdateIdentitiesResponse(user=_user(user))

    async def ImportUsers(self, request: pb.ImportUsersRequest, call: Call) -> pb.ImportUsersResponse:
        """Create users and roles of another system."""
        author = await self._administrator(call, "USERS_IMPORTED", "")
        users = [self._entry(f"users[{place}]", message) for place, message in enumerate(request.users)]
        roles = [_role_entry(f"roles[{place}]", message) for place, message in enumerate(request.roles)]
        _require_once("users", "username", [entry.name for entry in users])
        _require_once("roles", "name", [entry.name for entry in roles])
        done = await self._import.run(author, users, roles, update=request.update_existing, dry_run=request.dry_run)
        return pb.ImportUsersResponse(
            outcomes=[
                *(pb.ImportOutcome(username=each.name, **_outcome(each)) for each in done.users),
                *(pb.ImportOutcome(role=each.name, **_outcome(each)) for each in done.roles),
            ]
        )

    async def IssueToken(self, request: pb.IssueTokenRequest, call: Call) -> pb.IssueTokenResponse:
        """Make a session token for a user. Disabled ones get none, as if they did not exist."""
        author = await self._administrator(call, "TOKEN_ISSUED", request.username)
        username, lifetime = names.check("username", request.username), _lifetime(request)
        return pb.IssueTokenResponse(token=session_token(await self._sessions.issue(username, lifetime, author)))

    async def RotateSigningKey(self, _request: pb.RotateSigningKeyRequest, call: Call) -> pb.RotateSigningKeyResponse:
        """Start signing with a new key."""
        author = await self._administrator(call, "KEY_ROTATED", "")
        return pb.RotateSigningKeyResponse(key_id=await self._sessions.rotate(author))

    async def _administrator(self, call: Call, action: str, subject: str) -> Author:
        """Return who asks for a change; raises Refusal (TOKEN_INVALID, ADMIN_ONLY) unless they are an administrator."""
        author = author_of(call)
        try:
            await require_admin(self._store, call.caller)
        except Refusal as refusal:
            await self._note(refusal, action, author, subject)
            raise
        return author

    async def _note(self, refusal: Refusal, action: str, author: Author, subject: str) -> None:
        if refusal.reason == "ADMIN_ONLY":
            await self._store.record(Event(action, author, subject, refused=True, reason=refusal.reason))

    async def _existing(self, username: str) -> User:
        user = await self._store.user(username)
        if user is None:
            raise user_not_found(username)
        return user

    def _secrets(self, asked: Sequence[pb.DigestSecret]) -> list[Secret]:
        """Read secrets; raises Refusal (INVALID_FIELD), which never repeats the hash."""
        secrets: dict[str, Secret] = {}
        for place, message in enumerate(asked):
            secret = Secret(message.algorithm, message.realm, message.ha1)
            part, reason = digest.problem(secret, self._realm)
            if part:
                raise invalid(f"secrets[{place}].{part}", reason, algorithm=secret.algorithm[:32])
            if secret.algorithm in secrets:
                raise invalid(f"secrets[{place}].algorithm", f"{secret.algorithm} occurs twice", value=secret.algorithm)
            secrets[secret.algorithm] = secret
        return list(secrets.values())

    def _entry(self, field: str, message: pb.ImportedUser) -> UserEntry:
        """Read a user to import. What no login could use is left out, with a note; what cannot be stored raises Refusal (INVALID_FIELD)."""
        notes: list[str] = []
        return UserEntry(
            name=names.check(f"{field}.username", message.username),
            full_name=names.check_text(f"{field}.full_name", message.full_name),
            email=names.check_text(f"{field}.email", message.email),
            admin=message.admin,
            disabled=message.disabled,
            secrets=self._imported_secrets(f"{field}.secrets", message.secrets, notes),
            identities=_imported_identities(f"{field}.identities", message.identities, notes),
            notes=notes,
        )

    def _imported_secrets(self, field: str, asked: Sequence[pb.DigestSecret], notes: list[str]) -> list[Secret]:
        secrets: dict[str, Secret] = {}
        for place, message in enumerate(asked):
            secret = Secret(message.algorithm, message.realm, message.ha1)
            # the hash of another realm could never be checked; whether it is one at all is asked nevertheless
            part, reason = digest.problem(secret, secret.realm)
            if part:
                raise invalid(f"{field}[{place}].{part}", reason, algorithm=secret.algorithm[:32])
            if secret.realm != self._realm:
                realms = f"of realm {secret.realm[:64]!a} is left out: the realm here is {self._realm!a}"
                notes.append(f"the {secret.algorithm} hash {realms}")
                continue
            if secret.algorithm in secrets:
                raise invalid(f"{field}[{place}].algorithm", f"{secret.algorithm} occurs twice", value=secret.algorithm)
            secrets[secret.algorithm] = secret
        return list(secrets.values())


def _imported_identities(field: str, asked: Sequence[pb.Identity], notes: list[str]) -> list[Identity]:
    read: dict[Identity, None] = {}
    for place, message in enumerate(asked):
        try:
            read[_identity(f"{field}[{place}]", message)] = None
        except Refusal as refusal:
            notes.append(f"an identity is left out: {refusal.message}")
    identities.require_room(field, list(read))
    return list(read)


def _names(field: str, asked: Iterable[str]) -> list[str]:
    return [names.check(f"{field}[{place}]", name) for place, name in enumerate(asked)]


def _identity(field: str, message: pb.Identity) -> Identity:
    """Read an identity; raises Refusal (INVALID_FIELD)."""
    match message.WhichOneof("name"):
        case "x509_dn":
            return identities.read_x509(f"{field}.x509_dn", message.x509_dn)
        case "ldap_dn":
            return identities.read_ldap(f"{field}.ldap_dn", message.ldap_dn)
        case "token_subject":
            subject = message.token_subject
            return identities.read_token(f"{field}.token_subject", subject.issuer, subject.subject)
        case _:
            raise invalid(field, "no identity; expected x509_dn, ldap_dn or token_subject")


def _role_entry(field: str, message: pb.Role) -> RoleEntry:
    return RoleEntry(names.check(f"{field}.name", message.name), _names(f"{field}.members", message.members))


def _require_once(field: str, part: str, asked: Sequence[str]) -> None:
    """Raise Refusal (INVALID_FIELD) if a name occurs twice."""
    seen: set[str] = set()
    for place, name in enumerate(asked):
        if name in seen:
            raise invalid(f"{field}[{place}].{part}", f"{name} occurs twice", value=name)
        seen.add(name)


def _own(call: Call, username: str) -> UUID | None:
    """Return the caller's session if it is one of this user."""
    if call.caller.username == username:
        with suppress(ValueError):  # tokens of sessions have it; others have none to keep
            return UUID(call.caller.session)
    return None


def _possible(asked: Iterable[str]) -> list[str]:
    """Leave out what cannot be a name: it is unknown, and the database might not even take it."""
    return [name for name in asked if not names.problem(name)]


def _lifetime(request: pb.IssueTokenRequest) -> float | None:
    if not request.HasField("lifetime"):
        return None
    seconds = request.lifetime.seconds + request.lifetime.nanos / 1e9
    if not 0 < seconds <= _LONGEST_LIFETIME:
        raise invalid("lifetime", f"{seconds:g} s: expected more than 0 s and at most a year", value=seconds)
    return seconds


def _user(user: User) -> pb.User:
    return pb.User(
        username=user.name,
        admin=user.admin,
        disabled=user.disabled,
        roles=user.roles,
        full_name=user.full_name,
        email=user.email,
        create_time=timestamp(user.created_at.timestamp()),
        identities=map(_identity_message, user.identities),
    )


def _identity_message(identity: Identity) -> pb.Identity:
    match identity.kind:
        case identities.X509:
            return pb.Identity(x509_dn=identity.name)
        case identities.LDAP:
            return pb.Identity(ldap_dn=identity.name)
        case _:
            return pb.Identity(token_subject=pb.TokenSubject(issuer=identity.issuer, subject=identity.subject))


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {"result": _RESULTS[outcome.result], "notes": outcome.notes}


def _role(role: Role) -> pb.Role:
    return pb.Role(name=role.name, members=role.members)
