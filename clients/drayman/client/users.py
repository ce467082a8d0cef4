"""The asyncio client of users: who they are, what they log in with, which roles they have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import grpc.aio

from drayman.auth.v1 import auth_service_pb2 as auth_pb
from drayman.auth.v1 import auth_service_pb2_grpc, user_service_pb2_grpc
from drayman.auth.v1 import user_service_pb2 as user_pb
from drayman.client import digest
from drayman.client.calls import Client
from drayman.client.files import duration
from drayman.client.session_token import Session

_RESULTS: dict[int, Literal["created", "updated", "unchanged"]] = {
    user_pb.ImportOutcome.RESULT_CREATED: "created",
    user_pb.ImportOutcome.RESULT_UPDATED: "updated",
    user_pb.ImportOutcome.RESULT_UNCHANGED: "unchanged",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a user logs in with besides a password.

    `name` is the subject of an X.509 certificate, the name of an LDAP entry, or the subject of the tokens of `issuer`.
    """

    kind: Literal["x509", "ldap", "token"]
    name: str
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A user of the deployment."""

    username: str
    admin: bool
    disabled: bool
    roles: tuple[str, ...]
    full_name: str
    email: str
    created: datetime
    identities: tuple[Identity, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """A role and its members."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """What auth stores of a password: `ha1` of RFC 7616 in lower-case hex; `algorithm` is `SHA-256` or `MD5`."""

    algorithm: str
    realm: str
    ha1: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportedUser:
    """A user of another system. Secrets of another realm are left out, with a note."""

    username: str
    full_name: str = ""
    email: str = ""
    admin: bool = False
    disabled: bool = False
    secrets: tuple[Secret, ...] = ()
    identities: tuple[Identity, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """What became of an entry of an import; `notes` tell people what was left out, and why."""

    kind: Literal["user", "role"]
    name: str
    result: Literal["created", "updated", "unchanged"]
    notes: tuple[str, ...]


class UserClient(Client):
    """Administers users and roles. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        super()._bind(channel)
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._users = user_service_pb2_grpc.UserServiceStub(channel)

    async def create_user(
        self,
        username: str,
        password: str | None = None,
        *,
        admin: bool = False,
        roles: Sequence[str] = (),
        create_roles: bool = False,
        full_name: str = "",
        email: str = "",
        secrets: Sequence[Secret] = (),
    ) -> User:
        """Add a user, with a password, or with secrets of another system, or with neither: no password login then. For administrators."""
        request = user_pb.CreateUserRequest(
            username=username,
            secrets=await self._secrets(username, password, secrets),
            admin=admin,
            roles=roles,
            create_roles=create_roles,
            full_name=full_name,
            email=email,
        )
        return _user((await self._call(self._users.CreateUser, request)).user)

    async def get_user(self, username: str) -> User:
        """Read a user: oneself, or anybody for administrators."""
        return _user((await self._call(self._users.GetUser, user_pb.GetUserRequest(username=username))).user)

    async def users(self) -> AsyncIterator[User]:
        """Read all users by name. For administrators."""
        token = ""
        while True:
            reply = await self._call(self._users.ListUsers, user_pb.ListUsersRequest(page_token=token))
            for user in reply.users:
                yield _user(user)
            token = reply.next_page_token
            if not token:
                return

    async def update_user(
        self,
        username: str,
        *,
        admin: bool | None = None,
        disabled: bool | None = None,
        full_name: str | None = None,
        email: str | None = None,
    ) -> User:
        """Change what is not None. For administrators."""
        fields = {"admin": admin, "disabled": disabled, "full_name": full_name, "email": email}
        changes: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        request = user_pb.UpdateUserRequest(username=username, **changes)
        return _user((await self._call(self._users.UpdateUser, request)).user)

    async def delete_user(self, username: str) -> None:
        """Remove a user. For administrators."""
        await self._call(self._users.DeleteUser, user_pb.DeleteUserRequest(username=username))

    async def set_password(self, username: str, password: str | None = None, *, secrets: Sequence[Secret] = ()) -> None:
        """Change one's own password, or anybody's for administrators. Its hash travels, so use TLS beyond loopback.

        `secrets` of another system stand for a password. With neither there is no password login any more. Sessions of that user that a
        password began end, but for the one that this client is in.
        """
        request = user_pb.SetPasswordRequest(
            username=username, secrets=await self._secrets(username, password, secrets)
        )
        await self._call(self._users.SetPassword, request)

    async def update_identities(
        self, username: str, *, add: Iterable[Identity] = (), remove: Iterable[Identity] = ()
    ) -> User:
        """Register and remove what a user logs in with besides a password. For administrators.

        Sessions that a removed kind of identity began end.
        """
        request = user_pb.UpdateIdentitiesRequest(
            username=username, add=map(_identity_message, add), remove=map(_identity_message, remove)
        )
        return _user((await self._call(self._users.UpdateIdentities, request)).user)

    async def import_users(
        self,
        users: Sequence[ImportedUser],
        roles: Sequence[Role] = (),
        *,
        dry_run: bool = False,
        update_existing: bool = False,
    ) -> list[ImportOutcome]:
        """Create users and roles of another system, all of them or none; returns what became of users and then roles, in their order.

        With `dry_run` nothing is changed. With `update_existing` those who exist get what their entry has, and lose nothing.
        For administrators.
        """
        request = user_pb.ImportUsersRequest(
            users=map(_import_message, users),
            roles=[user_pb.Role(name=role.name, members=role.members) for role in roles],
            dry_run=dry_run,
            update_existing=update_existing,
        )
        return [_outcome(each) for each in (await self._call(self._users.ImportUsers, request)).outcomes]

    async def create_role(self, name: str, members: Sequence[str] = ()) -> Role:
        """Add a role. For administrators."""
        reply = await self._call(self._users.CreateRole, user_pb.CreateRoleRequest(name=name, members=members))
        return _role(reply.role)

    async def roles(self) -> list[Role]:
        """Read all roles."""
        reply = await self._call(self._users.ListRoles, user_pb.ListRolesRequest())
        return [_role(role) for role in reply.roles]

    async def update_role(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Role:
        """Add and remove members. For administrators."""
        request = user_pb.UpdateRoleRequest(name=name, add_members=add, remove_members=remove)
        return _role((await self._call(self._users.UpdateRole, request)).role)

    async def delete_role(self, name: str) -> None:
        """Remove a role. For administrators."""
        await self._call(self._users.DeleteRole, user_pb.DeleteRoleRequest(name=name))

    async def issue_token(self, username: str, lifetime: float | None = None) -> Session:
        """Make a token for a user, which cannot be renewed; `lifetime` in seconds. For administrators."""
        request = user_pb.IssueTokenRequest(username=username)
        if lifetime is not None:
            request.lifetime.CopyFrom(duration(lifetime))
        token = (await self._call(self._users.IssueToken, request)).token
        return Session(token.token, token.username, token.expire_time.ToDatetime(tzinfo=UTC))

    async def rotate_signing_key(self) -> str:
        """Sign new tokens with a new key, whose id is returned; tokens that are out stay valid. For administrators."""
        key_id: str = (await self._call(self._users.RotateSigningKey, user_pb.RotateSigningKeyRequest())).key_id
        return key_id

    async def _challenge(self, username: str) -> auth_pb.GetChallengeResponse:
        challenge: auth_pb.GetChallengeResponse = await self._ask_openly(
            self._auth.GetChallenge, auth_pb.GetChallengeRequest(username=username)
        )
        return challenge

    async def _secrets(
        self, username: str, password: str | None, secrets: Sequence[Secret]
    ) -> list[user_pb.DigestSecret]:
        made = list(secrets)
        if password is not None:
            realm = (await self._challenge(username)).realm
            made.append(Secret("SHA-256", realm, digest.ha1(username, realm, password)))
        return [_secret_message(each) for each in made]


def _secret_message(secret: Secret) -> user_pb.DigestSecret:
    return user_pb.DigestSecret(algorithm=secret.algorithm, realm=secret.realm, ha1=secret.ha1)


def _identity_message(identity: Identity) -> user_pb.Identity:
    if identity.kind == "x509":
        return user_pb.Identity(x509_dn=identity.name)
    if identity.kind == "ldap":
        return user_pb.Identity(ldap_dn=identity.name)
    return user_pb.Identity(token_subject=user_pb.TokenSubject(issuer=identity.issuer, subject=identity.name))


def _import_message(user: ImportedUser) -> user_pb.ImportedUser:
    return user_pb.ImportedUser(
        username=user.username,
        full_name=user.full_name,
        email=user.email,
        admin=user.admin,
        disabled=user.disabled,
        secrets=map(_secret_message, user.secrets),
        identities=map(_identity_message, user.identities),
    )


def _user(message: Any) -> User:
    return User(
        username=message.username,
        admin=message.admin,
        disabled=message.disabled,
        roles=tuple(message.roles),
        full_name=message.full_name,
        email=message.email,
        created=message.create_time.ToDatetime(tzinfo=UTC),
        identities=tuple(map(_identity, message.identities)),
    )


def _identity(message: Any) -> Identity:
    match message.WhichOneof("name"):
        case "x509_dn":
            return Identity("x509", message.x509_dn)
        case "ldap_dn":
            return Identity("ldap", message.ldap_dn)
        case _:
            return Identity("token", message.token_subject.subject, message.token_subject.issuer)


def _role(message: Any) -> Role:
    return Role(message.name, tuple(message.members))


def _outcome(message: Any) -> ImportOutcome:
    kind: Literal["user", "role"] = "role" if message.WhichOneof("entry") == "role" else "user"
    return ImportOutcome(
        kind, message.role or message.username, _RESULTS.get(message.result, "unchanged"), tuple(message.notes)
    )
