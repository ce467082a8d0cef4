"""Issuers of foreign tokens: which ones, the keys that they publish, and whether a token is theirs.

Keys are found by OpenID Connect Discovery or RFC 8414, kept ten minutes, and read again when a token does not fit them, at most every
ten seconds. While an issuer is away what is known of it serves for a day.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import structlog

from drayman.server.auth.foreign_tokens import (
    ALGORITHMS,
    ForeignIdentity,
    ForeignTokenRefused,
    IssuerSettings,
    is_loopback,
    judge,
)
from drayman.server.platform.settings import SettingsError

__all__ = ["ForeignIdentity", "ForeignTokenRefused", "IssuerAway", "IssuerSettings", "Issuers", "load_issuers"]

log = structlog.get_logger(__name__)

_LONGEST_TOKEN = 16 * 1024
_LARGEST_DOCUMENT = 1024 * 1024
_REQUEST_SECONDS = 5.0
_KEYS_FRESH = 600.0
_KEYS_USABLE = 86_400.0
_SOONEST_REFRESH = 10.0
_MOST_REDIRECTS = 3
#: Keys that are tried where a token does not name one.
_MOST_KEYS = 16
#: What the header of a token that stands for its holder may call it (RFC 8725, 3.11): no logout token, no DPoP proof.
_TYPES = ("jwt", "at+jwt", "application/jwt", "application/at+jwt")
#: What of a JWK is public and makes the key.
_PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e")

# The claims are judged by `judge`, by the clock of the caller.
_JWT = jwt.PyJWT(
    {
        "enforce_minimum_key_length": True,
        "verify_exp": False,
        "verify_nbf": False,
        "verify_iat": False,
        "verify_aud": False,
        "verify_iss": False,
        "verify_sub": False,
        "verify_jti": False,
    }
)


class IssuerAway(Exception):
    """An issuer's keys cannot be had, so that nobody knows whether a token is good. `text` is for people."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def load_issuers(path: Path) -> list[IssuerSettings]:
    """Read the `[[issuers]]` of a TOML file. Raises SettingsError naming the file, the table, the key and what would be accepted."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: no TOML: {error}") from None
    tables = document.pop("issuers", None)
    if document:
        raise SettingsError(f"{path}: unknown {', '.join(sorted(document))}; expected [[issuers]] tables only")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{path}: expected at least one [[issuers]] table")
    issuers: dict[str, IssuerSettings] = {}
    for number, table in enumerate(tables, 1):
        place = f"{path}: [[issuers]] number {number}"
        try:
            issuer = _settings_of(table, path.parent)
        except ValueError as error:
            named = f" ({table['issuer']})" if isinstance(table.get("issuer"), str) else ""
            raise SettingsError(f"{place}{named}: {error}") from None
        if issuer.issuer in issuers:
            raise SettingsError(f"{place}: issuer: {issuer.issuer} has a table already; expected one table per issuer")
        issuers[issuer.issuer] = issuer
    return list(issuers.values())


def _settings_of(table: Mapping[str, Any], folder: Path) -> IssuerSettings:
    """Raises ValueError naming the key."""
    lists = ("audiences", "required_scopes", "algorithms", "device_scopes")
    numbers = ("leeway", "longest_lifetime")
    texts = ("issuer", "profile", "username_claim", "client_id", "ca_file")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in texts:
            fits, expected = isinstance(value, str), "a text"
        elif key in numbers:
            fits, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number of seconds"
        elif key in lists:
            fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
            expected = "a list of texts"
        else:
            raise ValueError(f"{key}: unknown key; expected {', '.join(sorted((*texts, *lists, *numbers)))}")
        if not fits:
            raise ValueError(f"{key}: expected {expected}")
        values[key] = tuple(value) if key in lists else value
    for key in ("issuer", "audiences"):
        if key not in values:
            raise ValueError(f"{key}: missing; it is required")
    if values.get("ca_file"):
        values["ca_file"] = str(folder / values["ca_file"])
        try:
            ssl.create_default_context(cafile=values["ca_file"])
        except OSError as error:  # of which ssl.SSLError is one
            reason = error.strerror or type(error).__name__
            raise ValueError(f"ca_file: {reason}; expected a PEM file with certificates") from None
    return IssuerSettings(**values)


class Issuers:
    """Verifies tokens of the configured issuers. `clock` counts seconds for the age of keys."""

    def __init__(self, settings: list[IssuerSettings], clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = tuple(settings)
        self._keys = {issuer.issuer: _Keys(issuer, clock) for issuer in settings}
        if len(self._keys) != len(settings):
            raise ValueError("an issuer is there twice")

    async def verify(self, token: str, now: float) -> ForeignIdentity:
        """Say whom a token speaks of; `now` in seconds since 1970. Raises ForeignTokenRefused or IssuerAway.

        Nobody is asked anything on behalf of a token whose issuer is not configured.
        """
        header, claims = _parts(token)
        issuer = claims.get("iss")
        keys = self._keys.get(issuer) if isinstance(issuer, str) else None
        if keys is None:
            raise ForeignTokenRefused("issuer", f"tokens of the issuer {_shown(issuer)} are not accepted here")
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in keys.settings.algorithms:
            accepted = ", ".join(keys.settings.algorithms)
            raise ForeignTokenRefused("algorithm", f"the token's algorithm is not accepted; expected {accepted}")
        if "crit" in header or header.get("b64", True) is not True:
            raise ForeignTokenRefused("malformed", "the token's header demands extensions, and none is known here")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise ForeignTokenRefused("malformed", "the token's header says that it is no access token and no ID token")
        return judge(keys.settings, await keys.claims(token, algorithm, header.get("kid")), now)

    async def close(self) -> None:
        """End what is under way."""
        for keys in self._keys.values():
            await keys.close()


class _Keys:
    """What one issuer publishes, and what its signatures hold together."""

    def __init__(self, settings: IssuerSettings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._clock = clock
        self._keys: list[Mapping[str, Any]] = []
        self._read = -_KEYS_USABLE  # when keys were last got, and when they were last asked for
        self._asked = -_KEYS_USABLE
        self._problem = ""
        self._reading: asyncio.Task[None] | None = None

    async def claims(self, token: str, algorithm: str, key_id: str | None) -> Mapping[str, Any]:
        """Return what a token claims if one of the keys has signed it."""
        if self._clock() - self._read >= _KEYS_FRESH:
            await self._renewed()
        if self._clock() - self._read >= _KEYS_USABLE:
            raise IssuerAway(f"the issuer {self.settings.issuer} cannot be asked for its keys: {self._problem}")
        claims = self._signed(token, algorithm, key_id)
        if claims is None and await self._renewed():  # its keys may have been rotated
            claims = self._signed(token, algorithm, key_id)
        if claims is not None:
            return claims
        named = [key for key in self._keys if key_id is not None and key.get("kid") == key_id]
        if named and not self._fitting(algorithm, key_id):
            raise ForeignTokenRefused("algorithm", "the token's algorithm is not that of the key that it names")
        if self._problem and not self._fitting(algorithm, key_id):
            raise IssuerAway(f"the issuer {self.settings.issuer} cannot be asked for its latest keys: {self._problem}")
        raise ForeignTokenRefused("signature", f"the token is not signed with a key of {self.settings.issuer}")

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _signed(self, token: str, algorithm: str, key_id: str | None) -> Mapping[str, Any] | None:
        for key in self._fitting(algorithm, key_id):
            try:
                public = jwt.PyJWK({name: key[name] for name in _PUBLIC_MEMBERS if name in key}, algorithm)
                claims: Mapping[str, Any] = _JWT.decode(token, public, algorithms=[algorithm])
            except (jwt.PyJWTError, ValueError, TypeError):
                continue  # another key may have signed it; a key that is none has not
            return claims
        return None

    def _fitting(self, algorithm: str, key_id: str | None) -> list[Mapping[str, Any]]:
        kind, curve = ALGORITHMS[algorithm]
        fitting = [
            key
            for key in self._keys
            if key["kty"] == kind
            and (not curve or key.get("crv") == curve)
            and key.get("alg", algorithm) == algorithm
            and (key_id is None or key.get("kid") == key_id)
        ]
        return fitting[:_MOST_KEYS]

    async def _renewed(self) -> bool:
        """Read the keys again, together with whoever waits for the same; False if that was tried a moment ago or failed."""
        if self._reading is None:
            if self._clock() - self._asked < _SOONEST_REFRESH:
                return False
            self._asked = self._clock()
            self._reading = asyncio.create_task(self._renew())
        # Whoever waits may be cancelled; the others go on waiting.
        await asyncio.shield(self._reading)
        return not self._problem

    async def _renew(self) -> None:
        try:
            self._keys = await _published_keys(self.settings)
        except _Unreadable as error:
            self._problem = str(error)
            log.warning("issuer_away", issuer=self.settings.issuer, problem=self._problem)
        else:
            self._problem = ""
            self._read = self._clock()
            log.info("issuer_keys_read", issuer=self.settings.issuer, keys=len(self._keys))
        finally:
            self._reading = None


class _Unreadable(Exception):
    """A document cannot be had; the text says why."""


class _NotFound(_Unreadable):
    """There is no such document."""


async def _published_keys(settings: IssuerSettings) -> list[Mapping[str, Any]]:
    """Return the signature keys of an issuer as JWKs. Raises _Unreadable."""
    try:
        context = (
            ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else httpx.create_ssl_context()
        )
    except OSError as error:
        raise _Unreadable(f"the certificates in {settings.ca_file}: {error.strerror}") from None
    async with httpx.AsyncClient(verify=context, timeout=_REQUEST_SECONDS) as client:
        metadata = await _metadata(client, settings.issuer)
        if metadata.get("issuer") != settings.issuer:
            raise _Unreadable(f"its metadata is of another issuer, {_shown(metadata.get('issuer'))}")
        url = metadata.get("jwks_uri")
        if not isinstance(url, str) or not _may_be_asked(url, settings.issuer):
            raise _Unreadable("its metadata names no `jwks_uri` with https")
        document = await _document(client, url)
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise _Unreadable(f"{url} is no JWK Set")
    # No key at all is an answer, too: the issuer has withdrawn what it signed.
    return [key for key in keys if isinstance(key, dict) and _verifies(key)]


async def _metadata(client: httpx.AsyncClient, issuer: str) -> Mapping[str, Any]:
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    name = "/.well-known/oauth-authorization-server"
    # RFC 8414 puts the issuer's path behind the name; SciTokens issuers have it before, as OpenID Connect has.
    places = [f"{path}/.well-known/openid-configuration", f"{name}{path}", *([f"{path}{name}"] if path else [])]
    for place in places:
        try:
            return await _document(client, f"{parts.scheme}://{parts.netloc}{place}")
        except _NotFound:
            continue
    raise _Unreadable("it publishes no metadata (OpenID Connect Discovery, RFC 8414)")


async def _document(client: httpx.AsyncClient, url: str) -> Mapping[str, Any]:
    """Return a JSON object. Raises _Unreadable."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):  # the client's time-out is for each piece
            document = json.loads(await _body(client, httpx.URL(url)))
    except TimeoutError:
        raise _Unreadable(f"{url} does not answer within {_REQUEST_SECONDS:.0f} seconds") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _Unreadable(f"{url}: {str(error) or type(error).__name__}") from None
    except (ValueError, RecursionError):
        raise _Unreadable(f"{url} is no JSON") from None
    if not isinstance(document, dict):
        raise _Unreadable(f"{url} is no JSON object")
    return document


async def _body(client: httpx.AsyncClient, url: httpx.URL) -> bytes:
    # uncompressed, so that what is counted is what arrives
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    place = url
    for _ in range(_MOST_REDIRECTS + 1):
        async with client.stream("GET", place, headers=headers) as response:
            if response.has_redirect_location:
                place = place.join(response.headers["location"])
                if (place.scheme, place.host, place.port) != (url.scheme, url.host, url.port):
                    raise _Unreadable(f"{url} sends elsewhere")
                continue
            if response.status_code in (404, 405, 410):
                raise _NotFound(f"{url}: HTTP status {response.status_code}")
            if response.status_code != 200:
                raise _Unreadable(f"{url}: HTTP status {response.status_code}")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > _LARGEST_DOCUMENT:
                    raise _Unreadable(f"{url} is longer than {_LARGEST_DOCUMENT} bytes")
            return bytes(body)
    raise _Unreadable(f"{url} sends in circles")


def _may_be_asked(url: str, issuer: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if parts.scheme == "http":
        return urlsplit(issuer).scheme == "http" and is_loopback(host)
    return parts.scheme == "https" and bool(host)


def _verifies(key: Mapping[str, Any]) -> bool:
    """Whether a JWK is a public key for signatures."""
    operations = key.get("key_ops", ["verify"])
    return (
        isinstance(key.get("kty"), str)
        and key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
    )


def _parts(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return header and claims of a token that nobody has verified. Raises ForeignTokenRefused (malformed)."""
    if len(token) > _LONGEST_TOKEN:
        raise ForeignTokenRefused("malformed", f"the token is longer than {_LONGEST_TOKEN} characters")
    try:
        decoded = _JWT.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise ForeignTokenRefused("malformed", "the token is no JWT") from None
    return decoded["header"], decoded["payload"]


def _shown(issuer: object) -> str:
    return ascii(issuer[:200]) if isinstance(issuer, str) else "(none)"
