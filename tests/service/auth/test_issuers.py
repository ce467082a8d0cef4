"""Foreign tokens against an issuer that runs over HTTPS: its keys, their rotation, its absence, and what an attacker may try."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from drayman.server.auth.foreign_tokens import ForeignTokenRefused
from drayman.server.auth.issuers import IssuerAway, Issuers, IssuerSettings, load_issuers
from drayman.server.platform.settings import SettingsError
from issuer import DISCOVERY, JWKS, OAUTH_METADATA, Issuer, encode, new_key, public_jwk, public_pem, rsa_key, sign

MINUTE = 60.0
HOUR = 3600.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    with Issuer(tmp_path) as running:
        yield running


def settings_of(issuer: Issuer, **fields: Any) -> IssuerSettings:
    return IssuerSettings(**{"issuer": issuer.url, "audiences": ("drayman",), "ca_file": str(issuer.ca_file), **fields})


@asynccontextmanager
async def verifying(issuer: Issuer, clock: Clock, **fields: Any) -> AsyncIterator[Issuers]:
    issuers = Issuers([settings_of(issuer, **fields)], clock)
    try:
        yield issuers
    finally:
        await issuers.close()


async def outcome(issuers: Issuers, token: str) -> str:
    """The subject of an accepted token, the reason of a refusal, or `away`."""
    try:
        return (await issuers.verify(token, time.time())).subject
    except ForeignTokenRefused as refusal:
        return refusal.reason
    except IssuerAway:
        return "away"


def fetches(issuer: Issuer) -> int:
    return int(issuer.requests[issuer.path + JWKS])


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
async def test_tokens_of_every_kind_of_key(issuer: Issuer, clock: Clock, algorithm: str) -> None:
    issuer.rotate(algorithm)
    async with verifying(issuer, clock, algorithms=(algorithm,)) as issuers:
        identity = await issuers.verify(issuer.make_token(), time.time())
    assert (identity.issuer, identity.subject, identity.username) == (issuer.url, "ada", "ada")
    assert identity.expires == pytest.approx(time.time() + 600, abs=10)


@pytest.mark.parametrize("profile", ["oidc", "wlcg", "scitokens"])
async def test_tokens_of_every_profile(issuer: Issuer, clock: Clock, profile: str) -> None:
    async with verifying(issuer, clock, profile=profile) as issuers:
        assert await outcome(issuers, issuer.make_token(profile)) == "ada"
        assert await outcome(issuers, issuer.make_token(profile, aud="other")) == "audience"
        assert await outcome(issuers, issuer.make_token(profile, exp=time.time() - 61)) == "expired"
        assert await outcome(issuers, issuer.make_token(profile, exp=time.time() - 30)) == "ada"
        assert await outcome(issuers, issuer.make_token(profile, nbf=time.time() + 90)) == "immature"
        assert await outcome(issuers, issuer.make_token(profile, nbf=time.time() + 30)) == "ada"


async def test_a_token_for_the_device_flow_of_whoever_has_no_user_name(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock, username_claim="", client_id="drayman") as issuers:
        identity = await issuers.verify(issuer.make_token(), time.time())
        assert [one.client_id for one in issuers.settings] == ["drayman"]
    assert (identity.username, identity.identity) == (None, f"{issuer.url} ada")


# where the keys are


async def test_metadata_of_an_issuer_that_knows_oauth_only(tmp_path: Path, clock: Clock) -> None:
    for path, place in (("/vo", OAUTH_METADATA + "/vo"), ("/vo/", "/vo" + OAUTH_METADATA), ("", OAUTH_METADATA)):
        with Issuer(tmp_path, path.rstrip("/")) as issuer:
            issuer.url = issuer.origin + path
            issuer.fault, issuer.faulty = "not_found", (DISCOVERY,)
            issuer.overrides = {"jwks_uri": issuer.origin + path.rstrip("/") + JWKS}
            async with verifying(issuer, clock) as issuers:
                assert await outcome(issuers, issuer.make_token()) == "ada"
            assert issuer.requests[place] + issuer.requests[OAUTH_METADATA + path.rstrip("/")] >= 1


async def test_discovery_keeps_the_path_of_the_issuer(tmp_path: Path, clock: Clock) -> None:
    with Issuer(tmp_path, "/realms/lab") as issuer:
        async with verifying(issuer, clock) as issuers:
            assert await outcome(issuers, issuer.make_token()) == "ada"
        assert set(issuer.requests) == {"/realms/lab" + DISCOVERY, "/realms/lab" + JWKS}


@pytest.mark.parametrize(
    ("fault", "faulty", "problem"),
    [
        ("error", (), "HTTP status 500"),
        ("not_found", (), "publishes no metadata"),
        ("not_found", (JWKS,), "HTTP status 404"),
        ("drop", (), "disconnected"),
        ("html", (), "is no JSON"),
        ("html", (JWKS,), "is no JSON"),
        ("huge", (), "is longer than 1048576 bytes"),
        ("huge", (JWKS,), "is longer than 1048576 bytes"),
        ("elsewhere", (), "sends elsewhere"),
        ("elsewhere", (JWKS,), "sends elsewhere"),
        ("plaintext", (JWKS,), "sends elsewhere"),
        ("circle", (), "sends in circles"),
    ],
)
async def test_an_issuer_that_misbehaves_is_away(
    issuer: Issuer, clock: Clock, fault: str, faulty: tuple[str, ...], problem: str
) -> None:
    issuer.fault, issuer.faulty = fault, faulty
    token = issuer.make_token()
    async with verifying(issuer, clock) as issuers:
        with pytest.raises(IssuerAway, match=problem) as away:
            await issuers.verify(token, time.time())
        assert token not in away.value.text
        assert issuer.url in away.value.text
        issuer.fault = ""
        assert await outcome(issuers, token) == "away"  # it was asked a moment ago
        clock.passes(10)
        assert await outcome(issuers, token) == "ada"
    assert issuer.poured < 20_000_000  # of 100 MB, what the buffers take


@pytest.mark.parametrize("fault", ["hang", "drip"])
async def test_an_issuer_that_keeps_us_waiting_is_away(issuer: Issuer, clock: Clock, fault: str) -> None:
    issuer.fault = fault
    async with verifying(issuer, clock) as issuers:
        began = time.monotonic()
        with pytest.raises(IssuerAway, match="does not answer within 5 seconds"):
            await issuers.verify(issuer.make_token(), time.time())
        assert 4 < time.monotonic() - began < 9
    issuer.release()


async def test_redirects_within_the_host_are_followed(issuer: Issuer, clock: Clock) -> None:
    issuer.fault = "moved"
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, issuer.make_token()) == "ada"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"issuer": "https://issuer.example.org"}, "metadata is of another issuer, 'https://issuer.example.org'"),
        ({"issuer": None}, "metadata is of another issuer, "),
        ({"jwks_uri": None}, "names no `jwks_uri` with https"),
        ({"jwks_uri": 7}, "names no `jwks_uri` with https"),
        ({"jwks_uri": "http://localhost/jwks"}, "names no `jwks_uri` with https"),
        ({"jwks_uri": "file:///etc/passwd"}, "names no `jwks_uri` with https"),
        ({"jwks_uri": "https://[::1"}, "names no `jwks_uri` with https"),
    ],
)
async def test_metadata_that_lead_astray(issuer: Issuer, clock: Clock, overrides: dict[str, Any], problem: str) -> None:
    issuer.overrides = overrides
    async with verifying(issuer, clock) as issuers:
        with pytest.raises(IssuerAway, match=problem):
            await issuers.verify(issuer.make_token(), time.time())
    assert fetches(issuer) == 0


async def test_a_server_whose_certificate_nobody_knows_is_away(issuer: Issuer, tmp_path: Path, clock: Clock) -> None:
    with Issuer(tmp_path) as other:
        for ca_file in (str(other.ca_file), ""):
            async with verifying(issuer, clock, ca_file=ca_file) as issuers:
                with pytest.raises(IssuerAway, match="certificate verify failed"):
                    await issuers.verify(issuer.make_token(), time.time())
    assert not issuer.requests


async def test_a_ca_file_that_has_vanished_leaves_the_issuer_away(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        issuer.ca_file.unlink()
        with pytest.raises(IssuerAway, match="No such file"):
            await issuers.verify(issuer.make_token(), time.time())


async def test_keys_that_are_none_do_not_hide_the_others(issuer: Issuer, clock: Clock) -> None:
    key_id = list(issuer.keys)[-1]
    good = public_jwk(issuer.keys[key_id][1], kid=key_id)
    junk: list[Any] = [
        None,
        {},
        {"kty": "EC"},
        {"kty": ["EC"], "crv": "P-256", "kid": key_id},
        {"kty": "EC", "crv": "P-256", "kid": key_id},
        {"kty": "EC", "crv": "P-256", "x": 1, "y": None, "kid": key_id},
        {"kty": "EC", "crv": "P-256", "x": ["a"], "y": {}, "kid": key_id},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "ü", "kid": key_id},
        {"kty": "EC", "crv": ["P-256"], "kid": key_id},
        {"kty": "oct", "k": "c2VjcmV0", "kid": key_id},
        {**good, "alg": ["ES256"]},
        {**good, "key_ops": "verify"},
    ]
    async with verifying(issuer, clock) as issuers:
        issuer.published = [*junk, good]
        assert await outcome(issuers, issuer.make_token()) == "ada"
        clock.passes(10 * MINUTE)
        issuer.published = junk
        assert await outcome(issuers, issuer.make_token()) == "signature"


@pytest.mark.parametrize("members", [{"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "ES384"}])
async def test_keys_for_something_else_sign_nothing(issuer: Issuer, clock: Clock, members: dict[str, Any]) -> None:
    key_id = list(issuer.keys)[-1]
    issuer.published = [public_jwk(issuer.keys[key_id][1], kid=key_id, **members)]
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, issuer.make_token()) in ("signature", "algorithm")


async def test_a_short_rsa_key_signs_nothing(issuer: Issuer, clock: Clock) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    issuer.published = [public_jwk(weak, kid="weak")]
    async with verifying(issuer, clock) as issuers:
        token = issuer.make_token(key=weak, algorithm="RS256", header={"kid": "weak"})
        assert await outcome(issuers, token) == "signature"


# how long keys serve


async def test_keys_are_read_again_after_ten_minutes(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        for minutes, expected in ((0, 1), (9, 1), (1, 2), (9, 2), (60, 3)):
            clock.passes(minutes * MINUTE)
            assert await outcome(issuers, issuer.make_token()) == "ada"
            assert fetches(issuer) == expected


async def test_a_new_key_is_noticed_at_once(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        old = issuer.make_token()
        assert await outcome(issuers, old) == "ada"
        clock.passes(10)
        issuer.rotate("RS256")
        assert await outcome(issuers, issuer.make_token(sub="bob")) == "bob"
        assert await outcome(issuers, old) == "ada"
    assert fetches(issuer) == 2


async def test_a_withdrawn_key_is_good_for_ten_minutes_at_most(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        old_key = list(issuer.keys)[-1]
        old = issuer.make_token()
        assert await outcome(issuers, old) == "ada"
        issuer.rotate()
        issuer.withdraw(old_key)
        clock.passes(10 * MINUTE)
        assert await outcome(issuers, old) == "signature"
        issuer.published = []
        new = issuer.make_token()
        assert await outcome(issuers, new) == "ada"
        clock.passes(10 * MINUTE)
        assert await outcome(issuers, new) == "signature"  # no keys: that is an answer, too


async def test_another_key_under_the_same_name_is_noticed(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, issuer.make_token()) == "ada"
        clock.passes(10)
        issuer.rotate(key_id=list(issuer.keys)[-1])
        assert await outcome(issuers, issuer.make_token()) == "ada"


async def test_while_the_issuer_is_away_its_keys_serve_for_a_day(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        token = issuer.make_token()
        assert await outcome(issuers, token) == "ada"
        issuer.fault = "error"
        for hours in (1, 22):
            clock.passes(hours * HOUR)
            assert await outcome(issuers, token) == "ada"
        forged = issuer.make_token(key=new_key("ES256"))
        assert await outcome(issuers, forged) == "signature"
        assert await outcome(issuers, issuer.make_token(header={"kid": "new"})) == "away"  # who knows
        clock.passes(HOUR)
        assert await outcome(issuers, token) == "away"
        issuer.fault = ""
        clock.passes(10)
        assert await outcome(issuers, token) == "ada"


# many at once


async def test_concurrent_logins_share_one_fetch(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        tokens = [issuer.make_token(sub=f"user-{number}") for number in range(50)]
        subjects = await asyncio.gather(*(outcome(issuers, token) for token in tokens))
        assert subjects == [f"user-{number}" for number in range(50)]
        assert issuer.requests == {DISCOVERY: 1, JWKS: 1}
        clock.passes(10 * MINUTE)
        issuer.rotate()
        await asyncio.gather(*(outcome(issuers, issuer.make_token()) for _ in range(50)))
        assert issuer.requests == {DISCOVERY: 2, JWKS: 2}


async def test_whoever_gives_up_does_not_end_the_fetch_of_the_others(issuer: Issuer, clock: Clock) -> None:
    issuer.fault, issuer.faults_left = "hang", 1
    async with verifying(issuer, clock) as issuers:
        first = asyncio.create_task(outcome(issuers, issuer.make_token()))
        await asyncio.to_thread(issuer.hanging.wait, 10)
        second = asyncio.create_task(outcome(issuers, issuer.make_token(sub="bob")))
        first.cancel()
        await asyncio.wait([first])
        issuer.release()
        assert await second == "away"  # the answer that hung was none
        clock.passes(10)
        assert await outcome(issuers, issuer.make_token()) == "ada"
    assert fetches(issuer) == 1


async def test_what_is_under_way_ends_with_it(issuer: Issuer, clock: Clock) -> None:
    issuer.fault = "hang"
    issuers = Issuers([settings_of(issuer)], clock)
    login = asyncio.create_task(issuers.verify(issuer.make_token(), time.time()))
    await asyncio.to_thread(issuer.hanging.wait, 10)
    async with asyncio.timeout(3):
        await issuers.close()
        await asyncio.wait([login])
    assert login.cancelled()


async def test_a_stream_of_unknown_keys_is_no_stream_of_fetches(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, issuer.make_token()) == "ada"
        clock.passes(10)
        flood = [issuer.make_token(header={"kid": f"random-{number}"}) for number in range(200)]
        forged = [issuer.make_token(key=new_key("ES256")) for _ in range(20)]
        assert set(await asyncio.gather(*(outcome(issuers, token) for token in flood + forged))) == {"signature"}
        assert fetches(issuer) == 2
        clock.passes(9)
        assert await outcome(issuers, flood[0]) == "signature"
        assert fetches(issuer) == 2
        issuer.rotate()
        clock.passes(1)
        assert await outcome(issuers, issuer.make_token()) == "ada"  # nobody is kept out for longer than ten seconds
        assert fetches(issuer) == 3


async def test_tokens_of_strangers_make_nobody_ask_anything(issuer: Issuer, clock: Clock) -> None:
    async with verifying(issuer, clock) as issuers:
        for stranger in (issuer.url + "/", "https://other.example.org", None, 7, [issuer.url], "x" * 5000):
            with pytest.raises(ForeignTokenRefused) as refusal:
                await issuers.verify(issuer.make_token(iss=stranger), time.time())
            assert refusal.value.reason == "issuer"
            assert len(refusal.value.text) < 300
    assert not issuer.requests


# confusion


async def test_no_algorithm_is_taken_from_the_token(issuer: Issuer, clock: Clock) -> None:
    rsa_id = issuer.rotate("RS256")
    ec_id = issuer.rotate("ES256")
    rsa_public, ec_public = (public_pem(issuer.keys[key_id][1]) for key_id in (rsa_id, ec_id))
    attempts = {
        "none": issuer.make_token(algorithm="none"),
        "None": issuer.make_token(header={"alg": "None"}),
        "HS256 with the public key": issuer.make_token(key_id=rsa_id, key=rsa_public, algorithm="HS256"),
        "HS256 with the other public key": issuer.make_token(key_id=ec_id, key=ec_public, algorithm="HS256"),
        "HS256 without kid": issuer.make_token(key=rsa_public, algorithm="HS256", header={"kid": None}),
        "RS256 with the name of an EC key": issuer.make_token(key_id=rsa_id, header={"kid": ec_id}),
        "ES256 with the name of an RSA key": issuer.make_token(key_id=ec_id, header={"kid": rsa_id}),
        "an algorithm that is not configured": issuer.make_token(key=rsa_key(), algorithm="RS512"),
        "no algorithm": issuer.make_token(header={"alg": None}),
        "a list of algorithms": issuer.make_token(header={"alg": ["ES256"]}),
    }
    async with verifying(issuer, clock) as issuers:
        outcomes = {name: await outcome(issuers, token) for name, token in attempts.items()}
        assert outcomes == dict.fromkeys(attempts, "algorithm")
        assert await outcome(issuers, issuer.make_token(key_id=rsa_id)) == "ada"
        ps256 = issuer.make_token(key=issuer.keys[rsa_id][1], key_id=rsa_id, algorithm="PS256")
        assert await outcome(issuers, ps256) == "algorithm"


async def test_an_algorithm_that_is_not_configured_is_no_good_even_with_a_key_for_it(
    issuer: Issuer, clock: Clock
) -> None:
    key_id = issuer.rotate("RS256")
    key = issuer.keys[key_id][1]
    issuer.published = [public_jwk(key, kid=key_id)]
    token = issuer.make_token(key=key, algorithm="RS512")
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, token) == "algorithm"
    async with verifying(issuer, clock, algorithms=("RS512",)) as issuers:
        assert await outcome(issuers, token) == "ada"


async def test_a_key_that_says_its_algorithm_is_used_with_no_other(issuer: Issuer, clock: Clock) -> None:
    key_id = issuer.rotate("RS256")
    async with verifying(issuer, clock, algorithms=("RS256", "PS256")) as issuers:
        token = issuer.make_token(key_id=key_id, key=issuer.keys[key_id][1], algorithm="PS256")
        assert await outcome(issuers, token) == "algorithm"


async def test_keys_that_a_token_brings_along_are_not_looked_at(issuer: Issuer, tmp_path: Path, clock: Clock) -> None:
    own = new_key("ES256")
    with Issuer(tmp_path) as stranger:
        brought = {"jku": stranger.url + JWKS, "x5u": stranger.url + "/x5u", "jwk": public_jwk(own, kid="own")}
        async with verifying(issuer, clock) as issuers:
            for kid in ("own", None, list(issuer.keys)[-1], stranger.url + JWKS, "../../etc/passwd"):
                token = issuer.make_token(key=own, algorithm="ES256", header={**brought, "kid": kid})
                assert await outcome(issuers, token) == "signature"
            assert await outcome(issuers, issuer.make_token(header=brought)) == "ada"
        assert not stranger.requests


async def test_a_token_that_names_no_key_is_tried_with_those_that_fit(issuer: Issuer, clock: Clock) -> None:
    for algorithm in ("RS256", "EdDSA", "ES256", "RS256"):
        issuer.rotate(algorithm)
    async with verifying(issuer, clock) as issuers:
        for key_id in issuer.keys:
            assert await outcome(issuers, issuer.make_token(key_id=key_id, header={"kid": None})) == "ada"
        forged = issuer.make_token(key=new_key("ES256"), algorithm="ES256", header={"kid": None})
        assert await outcome(issuers, forged) == "signature"


async def test_no_more_than_sixteen_keys_are_tried(issuer: Issuer, clock: Clock) -> None:
    own = list(issuer.keys)[-1]
    issuer.published = [public_jwk(new_key("ES256")) for _ in range(16)] + [public_jwk(issuer.keys[own][1], kid=own)]
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, issuer.make_token(header={"kid": None})) == "signature"
        assert await outcome(issuers, issuer.make_token()) == "ada"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": "b64"},
        {"crit": ["b64"], "b64": True},
        {"b64": False},
        {"typ": "logout+jwt"},
        {"typ": "dpop+jwt"},
        {"typ": 7},
        {"kid": 7},
    ],
)
async def test_headers_that_mean_something_else(issuer: Issuer, clock: Clock, header: dict[str, Any]) -> None:
    async with verifying(issuer, clock) as issuers:
        assert await outcome(issuers, issuer.make_token(header=header)) == "malformed"
        assert await outcome(issuers, issuer.make_token(header={"typ": "AT+JWT"})) == "ada"
        assert await outcome(issuers, issuer.make_token(header={"typ": None})) == "ada"


async def test_what_is_no_token(issuer: Issuer, clock: Clock) -> None:
    token = issuer.make_token()
    header, claims, signature = token.split(".")
    nested = jwt.utils.base64url_encode(b'{"iss":' + b"[" * 5000 + b"]" * 5000 + b"}").decode()
    others = [
        "",
        ".",
        "..",
        "a.b.c",
        token + ".",
        f"{header}.{claims}",
        f"{header}..{signature}",
        f"{header}.{encode([])}.{signature}",
        f"{header}.{encode('text')}.{signature}",
        f"{encode([])}.{claims}.{signature}",
        f"{header}.{nested}.{signature}",
        f"{header}.{claims}.!!!",
        "ü" + token,
        "\ud800" + token,
        token + "\n",
        "x" * 16 * 1024 + "x",
        issuer.make_token(filling="x" * 16 * 1024),
    ]
    async with verifying(issuer, clock) as issuers:
        for other in others:
            assert await outcome(issuers, other) == "malformed", other[:50]
        changed = f"{header}.{encode(issuer.claims(sub='admin'))}.{signature}"
        assert await outcome(issuers, changed) == "signature"
        assert await outcome(issuers, f"{header}.{claims}.") == "signature"
        large = issuer.make_token(filling="x" * 10_000)
        assert len(large) < 16 * 1024
        assert await outcome(issuers, large) == "ada"


async def test_an_ecdsa_signature_of_zeros_signs_nothing(issuer: Issuer, clock: Clock) -> None:
    signed = issuer.make_token().rpartition(".")[0]
    async with verifying(issuer, clock) as issuers:
        for size in (0, 64, 65, 72):
            signature = jwt.utils.base64url_encode(bytes(size)).decode()
            assert await outcome(issuers, f"{signed}.{signature}") == "signature"


async def test_an_issuer_speaks_for_itself_only(issuer: Issuer, tmp_path: Path, clock: Clock) -> None:
    with Issuer(tmp_path) as other:
        issuers = Issuers([settings_of(issuer), settings_of(other)], clock)
        for one in (issuer, other):
            assert (await issuers.verify(one.make_token(), time.time())).issuer == one.url
        # signed by one, in the name of the other, with either one's name for the key
        for header in ({}, {"kid": None}, {"kid": list(issuer.keys)[-1]}):
            assert await outcome(issuers, other.make_token(iss=issuer.url, header=header)) == "signature"
        await issuers.close()


async def test_nothing_of_a_token_is_told_or_logged(
    issuer: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "s3cretclaim"
    tokens = [
        issuer.make_token(secret=secret, jti=secret),
        issuer.make_token(secret=secret, aud=secret),
        issuer.make_token(secret=secret, exp=1),
        issuer.make_token(secret=secret, header={"kid": secret}),
        issuer.make_token(secret=secret, header={"alg": secret}),
        issuer.make_token(secret=secret, header={"typ": secret}),
        issuer.make_token(secret=secret, scope=secret),
        f"{secret}.{secret}.{secret}",
        sign({"iss": issuer.url}, new_key("ES256"), {"alg": "ES256", "kid": secret, "crit": [secret]}),
    ]
    told = []
    with caplog.at_level(logging.DEBUG), capture_logs() as entries:
        async with verifying(issuer, clock, required_scopes=("compute.create",)) as issuers:
            for fault in ("", "error"):
                issuer.fault = fault
                clock.passes(HOUR)
                for token in tokens:
                    with pytest.raises((ForeignTokenRefused, IssuerAway)) as refused:
                        await issuers.verify(token, time.time())
                    told.append(str(refused.value))
    logged = caplog.text + "".join(capfd.readouterr()) + str(entries)
    assert "issuer_away" in logged
    for text in (secret, *(part for token in tokens for part in token.split(".") if len(part) > 10)):
        assert text not in logged
        assert not [one for one in told if text in one]


# configuration

GOOD = """
[[issuers]]
issuer = "https://issuer.example.org"
audiences = ["https://drayman.example.org"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "issuers.toml"
    path.write_text(text)
    return path


def test_issuers_come_from_a_file(tmp_path: Path, issuer: Issuer) -> None:
    text = f"""
        [[issuers]]
        issuer = "{issuer.url}"
        audiences = ["drayman"]
        profile = "wlcg"
        username_claim = ""
        required_scopes = ["compute.create"]
        algorithms = ["RS256"]
        client_id = "drayman"
        device_scopes = ["openid"]
        ca_file = "{issuer.ca_file.name}"
        leeway = 30
        longest_lifetime = 3600

        [[issuers]]
        issuer = "http://localhost:8080/realms/lab"
        audiences = ["drayman"]
    """
    first, second = load_issuers(written(tmp_path, text))
    assert first == IssuerSettings(
        issuer=issuer.url,
        audiences=("drayman",),
        profile="wlcg",
        username_claim="",
        required_scopes=("compute.create",),
        algorithms=("RS256",),
        client_id="drayman",
        device_scopes=("openid",),
        ca_file=str(issuer.ca_file),
        leeway=30,
        longest_lifetime=3600,
    )
    assert second == IssuerSettings(issuer="http://localhost:8080/realms/lab", audiences=("drayman",))


def test_the_file_in_the_documentation_is_one(tmp_path: Path, issuer: Issuer) -> None:
    page = (Path(__file__).parents[3] / "docs" / "tokens.md").read_text()
    example = page.partition("    [[issuers]]")[2].partition("\n| key |")[0]
    (tmp_path / "lab-ca.pem").write_bytes(issuer.ca_file.read_bytes())
    issuers = load_issuers(written(tmp_path, "[[issuers]]" + example))
    assert [one.profile for one in issuers] == ["wlcg", "scitokens", "oidc"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected at least one \[\[issuers\]\] table"),
        ("issuers = 7", r"expected at least one \[\[issuers\]\] table"),
        ("issuers = [7]", r"expected at least one \[\[issuers\]\] table"),
        ("[issuers]\nissuer = 'https://a.example.org'", r"expected at least one \[\[issuers\]\] table"),
        ("[[issuer]]", r"unknown issuer; expected \[\[issuers\]\]"),
        ("[[issuers]", "no TOML: .*line 1"),
        ("[[issuers]]\naudiences = ['a']", r"\[\[issuers\]\] number 1: issuer: missing"),
        ("[[issuers]]\nissuer = 'https://a.example.org'", r"number 1 \(https://a.example.org\): audiences: missing"),
        (GOOD + "audience = 'a'", "audience: unknown key; expected algorithms, audiences, ca_file"),
        (GOOD + "profile = 7", "profile: expected a text"),
        (GOOD + "leeway = '60'", "leeway: expected a number of seconds"),
        (GOOD + "leeway = true", "leeway: expected a number of seconds"),
        (GOOD + "required_scopes = 'a b'", "required_scopes: expected a list of texts"),
        (GOOD + "algorithms = ['RS256', 7]", "algorithms: expected a list of texts"),
        (GOOD + "algorithms = ['HS256']", "algorithms: 'HS256' is not accepted; expected some of RS256, RS384"),
        (GOOD + "algorithms = ['none']", "algorithms: 'none' is not accepted"),
        (GOOD + "ca_file = 'missing.pem'", "ca_file: No such file or directory; expected a PEM file"),
        (GOOD + "ca_file = 'issuers.toml'", "ca_file: .*expected a PEM file with certificates"),
        (GOOD + GOOD, r"number 2: issuer: https://issuer.example.org has a table already; expected one"),
        (GOOD.replace("https://issuer", "http://issuer"), "issuer .*plain http is for loopback only"),
    ],
)
def test_a_file_that_cannot_be_used_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{tmp_path}/issuers\.toml: .*{message}"):
        load_issuers(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file"):
        load_issuers(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="twice"):
        Issuers([IssuerSettings(issuer="https://a.example.org", audiences=("a",))] * 2)
