"""Logins and renewals over a channel of their own, for threads: whoever begins one has none that it could use there and then."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client.channel import DEFAULT_URL, open_sync_channel
from drayman.client.errors import DraymanError, UnavailableError, from_rpc_error
from drayman.client.login_steps import Ask, Login
from drayman.client.session_token import Session, session_of
from drayman.client.x509 import open_x509_channel

_Result = TypeVar("_Result")

#: Seconds, at most, before a login that no service answered is begun again.
PAUSES = (0.2, 0.5, 1.0, 2.0)


def log_in(auth_url: str | None, login: Login, timeout: float = 30.0) -> Session:
    """Log in, beginning anew a few times while no service answers; `timeout` in seconds for each call. Raises DraymanError, UrlError."""
    for pause in PAUSES:
        try:
            return carry_out(auth_url, login(), timeout)
        except UnavailableError as error:
            if error.reason == "IDENTITY_PROVIDER_AWAY":  # it was waited for already
                raise
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads a fleet
    return carry_out(auth_url, login(), timeout)


def carry_out(auth_url: str | None, steps: Generator[Ask, Any, _Result], timeout: float) -> _Result:
    """Ask what a login wants to know, once. Raises DraymanError, UrlError."""
    with open_sync_channel(auth_url) as channel:
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)

        def answer(ask: Ask) -> Any:
            try:
                if ask.identity is not None:
                    return ask_with_certificate(auth_url, ask, timeout)
                return method_for(stub, ask)(ask.request, timeout=timeout)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from None

        return _driven(steps, answer)


def method_for(stub: Any, ask: Ask) -> Any:
    """Return the method of an AuthServiceStub, of either kind, that takes a request."""
    if isinstance(ask.request, pb.GetLoginOptionsRequest):
        return stub.GetLoginOptions
    return stub.GetChallenge if isinstance(ask.request, pb.GetChallengeRequest) else stub.Login


def ask_with_certificate(auth_url: str | None, ask: Ask, timeout: float) -> Any:
    """Make the call that shows a certificate. Raises grpc.RpcError, UrlError."""
    assert ask.identity is not None
    with open_x509_channel(x509_url(auth_url, ask.x509_port), ask.identity) as channel:
        return method_for(auth_service_pb2_grpc.AuthServiceStub(channel), ask)(ask.request, timeout=timeout)


def x509_url(auth_url: str | None, port: int) -> str:
    """Return the URL of the port for X.509 logins on the hosts of a deployment."""
    url = auth_url or DEFAULT_URL
    hosts = urlsplit(url if "://" in url else f"grpc://{url}").netloc.split(",")
    bare = (host if host.endswith("]") else host.rpartition(":")[0] or host for host in hosts)
    return f"grpcs://{','.join(f'{host}:{port}' for host in bare)}"


def refresh(auth_url: str, refresh_token: str, request_id: str, timeout: float) -> Session:
    """Get the next tokens of a session; `timeout` in seconds. Raises DraymanError, UrlError, OSError."""
    with open_sync_channel(auth_url) as channel:
        request = pb.RefreshSessionRequest(refresh_token=refresh_token, request_id=request_id)
        try:
            return session_of(auth_service_pb2_grpc.AuthServiceStub(channel).RefreshSession(request, timeout=timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None


def _driven(steps: Generator[Ask, Any, _Result], answer: Callable[[Ask], Any]) -> _Result:
    try:
        ask = next(steps)
        while True:
            try:
                reply = answer(ask)
            except DraymanError as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(reply)
    except StopIteration as end:
        result: _Result = end.value
        return result
