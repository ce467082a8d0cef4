"""The asyncio client of auth: logins, users, roles."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from drayman.auth.v1 import auth_service_pb2 as auth_pb
from drayman.auth.v1 import auth_service_pb2_grpc, user_service_pb2_grpc
from drayman.auth.v1 import user_service_pb2 as user_pb
from drayman.client import digest
from drayman.client.calls import Client
from drayman.client.challenge import answer_challenge
from drayman.client.errors import UnauthenticatedError
from drayman.client.files import duration


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


@dataclass(frozen=True, slots=True)
class Role:
    """A role and its members."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A login. `expires` is in UTC."""

    token: str
    username: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class AuthInfo:
    """Who a token says its bearer is."""

    username: str
    expires: datetime
    admin: bool
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Secret:
    """What auth stores of a password: `ha1` of RFC 7616 in lower-case hex; `algorithm` is `SHA-256` or `MD5`."""

    algorithm: str
    realm: str
    ha1: str = field(repr=False)


class AuthClient(Client):
    """Logs in, and administers users and roles. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._auth = auth_service_pb2_grpc.AuthServiceStub(channel)
        self._users = user_service_pb2_grpc.UserServiceStub(channel)

    async def login(self, username: str, password: str) -> Session:
        """Log in by password, which does not travel; calls of this client are the user's from then on."""
        challenge = await self._challenge(username)
        problem = UnauthenticatedError("the service offers no login that this client knows")
        for answer in answer_challenge(username, password, challenge):
            try:
                reply = await self._call(self._auth.Login, auth_pb.LoginRequest(digest=answer.credential))
            except UnauthenticatedError as error:
                problem = error
                continue
            session = _session(reply.token, answer.check(reply))
            self.credentials.use(session.token)
            return session
        raise problem

    async def auth_info(self) -> AuthInfo:
        """Tell who the client's token says one is."""
        reply = await self._call(self._auth.GetAuthInfo, auth_pb.GetAuthInfoRequest())
        return AuthInfo(reply.username, reply.expire_time.ToDatetime(tzinfo=UTC), reply.admin, tuple(reply.roles))

    async def issue_token(self, username: str, lifetime: float | None = None) -> Session:
        """Make a token for a user; `lifetime` in seconds. For administrators."""
        request = user_pb.IssueTokenRequest(username=username)
        if lifetime is not None:
            request.lifetime.CopyFrom(duration(lifetime))
        reply = await self._call(self._users.IssueToken, request)
        return _session(reply.token, reply.token.token)

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

        `secrets` of another system stand for a password. With neither there is no password login any more.
        """
        request = user_pb.SetPasswordRequest(
            username=username, secrets=await self._secrets(username, password, secrets)
        )
        await self._call(self._users.SetPassword, request)

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

    async def rotate_signing_key(self) -> str:
        """Sign new tokens with a new key, whose id is returned; tokens that are out stay valid. For administrators."""
        key_id: str = (await self._call(self._users.RotateSigningKey, user_pb.RotateSigningKeyRequest())).key_id
        return key_id

    async def _challenge(self, username: str) -> auth_pb.GetChallengeResponse:
        challenge: auth_pb.GetChallengeResponse = await self._call(
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
        return [user_pb.DigestSecret(algorithm=each.algorithm, realm=each.realm, ha1=each.ha1) for each in made]


def _session(message: auth_pb.SessionToken, token: str) -> Session:
    return Session(token, message.username, message.expire_time.ToDatetime(tzinfo=UTC))


def _user(message: Any) -> User:
    return User(
        username=message.username,
        admin=message.admin,
        disabled=message.disabled,
        roles=tuple(message.roles),
        full_name=message.full_name,
        email=message.email,
        created=message.create_time.ToDatetime(tzinfo=UTC),
    )


def _role(message: Any) -> Role:
    return Role(message.name, tuple(message.members))
