"""Users and roles over a real channel: who may, what is stored, what is refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration

from drayman.auth.v1 import user_service_pb2 as pb
from drayman.auth.v1 import user_service_pb2_grpc
from drayman.client import (
    AlreadyExistsError,
    AuthClient,
    DraymanError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
)
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.server.auth.access import USER_SERVICE
from drayman.server.platform.calls import Access
from drayman.testing import LocalStack, local_stack

ODD = (
    "Zoë",
    "日本",
    "a b",
    "o'neil; DROP TABLE auth.user --",
    "x@y.org",
    "%s{0}",
    "\u202e",
    "\U0001f600",
    " lead",
    "-",
)
BAD = ("", "a:b", "a/b", "a\nb", "a\x00b", "a\x7f", "x" * 256)


def fresh(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


@pytest_asyncio.fixture(scope="module")
async def admin(stack: LocalStack) -> AsyncIterator[AuthClient]:
    async with AuthClient(stack.url, stack.token(stack.admin[0]), timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def bob(stack: LocalStack) -> str:
    """An ordinary user."""
    name = fresh("bob")
    stack.add_user(name)
    return name


@pytest_asyncio.fixture(scope="module")
async def ordinary(stack: LocalStack, bob: str) -> AsyncIterator[AuthClient]:
    async with AuthClient(stack.url, stack.token(bob), timeout=30) as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def users(stack: LocalStack) -> AsyncIterator[user_service_pb2_grpc.UserServiceStub]:
    async with open_channel(stack.url) as channel:
        yield user_service_pb2_grpc.UserServiceStub(channel)


async def failure(call: Any) -> DraymanError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# --- who may ---------------------------------------------------------------------------------------------------------


def requests_about(name: str) -> dict[str, Any]:
    """Return a request for every RPC of the service, about this user or role."""
    return {
        "CreateUser": pb.CreateUserRequest(username=fresh("new"), admin=True),
        "GetUser": pb.GetUserRequest(username=name),
        "ListUsers": pb.ListUsersRequest(),
        "UpdateUser": pb.UpdateUserRequest(username=name, admin=True),
        "DeleteUser": pb.DeleteUserRequest(username=name),
        "SetPassword": pb.SetPasswordRequest(username=name),
        "CreateRole": pb.CreateRoleRequest(name=fresh("new")),
        "ListRoles": pb.ListRolesRequest(),
        "UpdateRole": pb.UpdateRoleRequest(name=name),
        "DeleteRole": pb.DeleteRoleRequest(name=name),
        "CheckNames": pb.CheckNamesRequest(usernames=[name]),
        "UpdateIdentities": pb.UpdateIdentitiesRequest(username=name),
        "ImportUsers": pb.ImportUsersRequest(dry_run=True),
        "IssueToken": pb.IssueTokenRequest(username=name),
        "RotateSigningKey": pb.RotateSigningKeyRequest(),
    }


def test_the_walk_below_leaves_nothing_out() -> None:
    methods = pb.DESCRIPTOR.services_by_name["UserService"].methods_by_name
    assert set(requests_about("x")) == set(methods) == set(USER_SERVICE)


@pytest.mark.parametrize("method", sorted(USER_SERVICE))
async def test_nothing_is_for_anonymous_callers(users: Any, stack: LocalStack, method: str) -> None:
    error = await failure(getattr(users, method)(requests_about(stack.admin[0])[method], timeout=10))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")


@pytest.mark.parametrize("method", sorted(set(USER_SERVICE) - {"ListRoles", "CheckNames"}))
async def test_nothing_about_others_is_for_ordinary_users(users: Any, stack: LocalStack, bob: str, method: str) -> None:
    request = requests_about(stack.admin[0])[method]
    error = await failure(getattr(users, method)(request, metadata=bearer(stack.token(bob)), timeout=10))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ADMIN_ONLY")


@pytest.mark.parametrize("method", sorted(name for name, rule in USER_SERVICE.items() if rule.access is Access.ADMIN))
async def test_what_is_for_administrators_is_so_about_oneself_too(
    users: Any, stack: LocalStack, bob: str, method: str
) -> None:
    error = await failure(
        getattr(users, method)(requests_about(bob)[method], metadata=bearer(stack.token(bob)), timeout=10)
    )
    assert error.reason == "ADMIN_ONLY"


@pytest.mark.parametrize("method", sorted(name for name, rule in USER_SERVICE.items() if rule.access is Access.ADMIN))
async def test_an_administrator_who_was_demoted_is_none(
    users: Any, stack: LocalStack, admin: AuthClient, method: str
) -> None:
    name = fresh("boss")
    await admin.create_user(name, admin=True)
    token = stack.token(name)
    await admin.update_user(name, admin=False)
    error = await failure(getattr(users, method)(requests_about(name)[method], metadata=bearer(token), timeout=10))
    assert error.reason == "ADMIN_ONLY"


async def test_users_read_themselves_and_set_their_own_password(
    stack: LocalStack, ordinary: AuthClient, bob: str
) -> None:
    assert (await ordinary.get_user(bob)).username == bob
    await ordinary.set_password(bob, "hunter2")
    async with AuthClient(stack.url) as client:
        await client.login(bob, "hunter2")
    await ordinary.set_password(bob)
    async with AuthClient(stack.url) as client:
        with pytest.raises(UnauthenticatedError):
            await client.login(bob, "hunter2")


async def test_administrators_set_anybodys_password(stack: LocalStack, admin: AuthClient) -> None:
    name = fresh("ann")
    await admin.create_user(name, "first")
    await admin.set_password(name, "second")
    async with AuthClient(stack.url) as client:
        with pytest.raises(UnauthenticatedError):
            await client.login(name, "first")
        await client.login(name, "second")


# --- users -----------------------------------------------------------------------------------------------------------


async def test_a_user_from_beginning_to_end(admin: AuthClient) -> None:
    name, role = fresh("ann"), fresh("role")
    made = await admin.create_user(
        name, roles=[role, role], create_roles=True, full_name="Ann / O:Hara", email="ann@example.org"
    )
    assert (made.username, made.admin, made.disabled, made.roles) == (name, False, False, (role,))
    assert (made.full_name, made.email) == ("Ann / O:Hara", "ann@example.org")
    assert await admin.get_user(name) == made
    changed = await admin.update_user(name, admin=True, disabled=True, full_name="")
    assert (changed.admin, changed.disabled, changed.full_name, changed.email) == (True, True, "", "ann@example.org")
    assert changed.created == made.created
    assert await admin.update_user(name) == changed
    await admin.delete_user(name)
    for call in (admin.get_user(name), admin.update_user(name, admin=True), admin.delete_user(name)):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert (caught.value.reason, caught.value.metadata["user"]) == ("USER_NOT_FOUND", name)
    assert [each.members for each in await admin.roles() if each.name == role] == [()]


async def test_a_name_is_taken_once(admin: AuthClient) -> None:
    name = fresh("ann")
    outcomes = await asyncio.gather(*(admin.create_user(name) for _ in range(8)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExistsError)]
    assert len(refused) == 7
    assert {error.reason for error in refused} == {"USER_EXISTS"}


async def test_a_user_of_a_role_that_does_not_exist_is_not_made(admin: AuthClient) -> None:
    name, role = fresh("ann"), fresh("none")
    with pytest.raises(InvalidRequestError) as caught:
        await admin.create_user(name, roles=[role])
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_NAME", "roles[0]")
    assert role in caught.value.message
    with pytest.raises(NotFoundError):
        await admin.get_user(name)


@pytest.mark.parametrize("odd", ODD)
async def test_names_may_be_odd(stack: LocalStack, admin: AuthClient, odd: str) -> None:
    name, role = f"{odd}{uuid4().hex[:8]}", f"role {odd}{uuid4().hex[:8]}"
    await admin.create_user(name, "passwörd", roles=[role], create_roles=True)
    assert (await admin.get_user(name)).roles == (role,)
    async with AuthClient(stack.url) as client:
        assert (await client.login(name, "passwörd")).username == name
        assert (await client.auth_info()).roles == (role,)
        assert (await client.get_user(name)).username == name
    assert (await admin.update_role(role, remove=[name])).members == ()
    await admin.delete_role(role)
    await admin.delete_user(name)


@pytest.mark.parametrize("bad", BAD)
async def test_what_is_no_name_is_refused_everywhere(
    users: Any, stack: LocalStack, admin: AuthClient, bad: str
) -> None:
    metadata = bearer(stack.token(stack.admin[0]))
    requests = {
        "CreateUser": pb.CreateUserRequest(username=bad),
        "CreateRole": pb.CreateRoleRequest(name=bad),
        "GetUser": pb.GetUserRequest(username=bad),
        "UpdateUser": pb.UpdateUserRequest(username=bad),
        "DeleteUser": pb.DeleteUserRequest(username=bad),
        "SetPassword": pb.SetPasswordRequest(username=bad),
        "UpdateRole": pb.UpdateRoleRequest(name=bad),
        "DeleteRole": pb.DeleteRoleRequest(name=bad),
        "UpdateIdentities": pb.UpdateIdentitiesRequest(username=bad),
        "ImportUsers": pb.ImportUsersRequest(users=[pb.ImportedUser(username=bad)], dry_run=True),
        "IssueToken": pb.IssueTokenRequest(username=bad),
    }
    for method, request in requests.items():
        error = await failure(getattr(users, method)(request, metadata=metadata, timeout=10))
        assert (method, error.code, error.reason) == (method, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert error.field in ("username", "name", "users[0].username")
    with pytest.raises(InvalidRequestError) as caught:
        await admin.create_user(fresh("ann"), roles=["good", bad], create_roles=True)
    assert caught.value.field == "roles[1]"


async def test_the_longest_name(admin: AuthClient) -> None:
    name = fresh("é") + "é" * 245
    assert len(name) == 255
    assert (await admin.create_user(name)).username == name
    await admin.delete_user(name)


async def test_texts_for_people_have_limits(admin: AuthClient) -> None:
    name = fresh("ann")
    for field, text in (("full_name", "two\nlines"), ("full_name", "x" * 1001), ("email", "\x00")):
        with pytest.raises(InvalidRequestError) as caught:
            await admin.create_user(name, **{field: text})  # type: ignore[arg-type]
        assert caught.value.field == field


# --- pages -----------------------------------------------------------------------------------------------------------


async def test_pages_hold_everybody_once_in_order(users: Any, stack: LocalStack, admin: AuthClient) -> None:
    mine = {f"{start}-{uuid4().hex[:8]}" for start in ("Page", "page", "päge", "page2", "~page", "日")}
    for name in mine:
        await admin.create_user(name)
    metadata = bearer(stack.token(stack.admin[0]))
    seen: list[str] = []
    request = pb.ListUsersRequest(page_size=2)
    while True:
        page = await users.ListUsers(request, metadata=metadata, timeout=10)
        assert len(page.users) == 2 or not page.next_page_token
        seen += [user.username for user in page.users]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == sorted(set(seen))
    assert mine <= set(seen)
    assert [user.username async for user in admin.users()] == seen


async def test_a_page_goes_on_where_its_last_user_was_removed(users: Any, stack: LocalStack, admin: AuthClient) -> None:
    names = sorted(fresh("paged") for _ in range(4))
    for name in names:
        await admin.create_user(name)
    metadata = bearer(stack.token(stack.admin[0]))
    before = [user.username async for user in admin.users()]
    size = before.index(names[0]) + 1
    page = await users.ListUsers(pb.ListUsersRequest(page_size=size), metadata=metadata, timeout=10)
    assert page.users[-1].username == names[0]
    await admin.delete_user(names[0])
    rest = await users.ListUsers(pb.ListUsersRequest(page_token=page.next_page_token), metadata=metadata, timeout=10)
    assert [user.username for user in rest.users] == before[size:]


@pytest.mark.parametrize(
    ("request_fields", "field"), [({"page_size": -1}, "page_size"), ({"page_token": "rubbish"}, "page_token")]
)
async def test_pages_that_cannot_be(users: Any, stack: LocalStack, request_fields: dict[str, Any], field: str) -> None:
    request = pb.ListUsersRequest(**request_fields)
    error = await failure(users.ListUsers(request, metadata=bearer(stack.token(stack.admin[0])), timeout=10))
    assert (error.reason, error.field) == ("INVALID_FIELD", field)


# --- roles -----------------------------------------------------------------------------------------------------------


async def test_a_role_from_beginning_to_end(admin: AuthClient, ordinary: AuthClient) -> None:
    name, ann, bob = fresh("role"), fresh("ann"), fresh("bob")
    for user in (ann, bob):
        await admin.create_user(user)
    assert (await admin.create_role(name, [bob, ann, bob])).members == (ann, bob)
    with pytest.raises(AlreadyExistsError) as exists:
        await admin.create_role(name)
    assert exists.value.reason == "ROLE_EXISTS"
    assert [role.members for role in await ordinary.roles() if role.name == name] == [(ann, bob)]
    assert (await admin.update_role(name, remove=[ann, fresh("nobody")])).members == (bob,)
    assert (await admin.update_role(name, add=[ann, bob])).members == (ann, bob)
    await admin.delete_user(ann)
    assert [role.members for role in await admin.roles() if role.name == name] == [(bob,)]
    await admin.delete_role(name)
    assert (await admin.get_user(bob)).roles == ()
    for call in (admin.delete_role(name), admin.update_role(name, add=[bob])):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.reason == "ROLE_NOT_FOUND"


async def test_members_must_exist_and_nothing_is_done_by_halves(admin: AuthClient) -> None:
    name, ann, nobody = fresh("role"), fresh("ann"), fresh("nobody")
    await admin.create_user(ann)
    with pytest.raises(InvalidRequestError) as caught:
        await admin.create_role(name, [ann, nobody])
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_NAME", "members[1]")
    assert name not in [role.name for role in await admin.roles()]
    await admin.create_role(name)
    with pytest.raises(InvalidRequestError) as caught:
        await admin.update_role(name, add=[ann, nobody])
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_NAME", "add_members[1]")
    assert (await admin.get_user(ann)).roles == ()


async def test_nobody_is_added_and_removed_at_once(admin: AuthClient, bob: str) -> None:
    name = fresh("role")
    await admin.create_role(name)
    with pytest.raises(InvalidRequestError) as caught:
        await admin.update_role(name, add=[bob], remove=[fresh("x"), bob])
    assert caught.value.field == "remove_members[1]"


async def test_names_are_checked_for_everybody_who_is_logged_in(users: Any, stack: LocalStack, bob: str) -> None:
    role = fresh("role")
    stack.add_user(fresh("member"), roles=[role])
    request = pb.CheckNamesRequest(
        usernames=["z-nobody", bob, *BAD, "a-nobody", bob.upper(), "z-nobody"], roles=[role, bob, "", stack.admin[0]]
    )
    reply = await users.CheckNames(request, metadata=bearer(stack.token(bob)), timeout=10)
    assert list(reply.unknown_usernames) == ["z-nobody", *BAD, "a-nobody", bob.upper(), "z-nobody"]
    assert list(reply.unknown_roles) == [bob, "", stack.admin[0]]


# --- tokens for others -----------------------------------------------------------------------------------------------


async def test_a_token_is_issued_for_whoever_may_log_in(stack: LocalStack, admin: AuthClient) -> None:
    name = fresh("service")
    await admin.create_user(name)
    session = await admin.issue_token(name, lifetime=60)
    async with AuthClient(stack.url, session.token) as client:
        info = await client.auth_info()
    assert (info.username, info.expires) == (name, session.expires)
    await admin.update_user(name, disabled=True)
    for unknown in (name, fresh("nobody")):
        with pytest.raises(NotFoundError) as caught:
            await admin.issue_token(unknown)
        assert caught.value.reason == "USER_NOT_FOUND"


@pytest.mark.parametrize("seconds", [0, -1, 367 * 86400, 10**11])
async def test_a_lifetime_that_cannot_be(users: Any, stack: LocalStack, bob: str, seconds: int) -> None:
    request = pb.IssueTokenRequest(username=bob, lifetime=Duration(seconds=seconds))
    error = await failure(users.IssueToken(request, metadata=bearer(stack.token(stack.admin[0])), timeout=10))
    assert (error.reason, error.field) == ("INVALID_FIELD", "lifetime")


# --- the last administrator ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lonely() -> Iterator[LocalStack]:
    """A stack with exactly one administrator between tests."""
    with local_stack() as running:
        yield running


async def test_the_last_administrator_stays(lonely: LocalStack) -> None:
    name = lonely.admin[0]
    async with AuthClient(lonely.url, lonely.token(name)) as admin:
        await admin.create_user("disabled-admin", admin=True)
        await admin.update_user("disabled-admin", disabled=True)
        for call in (
            admin.delete_user(name),
            admin.update_user(name, admin=False),
            admin.update_user(name, disabled=True),
        ):
            with pytest.raises(PreconditionError) as caught:
                await call
            assert (caught.value.reason, caught.value.metadata["user"]) == ("LAST_ADMIN", name)
        assert (await admin.get_user(name)).admin
        # what changes nothing about that is allowed
        await admin.update_user(name, admin=True, disabled=False, full_name="Ada")
        await admin.update_user("disabled-admin", disabled=False)
        token = lonely.token("disabled-admin")
        await admin.update_user(name, admin=False)
        with pytest.raises(ForbiddenError):
            await admin.update_user("disabled-admin", admin=False)
    async with AuthClient(lonely.url, token) as other:
        await other.update_user(name, admin=True)
        await other.delete_user("disabled-admin")


async def test_two_administrators_cannot_remove_each_other(lonely: LocalStack) -> None:
    name = lonely.admin[0]
    async with AuthClient(lonely.url, lonely.token(name)) as first:
        for _ in range(5):
            await first.create_user("second", admin=True)
            async with AuthClient(lonely.url, lonely.token("second")) as second:
                outcomes = await asyncio.gather(
                    first.update_user("second", admin=False),
                    second.update_user(name, admin=False),
                    return_exceptions=True,
                )
                refused = [outcome for outcome in outcomes if isinstance(outcome, DraymanError)]
                assert len(refused) == 1, outcomes
                assert refused[0].reason in ("LAST_ADMIN", "ADMIN_ONLY")
                # the door hears of everything a moment later
                if outcomes[0] in refused:
                    await _in_the_end(lambda: second.update_user(name, admin=True))
                await _in_the_end(lambda: first.delete_user("second"))


async def _in_the_end(action: Callable[[], Awaitable[object]]) -> None:
    """Do what an administrator may, once the door knows of the administrator."""
    async with asyncio.timeout(10):
        while True:
            try:
                await action()
                return
            except ForbiddenError:
                await asyncio.sleep(0.05)
