"""What can be said of the connection that a call came over."""

from __future__ import annotations

from typing import Any

import grpc.aio


def is_tls(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether the connection that gRPC sees speaks TLS."""
    security = context.auth_context().get("transport_security_type", ())
    return any(kind in (b"ssl", b"tls") for kind in security)


def is_private(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether nobody on the network can read what came: TLS, loopback, or a Unix socket."""
    if is_tls(context):
        return True
    peer = context.peer()
    return peer.startswith(("ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "unix:"))
