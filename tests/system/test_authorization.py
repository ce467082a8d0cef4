"""Every RPC of every proto against the table of who may call it: without a token, with forged ones, as user, administrator, service."""

from __future__ import annotations

import base64
import importlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from drayman.client.channel import open_sync_channel
from drayman.client.errors import from_rpc_error
from drayman.server.access_page import TABLES, page
from drayman.server.platform.calls import Access
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

PROTOS = Path(__file__).parents[2] / "protos"
SERVICE_KEY = "a key of the deployment, for its services only"
#: What the door says. Whatever else comes (NOT_FOUND, INVALID_FIELD, OK ...) is the servicer's: the caller got in.
CLOSED = (
    "TOKEN_MISSING",
    "TOKEN_EXPIRED",
    "TOKEN_IMMATURE",
    "TOKEN_INVALID",
    "TOKEN_REVOKED",
    "ADMIN_ONLY",
    "SERVICE_ONLY",
)


def methods() -> Iterator[MethodDescriptor]:
    for proto in PROTOS.rglob("*.proto"):
        importlib.import_module(".".join(proto.relative_to(PROTOS).with_suffix("").parts) + "_pb2")
    pool = descriptor_pool.Default()
    for service in TABLES:
        yield from pool.FindServiceByName(service).methods


METHODS = {f"/{method.containing_service.full_name}/{method.name}": method for method in methods()}


def access_of(path: str) -> Access:
    _, service, name = path.split("/")
    return TABLES[service][name].access


@dataclass
class Door:
    """A deployment where reads need a login, and tokens of every kind for it."""

    channel: grpc.Channel
    tokens: dict[str, str | None]

    def answer(self, path: str, token: str | None) -> str:
        """Call with an empty request; returns the reason of the refusal, or an empty text."""
        method = METHODS[path]
        make = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        request: Any = iter([b""]) if method.client_streaming else b""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        try:
            reply = make(path)(request, metadata=metadata, timeout=3)
            if method.server_streaming:
                next(reply, None)
                reply.cancel()
        except grpc.RpcError as error:
            return from_rpc_error(error).reason
        return ""


@pytest.fixture(scope="module")
def door(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    environment = stack.environment | {"DRAYMAN_PUBLIC_READS": "false", "DRAYMAN_SERVICE_KEY": SERVICE_KEY}
    process = ServiceProcess(["--data-dir", str(folder), "--listen", "127.0.0.1:0"], environment, folder / "log")
    url = process.await_ready(60)
    stack.add_user("door-user", "pw-of-door-user")
    stack.add_user("door-admin", "pw-of-door-admin", admin=True)
    with open_sync_channel(url, retries=False) as channel:
        yield Door(channel, tokens(stack))
    process.terminate()


def tokens(stack: LocalStack) -> dict[str, str | None]:
    """One token of each kind. All claim to be an administrator's, but the user's."""
    good = stack.token("door-admin")
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    expired = stack.token("door-admin", lifetime=0.5)
    while jwt.decode(expired, options={"verify_signature": False})["exp"] > time.time():
        time.sleep(0.05)  # nothing but the clock can tell
    stranger = Ed25519PrivateKey.generate()

    def forged(key: Any, algorithm: str, **changes: Any) -> str:
        return jwt.encode(claims | changes, key, algorithm=algorithm, headers={"kid": header["kid"]})

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return {
        "none": None,
        "rubbish": "rubbish",
        "expired": expired,
        "signed by a stranger": forged(stranger, "EdDSA"),
        "signed by a stranger whose key nobody knows": jwt.encode(
            claims, stranger, algorithm="EdDSA", headers={"kid": "x"}
        ),
        "alg none": f"{part(header | {'alg': 'none'})}.{part(claims)}.",
        "alg HS256": forged(b"x" * 32, "HS256"),
        "alg RS256": forged(rsa.generate_private_key(65537, 2048), "RS256"),
        "another issuer": forged(stranger, "EdDSA", iss="elsewhere"),
        "its claims changed": ".".join((good.split(".")[0], part(claims | {"sub": "admin"}), good.split(".")[2])),
        "a service of another deployment": ServiceIdentity("a key of another deployment, as long as ours").token(),
        "user": stack.token("door-user"),
        "admin": good,
        "service": ServiceIdentity(SERVICE_KEY).token(),
    }


def expected(access: Access, kind: str) -> tuple[str, ...]:
    """Return the reasons with which the door may answer; () = it must let the caller in."""
    if access is Access.PUBLIC:
        return ()
    if kind == "none":
        return ("TOKEN_MISSING",)
    if kind == "expired":
        return ("TOKEN_EXPIRED",)
    if kind == "service":
        return () if access in (Access.SERVICE, Access.READ) else ("TOKEN_INVALID",)
    if kind == "user":
        return {Access.ADMIN: ("ADMIN_ONLY",), Access.SERVICE: ("SERVICE_ONLY",)}.get(access, ())
    if kind == "admin":
        return ("SERVICE_ONLY",) if access is Access.SERVICE else ()
    return ("TOKEN_INVALID",)


@pytest.mark.parametrize("path", sorted(METHODS))
def test_the_door(door: Door, stack: LocalStack, path: str) -> None:
    access = access_of(path)
    wrong = {}
    good = {"user", "admin"} if path.endswith("/Logout") else set()  # it ends what others still need
    for kind, kept in door.tokens.items():
        token = stack.token(f"door-{kind}") if kind in good else kept
        answer = door.answer(path, token)
        right = expected(access, kind)
        if (answer not in right) if right else (answer in CLOSED):
            wrong[kind] = answer
    assert not wrong


def test_every_rpc_of_every_proto_is_in_the_tables() -> None:
    declared = set()
    for proto in PROTOS.rglob("*.proto"):
        text = proto.read_text()
        package = text.partition("package ")[2].partition(";")[0]
        for service in text.split("\nservice ")[1:]:
            name, body = service.partition(" {")[0], service.partition("\n}")[0]
            declared |= {
                f"/{package}.{name}/{line.split('rpc ')[1].split('(')[0]}"
                for line in body.splitlines()
                if line.startswith("  rpc ")
            }
    assert declared == METHODS.keys()
    assert all(
        set(table) == {m.split("/")[2] for m in declared if m.split("/")[1] == name} for name, table in TABLES.items()
    )


def test_the_page_says_what_is_enforced() -> None:
    written = (PROTOS.parent / "docs" / "authorization.md").read_text()
    assert written == page(TABLES), "write it anew: python -m drayman.server.access_page > docs/authorization.md"
