"""Renewals, against a service on loopback that gives out tokens by the rules: each refresh token serves once."""

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest

from drayman.auth.v1 import auth_service_pb2 as pb
from drayman.auth.v1 import auth_service_pb2_grpc
from drayman.client.credentials import Credentials
from drayman.client.errors import DraymanError, UnauthenticatedError, UnavailableError
from drayman.client.session_file import SessionFile
from drayman.client.session_keeper import SessionKeeper
from drayman.client.session_token import Session, due, expiration, session_id_of
from drayman.client.token_library import TokenLibrary
from tokens import made_token


@dataclass
class Grants(auth_service_pb2_grpc.AuthServiceServicer):
    """Gives out tokens of an hour. What it does next: `refuse`, be `away`, or lose the answer."""

    current: dict[str, str] = field(default_factory=dict)
    answered: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refuse: bool = False
    away: bool = False
    lose: int = 0
    life: float = 3600.0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, seconds: float = -1.0, end: datetime | None = None) -> Session:
        """A login whose token expires in so many seconds."""
        session_id = str(uuid4())
        self.current[session_id] = f"drr_{uuid4()}"
        token = made_token(seconds, sid=session_id)
        expires = datetime.fromtimestamp(expiration(token) or 0.0, UTC)
        return Session(token, "ann", expires, self.current[session_id], datetime.now(UTC) + timedelta(days=7), end)

    def RefreshSession(
        self, request: pb.RefreshSessionRequest, context: grpc.ServicerContext
    ) -> pb.RefreshSessionResponse:
        with self.lock:
            self.requests.append(request.request_id)
            if self.away:
                context.abort(grpc.StatusCode.INTERNAL, "away")
            key = (request.refresh_token, request.request_id)
            found = [sid for sid, token in self.current.items() if token == request.refresh_token]
            if self.refuse or not (found or key in self.answered):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "REFRESH_REFUSED")
            if found:
                self.answered[key] = self.current[found[0]] = f"drr_{uuid4()}"
            following = self.answered[key]
            (session_id,) = [sid for sid, token in self.current.items() if token == following]
            if self.lose:
                self.lose -= 1
                context.abort(grpc.StatusCode.INTERNAL, "the answer is lost")
        reply = pb.RefreshSessionResponse(refresh_token=following)
        reply.token.token = made_token(self.life, self.life, sid=session_id)
        reply.token.username = "ann"
        reply.token.expire_time.FromSeconds(int(time.time() + self.life))
        reply.session_expire_time.FromSeconds(int(time.time() + 7 * 86400))
        return reply


@pytest.fixture
def auth() -> Iterator[Grants]:
    grants = Grants()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    auth_service_pb2_grpc.add_AuthServiceServicer_to_server(grants, server)
    grants.url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield grants
    server.stop(None).wait()


def keeper_with(
    auth: Grants, session: Session, *, kept: bool = True, again: Callable[[], Session] | None = None
) -> SessionKeeper:
    keeper = SessionKeeper(auth.url)
    keeper.take(session, auth.url, again)
    keeper._skew = 0.0  # this login was a while ago
    if kept:
        assert keeper.keep()
    return keeper


def test_what_needs_no_renewal_gets_none(auth: Grants) -> None:
    session = auth.begin(3600)
    keeper = keeper_with(auth, session)
    assert keeper.state() == (session.token, False)
    assert keeper.renew() == session.token
    assert auth.requests == []


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("seconds", [-1.0, 200.0])
def test_a_token_is_replaced_in_time_and_after_it(auth: Grants, kept: bool, seconds: float) -> None:
    session = auth.begin(seconds)
    keeper = keeper_with(auth, session, kept=kept)
    assert keeper.state() == (session.token, True)
    token = keeper.renew()
    assert token not in (None, session.token)
    assert session_id_of(token or "") == session.session_id
    assert keeper.state() == (token, False)
    assert (TokenLibrary().get(auth.url) == token) is kept
    assert len(auth.requests) == 1


@pytest.mark.parametrize(
    ("seconds", "life", "wanted"),
    [(301, 3600, False), (299, 3600, True), (1000, 86400, False), (0.5, 2, False), (0.3, 2, True), (-1, 2, True)],
)
def test_when_it_is_time(seconds: float, life: float, wanted: bool) -> None:
    assert due(made_token(seconds, life), time.time()) is wanted


def test_others_find_it_and_one_renewal_serves_all(auth: Grants) -> None:
    keeper_with(auth, auth.begin())
    keepers = [SessionKeeper(auth.url) for _ in range(6)]
    with futures.ThreadPoolExecutor(12) as pool:
        tokens = set(pool.map(lambda keeper: keeper.renew(), keepers * 2))
    assert len(tokens) == 1
    assert len(auth.requests) == 1


def test_a_client_that_logged_in_stays_who_it_is(auth: Grants) -> None:
    """Another login with the same home folder is not its own."""
    first, second = auth.begin(), auth.begin()
    keeper = keeper_with(auth, first)
    keeper_with(auth, second)
    token = keeper.renew() or ""
    assert session_id_of(token) == first.session_id
    assert TokenLibrary().get(auth.url) is None, "the library's place is that of the second"
    found = SessionKeeper(auth.url).renew() or ""
    assert session_id_of(found) == second.session_id
    assert TokenLibrary().get(auth.url) == found


def test_a_token_of_another_program_is_left_alone(auth: Grants) -> None:
    keeper_with(auth, auth.begin())
    foreign = made_token(100)
    TokenLibrary().put(auth.url, foreign)
    assert SessionKeeper(auth.url).state() == (foreign, False)
    assert SessionKeeper(auth.url).renew() == foreign
    assert auth.requests == []


# --- crashes and losses ----------------------------------------------------------------------------------------------


def test_the_request_is_on_disk_before_it_is_sent(auth: Grants) -> None:
    """A process that dies before, in or after the call: whoever comes next repeats it."""
    session = auth.begin()
    keeper_with(auth, session)
    auth.lose = 1
    with pytest.raises(UnavailableError):
        SessionKeeper(auth.url).renew()
    pending = SessionFile(TokenLibrary()).read().sessions[session.session_id]
    assert pending.request_id == auth.requests[0]
    assert pending.session.refresh_token == session.refresh_token
    token = SessionKeeper(auth.url).renew()
    assert token
    assert set(auth.requests) == {pending.request_id}
    after = SessionFile(TokenLibrary()).read().sessions[session.session_id]
    assert (after.request_id, after.session.token) == ("", token)


def test_in_memory_the_same_request_is_repeated_too(auth: Grants) -> None:
    keeper = keeper_with(auth, auth.begin(), kept=False)
    auth.lose = 1
    with pytest.raises(UnavailableError):
        keeper.renew()
    assert keeper.renew()
    assert len(set(auth.requests)) == 1 < len(auth.requests)


def test_what_could_not_be_written_after_the_call_is_asked_for_again(
    auth: Grants, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = auth.begin()
    keeper_with(auth, session)
    real, written = SessionFile.write, []

    def first_only(self: SessionFile, book: object) -> None:
        written.append(book)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        real(self, book)  # type: ignore[arg-type]

    with monkeypatch.context() as full:
        full.setattr(SessionFile, "write", first_only)
        assert SessionKeeper(auth.url).renew()
    keeper = SessionKeeper(auth.url)
    assert keeper.renew(keeper.token())
    assert len(set(auth.requests)) == 1 < len(auth.requests)


def test_a_library_without_its_token_is_no_loss(auth: Grants) -> None:
    """A crash between the two files."""
    session = auth.begin(3600)
    keeper_with(auth, session)
    TokenLibrary().remove(auth.url)
    assert SessionKeeper(auth.url).state() == (session.token, False)


# --- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [True, False])
def test_a_session_that_has_ended_is_forgotten(auth: Grants, kept: bool) -> None:
    keeper = keeper_with(auth, session := auth.begin(), kept=kept)
    auth.refuse = True
    assert keeper.renew() == session.token, "so that the service says that it has expired"
    assert not keeper.bound
    assert SessionFile(TokenLibrary()).read().sessions == {}
    asked = len(auth.requests)
    assert keeper.state()[1] is False
    keeper.renew()
    assert len(auth.requests) == asked
    TokenLibrary().put(auth.url, other := made_token())
    assert keeper.state() == (other, False), "somebody has logged in"


def test_then_the_client_logs_in_again_if_it_can(auth: Grants) -> None:
    keeper = keeper_with(auth, auth.begin(), again=lambda: auth.begin(3600))
    auth.refuse = True
    token = keeper.renew()
    assert keeper.state() == (token, False)
    assert TokenLibrary().get(auth.url) == token, "kept, as the one before"


def test_a_password_that_is_wrong_now_is_tried_once(auth: Grants) -> None:
    tries: list[int] = []

    def refused() -> Session:
        tries.append(1)
        raise UnauthenticatedError("no", reason="LOGIN_REFUSED")

    keeper = keeper_with(auth, auth.begin(), kept=False, again=refused)
    auth.refuse = True
    for _ in range(5):
        keeper.renew()
    assert len(tries) == 1


def test_a_session_that_ends_with_its_token_is_not_refreshed(auth: Grants) -> None:
    session = auth.begin(100)
    session = replace(session, session_end=session.expires)
    keeper = keeper_with(auth, session)
    assert keeper.state() == (session.token, False)
    keeper = keeper_with(auth, session, again=lambda: auth.begin(3600))
    assert keeper.state() == (session.token, True)
    assert keeper.renew() != session.token
    assert auth.requests == []


# --- auth is away ----------------------------------------------------------------------------------------------------


def test_while_auth_is_away_the_token_serves_and_auth_is_not_pestered(auth: Grants) -> None:
    session = auth.begin(200)
    keeper = keeper_with(auth, session)
    auth.away = True
    assert keeper.renew() == session.token
    for _ in range(50):
        assert keeper.state() == (session.token, False)
        keeper.renew()
    assert len(auth.requests) == 1


def test_when_it_has_expired_that_is_an_interruption_and_no_refusal(auth: Grants) -> None:
    keeper = keeper_with(auth, auth.begin())
    auth.away = True
    with pytest.raises(UnavailableError):
        keeper.renew()
    auth.away = False
    assert keeper.renew()


def test_a_lock_that_others_hold_is_not_waited_for_while_the_token_serves(auth: Grants) -> None:
    session = auth.begin(200)
    keeper = keeper_with(auth, session)
    with SessionFile(TokenLibrary()).locked(1):
        began = time.monotonic()
        assert keeper.renew() == session.token
        assert time.monotonic() - began < 1
        assert keeper.state() == (session.token, False)
        time.sleep(0.06)
        assert keeper.state() == (session.token, True), "it looks again soon"
    assert keeper.renew() != session.token


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_copy_has_the_token_and_not_the_session(auth: Grants) -> None:
    session = auth.begin(200)
    keeper = keeper_with(auth, session, kept=False)
    copy = pickle.loads(pickle.dumps(keeper))
    assert copy.token() == session.token
    assert copy.renew() == session.token
    assert auth.requests == []
    assert "drr_" not in repr(pickle.dumps(keeper))


def test_a_copy_of_what_is_kept_goes_on(auth: Grants) -> None:
    keeper = keeper_with(auth, session := auth.begin())
    copy = pickle.loads(pickle.dumps(keeper))
    assert session_id_of(copy.renew() or "") == session.session_id
    assert len(auth.requests) == 1


def test_a_forked_child_does_not_use_up_the_refresh_token(auth: Grants) -> None:
    session = auth.begin(200)
    keeper = keeper_with(auth, session, kept=False)
    with keeper._flight:  # as if another thread were at it, which the child does not have
        child = os.fork()
        if child == 0:
            os._exit(0 if (keeper.state(), keeper.renew()) == ((session.token, False), session.token) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert auth.requests == []
    assert keeper.renew() != session.token


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_clock_that_is_wrong_costs_one_renewal(auth: Grants, monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    session = auth.begin(3600)
    real = time.time
    monkeypatch.setattr("drayman.client.session_keeper.time.time", lambda: real() + skew)
    keeper = SessionKeeper(auth.url)
    keeper.take(session, auth.url, None)
    assert keeper.state() == (session.token, False)


# --- credentials -----------------------------------------------------------------------------------------------------


async def test_only_refusals_that_a_token_may_cure_are_looked_at(auth: Grants) -> None:
    credentials = Credentials(auth.url)
    credentials.take(auth.begin(3600))
    metadata = await credentials.fresh()
    assert not await credentials.cures(DraymanError("no", reason="ADMIN_ONLY"), metadata)
    assert auth.requests == []
    assert await credentials.cures(DraymanError("no", reason="TOKEN_REVOKED"), metadata)
    assert await credentials.fresh() != metadata
    given = Credentials(auth.url, "given")
    assert not await given.cures(DraymanError("no", reason="TOKEN_EXPIRED"), await given.fresh())


def test_what_is_secret_is_not_shown(auth: Grants) -> None:
    session = auth.begin()
    assert session.token not in repr(session)
    assert session.refresh_token not in repr(session)
