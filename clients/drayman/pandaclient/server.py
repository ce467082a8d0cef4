"""Whether the service is there.

PanDA, section 3.4 of its behaviour.
"""

from __future__ import annotations

import grpc

from drayman.client.errors import from_rpc_error
from drayman.pandaclient import settings
from drayman.pandaclient.calls import FAILED
from drayman.pandaclient.connections import CONNECTIONS
from drayman.system.v1 import system_service_pb2, system_service_pb2_grpc

#: Whoever does not answer by then is not there.
_PATIENCE = 5.0


def hello(verbose: bool = False) -> tuple[int, str]:
    """Return `(0, "OK")` if the service answers, else `(255, text)` within seconds. Needs no token and never raises. Section 3.4."""
    try:
        stub = CONNECTIONS.stub(system_service_pb2_grpc.SystemServiceStub, settings.open_url())
        version = stub.GetServerInfo(system_service_pb2.GetServerInfoRequest(), timeout=_PATIENCE).version
    except grpc.RpcError as error:
        found = from_rpc_error(error)
        result = FAILED, f"{settings.open_url()}: {found.message} ({found.reason or found.code.name})"
    except (OSError, ValueError) as error:  # a CA file that is not there, a URL that is none
        result = FAILED, str(error)
    else:
        result = 0, "OK"
        if verbose:
            print(f"version {version}")
    if verbose:
        print(result)
    return result
