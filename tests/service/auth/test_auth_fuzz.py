"""Whatever anybody sends to any RPC of auth: a clear answer, in time, and the service goes on."""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from drayman.auth.v1 import (
    audit_service_pb2,
    auth_service_pb2,
    secret_service_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    trust_service_pb2,
    user_service_pb2,
)
from drayman.client.challenge import answer_challenge
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.errors.v1 import reason_pb2
from drayman.server.platform.embedded import EmbeddedPostgres
from drayman.server.platform.service_identity import ServiceIdentity
from service.auth.deployment import ADMIN, SERVICE_KEY, Deployment, deployed, lift_login_limits, new_database
from service.auth.message_fuzz import Texts, messages, mutated_bytes, mutated_texts, texts

#: Seconds that a call may take; far more than any does.
DEADLINE = 5.0
#: Seconds for one RPC, of the budget of about 20 for all of them.
SHARE = 0.6
#: Examples that are made at once.
PORTION = 25
LARGEST = 8 * 1024 * 1024
PASSWORD = "fuzzed, but right"
ROOT = "fuzz-root"
#: Who sends; whoever gets furthest most often.
CALLERS = ("administrator", "nobody", "user", "administrator", "rubbish", "administrator", "user", "service")

REASONS = {name.removeprefix("REASON_") for name in reason_pb2.Reason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED",
    "DEFECT",
}
MODULES = (
    audit_service_pb2,
    auth_service_pb2,
    secret_service_pb2,
    session_service_pb2,
    trust_service_pb2,
    user_service_pb2,
)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
#: Sleeps until services know the new key.
SLOW = {"/drayman.auth.v1.UserService/RotateSigningKey": 3}

every_phase_but_explaining = (Phase.explicit, Phase.generate, Phase.target, Phase.shrink)


@dataclass
class Target:
    """A deployment that is attacked, with what is right in it."""

    deployment: Deployment
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    user: str = ""
    password_user: str = ""

    @property
    def channel(self) -> grpc.Channel:
        return self.deployment.channels[0]

    def metadata(self, caller: str, rubbish: str) -> Any:
        if caller == "nobody":
            return ()
        if caller == "service":
            return bearer(ServiceIdentity(SERVICE_KEY).token())
        return (("authorization", rubbish),) if caller == "rubbish" else bearer(self.tokens[caller])

    def renew(self) -> None:
        """Give the callers tokens again that were taken from them by what was sent."""
        self.tokens = {"user": self.deployment.token(self.user), "administrator": self.deployment.token(ROOT)}

    def send(self, path: str, encoded: bytes, metadata: Any, deadline: float = DEADLINE) -> str:
        """Send; returns the reason of the refusal, or an empty text. Fails for an answer that no request should get."""
        method = METHODS[path]
        started = time.monotonic()
        try:
            if method.server_streaming:
                reply = self.channel.unary_stream(path)(encoded, metadata=metadata, timeout=deadline)
                next(iter(reply), None)
                reply.cancel()
            else:
                self.channel.unary_unary(path)(encoded, metadata=metadata, timeout=deadline)
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            assert refusal.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), refusal
            assert refusal.reason in REASONS, f"{refusal.code}: {refusal.message}"
            return refusal.reason
        finally:
            assert time.monotonic() - started < deadline
        return ""


@pytest_asyncio.fixture(scope="module")
async def _deployment(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Deployment]:
    async with new_database(postgres) as dsn:
        with deployed(dsn, tmp_path_factory.mktemp("fuzzed")) as deployment:
            await lift_login_limits(dsn)
            yield deployment


@pytest.fixture(scope="module")
def target(_deployment: Deployment) -> Iterator[Target]:
    target = Target(_deployment)
    target.user = _deployment.add_user(name="fuzz-user")
    target.password_user = _deployment.add_user(PASSWORD, name="fuzz-password")
    _deployment.add_user(name=ROOT, admin=True)
    target.renew()
    yield target
    # what a caller was not told would still be in the log
    log = _deployment.logs[0].read_text()
    assert [line for line in log.splitlines() if "Traceback" in line or '"defect"' in line] == []


def known_texts(target: Target) -> Texts:
    """Texts that are right where they stand, so that what is around them is looked at."""
    deployment = target.deployment
    login = deployment.log_in(target.password_user, PASSWORD)
    sessions = session_service_pb2_grpc.SessionServiceStub(target.channel).ListSessions(
        session_service_pb2.ListSessionsRequest(), metadata=bearer(login.token.token), timeout=DEADLINE
    )
    names = st.sampled_from([target.user, target.user, "fuzz-new-1", "fuzz-new-2"])
    page = base64.urlsafe_b64encode(b"users:fuzz").decode().rstrip("=")
    return {
        "username": names,
        "usernames": names,
        "members": names,
        "add_members": names,
        "remove_members": names,
        "name": st.sampled_from(["fuzz-role-1", "fuzz-role-2"]),
        "roles": st.sampled_from(["fuzz-role-1", "fuzz-role-2"]),
        "algorithm": st.sampled_from(["SHA-256", "MD5"]),
        "realm": st.just("drayman"),
        "ha1": st.sampled_from(["0" * 64, "f" * 32]),
        "page_token": mutated_texts(page),
        "session_id": mutated_texts(sessions.sessions[0].session_id),
        "refresh_token": mutated_texts(login.refresh_token),
        "request_id": mutated_texts(str(uuid4())),
        "token": mutated_texts(login.token.token),
        "actions": st.sampled_from(["LOGIN", "USER_CREATED"]),
        "x509_dn": st.sampled_from(["/DC=org/CN=Fuzz", "CN=Fuzz,DC=org", "CN=a+CN=b,DC=\\00\\ff"]),
        "ldap_dn": st.sampled_from(["uid=fuzz,dc=org", "uid=\\2c,dc=#04"]),
        "issuer": st.sampled_from(["https://issuer.example", "https://[::1", "https://a:99999"]),
        "subject": st.just("fuzz"),
        "key": st.sampled_from(["fuzz-key", "other"]),
    }


def rubbish_headers(token: str) -> st.SearchStrategy[str]:
    """Credentials as no client of ours would send them; what HTTP/2 does not carry at all is left out."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    deep = base64.urlsafe_b64encode(b"[" * 2000).decode().rstrip("=")
    keys = [part({"alg": "EdDSA", "kid": kid}) for kid in ("", None, 7, [], {}, "x" * 1000)]
    headers = [deep, part([]), part(None), part({"alg": ["EdDSA"]}), part({"alg": "EdDSA", "crit": ["b64"]}), *keys]
    forged = st.sampled_from([f"Bearer {header}.{token.partition('.')[2]}" for header in headers])
    printable = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
    mutated = mutated_texts(token).filter(lambda text: text.isascii() and text.isprintable() and len(text) < 4000)
    return st.one_of(forged, printable, mutated.map("Bearer {}".format))


def encoded_requests(method: MethodDescriptor, known: Texts) -> st.SearchStrategy[bytes]:
    right = messages(method.input_type, known).map(lambda message: message.SerializeToString())
    return st.one_of(right, right, right, right.flatmap(mutated_bytes), st.binary(max_size=60)).filter(_is_taken)


def _is_taken(encoded: bytes) -> bool:
    """Whether gRPC hands it over: what is larger than it may be is not looked at."""
    return len(encoded) < LARGEST


def decoded(method: MethodDescriptor, encoded: bytes) -> str:
    """Show a request that went wrong."""
    try:
        return f"{GetMessageClass(method.input_type).FromString(encoded)!s:.2000}"
    except Exception:
        return "(no message)"


@pytest.mark.parametrize("path", METHODS)
def test_every_answer_is_clear_whoever_sends_whatever(target: Target, path: str) -> None:
    method = METHODS[path]
    requests = encoded_requests(method, known_texts(target))
    rubbish_header = rubbish_headers(target.tokens["user"])
    sent = 0

    @settings(
        max_examples=SLOW.get(path, PORTION),
        deadline=None,
        database=None,
        print_blob=False,
        phases=every_phase_but_explaining,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal sent
        caller = data.draw(st.sampled_from(CALLERS), "caller")
        encoded = data.draw(requests, "request")
        rubbish = data.draw(rubbish_header, "header") if caller == "rubbish" else ""
        # those by whom the tests themselves come in
        assume(not any(name.encode() in encoded for name in (ADMIN, ROOT, target.password_user)))
        sent += 1
        try:
            reason = target.send(path, encoded, target.metadata(caller, rubbish))
        except BaseException:
            print(f"{path} as {caller} {rubbish}:\n{encoded[:300]!r}\n{decoded(method, encoded)}", file=sys.stderr)
            raise
        if reason in ("TOKEN_REVOKED", "TOKEN_INVALID") and caller in target.tokens:
            restore(target)

    end = time.monotonic() + SHARE
    attack()
    while time.monotonic() < end and path not in SLOW:
        attack()
    assert sent >= SLOW.get(path, PORTION), "next to nothing was sent"
    assert_alive(target)


def restore(target: Target) -> None:
    """Bring back what was sent away: users may be removed, and tokens revoked."""
    with_admin = {"metadata": target.deployment.as_admin(), "timeout": DEADLINE}
    create = user_service_pb2.CreateUserRequest(username=target.user)
    enable = user_service_pb2.UpdateUserRequest(username=target.user, disabled=False, admin=False)
    with suppress(grpc.RpcError):  # there already, which the next one shows
        target.deployment.users.CreateUser(create, **with_admin)
    target.deployment.users.UpdateUser(enable, **with_admin)
    target.renew()


def assert_alive(target: Target) -> None:
    assert target.deployment.processes[0].running
    request = auth_service_pb2.GetKeySetRequest()
    assert target.deployment.auth.GetKeySet(request, timeout=DEADLINE).jwks_json


def refused_or_served(target: Target, path: str, message: Message, *expected: str) -> None:
    reason = target.send(path, message.SerializeToString(), ())
    assert reason in expected, f"{reason} for {message}"


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_right_response_with_something_changed_lets_nobody_in(target: Target, data: st.DataObject) -> None:
    request = auth_service_pb2.GetChallengeRequest(username=target.password_user)
    challenge = target.deployment.auth.GetChallenge(request, timeout=DEADLINE)
    right = answer_challenge(target.password_user, PASSWORD, challenge)[0].credential
    part = data.draw(st.sampled_from([each.name for each in right.DESCRIPTOR.fields]), "part")
    wrong = auth_service_pb2.DigestCredential()
    wrong.CopyFrom(right)
    value = data.draw(mutated_texts(getattr(right, part)) | texts, "value")
    setattr(wrong, part, value)
    path = "/drayman.auth.v1.AuthService/Login"
    login = auth_service_pb2.LoginRequest(digest=wrong)
    if wrong == right:
        refused_or_served(target, path, login, "")
    else:
        refused_or_served(target, path, login, "LOGIN_REFUSED", "INVALID_FIELD")


@settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_refresh_token_with_a_bit_changed_refreshes_nothing(target: Target, data: st.DataObject) -> None:
    right = target.deployment.log_in(target.password_user, PASSWORD).refresh_token
    raw = bytearray(base64.urlsafe_b64decode(right.removeprefix("drr_")))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1), "bit")
    raw[bit // 8] ^= 1 << bit % 8
    flipped = "drr_" + base64.urlsafe_b64encode(raw).decode()
    path = "/drayman.auth.v1.AuthService/RefreshSession"
    request = auth_service_pb2.RefreshSessionRequest(refresh_token=flipped, request_id=str(uuid4()))
    refused_or_served(target, path, request, "REFRESH_REFUSED")
    # and the session did not suffer from it
    request.refresh_token = right
    refused_or_served(target, path, request, "")


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_session_token_with_something_changed_is_nobodys(target: Target, data: st.DataObject) -> None:
    token = target.tokens["user"]
    changed = data.draw(mutated_texts(token).filter(lambda text: text.isascii() and text.isprintable()), "token")
    # base64 leaves some bits of a last character unused: what is changed there alone is the same token
    assume(changed[:-1] != token[:-1] or len(changed) != len(token))
    assume(changed.strip() not in ("", token) and len(changed) < 6000)
    path = "/drayman.auth.v1.AuthService/GetAuthInfo"
    assert target.send(path, b"", bearer(changed)) == "TOKEN_INVALID"
