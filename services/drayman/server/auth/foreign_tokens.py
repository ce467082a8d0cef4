"""What makes a token of another issuer acceptable: rules over claims whose signature holds. Nothing here does any I/O.

Three profiles: `oidc` (a JWT of RFC 7519, an ID token), `wlcg` (WLCG Common JWT Profiles) and `scitokens` (SciTokens 1 and 2).
No text made here holds anything of a token but its issuer.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args
from urllib.parse import unquote_to_bytes, urlsplit

Profile = Literal["oidc", "wlcg", "scitokens"]
RefusalReason = Literal["expired", "immature", "issuer", "audience", "scope", "signature", "malformed", "algorithm"]

#: Algorithms that may be configured, with the key type and the curve that each takes. All are asymmetric: whoever can check a
#: signature must not be able to make one.
ALGORITHMS: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}

#: Audiences that stand for everybody, per profile.
_ANYBODY: Mapping[Profile, frozenset[str]] = {
    "oidc": frozenset(),
    "wlcg": frozenset({"https://wlcg.cern.ch/jwt/v1/any"}),
    "scitokens": frozenset({"ANY"}),
}
#: What `ver` of a SciToken may be. The plural is what HTCondor writes; 1 is what version 1 of the reference library writes.
_SCITOKEN_VERSIONS = ("scitoken:2.0", "scitokens:2.0", "scitoken:1.0", 1)
_WLCG_VERSION = re.compile(r"1\.[0-9]+")
#: Authorizations of WLCG that hold whatever another one does.
_WIDER: Mapping[str, str] = {"storage.create": "storage.modify", "storage.read": "storage.stage"}
_LONGEST_SUBJECT = 255
_LONGEST_LEEWAY = 600.0


class ForeignTokenRefused(Exception):
    """A token is not accepted. `reason` is one of `RefusalReason`, `text` is for people; neither holds anything secret."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        super().__init__(text)
        self.reason: RefusalReason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class ForeignIdentity:
    """Whom an accepted token speaks of.

    `username` is the name that the configured claim proposes, or None: then only registered identities count. `expires` is when the
    token does, in seconds since 1970 and never in the past: one that is accepted for the leeway only expires when that ends.
    """

    issuer: str
    subject: str
    username: str | None
    expires: float

    @property
    def identity(self) -> str:
        """What is registered with a user: the issuer, a blank, the subject. An issuer has no blanks."""
        return f"{self.issuer} {self.subject}"


@dataclass(frozen=True, kw_only=True)
class IssuerSettings:
    """An issuer whose tokens are accepted, and which of them. Raises ValueError naming the field and what would be accepted.

    `issuer` is compared literally. A token must be meant for one of `audiences`. `username_claim` names the claim that holds the user
    name; empty = only registered identities log in. All of `required_scopes` must be there. `leeway` is the clock skew allowed, in
    seconds; no token is accepted for longer than `longest_lifetime` seconds after it was issued, whatever it says. `client_id` (public) and
    `device_scopes` are for the device flow of users. `ca_file`: a PEM file with the CAs of the issuer's web server; empty = the usual ones.
    """

    issuer: str
    audiences: tuple[str, ...]
    profile: Profile = "oidc"
    username_claim: str = "sub"
    required_scopes: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    client_id: str = ""
    device_scopes: tuple[str, ...] = ("openid", "profile", "offline_access")
    ca_file: str = ""
    leeway: float = 60.0
    longest_lifetime: float = 7 * 86400.0

    def __post_init__(self) -> None:
        _check_issuer_url(self.issuer)
        if self.profile not in get_args(Profile):
            raise ValueError(f"profile {self.profile!r}: expected one of {', '.join(get_args(Profile))}")
        if not self.audiences or not all(self.audiences):
            raise ValueError("audiences: expected at least one text, such as the address of this service")
        if not self.algorithms:
            raise ValueError(f"algorithms: expected at least one of {', '.join(ALGORITHMS)}")
        for algorithm in self.algorithms:
            if algorithm not in ALGORITHMS:
                raise ValueError(f"algorithms: {algorithm!r} is not accepted; expected some of {', '.join(ALGORITHMS)}")
        for name in ("required_scopes", "device_scopes"):
            for scope in getattr(self, name):
                if not scope or not scope.isprintable() or " " in scope:
                    raise ValueError(f"{name}: {scope!r} is no scope; expected one scope per text, without blanks")
        for scope in self.required_scopes:
            _check_required(self.profile, scope)
        if not 0 <= self.leeway <= _LONGEST_LEEWAY:  # which is not true of NaN either
            raise ValueError(f"leeway {self.leeway}: expected 0 to {_LONGEST_LEEWAY:.0f} seconds")
        if not 0 < self.longest_lifetime < math.inf:
            raise ValueError(f"longest_lifetime {self.longest_lifetime}: expected a positive number of seconds")


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine and no other."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def judge(settings: IssuerSettings, claims: Mapping[str, Any], now: float) -> ForeignIdentity:
    """Say whom a token speaks of whose signature holds; `now` in seconds since 1970. Raises ForeignTokenRefused."""
    if claims.get("iss") != settings.issuer:
        raise ForeignTokenRefused("issuer", f"the token is not of the issuer {settings.issuer}")
    _check_version(settings.profile, claims)
    if "cnf" in claims:
        raise ForeignTokenRefused("malformed", "the token is bound to a key of its holder; expected a bearer token")
    subject = claims.get("sub")
    if not _is_name(subject):
        raise ForeignTokenRefused(
            "malformed", f"the token has no `sub` of 1 to {_LONGEST_SUBJECT} printable characters"
        )
    expires = _check_times(settings, claims, now)
    _check_audience(settings, claims)
    _check_scopes(settings, claims)
    return ForeignIdentity(settings.issuer, subject, _username(settings, claims), expires)


def _check_issuer_url(issuer: str) -> None:
    expected = "expected https://HOST[:PORT][/PATH] as the issuer writes it in its tokens"
    try:
        parts = urlsplit(issuer)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"issuer {issuer!r}: {expected}") from None
    if not issuer.isascii() or not issuer.isprintable() or any(character in issuer for character in ' ?#@\\"<>'):
        raise ValueError(f"issuer {issuer!r}: {expected}")
    if not host or parts.scheme not in ("https", "http"):
        raise ValueError(f"issuer {issuer!r}: {expected}")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"issuer {issuer!r}: plain http is for loopback only; {expected}")


def _check_required(profile: Profile, scope: str) -> None:
    if profile != "oidc":
        try:
            _Scope.parse(profile, scope)
        except ValueError as error:
            raise ValueError(f"required_scopes: {scope!r}: {error}") from None


def _check_version(profile: Profile, claims: Mapping[str, Any]) -> None:
    if profile == "wlcg":
        version = claims.get("wlcg.ver")
        if not isinstance(version, str) or not _WLCG_VERSION.fullmatch(version):
            raise ForeignTokenRefused("malformed", "the token has no `wlcg.ver` 1.x: it is no WLCG token")
    elif profile == "scitokens" and "ver" in claims:
        version = claims["ver"]
        if isinstance(version, bool) or version not in _SCITOKEN_VERSIONS:
            raise ForeignTokenRefused("malformed", "the token has another `ver` than scitoken:2.0")


def _check_times(settings: IssuerSettings, claims: Mapping[str, Any], now: float) -> float:
    """Return when the token stops being accepted."""
    end, issued, begin = (_seconds(claims, name) for name in ("exp", "iat", "nbf"))
    if end is None:
        raise ForeignTokenRefused("malformed", "the token has no `exp`")
    if issued is None and settings.profile == "wlcg":
        raise ForeignTokenRefused("malformed", "the token has no `iat`")
    for start in (issued, begin):
        if start is not None and start > now + settings.leeway:
            raise ForeignTokenRefused("immature", f"the token becomes valid in {min(start - now, 1e9):.0f} seconds")
    # Where it does not say when it was issued, its time counts from now: there is nothing else to count from.
    born = issued if issued is not None else now
    expires = min(end, born + settings.longest_lifetime)
    if expires + settings.leeway <= now:
        if end + settings.leeway > now:
            raise ForeignTokenRefused(
                "expired", f"the token was issued more than {settings.longest_lifetime:.0f} seconds ago"
            )
        raise ForeignTokenRefused("expired", "the token has expired")
    # By our clock it may be over already: what is accepted all the same must be good for something.
    return expires if expires > now else expires + settings.leeway


def _seconds(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    try:
        seconds = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ForeignTokenRefused("malformed", f"the token's `{name}` is no number of seconds")
    return seconds


def _check_audience(settings: IssuerSettings, claims: Mapping[str, Any]) -> None:
    audiences = _texts(claims.get("aud"))
    if audiences is None:
        raise ForeignTokenRefused("malformed", "the token's `aud` is neither a text nor a list of texts")
    accepted = _ANYBODY[settings.profile].union(settings.audiences)
    # Without an audience it would be any service's to use here whom it was shown to: SciTokens 1 allows that, we do not.
    if accepted.isdisjoint(audiences):
        meant = "for others" if audiences else "for nobody in particular"
        raise ForeignTokenRefused(
            "audience", f"the token is meant {meant}; accepted audiences: {', '.join(sorted(accepted))}"
        )


def _check_scopes(settings: IssuerSettings, claims: Mapping[str, Any]) -> None:
    granted = _granted(settings.profile, claims)
    if settings.profile == "oidc":
        missing = [scope for scope in settings.required_scopes if scope not in granted]
    else:
        try:
            scopes = [_Scope.parse(settings.profile, scope) for scope in granted]
        except ValueError as error:
            raise ForeignTokenRefused("scope", f"the token has a scope that is none: {error}") from None
        required = [_Scope.parse(settings.profile, scope) for scope in settings.required_scopes]
        missing = [need.text for need in required if not any(scope.covers(need) for scope in scopes)]
    if missing:
        raise ForeignTokenRefused("scope", f"the token lacks the scope {' '.join(missing)}")


def _granted(profile: Profile, claims: Mapping[str, Any]) -> list[str]:
    """Return the scopes of a token: `scope`, a text with blanks; `scp` or a list where the profile knows them."""
    name = "scp" if "scope" not in claims and profile != "wlcg" else "scope"
    value = claims.get(name)
    scopes = _texts(value)
    if scopes is None or (isinstance(value, list) and name == "scope" and profile != "oidc"):
        raise ForeignTokenRefused("malformed", f"the token's `{name}` is no text of scopes")
    return [scope for text in scopes for scope in text.split(" ") if scope]


def _texts(value: Any) -> list[str] | None:
    """Return a text or a list of texts as a list; None if it is neither."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(one, str) for one in values) else None


def _username(settings: IssuerSettings, claims: Mapping[str, Any]) -> str | None:
    claim = settings.username_claim
    name = claims.get(claim) if claim else None
    if claim == "email" and claims.get("email_verified") is not True:
        return None  # anybody may say that a mailbox is theirs
    return name if _is_name(name) else None


def _is_name(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_SUBJECT and value.isprintable() and bool(value.strip())


@dataclass(frozen=True, slots=True)
class _Scope:
    """An authorization, and for which resources: a path and all below it. `path` None = the scope has none and stands for itself."""

    text: str
    authorization: str
    path: tuple[bytes, ...] | None
    folder: bool

    @classmethod
    def parse(cls, profile: Profile, text: str) -> _Scope:
        """Take a scope apart. Raises ValueError, with nothing of the scope in its text."""
        authorization, colon, path = text.partition(":")
        needs_path = (
            authorization in ("read", "write") if profile == "scitokens" else authorization.startswith("storage.")
        )
        if not path.startswith("/"):
            if needs_path:
                raise ValueError("expected an absolute path after the authorization")
            return cls(text, authorization, None if colon else (), folder=False)
        # Each part is compared decoded, so that no way of writing it makes another path of it.
        parts = [unquote_to_bytes(part) for part in path.split("/") if part]
        if any(part in (b".", b"..") for part in parts):
            raise ValueError("expected a path without . and ..")
        return cls(text, authorization, tuple(parts), folder=path.endswith("/") and bool(parts))

    def covers(self, need: _Scope) -> bool:
        """Whether whoever has this scope has what is needed."""
        if self.path is None or need.path is None:
            return self.text == need.text
        if self.authorization not in (need.authorization, _WIDER.get(need.authorization)):
            return False
        below = len(need.path) > len(self.path) or need.folder or not self.folder
        return need.path[: len(self.path)] == self.path and below
