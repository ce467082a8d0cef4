"""Whether the service is there.

PanDA, section 3.4 of its behaviour.
"""

from __future__ import annotations

import re

import grpc

from drayman.client.errors import from_rpc_error
from drayman.pandaclient import settings
from drayman.pandaclient.calls import FAILED, shown
from drayman.pandaclient.connections import CONNECTIONS
from drayman.system.v1 import system_service_pb2, system_service_pb2_grpc

#: Whoever does not answer by then is not there.
_PATIENCE = 5.0


_VERSION = re.compile(r"\d+\.\d+\.\d+")


def hello(verbose: bool = False) -> tuple[int, str]:
    """Return `(0, "OK")` if the service answers, else `(255, text)` within seconds. Needs no token and never raises. Section 3.4."""
    try:
        version = _version()
    except _Unanswered as error:
        return shown((FAILED, str(error)), verbose)
    if verbose:
        print(f"version {version}")
    return shown((0, "OK"), verbose)


def getPandaClientVer(verbose: bool = False) -> tuple[int, str]:
    """Return `(0, "x.y.z")`: the version of the client that fits the service; `(255, text)` without an answer, or if it is none."""
    try:
        version = _version()
    except _Unanswered as error:
        return shown((FAILED, str(error)), verbose)
    found = _VERSION.match(version)
    return shown((0, found[0]) if found else (FAILED, f"invalid version {version!r}"), verbose)


class _Unanswered(Exception):
    """The service does not answer; the text says why."""


def _version() -> str:
    """Ask for the version of the service. Raises _Unanswered."""
    try:
        stub = CONNECTIONS.stub(system_service_pb2_grpc.SystemServiceStub, settings.open_url())
        return stub.GetServerInfo(system_service_pb2.GetServerInfoRequest(), timeout=_PATIENCE).version
    except grpc.RpcError as error:
        found = from_rpc_error(error)
        raise _Unanswered(f"{settings.open_url()}: {found.message} ({found.reason or found.code.name})") from None
    except (OSError, ValueError) as error:  # a CA file that is not there, a URL that is none
        raise _Unanswered(str(error)) from None
