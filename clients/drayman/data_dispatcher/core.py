"""What all methods of the mirror share: URLs, tokens, and a call that is tried again while the service cannot answer.

Data Dispatcher, sections 1 and 4 of its behaviour.
"""

# the mirrored interface takes its many arguments by position

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from drayman.client.credentials import Metadata, bearer
from drayman.client.errors import DeadlineError, DraymanError, OverloadedError, UnavailableError, from_rpc_error
from drayman.client.token_library import TokenLibrary
from drayman.data_dispatcher import arguments
from drayman.data_dispatcher.backoff import Backoff
from drayman.data_dispatcher.connections import Connections
from drayman.data_dispatcher.exceptions import APIError, api_error, from_drayman_error
from drayman.data_dispatcher.token_sources import TokenSources
from drayman.data_dispatcher.worker_id import DEFAULT_FILE, found_id
from drayman.dispatch.v1 import (
    handle_service_pb2_grpc,
    history_service_pb2_grpc,
    project_pb2,
    project_service_pb2_grpc,
    storage_service_pb2_grpc,
)

_Reply = TypeVar("_Reply")

_CLOSED_HERE = "Channel closed!"
#: Refusals that another token of the same session may cure.
_CURABLE = ("TOKEN_EXPIRED", "TOKEN_REVOKED")


class ClientCore:
    """Constructor, attributes and transport of `DataDispatcherClient`, which says what the arguments mean."""

    #: Name of the worker-id file in the working directory.
    DefaultWorkerIDFile: ClassVar[str] = DEFAULT_FILE
    #: create_project's default, in seconds: 72 hours.
    DEFAULT_IDLE_TIMEOUT: ClassVar[int] = 72 * 3600
    #: How long a call is tried again while the service cannot answer, in seconds.
    RetryBudget: ClassVar[float] = 300.0
    #: The first pause before trying again is at most this long, in seconds ...
    InitialRetry: ClassVar[float] = 1.0
    #: ... and each further one by this factor longer.
    RetryExponent: ClassVar[float] = 1.5

    def __init__(
        self,
        server_url: str | None = None,
        auth_server_url: str | None = None,
        worker_id: str | None = None,
        worker_id_file: str | os.PathLike[str] | None = None,
        token: Any = None,
        token_file: str | os.PathLike[str] | None = None,
        token_library: str | os.PathLike[str] | None = None,
        cpu_site: str = "DEFAULT",
        timeout: float | None = 300,
    ) -> None:
        environ = os.environ.get
        self.ServerURL = server_url or environ("DATA_DISPATCHER_URL") or environ("DRAYMAN_URL") or None
        self.AuthURL = auth_server_url or environ("DATA_DISPATCHER_AUTH_URL") or None
        if self.AuthURL is None:
            if self.ServerURL is None:
                raise TypeError("no server URL: give server_url, or set DATA_DISPATCHER_URL or DRAYMAN_URL")
            self.AuthURL = self.ServerURL + "/auth"
        self.CPUSite = cpu_site
        self.Timeout: float = timeout or 300
        self._sources = TokenSources(self.ServerURL, token, token_file, token_library)
        self.WorkerID: str = worker_id or found_id(worker_id_file or self.DefaultWorkerIDFile)
        self._connections = Connections()

    @property
    def Token(self) -> str | None:
        """The encoded session token that calls carry, or None. May be set; None = look it up again."""
        return self._sources.current

    @Token.setter
    def Token(self, token: Any) -> None:
        self._sources.use(token)

    @property
    def TokenLib(self) -> TokenLibrary:
        """The token library."""
        return self._sources.library

    def close(self) -> None:
        """Close the connection, if any is open; calls in progress in other threads fail. The next call opens one again."""
        self._connections.close()

    def retry_request(self, method: str, url: str, timeout: float | None = None, **args: Any) -> NoReturn:
        """Refuse: the services have no HTTP interface. Raises ServerError with status 501. Section 1.4."""
        raise self._missing("HTTP requests: the services speak gRPC")

    # --- stubs -------------------------------------------------------------------------------------------------------

    def _projects(self) -> project_service_pb2_grpc.ProjectServiceStub:
        return self._connections.stub(project_service_pb2_grpc.ProjectServiceStub, self.ServerURL)

    def _handles(self) -> handle_service_pb2_grpc.HandleServiceStub:
        return self._connections.stub(handle_service_pb2_grpc.HandleServiceStub, self.ServerURL)

    def _history(self) -> history_service_pb2_grpc.HistoryServiceStub:
        return self._connections.stub(history_service_pb2_grpc.HistoryServiceStub, self.ServerURL)

    def _storage(self) -> storage_service_pb2_grpc.StorageServiceStub:
        return self._connections.stub(storage_service_pb2_grpc.StorageServiceStub, self.ServerURL)

    # --- calls -------------------------------------------------------------------------------------------------------

    def _call(
        self, method: Callable[..., _Reply], request: Message | Sequence[Message], budget: float | None = None
    ) -> _Reply:
        """Call and return the reply; a sequence is streamed. While the service cannot answer, try again for `budget` seconds."""
        backoff = self._backoff(budget)
        while True:
            try:
                sent = request if isinstance(request, Message) else iter(request)
                return method(sent, timeout=self.Timeout, metadata=self._metadata())
            except grpc.RpcError as error:
                self._pause_or_raise(error, backoff, request)

    def _collect(
        self,
        method: Callable[..., Iterable[Any]],
        request: Any,
        *,
        resumable: bool = False,
    ) -> list[project_pb2.Handle]:
        """Read a stream of handles to its end; after an interruption go on behind the last one, or begin again."""
        handles: list[project_pb2.Handle] = []
        backoff = self._backoff()
        while True:
            try:
                heard = 0
                for part in method(request, timeout=self.Timeout, metadata=self._metadata()):
                    heard += 1
                    handles.extend(part.handles)
                    backoff.succeeded(self.InitialRetry)
                return handles
            except grpc.RpcError as error:
                # a list may be too long for one call
                self._pause_or_raise(error, backoff, request, late_passes=resumable and heard > 0)
                if not resumable:
                    handles.clear()
                elif handles:
                    request.after_handle_id = handles[-1].handle_id

    def _pause_or_raise(
        self,
        error: grpc.RpcError,
        backoff: Backoff,
        request: Message | Sequence[Message],
        *,
        late_passes: bool = False,
    ) -> None:
        """Sleep if the call may be sent again, else raise the documented error. `late_passes`: after its deadline it may, too.

        After a refusal of the token it may if there is another one.
        """
        found = from_rpc_error(error)
        if found.reason in _CURABLE and isinstance(backoff, _Attempts) and not backoff.renewed:
            try:
                if self._sources.renew():
                    backoff.renewed = True
                    return
            except UnavailableError as away:
                found = away
        again = passing(found) or (late_passes and isinstance(found, DeadlineError))
        if not (again and backoff.pause(found.retry_after)):
            raise from_drayman_error(found, self._url(request)) from None

    def _backoff(self, budget: float | None = None) -> Backoff:
        return _Attempts(self.RetryBudget if budget is None else budget, self.InitialRetry, self.RetryExponent)

    def _metadata(self) -> Metadata:
        return bearer(self._sources.fresh())

    # --- errors ------------------------------------------------------------------------------------------------------

    def _project_id(self, given: arguments.ProjectId) -> int:
        try:
            return arguments.project_id(given)
        except ValueError as error:
            raise api_error(self.ServerURL or "", 400, str(error)) from None

    def _missing(self, what: str) -> APIError:
        return api_error(self.ServerURL or "", 501, f"Not offered by this deployment: {what}")

    def _url(self, request: Message | Sequence[Message]) -> str:
        path = _path((request if isinstance(request, Message) else request[0]).DESCRIPTOR)
        base = self.AuthURL if path.startswith("drayman.auth.") else self.ServerURL
        return f"{(base or '').removesuffix('/auth').rstrip('/')}/{path}"


class _Attempts(Backoff):
    """The attempts of one call: a token that has expired is replaced once, until something is heard."""

    renewed = False

    def succeeded(self, first: float) -> None:
        """Something was heard: the next failure begins anew."""
        super().succeeded(first)
        self.renewed = False


def passing(error: DraymanError) -> bool:
    """Whether the same call may be answered later."""
    if error.code is grpc.StatusCode.CANCELLED:
        # a server that shuts down drops so what it has not begun; the other one who may be is us, by `close` in another thread
        return _CLOSED_HERE not in error.message
    return isinstance(error, UnavailableError) or (isinstance(error, OverloadedError) and error.reason == "OVERLOADED")


@functools.cache
def _path(request: Descriptor) -> str:
    """Return `package.Service/Method` of the RPC that takes this message."""
    for service in request.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is request:
                return f"{service.full_name}/{method.name}"
    return request.full_name
