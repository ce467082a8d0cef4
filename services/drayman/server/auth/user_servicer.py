"""UserService: the users and roles of a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from drayman.auth.v1 import user_service_pb2 as pb
from drayman.server.auth import digest, names, pages
from drayman.server.auth.auth_servicer import session_token, timestamp
from drayman.server.auth.digest import Secret
from drayman.server.auth.directory import Directory, user_not_found
from drayman.server.auth.sessions import Sessions
from drayman.server.auth.standing import require_admin, require_present, require_self_or_admin
from drayman.server.auth.store import Role, Store, User
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid

_LONGEST_LIFETIME = 366 * 86_400.0


class UserServicer:
    """Creates, reads and changes users and roles."""

    def __init__(self, store: Store, sessions: Sessions, realm: str) -> None:
        self._store = store
        self._directory = Directory(store)
        self._sessions = sessions
        self._realm = realm

    async def CreateUser(self, request: pb.CreateUserRequest, call: Call) -> pb.CreateUserResponse:
        """Add a user."""
        await require_admin(self._store, call.caller)
        user = await self._directory.create_user(
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
        await require_admin(self._store, call.caller)
        user = await self._directory.update_user(
            names.check("username", request.username),
            admin=request.admin if request.HasField("admin") else None,
            disabled=request.disabled if request.HasField("disabled") else None,
            full_name=names.check_text("full_name", request.full_name) if request.HasField("full_name") else None,
            email=names.check_text("email", request.email) if request.HasField("email") else None,
        )
        return pb.UpdateUserResponse(user=_user(user))

    async def DeleteUser(self, request: pb.DeleteUserRequest, call: Call) -> pb.DeleteUserResponse:
        """Remove a user."""
        await require_admin(self._store, call.caller)
        await self._directory.delete_user(names.check("username", request.username))
        return pb.DeleteUserResponse()

    async def SetPassword(self, request: pb.SetPasswordRequest, call: Call) -> pb.SetPasswordResponse:
        """Replace one's own secrets; administrators replace anybody's."""
        username = names.check("username", request.username)
        await require_self_or_admin(self._store, call.caller, username)
        await self._directory.set_secrets(username, self._secrets(request.secrets))
        return pb.SetPasswordResponse()

    async def CreateRole(self, request: pb.CreateRoleRequest, call: Call) -> pb.CreateRoleResponse:
        """Add a role."""
        await require_admin(self._store, call.caller)
        name, members = names.check("name", request.name), _names("members", request.members)
        return pb.CreateRoleResponse(role=_role(await self._directory.create_role(name, members)))

    async def ListRoles(self, _request: pb.ListRolesRequest, call: Call) -> pb.ListRolesResponse:
        """Read all roles."""
        await require_present(self._store, call.caller)
        return pb.ListRolesResponse(roles=map(_role, await self._store.roles()))

    async def UpdateRole(self, request: pb.UpdateRoleRequest, call: Call) -> pb.UpdateRoleResponse:
        """Add and remove members."""
        await require_admin(self._store, call.caller)
        name, add = names.check("name", request.name), _names("add_members", request.add_members)
        remove = _names("remove_members", request.remove_members)
        for place, member in enumerate(remove):
            if member in add:
                raise invalid(f"remove_members[{place}]", f"{member} is to be added as well", value=member)
        return pb.UpdateRoleResponse(role=_role(await self._directory.update_role(name, add, remove)))

    async def DeleteRole(self, request: pb.DeleteRoleRequest, call: Call) -> pb.DeleteRoleResponse:
        """Remove a role."""
        await require_admin(self._store, call.caller)
        await self._directory.delete_role(names.check("name", request.name))
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

    async def IssueToken(self, request: pb.IssueTokenRequest, call: Call) -> pb.IssueTokenResponse:
        """Make a session token for a user. Disabled ones get none, as if they did not exist."""
        await require_admin(self._store, call.caller)
        username, lifetime = names.check("username", request.username), _lifetime(request)
        user = await self._existing(username)
        if user.disabled:
            raise Refusal("USER_NOT_FOUND", f"user {username} is disabled", "username", {"user": username})
        return pb.IssueTokenResponse(token=session_token(await self._sessions.issue(user, lifetime)))

    async def RotateSigningKey(self, _request: pb.RotateSigningKeyRequest, call: Call) -> pb.RotateSigningKeyResponse:
        """Start signing with a new key."""
        await require_admin(self._store, call.caller)
        return pb.RotateSigningKeyResponse(key_id=await self._sessions.rotate())

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


def _names(field: str, asked: Iterable[str]) -> list[str]:
    return [names.check(f"{field}[{place}]", name) for place, name in enumerate(asked)]


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
    )


def _role(role: Role) -> pb.Role:
    return pb.Role(name=role.name, members=role.members)
