"""What a service believes of a session token."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from drayman.server.auth.keys import SigningKey, jwk_set
from drayman.server.platform import tokens, trust
from drayman.server.platform.errors import Refusal
from drayman.server.platform.tokens import TokenVerifier
from drayman.server.platform.trust import Standing, Trust


class Publisher:
    """What auth has told a service, and how often it was asked for keys."""

    def __init__(self, *keys: SigningKey, issuer: str = "here", silence: float = 300.0) -> None:
        self.keys = list(keys)
        self.issuer = issuer
        self.asked = 0
        self.trust = Trust(silence)
        self.verifier = TokenVerifier(self.trust, self.fetch)
        self.trust.learn({}, [], complete=True)

    def tell_keys(self) -> None:
        self.trust.learn_keys(jwk_set(key.public() for key in self.keys), self.issuer)

    async def fetch(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        self.tell_keys()


KEY = SigningKey.generate()


def signed(key: SigningKey = KEY, *, kid: str | None = None, **claims: Any) -> str:
    now = time.time()
    all_claims = {"iss": "here", "sub": "ann", "nbf": now - 30, "exp": now + 60} | claims
    present = {name: value for name, value in all_claims.items() if value is not None}
    return jwt.encode(present, key.private, algorithm="EdDSA", headers={"kid": kid or key.key_id})


async def refused(token: str, *keys: SigningKey) -> str:
    with pytest.raises(Refusal) as caught:
        await Publisher(*(keys or (KEY,))).verifier.verify(token)
    assert token not in caught.value.message
    return caught.value.reason


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The verifier's own clock, to be put forward."""

    class Clock:
        ahead = 0.0

        @classmethod
        def monotonic(cls) -> float:
            return time.monotonic() + cls.ahead

        @classmethod
        def time(cls) -> float:
            return time.time() + cls.ahead

    monkeypatch.setattr(tokens, "time", Clock)
    monkeypatch.setattr(trust, "time", Clock)
    return Clock


async def test_a_good_token_tells_who_calls() -> None:
    token = signed(adm=True, roles=["b", "a"])
    caller = await Publisher(KEY).verifier.verify(token)
    assert (caller.username, caller.admin, caller.roles) == ("ann", True, {"a", "b"})
    assert caller.token == token


@pytest.mark.parametrize("admin", [None, False, "yes", 1, "true"])
async def test_nobody_is_an_administrator_by_anything_but_true(admin: Any) -> None:
    assert (await Publisher(KEY).verifier.verify(signed(adm=admin))).admin is False


async def test_an_expired_token() -> None:
    assert await refused(signed(exp=time.time() - 1)) == "TOKEN_EXPIRED"


async def test_a_token_that_is_not_valid_yet() -> None:
    assert await refused(signed(nbf=time.time() + 30)) == "TOKEN_IMMATURE"


async def test_a_token_signed_by_somebody_else_in_the_name_of_our_key() -> None:
    assert await refused(signed(SigningKey.generate(), kid=KEY.key_id)) == "TOKEN_INVALID"


async def test_a_token_of_a_key_that_is_not_published() -> None:
    assert await refused(signed(SigningKey.generate())) == "TOKEN_INVALID"


async def test_a_token_of_another_issuer() -> None:
    assert await refused(signed(iss="elsewhere")) == "TOKEN_INVALID"
    assert await refused(signed(iss=None)) == "TOKEN_INVALID"


@pytest.mark.parametrize("missing", ["exp", "sub"])
async def test_a_token_without_what_it_must_say(missing: str) -> None:
    assert await refused(signed(**{missing: None})) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "claims", [{"sub": 5}, {"roles": "admins"}, {"roles": {"a": 1}}, {"exp": "soon"}, {"exp": [1]}, {"nbf": "later"}]
)
async def test_claims_of_a_wrong_kind(claims: dict[str, Any]) -> None:
    assert await refused(signed(**claims)) == "TOKEN_INVALID"


async def test_an_unsigned_token() -> None:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"iss": "here", "sub": "ann", "exp": time.time() + 60, "adm": True}
    for algorithm in ("none", "None", "NONE"):
        token = f"{part({'alg': algorithm, 'kid': KEY.key_id})}.{part(claims)}."
        assert await refused(token) == "TOKEN_INVALID"


async def test_a_token_signed_with_our_public_key_as_a_shared_secret() -> None:
    claims = {"iss": "here", "sub": "ann", "exp": time.time() + 60}
    token = jwt.encode(claims, KEY.public().raw, algorithm="HS256", headers={"kid": KEY.key_id})
    assert await refused(token) == "TOKEN_INVALID"


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "x" * 5000, "Bearer", "eyJhbGciOiJFZERTQSJ9.."])
async def test_what_is_no_token_at_all(token: str) -> None:
    with pytest.raises(Refusal) as caught:
        await Publisher(KEY).verifier.verify(token)
    assert caught.value.reason == "TOKEN_INVALID"


async def test_a_changed_signature() -> None:
    token = signed()
    changed = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    assert await refused(changed) == "TOKEN_INVALID"


async def test_keys_are_fetched_once_for_all_tokens() -> None:
    publisher = Publisher(KEY)
    verifier = publisher.verifier
    callers = await asyncio.gather(*(verifier.verify(signed(sub=f"u{number}")) for number in range(100)))
    assert len({caller.username for caller in callers}) == 100
    assert publisher.asked == 1


async def test_a_verified_token_is_remembered_until_it_expires(clock: Any) -> None:
    verifier = Publisher(KEY).verifier
    token = signed()
    assert verifier.remembered(token) is None
    caller = await verifier.verify(token)
    assert verifier.remembered(token) is caller
    clock.ahead = 61
    with pytest.raises(Refusal) as caught:
        verifier.remembered(token)
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_a_new_key_is_fetched_when_a_token_names_it_and_the_old_one_stays_good(clock: Any) -> None:
    publisher = Publisher(KEY)
    verifier = publisher.verifier
    before = signed(sub="before")
    await verifier.verify(before)
    fresh = SigningKey.generate()
    publisher.keys.insert(0, fresh)
    clock.ahead = 2
    tokens_of_new = [signed(fresh, sub=f"u{number}") for number in range(10)]
    await asyncio.gather(*(verifier.verify(token) for token in tokens_of_new))
    assert publisher.asked == 2
    assert (await verifier.verify(before)).username == "before"
    assert publisher.asked == 2


async def test_unknown_keys_cannot_make_it_ask_all_the_time(clock: Any) -> None:
    publisher = Publisher(KEY)
    verifier = publisher.verifier
    await verifier.verify(signed())
    clock.ahead = 2
    for _ in range(20):
        with pytest.raises(Refusal):
            await verifier.verify(signed(SigningKey.generate()))
    assert publisher.asked == 2


async def test_a_withdrawn_key_stops_being_accepted() -> None:
    publisher = Publisher(KEY)
    token = signed(exp=time.time() + 3600)
    await publisher.verifier.verify(token)
    publisher.keys = [SigningKey.generate()]
    publisher.tell_keys()
    assert publisher.verifier.remembered(token) is None
    with pytest.raises(Refusal) as caught:
        await publisher.verifier.verify(token)
    assert caught.value.reason == "TOKEN_INVALID"


async def test_a_key_that_was_told_needs_no_question() -> None:
    publisher = Publisher(KEY)
    publisher.tell_keys()
    assert (await publisher.verifier.verify(signed())).username == "ann"
    assert publisher.asked == 0


async def test_auth_that_is_away_is_not_a_verdict() -> None:
    publisher = Publisher(KEY)
    away = True

    async def fetch() -> None:
        if away:
            raise ConnectionError("away")
        await publisher.fetch()

    verifier = TokenVerifier(publisher.trust, fetch)
    token = signed()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await verifier.verify(token)
    away = False
    assert (await verifier.verify(token)).username == "ann"


async def test_a_caller_who_leaves_does_not_cancel_the_fetch_of_the_others() -> None:
    release = asyncio.Event()
    publisher = Publisher(KEY)

    async def fetch() -> None:
        await release.wait()
        await publisher.fetch()

    verifier = TokenVerifier(publisher.trust, fetch)
    leaves = asyncio.create_task(verifier.verify(signed()))
    stays = asyncio.create_task(verifier.verify(signed(sub="bob")))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    release.set()
    async with asyncio.timeout(5):
        assert (await stays).username == "bob"


# --- what is told after a token was made ---------------------------------------------------------------------------------


async def test_a_session_that_was_ended() -> None:
    publisher = Publisher(KEY)
    token, other = signed(sid="s1"), signed(sid="s2")
    await publisher.verifier.verify(token)
    publisher.trust.learn({}, [("s1", "ann", time.time() + 60)], complete=False)
    assert publisher.verifier.remembered(token) is None
    with pytest.raises(Refusal) as caught:
        await publisher.verifier.verify(token)
    assert caught.value.reason == "TOKEN_REVOKED"
    assert (await publisher.verifier.verify(other)).session == "s2"


async def test_tokens_made_before_all_were_revoked() -> None:
    publisher = Publisher(KEY)
    before, after, others = signed(ver=4), signed(ver=5), signed(sub="bob", ver=1)
    await publisher.verifier.verify(before)
    publisher.trust.learn({"ann": Standing(5, 5, False, frozenset())}, [], complete=False)
    with pytest.raises(Refusal) as caught:
        await publisher.verifier.verify(before)
    assert caught.value.reason == "TOKEN_REVOKED"
    assert (await publisher.verifier.verify(after)).username == "ann"
    assert (await publisher.verifier.verify(others)).username == "bob"


async def test_what_is_told_goes_before_what_an_older_token_says() -> None:
    publisher = Publisher(KEY)
    older, newer = signed(adm=True, roles=["a"], ver=1), signed(adm=True, roles=["c"], ver=7)
    await publisher.verifier.verify(older)
    publisher.trust.learn({"ann": Standing(6, 0, False, frozenset({"b"}))}, [], complete=False)
    caller = await publisher.verifier.verify(older)
    assert (caller.admin, caller.roles) == (False, {"b"})
    caller = await publisher.verifier.verify(newer)
    assert (caller.admin, caller.roles) == (True, {"c"})


async def test_an_older_word_does_not_undo_a_newer_one() -> None:
    publisher = Publisher(KEY)
    publisher.trust.learn({"ann": Standing(9, 9, False, frozenset())}, [], complete=True)
    publisher.trust.learn({"ann": Standing(3, 0, True, frozenset())}, [], complete=False)
    with pytest.raises(Refusal):
        await publisher.verifier.verify(signed(ver=5))


async def test_what_is_told_concerns_only_whom_it_names() -> None:
    publisher = Publisher(KEY)
    token = signed(sub="bob")
    await publisher.verifier.verify(token)
    publisher.trust.learn({"ann": Standing(5, 5, False, frozenset())}, [("s", "ann", time.time())], complete=False)
    assert publisher.verifier.remembered(token) is not None


async def test_a_service_that_hears_nothing_of_auth_trusts_nobody_any_more(clock: Any) -> None:
    publisher = Publisher(KEY, silence=100.0)
    token = signed(exp=time.time() + 3600)
    await publisher.verifier.verify(token)
    clock.ahead = 101
    assert publisher.verifier.remembered(token) is None
    with pytest.raises(Refusal) as caught:
        await publisher.verifier.verify(token)
    assert caught.value.reason == "UNAVAILABLE"
    publisher.trust.learn({}, [], complete=False)
    assert (await publisher.verifier.verify(token)).username == "ann"


@pytest.mark.parametrize("claims", [{"ver": "9"}, {"ver": 1.5}, {"ver": None, "sub": 5}])
async def test_a_version_that_is_no_number(claims: dict[str, Any]) -> None:
    assert await refused(signed(**claims)) == "TOKEN_INVALID"


def test_the_key_is_ed25519() -> None:
    assert isinstance(KEY.private, Ed25519PrivateKey)
