"""How a call reaches a servicer: admitted, checked, timed, and refused in one way.

A service is declared as a servicer object plus a table that says for each RPC who may call it. The table is complete or the
process does not start. Handlers are composed once, when the service is declared: per call there is one coroutine of ours
around the servicer's method and no chain of interceptors, each of which would cost every call a coroutine more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn
from uuid import uuid4

import asyncpg
import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from drayman.server.platform.database import is_away
from drayman.server.platform.errors import Refusal
from drayman.server.platform.metrics import CallMetrics
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.trust import Caller, Trust

log = structlog.get_logger(__name__)

_DETAILS = "grpc-status-details-bin"
_BEARER = "bearer "


class Access(Enum):
    """Who may call an RPC. What depends on the object (its owner, say) the servicer checks."""

    PUBLIC = "anybody"
    READ = "anybody, unless reads need a login here; services of the deployment"
    USER = "logged-in users"
    ADMIN = "administrators"
    SERVICE = "services of the deployment"


@dataclass(frozen=True)
class Rule:
    """A line of an access table: who gets past the door, and what the servicer, who knows the object, then asks for."""

    access: Access
    further: str = ""


@dataclass(frozen=True)
class Service:
    """One gRPC service: its descriptor, the object with one method per RPC, and who may call each of them."""

    descriptor: ServiceDescriptor
    servicer: object
    access: Mapping[str, Rule]


class Call:
    """What a servicer sees of the call besides the request."""

    __slots__ = ("_caller", "context")

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any], caller: Caller | None) -> None:
        self.context = context
        self._caller = caller

    @property
    def caller(self) -> Caller:
        """The verified caller; only for RPCs whose access is USER or ADMIN."""
        assert self._caller is not None, "an RPC that needs its caller must not be PUBLIC"
        return self._caller

    @property
    def caller_or_none(self) -> Caller | None:
        """The verified caller, or None for an anonymous one."""
        return self._caller

    async def send(self, message: Message) -> None:
        """Send one message of a server stream."""
        await self.context.write(message)

    def metadata(self, key: str) -> str | None:
        """Return what the caller sent under a key of the call's metadata; None = nothing."""
        return _metadata(self.context, key)

    def is_retry(self) -> bool:
        """Whether gRPC itself sends the request again after a lost attempt."""
        return _metadata(self.context, "grpc-previous-rpc-attempts") is not None


Handler = Callable[..., Awaitable[Any]]


@dataclass(eq=False, slots=True)
class _Stream:
    """A stream in progress; `cut` says why it is being ended from here."""

    caller: Caller
    task: asyncio.Task[Any]
    cut: Refusal | None = None


def _problem(trust: Trust, caller: Caller) -> Refusal | None:
    """Say why the stream of a caller must not go on."""
    try:
        now = trust.judge(caller)
    except Refusal as refusal:
        return refusal
    if (caller.admin and not now.admin) or caller.roles - now.roles:
        return Refusal("TOKEN_REVOKED", "the user may do less than when the stream began: begin it again")
    return None


class Dispatcher(grpc.GenericRpcHandler):
    """All services of a process: one table from full method name to handler."""

    def __init__(
        self,
        trust: Trust,
        verifier: TokenVerifier,
        services: ServiceIdentity,
        metrics: CallMetrics,
        *,
        max_calls: int,
        public_reads: bool,
    ) -> None:
        self._trust = trust
        self._verifier = verifier
        self._services = services
        self._metrics = metrics
        self._streams: dict[str, set[_Stream]] = {}
        trust.subscribe(self._judge_streams)
        self._max_calls = max_calls
        self._public_reads = public_reads
        self._running = 0
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self.access: dict[str, Rule] = {}

    @property
    def running(self) -> int:
        """Calls in progress."""
        return self._running

    def add(self, service: Service) -> None:
        """Declare a service. Raises ValueError if an RPC is not in its access table or has no method, or the table names one too many."""
        names = {method.name for method in service.descriptor.methods}
        if names != service.access.keys():
            odd = ", ".join(sorted(names ^ service.access.keys()))
            raise ValueError(f"{service.descriptor.full_name}: the access table and the proto differ in {odd}")
        for method in service.descriptor.methods:
            handler = getattr(service.servicer, method.name, None)
            if handler is None:
                raise ValueError(f"{service.descriptor.full_name}.{method.name} has no method")
            path = f"/{service.descriptor.full_name}/{method.name}"
            self.access[path] = service.access[method.name]
            self._handlers[path] = self._compose(path, method, handler, service.access[method.name].access)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Find the handler of a call; None = UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)

    def _compose(
        self, path: str, method: MethodDescriptor, handler: Handler, access: Access
    ) -> grpc.RpcMethodHandler[Any, Any]:
        parse = _parser(GetMessageClass(method.input_type))
        streaming = method.server_streaming or method.client_streaming
        # what services tell each other finds room in a full one: without auth's word it would soon trust nobody
        counts = access is not Access.SERVICE
        observe = self._metrics.observer(path)
        running = 0
        self._metrics.running(path, lambda: running)

        # Requests arrive as bytes: a message that cannot be decoded is the caller's mistake, which gRPC itself would call INTERNAL.
        async def run(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            nonlocal running
            started = time.perf_counter()
            code = grpc.StatusCode.UNKNOWN
            stream = None
            self._running += counts
            running += 1
            try:
                if counts:
                    self._limit()
                caller = await self._admit(context, access)
                if caller is not None and streaming:
                    stream = self._begin_stream(caller)
                message = parse(request) if not method.client_streaming else _parsed(request, parse)
                reply = await handler(message, Call(context, caller))
                code = grpc.StatusCode.OK
                return reply
            except Refusal as refusal:
                code = refusal.code
                await _refuse(context, path, refusal)
            except asyncio.CancelledError:
                if stream is not None and stream.cut is not None:
                    code = stream.cut.code
                    stream.task.uncancel()
                    await _refuse(context, path, stream.cut)
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                explained = _explain(error, path)
                code = explained.code
                await _refuse(context, path, explained)
            finally:
                self._running -= counts
                running -= 1
                if stream is not None:
                    self._end_stream(stream)
                observe(code, time.perf_counter() - started)

        return _method_handler(method, run)

    def _limit(self) -> None:
        if self._running > self._max_calls:
            raise Refusal("OVERLOADED", f"{self._max_calls} calls are in progress", retry_after=1.0)

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any], access: Access) -> Caller | None:
        header = _metadata(context, "authorization")
        if header is None:
            if access is Access.PUBLIC or (access is Access.READ and self._public_reads):
                return None
            raise Refusal("TOKEN_MISSING", "Token not found")
        if not header[: len(_BEARER)].lower() == _BEARER:
            raise Refusal("TOKEN_INVALID", "Token verification failed: expected `authorization: Bearer <token>`")
        if access is Access.PUBLIC:
            return None  # a stale token must not keep anybody from logging in
        token = header[len(_BEARER) :]
        if access in (Access.SERVICE, Access.READ) and self._services.made(token):
            return None
        caller = self._verifier.remembered(token) or await self._verifier.verify(token)
        if access is Access.ADMIN and not caller.admin:
            raise Refusal("ADMIN_ONLY", "Not authorized: for administrators", metadata={"user": caller.username})
        if access is Access.SERVICE:
            message = "Not authorized: for services that have the deployment's key"
            raise Refusal("SERVICE_ONLY", message, metadata={"user": caller.username})
        return caller

    # A stream may last for days: what its caller may do was checked when it began, and is again whenever auth tells of a change.

    def _begin_stream(self, caller: Caller) -> _Stream:
        task = asyncio.current_task()
        assert task is not None
        stream = _Stream(caller, task)
        self._streams.setdefault(caller.username, set()).add(stream)
        return stream

    def _end_stream(self, stream: _Stream) -> None:
        streams = self._streams[stream.caller.username]
        streams.discard(stream)
        if not streams:
            del self._streams[stream.caller.username]

    def _judge_streams(self, usernames: frozenset[str] | None) -> None:
        for name in list(self._streams) if usernames is None else usernames:
            for stream in self._streams.get(name, ()):
                if stream.cut is None and (refusal := _problem(self._trust, stream.caller)) is not None:
                    stream.cut = refusal
                    stream.task.cancel()


def _metadata(context: grpc.aio.ServicerContext[Any, Any], key: str) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def _parser(message_class: type[Message]) -> Callable[[bytes], Message]:
    def parse(data: bytes) -> Message:
        try:
            return message_class.FromString(data)
        except DecodeError as error:
            raise Refusal("MALFORMED_MESSAGE", f"not a {message_class.DESCRIPTOR.full_name}: {error}") from error

    return parse


async def _parsed(stream: AsyncIterator[bytes], parse: Callable[[bytes], Message]) -> AsyncIterator[Message]:
    async for data in stream:
        yield parse(data)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _method_handler(method: MethodDescriptor, run: Handler) -> grpc.RpcMethodHandler[Any, Any]:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    return make(run, request_deserializer=None, response_serializer=_serialize)


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], path: str, refusal: Refusal) -> NoReturn:
    log.debug("refused", grpc_method=path, reason=refusal.reason, message=refusal.message)
    await context.abort(refusal.code, refusal.message, trailing_metadata=((_DETAILS, refusal.details()),))
    raise AssertionError("abort always raises")


#: What the database says of a value that it cannot take.
_UNSTORABLE: Mapping[type[Exception], str] = {
    asyncpg.CharacterNotInRepertoireError: "a text of the request contains NUL, which cannot be stored or looked for",
    asyncpg.UntranslatableCharacterError: "a text of the request contains NUL, which cannot be stored or looked for",
    asyncpg.ProgramLimitExceededError: "a value of the request is too large to be stored",
}


def _explain(error: Exception, path: str) -> Refusal:
    """Say what an unexpected exception means to the caller; what is our own defect is logged with an id to find it by."""
    if type(error) in _UNSTORABLE:
        return Refusal("INVALID_FIELD", _UNSTORABLE[type(error)])
    if isinstance(error, asyncpg.DiskFullError):
        return Refusal("UNAVAILABLE", "the database's disk is full; nothing was changed", retry_after=30.0)
    if is_away(error):
        log.warning("database away", error=str(error) or type(error).__name__)
        return Refusal("UNAVAILABLE", "the database cannot be reached just now", retry_after=0.5)
    defect = uuid4().hex[:12]
    log.error("defect", exc_info=error, grpc_method=path, defect=defect)
    return Refusal(
        "DEFECT", f"a defect of the service; its log has the trace under {defect}", metadata={"defect": defect}
    )
