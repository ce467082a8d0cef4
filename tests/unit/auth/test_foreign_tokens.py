"""The rules for foreign tokens, and what the `scitokens` library says of the same tokens."""

import json
import math
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import jwt
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scitokens import Enforcer, SciToken

from drayman.server.auth.foreign_tokens import (
    ALGORITHMS,
    ForeignIdentity,
    ForeignTokenRefused,
    IssuerSettings,
    Profile,
    is_loopback,
    judge,
)
from issuer import ANY_AUDIENCE, new_key, public_pem

ISSUER = "https://issuer.example.org/"
NOW = 1_800_000_000.0
DAY = 86_400.0


def configured(profile: Profile = "oidc", **fields: Any) -> IssuerSettings:
    return IssuerSettings(**{"issuer": ISSUER, "audiences": ("drayman",), "profile": profile, **fields})


def claims_of(profile: Profile = "oidc", **claims: Any) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "oidc": {},
        "wlcg": {"wlcg.ver": "1.0", "jti": "1"},
        "scitokens": {"ver": "scitoken:2.0"},
    }
    every = {"iss": ISSUER, "sub": "ada", "aud": "drayman", "iat": NOW - 10, "exp": NOW + 600, **own[profile], **claims}
    return {name: value for name, value in every.items() if value is not None}


def verdict(settings: IssuerSettings, claims: dict[str, Any], now: float = NOW) -> str:
    """The reason of the refusal, or `accepted`."""
    try:
        judge(settings, claims, now)
    except ForeignTokenRefused as refusal:
        return refusal.reason
    return "accepted"


PROFILES: list[Profile] = ["oidc", "wlcg", "scitokens"]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_good_token_speaks_of_its_subject(profile: Profile) -> None:
    identity = judge(configured(profile), claims_of(profile), NOW)
    assert identity == ForeignIdentity(ISSUER, "ada", "ada", NOW + 600)
    assert identity.identity == f"{ISSUER} ada"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "https://issuer.example.org"}, "issuer"),  # no slash at the end: another one
        ({"iss": "https://Issuer.example.org/"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": [ISSUER]}, "issuer"),
        ({"sub": None}, "malformed"),
        ({"sub": ""}, "malformed"),
        ({"sub": " "}, "malformed"),
        ({"sub": 7}, "malformed"),
        ({"sub": "a" * 256}, "malformed"),
        ({"sub": "ada\nbob"}, "malformed"),
        ({"sub": "\ud800"}, "malformed"),
        ({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}, "malformed"),
        ({"aud": None}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": "other"}, "audience"),
        ({"aud": "Drayman"}, "audience"),
        ({"aud": ["other", "another"]}, "audience"),
        ({"aud": ["other", "drayman"]}, "accepted"),
        ({"aud": 7}, "malformed"),
        ({"aud": ["drayman", 7]}, "malformed"),
        ({"aud": {"drayman": 1}}, "malformed"),
        ({"exp": None}, "malformed"),
        ({"exp": "1800000600"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": math.nan}, "malformed"),
        ({"exp": math.inf}, "malformed"),
        ({"exp": 10**400}, "malformed"),
        ({"exp": [NOW + 600]}, "malformed"),
        ({"exp": -1e300}, "expired"),
        ({"nbf": "soon"}, "malformed"),
        ({"iat": "now"}, "malformed"),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_claims_that_matter_everywhere(profile: Profile, claims: dict[str, Any], reason: str) -> None:
    assert verdict(configured(profile), claims_of(profile, **claims)) == reason


@pytest.mark.parametrize(
    ("profile", "claims", "reason"),
    [
        ("oidc", {"aud": "ANY"}, "audience"),
        ("oidc", {"aud": ANY_AUDIENCE}, "audience"),
        ("wlcg", {"aud": ANY_AUDIENCE}, "accepted"),
        ("wlcg", {"aud": ["other", ANY_AUDIENCE]}, "accepted"),
        ("wlcg", {"aud": "ANY"}, "audience"),
        ("scitokens", {"aud": "ANY"}, "accepted"),
        ("scitokens", {"aud": ANY_AUDIENCE}, "audience"),
        ("oidc", {"wlcg.ver": "9.9", "ver": 9}, "accepted"),
        ("wlcg", {"wlcg.ver": None}, "malformed"),
        ("wlcg", {"wlcg.ver": "1.2"}, "accepted"),
        ("wlcg", {"wlcg.ver": "2.0"}, "malformed"),
        ("wlcg", {"wlcg.ver": "1"}, "malformed"),
        ("wlcg", {"wlcg.ver": 1.0}, "malformed"),
        ("wlcg", {"iat": None}, "malformed"),
        ("scitokens", {"ver": "scitokens:2.0"}, "accepted"),
        ("scitokens", {"ver": "scitoken:3.0"}, "malformed"),
        ("scitokens", {"ver": True}, "malformed"),
        ("scitokens", {"ver": ["scitoken:2.0"]}, "malformed"),
        ("scitokens", {"ver": None}, "accepted"),
        ("scitokens", {"ver": None, "aud": None}, "audience"),
        ("scitokens", {"iat": None}, "accepted"),
    ],
)
def test_claims_of_a_profile(profile: Profile, claims: dict[str, Any], reason: str) -> None:
    assert verdict(configured(profile), claims_of(profile, **claims)) == reason


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    ("needed", "scope", "reason"),
    [
        (("compute.create",), "compute.create", "accepted"),
        (("compute.create",), "openid compute.create  profile", "accepted"),
        (("compute.create",), "compute.creator", "scope"),
        (("compute.create",), "COMPUTE.CREATE", "scope"),
        (("compute.create",), None, "scope"),
        (("compute.create",), "", "scope"),
        (("compute.create",), 7, "malformed"),
        (("compute.create", "compute.read"), "compute.create", "scope"),
        (("compute.create", "compute.read"), "compute.read compute.create", "accepted"),
        ((), "whatever", "accepted"),
    ],
)
def test_every_required_scope_is_there(profile: Profile, needed: tuple[str, ...], scope: object, reason: str) -> None:
    assert verdict(configured(profile, required_scopes=needed), claims_of(profile, scope=scope)) == reason


@pytest.mark.parametrize(
    ("profile", "needed", "granted", "reason"),
    [
        ("wlcg", "storage.read:/a", "storage.read:/a", "accepted"),
        ("wlcg", "storage.read:/a/b", "storage.read:/a", "accepted"),
        ("wlcg", "storage.read:/a", "storage.read:/", "accepted"),
        ("wlcg", "storage.read:/a", "storage.read:/b storage.read:/a", "accepted"),
        ("wlcg", "storage.read:/", "storage.read:/a", "scope"),
        ("wlcg", "storage.read:/ab", "storage.read:/a", "scope"),
        ("wlcg", "storage.read:/a", "storage.read:/a/", "scope"),
        ("wlcg", "storage.read:/a/", "storage.read:/a/", "accepted"),
        ("wlcg", "storage.read:/a/b", "storage.read:/a/", "accepted"),
        ("wlcg", "storage.read:/a/b", "storage.read:/a//b", "accepted"),
        ("wlcg", "storage.read:/a%62", "storage.read:/%61b", "accepted"),
        ("wlcg", "storage.read:/a/b", "storage.read:/a%2Fb", "scope"),
        ("wlcg", "storage.read:/a", "storage.write:/a", "scope"),
        ("wlcg", "storage.read:/a", "storage.stage:/a", "accepted"),
        ("wlcg", "storage.stage:/a", "storage.read:/a", "scope"),
        ("wlcg", "storage.create:/a", "storage.modify:/", "accepted"),
        ("wlcg", "storage.modify:/a", "storage.create:/", "scope"),
        ("wlcg", "compute.create", "compute.create:/a", "scope"),  # one resource is not all of them
        ("wlcg", "compute.create:/a", "compute.create", "accepted"),
        ("wlcg", "compute.create", "compute.create wlcg:1.0 wlcg.groups:/cms", "accepted"),
        ("wlcg", "wlcg:1.0", "wlcg:1.0", "accepted"),
        ("wlcg", "wlcg:1.0", "wlcg", "scope"),
        ("wlcg", "compute.create", "compute.create storage.read", "scope"),  # "the token MUST be rejected"
        ("wlcg", "compute.create", "compute.create storage.read:a", "scope"),
        ("wlcg", "storage.read:/a", "storage.read:/b/../a", "scope"),
        ("wlcg", "storage.read:/a", "storage.read:/b/%2e%2E/a", "scope"),
        ("scitokens", "read:/a", "read:/", "accepted"),
        ("scitokens", "read:/a", "write:/", "scope"),
        ("scitokens", "execute", "execute read", "scope"),
        ("scitokens", "execute", "execute storage.read", "accepted"),
        ("oidc", "read:/a/b", "read:/a", "scope"),  # no paths there: texts
        ("oidc", "read:/a", "read:/a", "accepted"),
    ],
)
def test_scopes_with_paths(profile: Profile, needed: str, granted: str, reason: str) -> None:
    assert verdict(configured(profile, required_scopes=(needed,)), claims_of(profile, scope=granted)) == reason


@pytest.mark.parametrize(
    ("profile", "claims", "reason"),
    [
        ("scitokens", {"scp": "execute"}, "accepted"),
        ("scitokens", {"scp": ["read:/", "execute"]}, "accepted"),
        ("scitokens", {"scp": ["execute", 7]}, "malformed"),
        ("scitokens", {"scope": "read:/", "scp": "execute"}, "scope"),  # `scope` is the one that counts
        ("scitokens", {"scope": ["execute"]}, "malformed"),
        ("wlcg", {"scp": "execute"}, "scope"),
        ("wlcg", {"scope": ["execute"]}, "malformed"),
        ("oidc", {"scp": "execute"}, "accepted"),
        ("oidc", {"scope": ["read", "execute"]}, "accepted"),
    ],
)
def test_where_scopes_stand(profile: Profile, claims: dict[str, Any], reason: str) -> None:
    assert verdict(configured(profile, required_scopes=("execute",)), claims_of(profile, **claims)) == reason


SECONDS = st.floats(-1e6, 1e6).map(round)


@given(end=SECONDS, begin=st.none() | SECONDS, issued=SECONDS, leeway=st.integers(0, 600))
def test_the_clock(end: int, begin: int | None, issued: int, leeway: int) -> None:
    rules = configured(leeway=leeway, longest_lifetime=DAY)
    claims = claims_of(exp=NOW + end, nbf=None if begin is None else NOW + begin, iat=NOW + issued)
    last = min(end, issued + DAY)
    expected = "immature" if max(issued, begin or issued) > leeway else "expired" if last + leeway <= 0 else "accepted"
    assert verdict(rules, claims) == expected
    if expected == "accepted":
        assert judge(rules, claims, NOW).expires == NOW + (last if last > 0 else last + leeway)


def test_no_token_is_good_for_longer_than_is_configured() -> None:
    rules = configured(longest_lifetime=DAY, leeway=0)
    assert judge(rules, claims_of(exp=NOW + 1e15), NOW).expires == NOW - 10 + DAY
    assert judge(rules, claims_of(exp=NOW + 1e15, iat=None), NOW).expires == NOW + DAY
    with pytest.raises(ForeignTokenRefused, match="issued more than 86400 seconds ago"):
        judge(rules, claims_of(exp=NOW + 1e15, iat=NOW - DAY), NOW)


@pytest.mark.parametrize(
    ("claim", "claims", "username"),
    [
        ("sub", {}, "ada"),
        ("", {"preferred_username": "bob"}, None),
        ("preferred_username", {"preferred_username": "bob"}, "bob"),
        ("preferred_username", {}, None),
        ("preferred_username", {"preferred_username": ""}, None),
        ("preferred_username", {"preferred_username": ["bob"]}, None),
        ("preferred_username", {"preferred_username": "bob\x00"}, None),
        ("email", {"email": "bob@example.org"}, None),
        ("email", {"email": "bob@example.org", "email_verified": "true"}, None),
        ("email", {"email": "bob@example.org", "email_verified": True}, "bob@example.org"),
    ],
)
def test_the_user_name_is_a_claim(claim: str, claims: dict[str, Any], username: str | None) -> None:
    identity = judge(configured(username_claim=claim), claims_of(**claims), NOW)
    assert (identity.subject, identity.username) == ("ada", username)


@given(
    st.dictionaries(
        st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "scope", "scp", "ver", "wlcg.ver", "email", "cnf"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.sampled_from([ISSUER, "drayman", NOW + 60]),
            lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=3), some, max_size=3),
            max_leaves=5,
        ),
    ),
    st.sampled_from(PROFILES),
)
def test_whatever_the_claims_are_there_is_a_verdict(claims: dict[str, Any], profile: Profile) -> None:
    for some in (claims, claims_of(profile) | claims):
        verdict(configured(profile, required_scopes=("compute.read",)), some)


@given(st.text(min_size=3, max_size=40).map(lambda text: f"secret-{text}"), st.sampled_from(PROFILES))
def test_no_refusal_repeats_what_the_token_holds(text: str, profile: Profile) -> None:
    rules = configured(profile, required_scopes=("compute.read",))
    for name in ("iss", "aud", "exp", "nbf", "iat", "scope", "ver", "wlcg.ver", "cnf"):
        with pytest.raises(ForeignTokenRefused) as refusal:
            judge(rules, claims_of(profile, **{"scope": "compute.create", name: text}), NOW)
        assert "secret-" not in refusal.value.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"issuer": "http://issuer.example.org"}, "issuer .*plain http is for loopback only; expected https"),
        ({"issuer": "http://127.0.0.1.example.org"}, "issuer .*loopback"),
        ({"issuer": "issuer.example.org"}, "issuer .*expected https"),
        ({"issuer": "ftp://issuer.example.org"}, "issuer .*expected https"),
        ({"issuer": "https://"}, "issuer .*expected https"),
        ({"issuer": "https://a@issuer.example.org"}, "issuer .*expected https"),
        ({"issuer": "https://issuer.example.org?a"}, "issuer .*expected https"),
        ({"issuer": "https://issuer.example.org/a b"}, "issuer .*expected https"),
        ({"issuer": "https://issuer.example.org:port"}, "issuer .*expected https"),
        ({"issuer": "https://[::1"}, "issuer .*expected https"),
        ({"profile": "saml"}, "profile 'saml': expected one of oidc, wlcg, scitokens"),
        ({"audiences": ()}, "audiences: expected at least one"),
        ({"audiences": ("",)}, "audiences: expected at least one"),
        ({"algorithms": ()}, "algorithms: expected at least one of RS256"),
        ({"algorithms": ("RS256", "HS256")}, "algorithms: 'HS256' is not accepted; expected some of RS256"),
        ({"algorithms": ("none",)}, "algorithms: 'none' is not accepted"),
        ({"required_scopes": ("a b",)}, "required_scopes: 'a b' is no scope"),
        ({"required_scopes": ("storage.read",), "profile": "wlcg"}, "required_scopes: 'storage.read': .*absolute path"),
        ({"required_scopes": ("read:/a/..",), "profile": "scitokens"}, "required_scopes: 'read:/a/..': .*without"),
        ({"device_scopes": ("",)}, "device_scopes: '' is no scope"),
        ({"leeway": -1.0}, "leeway -1.0: expected 0 to 600 seconds"),
        ({"leeway": math.nan}, "leeway nan"),
        ({"longest_lifetime": 0.0}, "longest_lifetime 0.0: expected a positive"),
    ],
)
def test_settings_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        configured(**fields)


def test_only_asymmetric_algorithms_can_be_configured() -> None:
    known = set(jwt.algorithms.get_default_algorithms())
    assert set(ALGORITHMS) < known
    assert not [name for name in ALGORITHMS if name.startswith("HS") or name == "none"]
    configured(algorithms=tuple(ALGORITHMS))


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost.example.org", False),
        (None, False),
    ],
)
def test_loopback(host: str | None, is_here: bool) -> None:
    assert is_loopback(host) is is_here


# The second opinion. Times are kept away from the edges: the library has no leeway and its own clock.

KEY = new_key("ES256")
PEM = public_pem(KEY)
AUDIENCE = "https://drayman.example.org"


def their_opinion(profile: Profile, claims: dict[str, Any], needed: str) -> bool:
    """Whether the library accepts the token of an issuer and finds the authorization in it."""
    token = jwt.encode(claims, KEY, "ES256")
    authorization, _, path = needed.partition(":")
    enforcer = Enforcer(ISSUER, audience=[AUDIENCE, ANY_AUDIENCE] if profile == "wlcg" else [AUDIENCE])
    # It refuses what it does not know, unless the token is a SciToken 2.
    enforcer.add_validator("wlcg.ver", lambda version: version == "1.0")
    try:
        return bool(enforcer.test(SciToken.deserialize(token, public_key=PEM), authorization, path or None))
    except Exception:  # whatever it raises, it does not accept
        return False


def our_opinion(profile: Profile, claims: dict[str, Any], needed: str) -> bool:
    rules = configured(profile, audiences=(AUDIENCE,), required_scopes=(needed,), leeway=0, longest_lifetime=1e9)
    return verdict(rules, json.loads(json.dumps(claims)), time.time()) == "accepted"


def granted_by(claims: dict[str, Any]) -> list[str]:
    scope = claims.get("scope", claims.get("scp", []))
    return scope.split(" ") if isinstance(scope, str) else list(scope)


def lacks_path(claims: dict[str, Any], *names: str) -> bool:
    return any(one.startswith(names) and ":/" not in one for one in granted_by(claims))


def strays(claims: dict[str, Any]) -> bool:
    return any(part in (".", "..") for one in granted_by(claims) for part in unquote(one).split("/"))


#: Where we accept less or more than the library, and why. Everywhere else we have to agree.
Applies = Callable[[Profile, dict[str, Any]], bool]
STRICTER: dict[str, Applies] = {
    "WLCG wants a token rejected that has storage.* without a path; to the library that is the whole storage": (
        lambda profile, claims: profile == "wlcg" and lacks_path(claims, "storage.")
    ),
    "a token without wlcg.ver is no WLCG token": lambda profile, claims: profile == "wlcg" and "wlcg.ver" not in claims,
    "WLCG requires iat": lambda profile, claims: profile == "wlcg" and "iat" not in claims,
    "without aud a token is for everybody who gets to see it; the library refuses that in a SciToken 2 only": (
        lambda _, claims: "aud" not in claims
    ),
    "ANY is for everybody in a SciToken; WLCG has another word for that, which the library knows only as one of ours": (
        lambda profile, claims: profile == "wlcg" and "ANY" in claims.get("aud", ())
    ),
    "the library stops at the scope that it looks for, and does not see a bad one behind it": (
        lambda profile, claims: strays(claims) or (profile == "scitokens" and lacks_path(claims, "read", "write"))
    ),
    "a path with . is not normal (RFC 3986); the library puts it right": lambda _, claims: strays(claims),
    "without sub there is nobody to log in": lambda _, claims: "sub" not in claims,
}
WIDER: dict[str, Applies] = {
    "in WLCG storage.stage holds storage.read, and storage.modify holds storage.create": (
        lambda profile, claims: (
            profile == "wlcg" and any(one.startswith(("storage.stage", "storage.modify")) for one in granted_by(claims))
        )
    ),
    "HTCondor and scitokens-cpp write scitokens:2.0; the library knows the singular only": (
        lambda profile, claims: profile == "scitokens" and claims.get("ver") == "scitokens:2.0"
    ),
    "a scope like wlcg:1.0 has no path and is none of our business; the library refuses the token": (
        lambda _, claims: any(":" in one and ":/" not in one for one in granted_by(claims))
    ),
}


SEGMENT = st.sampled_from(["a", "b", "ab", "a b", "ü", "..", "."])
PATH = st.lists(SEGMENT.map(quote) | st.sampled_from(["", "%61", "%2e%2e"]), max_size=3).map(
    lambda some: "/" + "/".join(some)
)
WLCG_NAMES = st.sampled_from(["storage.read", "storage.stage", "storage.create", "storage.modify", "compute.create"])
SCITOKEN_NAMES = st.sampled_from(["read", "write", "execute", "queue"])
CLEAN_PATH = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda some: "/" + "/".join(some))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Profile, dict[str, Any], str]:
    profile: Profile = draw(st.sampled_from(["wlcg", "scitokens"]))
    name = WLCG_NAMES if profile == "wlcg" else SCITOKEN_NAMES
    scope = st.builds(lambda one, path: f"{one}:{path}", name, PATH) | name | st.sampled_from(["wlcg:1.0", "openid"])
    needed = draw(name) + ":" + draw(CLEAN_PATH)
    scopes = draw(st.lists(scope | st.just(needed) | st.just(needed.rpartition("/")[0] + "/"), max_size=3))
    now = int(time.time())
    audience = st.sampled_from([AUDIENCE, AUDIENCE + "/", "ANY", ANY_AUDIENCE, "other"])
    versions: dict[Profile, list[Any]] = {
        "wlcg": ["2.0", None],
        "scitokens": ["scitokens:2.0", "scitoken:3.0", 1, None],
    }
    version = "wlcg.ver" if profile == "wlcg" else "ver"
    claims: dict[str, Any] = {"iss": ISSUER, "sub": "ada", "aud": AUDIENCE, "exp": now + 3600, "iat": now - 7200}
    claims[version] = "1.0" if profile == "wlcg" else "scitoken:2.0"
    others = {
        "iss": st.just("https://other.example.org"),
        "sub": st.none(),
        "aud": audience | st.lists(audience, max_size=2) | st.none(),
        "exp": st.just(now - 60),
        "iat": st.none() | st.just(now + 3600),
        "nbf": st.sampled_from([now - 60, now + 3600]),
        version: st.sampled_from(versions[profile]),
    }
    # mostly a good token with a flaw or two: those that are all wrong teach nothing
    for claim in draw(st.sets(st.sampled_from(sorted(others)), max_size=2)):
        claims[claim] = draw(others[claim])
    if draw(st.booleans()) or profile == "wlcg":
        claims["scope"] = " ".join(scopes)
    else:
        claims["scp"] = scopes
    return profile, {claim: value for claim, value in claims.items() if value is not None}, needed


@settings(max_examples=400, deadline=None)
@given(cases())
def test_the_scitokens_library_says_the_same(case: tuple[Profile, dict[str, Any], str]) -> None:
    profile, claims, needed = case
    ours, theirs = our_opinion(profile, claims, needed), their_opinion(profile, claims, needed)
    event(f"{profile}: we {ours}, they {theirs}")
    if theirs and not ours:
        assert any(applies(profile, claims) for applies in STRICTER.values())
    if ours and not theirs:
        assert any(applies(profile, claims) for applies in WIDER.values())


def case(profile: Profile, needed: str, **claims: Any) -> tuple[Profile, dict[str, Any], str]:
    now = int(time.time())
    version = {"wlcg.ver": "1.0"} if profile == "wlcg" else {"ver": "scitoken:2.0"}
    every = {"iss": ISSUER, "sub": "ada", "aud": AUDIENCE, "iat": now - 60, "exp": now + 86_400, **version, **claims}
    return profile, {name: value for name, value in every.items() if value is not None}, needed


@pytest.mark.parametrize(
    ("case", "accepted"),
    [
        (case("scitokens", "read:/a/b", scope="read:/a"), True),
        (case("scitokens", "read:/a/b", scope="read:/a/b/c"), False),
        (case("scitokens", "read:/ab", scope="read:/a"), False),
        (case("scitokens", "read:/a", scope="read:/a/"), False),
        (case("scitokens", "read:/a", aud="ANY", scope="read:/"), True),
        (case("scitokens", "read:/a", aud=["x", AUDIENCE], scope="read:/"), True),
        (case("scitokens", "read:/a", aud="x", scope="read:/"), False),
        (case("scitokens", "read:/a", aud=None, scope="read:/"), False),
        (case("scitokens", "read:/a", scope="write:/a"), False),
        (case("scitokens", "read:/a"), False),
        (case("scitokens", "read:/a", ver=None, scp=["read:/a"]), True),
        (case("scitokens", "execute", scope="execute"), True),
        (case("scitokens", "read:/a", ver="scitoken:3.0", scope="read:/"), False),
        (case("scitokens", "read:/a", exp=1, scope="read:/"), False),
        (case("scitokens", "read:/a", nbf=9e9, scope="read:/"), False),
        (case("scitokens", "read:/a", iat=9e9, scope="read:/"), False),
        (case("scitokens", "read:/a", iss=ISSUER[:-1], scope="read:/"), False),
        (case("wlcg", "storage.read:/a", scope="storage.read:/"), True),
        (case("wlcg", "storage.read:/a", aud=ANY_AUDIENCE, scope="storage.read:/"), True),
        (case("wlcg", "compute.create", scope="compute.create"), True),
        (case("wlcg", "storage.read:/a", **{"wlcg.ver": "2.0"}, scope="storage.read:/"), False),
    ],
)
def test_cases_on_which_both_agree(case: tuple[Profile, dict[str, Any], str], accepted: bool) -> None:
    assert (our_opinion(*case), their_opinion(*case)) == (accepted, accepted)


@pytest.mark.parametrize(
    ("case", "ours"),
    [
        (case("wlcg", "compute.create", scope="compute.create storage.read"), False),
        (case("wlcg", "storage.read:/a", scope="storage.stage:/a"), True),
        (case("wlcg", "compute.create", scope="compute.create", iat=None), False),
        (case("scitokens", "execute", scope="execute", ver=None, aud=None), False),
        (case("scitokens", "execute", scope="execute", ver="scitokens:2.0"), True),
        (case("scitokens", "execute", scope="execute read"), False),
        (case("scitokens", "execute", scope="execute read:/a/../b"), False),
        (case("scitokens", "execute", scope="execute", sub=None), False),
        (case("wlcg", "compute.create", scope="wlcg:1.0 compute.create"), True),
    ],
)
def test_cases_on_which_we_differ_for_a_reason(case: tuple[Profile, dict[str, Any], str], ours: bool) -> None:
    profile, claims, _ = case
    assert any(applies(profile, claims) for applies in (WIDER if ours else STRICTER).values())
    assert (our_opinion(*case), their_opinion(*case)) == (ours, not ours)
