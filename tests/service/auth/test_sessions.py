"""Sessions: refreshed, ended, and refused everywhere soon after; over two processes, of which the other one runs dispatch alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import jwt
import pytest
import pytest_asyncio

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from drayman.client import AuthClient, DispatchClient, File, Rse
from drayman.client.challenge import answer_challenge
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.errors import DraymanError, NotFoundError, UnauthenticatedError, UnavailableError, from_rpc_error
from drayman.dispatch.v1 import handle_service_pb2, handle_service_pb2_grpc
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

#: What "within seconds" is here. Auth looks every second.
SOON = 5.0


def fresh(kind: str) -> str:
    return f"{kind}-{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def elsewhere(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a process that runs dispatch alone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = stack.environment | {"DRAYMAN_AUTH_URL": stack.url, "DRAYMAN_PUBLIC_READS": "false"}
    arguments = ["dispatch", "--data-dir", str(folder), "--listen", "127.0.0.1:0"]
    process = ServiceProcess(arguments, environment, folder / "log")
    yield process.await_ready(60)
    assert process.terminate() == 0


@pytest_asyncio.fixture(scope="module")
async def admin(stack: LocalStack) -> AsyncIterator[AuthClient]:
    async with AuthClient(stack.url, stack.token(stack.admin[0])) as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def auth(stack: LocalStack) -> AsyncIterator[auth_service_pb2_grpc.AuthServiceStub]:
    async with open_channel(stack.url) as channel:
        yield auth_service_pb2_grpc.AuthServiceStub(channel)


@pytest.fixture
def ann(stack: LocalStack) -> str:
    name = fresh("ann")
    stack.add_user(name, "secret of ann")
    return name


async def log_in(auth: auth_service_pb2_grpc.AuthServiceStub, name: str) -> pb.LoginResponse:
    challenge = await auth.GetChallenge(pb.GetChallengeRequest(username=name), timeout=10)
    answer = answer_challenge(name, "secret of ann", challenge)[0]
    reply: pb.LoginResponse = await auth.Login(pb.LoginRequest(digest=answer.credential), timeout=10)
    return reply


async def refresh(auth: Any, token: str, request_id: str = "") -> pb.RefreshSessionResponse:
    try:
        request = pb.RefreshSessionRequest(refresh_token=token, request_id=request_id or str(uuid4()))
        reply: pb.RefreshSessionResponse = await auth.RefreshSession(request, timeout=10)
        return reply
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def accepted(url: str, token: str) -> bool:
    """Whether the dispatch service there takes a token."""
    async with DispatchClient(url, token) as client:
        try:
            await client.rses()
        except UnauthenticatedError as error:
            if error.reason != "TOKEN_REVOKED":
                raise
            return False
    return True


async def refused_soon(urls: list[str], token: str) -> None:
    async with asyncio.timeout(SOON):
        for url in urls:
            while await accepted(url, token):
                await asyncio.sleep(0.05)


# --- refreshing ------------------------------------------------------------------------------------------------------


async def test_a_refresh_gives_the_next_tokens_and_moves_the_end(auth: Any, ann: str, stack: LocalStack) -> None:
    login = await log_in(auth, ann)
    assert login.refresh_token.startswith("drr_")
    assert not login.HasField("session_end_time")
    first = jwt.decode(login.token.token, options={"verify_signature": False})
    reply = await refresh(auth, login.refresh_token)
    second = jwt.decode(reply.token.token, options={"verify_signature": False})
    assert second["sid"] == first["sid"]
    assert second["jti"] != first["jti"]
    assert second["exp"] >= first["exp"]
    assert reply.refresh_token not in ("", login.refresh_token)
    assert reply.session_expire_time.ToNanoseconds() > login.session_expire_time.ToNanoseconds()
    assert await accepted(stack.url, login.token.token)  # the one before serves until it expires
    assert await accepted(stack.url, reply.token.token)
    assert (await refresh(auth, reply.refresh_token)).token.username == ann


async def test_a_request_that_is_repeated_gets_the_same_answer(auth: Any, ann: str) -> None:
    login = await log_in(auth, ann)
    request_id = str(uuid4())
    answers = [(await refresh(auth, login.refresh_token, request_id)).refresh_token for _ in range(3)]
    assert len(set(answers)) == 1
    assert (await refresh(auth, answers[0])).refresh_token != answers[0]


async def test_a_refresh_token_serves_once(auth: Any, ann: str) -> None:
    login = await log_in(auth, ann)
    reply = await refresh(auth, login.refresh_token)
    with pytest.raises(UnauthenticatedError) as caught:
        await refresh(auth, login.refresh_token)
    assert caught.value.reason == "REFRESH_REFUSED"
    await refresh(
        auth, reply.refresh_token
    )  # the session goes on: it was just now, perhaps another program of the user


@pytest.mark.parametrize("token", ["", "x", "drr_", "drr_AAAA", "drr_" + "A" * 64, "drr_" + "A" * 66, "eyJ.eyJ.x"])
async def test_what_was_never_given_out(auth: Any, token: str) -> None:
    with pytest.raises(DraymanError) as caught:
        await refresh(auth, token)
    assert caught.value.reason in ("INVALID_FIELD", "REFRESH_REFUSED")


async def test_a_request_id_is_a_uuid(auth: Any, ann: str) -> None:
    login = await log_in(auth, ann)
    with pytest.raises(DraymanError) as caught:
        await refresh(auth, login.refresh_token, "again")
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "request_id")


async def test_an_issued_token_is_a_session_that_cannot_be_refreshed(stack: LocalStack, auth: Any, ann: str) -> None:
    token = stack.token(ann, lifetime=100)
    async with sessions(stack.url, token) as stub:
        listed = (await stub.ListSessions(session_service_pb2.ListSessionsRequest(), timeout=10)).sessions
    assert [(each.method, each.current, each.username) for each in listed] == [("issued", True, ann)]
    assert 90 < listed[0].expire_time.ToSeconds() - time.time() < 102


# --- ending ----------------------------------------------------------------------------------------------------------

End = Callable[[LocalStack, AuthClient, str, str], Awaitable[None]]


@asynccontextmanager
async def sessions(url: str, token: str) -> AsyncIterator[Any]:
    class Stub:
        def __init__(self, stub: Any) -> None:
            self._stub = stub

        def __getattr__(self, name: str) -> Any:
            method = getattr(self._stub, name)
            return lambda request, timeout: method(request, metadata=bearer(token), timeout=timeout)

    async with open_channel(url) as channel:
        try:
            yield Stub(session_service_pb2_grpc.SessionServiceStub(channel))
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def by_logout(stack: LocalStack, _admin: AuthClient, _name: str, token: str) -> None:
    async with open_channel(stack.url) as channel:
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        await stub.Logout(pb.LogoutRequest(), metadata=bearer(token), timeout=10)


async def by_revoking_it(stack: LocalStack, _admin: AuthClient, _name: str, token: str) -> None:
    async with sessions(stack.url, token) as stub:
        session_id = jwt.decode(token, options={"verify_signature": False})["sid"]
        reply = await stub.RevokeSessions(session_service_pb2.RevokeSessionsRequest(session_id=session_id), timeout=10)
        assert reply.revoked == 1


async def by_revoking_all(stack: LocalStack, _admin: AuthClient, name: str, _token: str) -> None:
    async with sessions(stack.url, stack.token(stack.admin[0])) as stub:
        request = session_service_pb2.RevokeSessionsRequest(username=name, all=True)
        assert (await stub.RevokeSessions(request, timeout=10)).revoked >= 1


async def by_disabling(_stack: LocalStack, admin: AuthClient, name: str, _token: str) -> None:
    await admin.update_user(name, disabled=True)


async def by_deleting(_stack: LocalStack, admin: AuthClient, name: str, _token: str) -> None:
    await admin.delete_user(name)


async def by_a_new_password(_stack: LocalStack, admin: AuthClient, name: str, _token: str) -> None:
    await admin.set_password(name, "another")


ENDS = [by_logout, by_revoking_it, by_revoking_all, by_disabling, by_deleting, by_a_new_password]


@pytest.mark.parametrize("end", ENDS)
async def test_its_tokens_are_refused_everywhere_soon(
    stack: LocalStack, elsewhere: str, admin: AuthClient, auth: Any, ann: str, end: End
) -> None:
    login = await log_in(auth, ann)
    urls = [stack.url, elsewhere]
    assert [await accepted(url, login.token.token) for url in urls] == [True, True]
    await end(stack, admin, ann, login.token.token)
    await refused_soon(urls, login.token.token)
    with pytest.raises(UnauthenticatedError) as caught:
        await refresh(auth, login.refresh_token)
    assert caught.value.reason == "REFRESH_REFUSED"


@pytest.mark.parametrize("end", [by_logout, by_disabling, by_deleting])
async def test_a_stream_of_its_own_ends_soon(
    stack: LocalStack, elsewhere: str, admin: AuthClient, auth: Any, ann: str, end: End
) -> None:
    """A worker who waits for a file, for an hour if need be."""
    token = (await log_in(auth, ann)).token.token
    async with DispatchClient(stack.url, stack.token(stack.admin[0])) as dispatch:
        project = await dispatch.create_project([File("scope", "name")], users=[ann])
    async with open_channel(elsewhere) as channel:
        stub = handle_service_pb2_grpc.HandleServiceStub(channel)
        request = handle_service_pb2.NextFileRequest(project_id=project.project_id, worker_id="w")
        request.timeout.FromSeconds(3600)
        call = stub.NextFile(request, metadata=bearer(token), timeout=60)
        try:
            await call.read()
            await end(stack, admin, ann, token)
            async with asyncio.timeout(SOON):
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        finally:
            call.cancel()


async def test_others_go_on(stack: LocalStack, elsewhere: str, auth: Any, ann: str) -> None:
    one, other = await log_in(auth, ann), await log_in(auth, ann)
    await by_logout(stack, None, ann, one.token.token)  # type: ignore[arg-type]
    await refused_soon([elsewhere], one.token.token)
    assert await accepted(elsewhere, other.token.token)
    await refresh(auth, other.refresh_token)


async def test_one_who_sets_their_own_password_stays_and_their_other_logins_end(
    stack: LocalStack, auth: Any, ann: str
) -> None:
    one, other = await log_in(auth, ann), await log_in(auth, ann)
    async with AuthClient(stack.url, one.token.token) as client:
        await client.set_password(ann, "another")
        assert (await client.auth_info()).username == ann
    await refused_soon([stack.url], other.token.token)
    assert await accepted(stack.url, one.token.token)


async def test_a_name_that_somebody_gets_again_is_not_the_old_one(
    stack: LocalStack, elsewhere: str, admin: AuthClient, auth: Any, ann: str
) -> None:
    old = (await log_in(auth, ann)).token.token
    await admin.delete_user(ann)
    stack.add_user(ann, "secret of ann")
    new = (await log_in(auth, ann)).token.token
    await refused_soon([stack.url, elsewhere], old)
    assert await accepted(elsewhere, new)


async def test_what_a_user_may_do_changes_without_a_new_token(
    stack: LocalStack, elsewhere: str, admin: AuthClient, auth: Any, ann: str
) -> None:
    role = fresh("role")
    token = (await log_in(auth, ann)).token.token
    async with DispatchClient(elsewhere, token) as client:
        rse = fresh("rse")
        with pytest.raises(DraymanError) as caught:
            await client.create_rse(Rse(rse))
        assert caught.value.reason == "ADMIN_ONLY"
        await admin.create_role(role, [ann])
        await admin.update_user(ann, admin=True)
        await until(lambda: client.create_rse(Rse(rse)))
        await admin.update_user(ann, admin=False)
        problem = await until_refused(lambda: client.update_rse(rse, description="mine"), SOON)
        assert problem.reason == "ADMIN_ONLY"
    async with AuthClient(stack.url, token) as client2:
        async with asyncio.timeout(SOON):
            while (await client2.auth_info()).roles != (role,):
                await asyncio.sleep(0.05)


async def until(attempt: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(SOON):
        while True:
            try:
                await attempt()
            except DraymanError:
                await asyncio.sleep(0.05)
            else:
                return


async def until_refused(attempt: Callable[[], Awaitable[Any]], seconds: float) -> DraymanError:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await attempt()
            except DraymanError as problem:
                return problem
            await asyncio.sleep(0.05)


async def test_refreshes_and_endings_do_not_get_in_each_others_way(
    stack: LocalStack, admin: AuthClient, auth: Any, ann: str
) -> None:
    """Both lock the user and the session: in one order, or PostgreSQL would end one of them."""

    async def refreshing() -> None:
        for _ in range(10):
            reply: Any = await log_in(auth, ann)
            try:
                while True:
                    reply = await refresh(auth, reply.refresh_token)
            except UnauthenticatedError as error:
                if error.reason != "REFRESH_REFUSED":
                    raise

    async def ending() -> None:
        while not users.done():
            await admin.set_password(ann, "secret of ann")
            async with sessions(stack.url, stack.token(stack.admin[0])) as stub:
                request = session_service_pb2.RevokeSessionsRequest(username=ann, all=True)
                await stub.RevokeSessions(request, timeout=10)

    users = asyncio.gather(*(refreshing() for _ in range(4)))
    await asyncio.gather(users, ending())


# --- whose ------------------------------------------------------------------------------------------------------------


async def test_sessions_are_ones_own(stack: LocalStack, auth: Any, ann: str) -> None:
    bob = fresh("bob")
    stack.add_user(bob)
    login = await log_in(auth, ann)
    session_id = jwt.decode(login.token.token, options={"verify_signature": False})["sid"]
    for request in (
        session_service_pb2.RevokeSessionsRequest(username=ann, session_id=session_id),
        session_service_pb2.RevokeSessionsRequest(username=ann, all=True),
    ):
        with pytest.raises(DraymanError) as caught:
            async with sessions(stack.url, stack.token(bob)) as stub:
                await stub.RevokeSessions(request, timeout=10)
        assert caught.value.reason == "ADMIN_ONLY"
    with pytest.raises(NotFoundError) as caught_own:
        async with sessions(stack.url, stack.token(bob)) as stub:
            # somebody else's id under one's own name
            await stub.RevokeSessions(session_service_pb2.RevokeSessionsRequest(session_id=session_id), timeout=10)
    assert caught_own.value.reason == "SESSION_NOT_FOUND"
    assert await accepted(stack.url, login.token.token)


@pytest.mark.parametrize(
    "request_", [{}, {"all": False}, {"session_id": "x"}, {"session_id": ""}, {"username": "a/b", "all": True}]
)
async def test_what_cannot_be_revoked(stack: LocalStack, ann: str, request_: dict[str, Any]) -> None:
    with pytest.raises(DraymanError) as caught:
        async with sessions(stack.url, stack.token(ann)) as stub:
            await stub.RevokeSessions(session_service_pb2.RevokeSessionsRequest(**request_), timeout=10)
    assert caught.value.reason == "INVALID_FIELD"


# --- keys, and auth that is away ---------------------------------------------------------------------------------------


async def test_keys_rotate_under_load(
    stack: LocalStack, elsewhere: str, admin: AuthClient, auth: Any, ann: str
) -> None:
    """Logins, refreshes and calls at both processes go on while the key changes three times: none is refused."""
    done = asyncio.Event()
    kids, calls = set(), 0

    async def use() -> None:
        nonlocal calls
        login = await log_in(auth, ann)
        token, refresh_token = login.token.token, login.refresh_token
        async with DispatchClient(stack.url, token) as here, DispatchClient(elsewhere, token) as there:
            while not done.is_set():
                reply = await refresh(auth, refresh_token)
                token, refresh_token = reply.token.token, reply.refresh_token
                kids.add(jwt.get_unverified_header(token)["kid"])
                for client in (here, there):
                    client.credentials.use(token)
                    await client.rses()
                    calls += 1

    users = [asyncio.create_task(use()) for _ in range(4)]
    for _ in range(3):
        await admin.rotate_signing_key()
        before = calls
        while calls < before + 20 and not any(user.done() for user in users):
            await asyncio.sleep(0.01)
    done.set()
    await asyncio.gather(*users)
    assert len(kids) == 4


async def test_a_service_goes_on_without_auth_for_a_while_and_then_trusts_nobody(
    own_stack: LocalStack, tmp_path: Path
) -> None:
    environment = own_stack.environment | {
        "DRAYMAN_AUTH_URL": own_stack.url,
        "DRAYMAN_PUBLIC_READS": "false",
        "DRAYMAN_AUTH_SILENCE": "4",
    }
    arguments = ["dispatch", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"]
    process = ServiceProcess(arguments, environment, tmp_path / "log")
    try:
        async with DispatchClient(process.await_ready(60), own_stack.token(own_stack.admin[0])) as client:
            await client.rses()
            await asyncio.to_thread(own_stack.kill)
            await client.rses()
            problem = await until_refused(client.rses, 20)
            assert isinstance(problem, UnavailableError)
            assert "auth" in problem.message
            await asyncio.to_thread(own_stack.restart)
            async with asyncio.timeout(20):
                await until(client.rses)
    finally:
        process.terminate()
