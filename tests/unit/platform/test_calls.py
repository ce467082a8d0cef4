"""What stands around every RPC, over a real channel: admission, decoding, errors, counts."""

import asyncio
import errno
import math
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import jwt
import pytest
import structlog
from prometheus_client import CollectorRegistry

from drayman.auth.v1 import auth_service_pb2
from drayman.client.errors import (
    DraymanError,
    ForbiddenError,
    InvalidRequestError,
    NotOfferedError,
    OverloadedError,
    ServiceDefectError,
    UnauthenticatedError,
    UnavailableError,
    from_rpc_error,
)
from drayman.dispatch.v1 import handle_service_pb2, project_service_pb2
from drayman.errors.v1 import reason_pb2
from drayman.server.platform.calls import Access, Call, Dispatcher, Rule, Service
from drayman.server.platform.errors import CODE_OF, Refusal
from drayman.server.platform.metrics import CallMetrics
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.trust import Standing
from drayman.system.v1 import system_service_pb2
from unit.platform.test_tokens import KEY, Publisher, signed

AUTH = auth_service_pb2.DESCRIPTOR.services_by_name["AuthService"]
HANDLES = handle_service_pb2.DESCRIPTOR.services_by_name["HandleService"]
PROJECTS = project_service_pb2.DESCRIPTOR.services_by_name["ProjectService"]
SYSTEM = system_service_pb2.DESCRIPTOR.services_by_name["SystemService"]
REASONS = reason_pb2.DESCRIPTOR.enum_types_by_name["Reason"].values_by_name
SERVICES = ServiceIdentity("the key that all services share, and nobody else")
INFO = "/drayman.system.v1.SystemService/GetServerInfo"

Answer = Callable[[Any, Call], Any]


class Scripted:
    """A servicer whose every RPC does the same."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __getattr__(self, name: str) -> Answer:
        return self._answer


class Running:
    """A server with one dispatcher, and raw calls to it."""

    def __init__(self, dispatcher: Dispatcher, registry: CollectorRegistry, channel: grpc.aio.Channel) -> None:
        self.dispatcher = dispatcher
        self.channel = channel
        self._registry = registry

    async def unary(self, path: str, data: bytes = b"", token: str | None = None) -> bytes:
        metadata = (("authorization", f"Bearer {token}"),) if token is not None else ()
        return await self.raw(path, data, metadata)

    async def raw(self, path: str, data: bytes, metadata: Any) -> bytes:
        try:
            return await self.channel.unary_unary(path)(data, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    def count(self, name: str, path: str, **labels: str) -> float:
        _, service, method = path.split("/")
        value = self._registry.get_sample_value(name, {"grpc_service": service, "grpc_method": method} | labels)
        return value or 0.0


def dispatcher(registry: CollectorRegistry | None = None, **options: Any) -> Dispatcher:
    metrics = CallMetrics(registry or CollectorRegistry())
    told = options.pop("told", None) or Publisher(KEY)
    limits = {"max_calls": 100, "public_reads": True} | options
    return Dispatcher(told.trust, told.verifier, SERVICES, metrics, **limits)


@asynccontextmanager
async def running(answer: Answer, access: Access = Access.PUBLIC, **options: Any) -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    table = dispatcher(registry, **options)
    for descriptor in (SYSTEM, AUTH, HANDLES, PROJECTS):
        rights = {method.name: Rule(access) for method in descriptor.methods}
        table.add(Service(descriptor, Scripted(answer), rights))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((table,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # without retries: each call shows as one
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_retries", 0)]) as channel:
        yield Running(table, registry, channel)
    await server.stop(0)


async def info(_request: Any, _call: Call) -> system_service_pb2.GetServerInfoResponse:
    return system_service_pb2.GetServerInfoResponse(version="1")


# --- the access table ------------------------------------------------------------------------------------------------


def test_an_rpc_that_is_missing_from_the_access_table_does_not_start() -> None:
    with pytest.raises(ValueError, match="differ in GetKeySet, GetLoginOptions, Login, Logout, RefreshSession"):
        dispatcher().add(
            Service(AUTH, Scripted(info), {"GetChallenge": Rule(Access.PUBLIC), "GetAuthInfo": Rule(Access.USER)}),
        )


def test_a_table_that_names_an_rpc_too_many_does_not_start() -> None:
    with pytest.raises(ValueError, match="differ in Reboot"):
        dispatcher().add(
            Service(SYSTEM, Scripted(info), {"GetServerInfo": Rule(Access.PUBLIC), "Reboot": Rule(Access.ADMIN)})
        )


def test_a_servicer_without_the_method_does_not_start() -> None:
    with pytest.raises(ValueError, match=r"GetServerInfo has no method"):
        dispatcher().add(Service(SYSTEM, object(), {"GetServerInfo": Rule(Access.PUBLIC)}))


@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize("public_reads", [True, False])
async def test_who_may_call(access: Access, public_reads: bool) -> None:
    async def who(_request: Any, call: Call) -> system_service_pb2.GetServerInfoResponse:
        caller = call.caller_or_none
        return system_service_pb2.GetServerInfoResponse(version=caller.username if caller else "nobody")

    async def outcome(token: str | None) -> str:
        try:
            return system_service_pb2.GetServerInfoResponse.FromString(await server.unary(INFO, token=token)).version
        except DraymanError as error:
            return error.reason

    async with running(who, access, public_reads=public_reads) as server:
        outcomes = [await outcome(token) for token in (None, "rubbish", signed(), signed(sub="root", adm=True))]
    expected = {
        Access.PUBLIC: ["nobody"] * 4,  # a stale token must not keep anybody from logging in
        Access.READ: ["nobody" if public_reads else "TOKEN_MISSING", "TOKEN_INVALID", "ann", "root"],
        Access.USER: ["TOKEN_MISSING", "TOKEN_INVALID", "ann", "root"],
        Access.ADMIN: ["TOKEN_MISSING", "TOKEN_INVALID", "ADMIN_ONLY", "root"],
        Access.SERVICE: ["TOKEN_MISSING", "TOKEN_INVALID", "SERVICE_ONLY", "SERVICE_ONLY"],
    }
    assert outcomes == expected[access]


async def test_a_service_is_known_by_the_deployments_key_and_is_nobody_elsewhere() -> None:
    stranger = ServiceIdentity("another key, of another deployment, as long")
    async with running(info, Access.SERVICE) as server:
        assert await server.unary(INFO, token=SERVICES.token())
        for token in (stranger.token(), _service_token(exp=-60), _service_token(exp=60, iss="elsewhere")):
            with pytest.raises(UnauthenticatedError):
                await server.unary(INFO, token=token)
    for access in (Access.USER, Access.ADMIN):
        async with running(info, access) as server:
            with pytest.raises(UnauthenticatedError) as caught:
                await server.unary(INFO, token=SERVICES.token())
            assert caught.value.reason == "TOKEN_INVALID"


def _service_token(exp: float, **claims: Any) -> str:
    now = time.time()
    claims = {"iss": "drayman services", "iat": now - 90, "exp": now + exp} | claims
    return jwt.encode(claims, "the key that all services share, and nobody else", algorithm="HS256")


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        ({"standings": {"ann": Standing(2, 2, False, frozenset({"r"}))}}, True),
        ({"ended": [("s1", "ann", math.inf)]}, True),
        ({"standings": {"ann": Standing(2, 0, False, frozenset())}}, True),  # not in the role any more
        ({"standings": {"ann": Standing(2, 0, True, frozenset({"r", "q"}))}}, False),  # may do more than before
        ({"standings": {"bob": Standing(2, 2, False, frozenset())}}, False),
        ({"ended": [("s2", "ann", math.inf)]}, False),
    ],
)
async def test_a_stream_ends_when_its_caller_may_not_go_on(told: dict[str, Any], ends: bool) -> None:
    begun, publisher = asyncio.Event(), Publisher(KEY)
    go_on = asyncio.Event()

    async def wait(_request: Any, call: Call) -> None:
        await call.send(handle_service_pb2.NextFileResponse())
        begun.set()
        await go_on.wait()

    async with running(wait, Access.USER, told=publisher) as server:
        token = signed(sid="s1", ver=1, roles=["r"])
        call = server.channel.unary_stream("/drayman.dispatch.v1.HandleService/NextFile")(
            b"", metadata=(("authorization", f"Bearer {token}"),), timeout=30
        )
        assert await call.read() is not grpc.aio.EOF
        await begun.wait()
        publisher.trust.learn(told.get("standings", {}), told.get("ended", []), complete=False)
        go_on.set() if not ends else None
        code = await call.code()
        assert code is (grpc.StatusCode.UNAUTHENTICATED if ends else grpc.StatusCode.OK)
        if ends:
            await asyncio.sleep(0)
            assert from_rpc_error(await _error(call)).reason == "TOKEN_REVOKED"
        async with asyncio.timeout(10):
            while server.dispatcher.running:
                await asyncio.sleep(0.005)


async def _error(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value


@pytest.mark.parametrize("header", ["", "Basic YWxhZGRpbg==", "Bearer", "token"])
async def test_another_kind_of_authorization_is_refused(header: str) -> None:
    async with running(info, Access.USER) as server:
        with pytest.raises(UnauthenticatedError) as caught:
            await server.raw(INFO, b"", (("authorization", header),))
    assert caught.value.reason == "TOKEN_INVALID"


async def test_the_scheme_is_read_in_any_case() -> None:
    async with running(info, Access.USER) as server:
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert await server.raw(INFO, b"", (("authorization", f"{scheme} {signed()}"),))


async def test_an_ordinary_user_is_told_that_it_is_for_administrators() -> None:
    async with running(info, Access.ADMIN) as server:
        with pytest.raises(ForbiddenError) as caught:
            await server.unary(INFO, token=signed())
    assert (caught.value.reason, caught.value.metadata) == ("ADMIN_ONLY", {"user": "ann"})


async def test_what_is_not_offered() -> None:
    async with running(info) as server:
        with pytest.raises(NotOfferedError):
            await server.unary("/drayman.system.v1.SystemService/Reboot")


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28"])
async def test_garbage_is_the_callers_mistake(data: bytes) -> None:
    async def never(_request: Any, _call: Call) -> None:
        raise AssertionError("not reached")

    async with running(never) as server:
        with pytest.raises(InvalidRequestError) as caught:
            await server.unary("/drayman.auth.v1.AuthService/GetChallenge", data)
        assert caught.value.reason == "MALFORMED_MESSAGE"
        assert "drayman.auth.v1.GetChallengeRequest" in caught.value.message


async def test_garbage_in_a_stream_is_the_callers_mistake() -> None:
    async def consume(requests: AsyncIterator[Any], _call: Call) -> Any:
        return system_service_pb2.GetServerInfoResponse(version=str([request async for request in requests]))

    async def messages() -> AsyncIterator[bytes]:
        yield b""
        yield b"\xff\xff\xff"

    async with running(consume) as server:
        call = server.channel.stream_unary("/drayman.dispatch.v1.ProjectService/CreateProject")(messages(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_unknown_fields_are_no_mistake() -> None:
    async with running(info) as server:
        assert await server.unary(INFO, b"\xf8\x07\x01")


# --- errors ----------------------------------------------------------------------------------------------------------


async def test_a_defect_is_told_by_an_id_and_nothing_else() -> None:
    async def broken(_request: Any, _call: Call) -> None:
        raise ZeroDivisionError("the word is xyzzy")

    async with running(broken) as server:
        with structlog.testing.capture_logs() as logs, pytest.raises(ServiceDefectError) as caught:
            await server.unary(INFO)
    error = caught.value
    assert error.reason == "DEFECT"
    assert error.metadata["defect"] in error.message
    for hidden in ("xyzzy", "ZeroDivision", "Traceback", ".py"):
        assert hidden not in error.message + str(error.metadata)
    (line,) = [line for line in logs if line["event"] == "defect"]
    assert line["defect"] == error.metadata["defect"]
    assert isinstance(line["exc_info"], ZeroDivisionError)


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        OSError(errno.EHOSTUNREACH, "no route to host"),
        OSError("Multiple exceptions: [Errno 111] refused, [Errno 111] refused"),
        FileNotFoundError(errno.ENOENT, "no such socket"),
        socket.gaierror(socket.EAI_NONAME, "no such host"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.AdminShutdownError("shutting down"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.DiskFullError("full"),
    ],
)
async def test_a_database_that_is_away_is_worth_a_retry(failure: Exception) -> None:
    async def away(_request: Any, _call: Call) -> None:
        raise failure

    async with running(away) as server:
        with pytest.raises(UnavailableError) as caught:
            await server.unary(INFO)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert caught.value.retry_after


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.EIO, "a disk that fails"),
        OSError(errno.ENOSPC, "no room"),
        PermissionError(errno.EACCES, "forbidden", "/some/file"),
        FileNotFoundError(errno.ENOENT, "gone", "/some/file"),
        OSError(errno.EMFILE, "too many files"),
    ],
)
async def test_what_a_disk_says_is_not_the_database(failure: Exception) -> None:
    async def fails(_request: Any, _call: Call) -> None:
        raise failure

    async with running(fails) as server:
        with pytest.raises(ServiceDefectError) as caught:
            await server.unary(INFO)
    assert caught.value.reason == "DEFECT"


@pytest.mark.parametrize(
    "failure",
    [asyncpg.CharacterNotInRepertoireError("x"), asyncpg.UntranslatableCharacterError("x")],
)
async def test_what_the_database_cannot_hold_is_the_callers_mistake(failure: Exception) -> None:
    async def unstorable(_request: Any, _call: Call) -> None:
        raise failure

    async with running(unstorable) as server:
        with pytest.raises(InvalidRequestError, match="NUL"):
            await server.unary(INFO)


async def test_a_refusal_arrives_whole() -> None:
    async def refuse(_request: Any, _call: Call) -> None:
        raise Refusal("INVALID_FIELD", "Straße\n»x«", "files[3].did", {"value": "ü"}, retry_after=1.5)

    async with running(refuse) as server:
        with pytest.raises(InvalidRequestError) as caught:
            await server.unary(INFO)
    error = caught.value
    assert (error.message, error.reason, error.field) == ("Straße\n»x«", "INVALID_FIELD", "files[3].did")
    assert (error.metadata, error.retry_after) == ({"value": "ü"}, 1.5)


@pytest.mark.parametrize("sign", ["x", "é", "%", "🦕", "\n"])
@pytest.mark.parametrize("length", [100, 1_000, 100_000])
async def test_a_refusal_with_a_very_long_value_arrives_cut_but_complete(length: int, sign: str) -> None:
    async def refuse(_request: Any, _call: Call) -> None:
        text = sign * length
        raise Refusal("INVALID_FIELD", text, f"names[{text}]", {"value": text, "user": text, "rse": text}, 2.0)

    async with running(refuse) as server:
        for _ in range(10):  # a header of more than 8 KiB is refused at random
            with pytest.raises(InvalidRequestError) as caught:
                await server.unary(INFO)
    error = caught.value
    assert error.message.startswith(sign * 100)
    assert error.field.startswith("names[" + sign * 70)
    assert set(error.metadata) == {"value", "user", "rse"}
    assert (error.reason, error.retry_after) == ("INVALID_FIELD", 2.0)


@pytest.mark.parametrize("reason", sorted(CODE_OF))
async def test_every_reason_has_a_code_and_a_class(reason: str) -> None:
    async def refuse(_request: Any, _call: Call) -> None:
        raise Refusal(reason, "no")

    async with running(refuse) as server:
        with pytest.raises(DraymanError) as caught:
            await server.unary(INFO)
    assert type(caught.value) is not DraymanError
    assert (caught.value.reason, caught.value.code) == (reason, CODE_OF[reason])


def test_every_reason_of_the_contract_has_a_code() -> None:
    names = {name.removeprefix("REASON_") for name in REASONS}
    assert names - {"UNSPECIFIED"} == CODE_OF.keys()


# --- limits and counts -----------------------------------------------------------------------------------------------


async def test_calls_beyond_the_limit_are_refused_with_a_time_to_come_back() -> None:
    full = asyncio.Event()
    release = asyncio.Event()

    async def hold(_request: Any, _call: Call) -> Any:
        if server.dispatcher.running == 5:
            full.set()
        await release.wait()
        return await info(_request, _call)

    async with running(hold, max_calls=5) as server:
        held = [asyncio.create_task(server.unary(INFO)) for _ in range(5)]
        async with asyncio.timeout(10):
            await full.wait()
        with pytest.raises(OverloadedError) as caught:
            await server.unary(INFO)
        assert (caught.value.reason, caught.value.retry_after) == ("OVERLOADED", 1.0)
        release.set()
        assert len(await asyncio.gather(*held)) == 5
        assert await server.unary(INFO)
        async with asyncio.timeout(10):
            while server.dispatcher.running:
                await asyncio.sleep(0.005)


async def test_the_services_of_the_deployment_reach_a_full_one() -> None:
    """A service that is kept from hearing of auth would trust nobody after a while."""
    async with running(info, Access.SERVICE, max_calls=0) as server:
        assert await server.unary(INFO, token=SERVICES.token())
    async with running(info, Access.USER, max_calls=0) as server:
        with pytest.raises(OverloadedError):
            await server.unary(INFO, token=signed())


async def test_calls_are_counted_by_their_code() -> None:
    async def sometimes(request: Any, call: Call) -> Any:
        if call.is_retry():
            raise Refusal("USER_NOT_FOUND", "no")
        return await info(request, call)

    async with running(sometimes) as server:
        await server.unary(INFO)
        for _ in range(2):
            with pytest.raises(DraymanError):
                await server.raw(INFO, b"", (("grpc-previous-rpc-attempts", "1"),))
        # the caller has the answer a moment before the call is over
        async with asyncio.timeout(10):
            while server.dispatcher.running:
                await asyncio.sleep(0.005)
        assert server.count("grpc_server_handled_total", INFO, grpc_code="NOT_FOUND") == 2
        assert server.count("grpc_server_handled_total", INFO, grpc_code="OK") == 1
        assert server.count("grpc_server_handling_seconds_count", INFO) == 3
        assert server.count("grpc_server_running", INFO) == 0


async def test_a_cancelled_call_is_counted_and_leaves_nothing() -> None:
    begun = asyncio.Event()
    ended = asyncio.Event()

    async def wait(_request: Any, _call: Call) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running(wait) as server:
        call = asyncio.create_task(server.unary(INFO))
        async with asyncio.timeout(10):
            await begun.wait()
            call.cancel()
            await ended.wait()
            while server.dispatcher.running:
                await asyncio.sleep(0.005)
        assert server.count("grpc_server_running", INFO) == 0
        assert server.count("grpc_server_handled_total", INFO, grpc_code="CANCELLED") == 1
