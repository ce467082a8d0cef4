"""Tokens for somebody at a terminal: the OAuth 2.0 device flow (RFC 8628), with nothing but the standard library.

flow = DeviceFlow("https://issuer.example.org", "drayman", ("openid",))
code = flow.begin()
print(f"Open {code.verification_uri} and enter {code.user_code}")
tokens = flow.poll(code)
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import math
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_REQUEST_SECONDS = 10.0
_LARGEST_ANSWER = 1024 * 1024
#: RFC 8628, sections 3.2 and 3.5: seconds between questions, and by how much more when that was too often.
_INTERVAL = 5.0
_SLOWER = 5.0
#: How long the waits become while the issuer does not answer.
_LONGEST_PAUSE = 60.0
#: What is longer is no word.
_LONGEST_WORD = 30
_ERROR_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Answers after which the same question may succeed.
_PASSING = (429, 500, 502, 503, 504)


class DeviceFlowError(Exception):
    """No token. `reason` is the OAuth error code (`access_denied`, `expired_token`, `invalid_grant` ...) or one of ours.

    Ours: `unavailable` (no answer), `untrusted` (its certificate), `malformed` (an answer that is none), `issuer` (metadata of another
    issuer), `unsupported` (it has no device flow), `cancelled` (the waiting was ended).
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What to tell the user. `expires` is in seconds since 1970, `interval` in seconds; `verification_uri_complete` may be empty."""

    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires: float
    interval: float
    device_code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the issuer granted. `expires`: when the access token does, in seconds since 1970, None if unsaid; what is missing is empty."""

    access_token: str = field(repr=False)
    id_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires: float | None


class DeviceFlow:
    """The device flow with one issuer. All methods block; all raise DeviceFlowError.

    `wait(seconds)` waits between questions, `threading.Event().wait` by default; if what it returns is true, the flow ends. `clock` tells
    the time in seconds since 1970. `audience` is whom the tokens shall be for, `ca_file` a PEM file with the CAs of the issuer's server.
    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        scopes: Sequence[str],
        client_secret: str | None = None,
        audience: str | None = None,
        ca_file: str | None = None,
        *,
        wait: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = " ".join(scopes)
        self._audience = audience
        self._wait = wait if wait is not None else threading.Event().wait
        self._clock = clock
        self._metadata: Mapping[str, Any] | None = None
        if not _may_be_asked(issuer, issuer):
            raise DeviceFlowError("issuer", f"issuer {issuer!r}: expected https://HOST[:PORT][/PATH]")
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise DeviceFlowError("untrusted", f"{ca_file}: {error.strerror or 'no PEM file'}") from None
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())

    def begin(self) -> DeviceCode:
        """Ask for a code that the user confirms in a browser."""
        began = self._clock()
        status, answer = self._post("device_authorization_endpoint", scope=self._scope)
        if status != 200:
            raise self._refusal(status, answer)
        complete = answer.get("verification_uri_complete")
        code = DeviceCode(
            user_code=_text(answer, "user_code"),
            verification_uri=_text(answer, "verification_uri"),
            verification_uri_complete=complete if isinstance(complete, str) else "",
            expires=began + _seconds(answer, "expires_in"),
            interval=max(_seconds(answer, "interval", _INTERVAL), 1.0),
            device_code=_text(answer, "device_code"),
        )
        for uri in (code.verification_uri, code.verification_uri_complete):
            # It is shown, and perhaps opened.
            if uri and (not uri.isprintable() or urlsplit(uri).scheme not in ("https", "http")):
                raise DeviceFlowError("malformed", f"{self._issuer} answered with an address that is none")
        return code

    def poll(self, code: DeviceCode) -> Tokens:
        """Wait until the user has confirmed; the issuer may be away meanwhile. Raises access_denied, expired_token, cancelled ..."""
        interval = pause = code.interval
        while True:
            remaining = code.expires - self._clock()
            if remaining <= 0:
                raise DeviceFlowError("expired_token", "the code was not confirmed in time; begin again")
            if self._wait(min(pause, remaining)):
                raise DeviceFlowError("cancelled", "the login was cancelled")
            try:
                status, answer = self._post("token_endpoint", grant_type=_GRANT, device_code=code.device_code)
            except DeviceFlowError as error:
                if error.reason != "unavailable":
                    raise
                pause = min(pause * 2, max(_LONGEST_PAUSE, interval))
                continue
            if status == 200:
                return self._tokens(answer)
            error_code = answer.get("error")
            if error_code == "slow_down":
                interval += _SLOWER
            elif error_code != "authorization_pending":
                raise self._refusal(status, answer)
            pause = interval

    def refresh(self, refresh_token: str) -> Tokens:
        """Get new tokens without the user. The refresh token of the result is the one to use next. Raises invalid_grant if it is over."""
        status, answer = self._post("token_endpoint", grant_type="refresh_token", refresh_token=refresh_token)
        if status != 200:
            raise self._refusal(status, answer)
        return self._tokens(answer, refresh_token)

    def _tokens(self, answer: Mapping[str, Any], refresh_token: str = "") -> Tokens:
        kind = answer.get("token_type")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise DeviceFlowError("malformed", f"{self._issuer} granted something that is no bearer token")
        return Tokens(
            access_token=_text(answer, "access_token"),
            id_token=_text(answer, "id_token", ""),
            refresh_token=_text(answer, "refresh_token", refresh_token),
            expires=self._clock() + _seconds(answer, "expires_in") if "expires_in" in answer else None,
        )

    def _refusal(self, status: int, answer: Mapping[str, Any]) -> DeviceFlowError:
        reason = answer.get("error")
        if not isinstance(reason, str) or not _ERROR_CODE.fullmatch(reason):
            return DeviceFlowError("malformed", f"{self._issuer} answered with HTTP status {status} and no reason")
        description = answer.get("error_description")
        said = f": {_shown(description)}" if isinstance(description, str) and description else ""
        return DeviceFlowError(reason, f"{self._issuer} refused: {reason}{said}")

    def _post(self, endpoint: str, **parameters: str) -> tuple[int, Mapping[str, Any]]:
        metadata = self._discovered()
        url = metadata.get(endpoint)
        if not isinstance(url, str):
            raise DeviceFlowError(
                "unsupported", f"{self._issuer} offers no device flow: its metadata has no {endpoint}"
            )
        if not _may_be_asked(url, self._issuer):
            raise DeviceFlowError("malformed", f"{self._issuer}: its {endpoint} is not https")
        form = {"client_id": self._client_id, **parameters}
        if self._audience:
            form["audience"] = self._audience
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if self._client_secret:
            # HTTP Basic is what every issuer has to take (RFC 6749, section 2.3.1), unless it says that it does not.
            methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
            if isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods:
                form["client_secret"] = self._client_secret
            else:
                pair = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
                headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return self._ask(urllib.request.Request(url, urlencode(form).encode(), headers))  # noqa: S310 - checked above

    def _discovered(self) -> Mapping[str, Any]:
        if self._metadata is None:
            parts = urlsplit(self._issuer)
            path = parts.path.rstrip("/")
            name = "/.well-known/oauth-authorization-server"
            places = [f"{path}/.well-known/openid-configuration", f"{name}{path}", *([f"{path}{name}"] if path else [])]
            for place in places:
                url = f"{parts.scheme}://{parts.netloc}{place}"
                request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - checked at the start
                status, metadata = self._ask(request)
                if status == 200:
                    break
            else:
                raise DeviceFlowError("unsupported", f"{self._issuer} publishes no metadata: HTTP status {status}")
            if metadata.get("issuer") != self._issuer:
                raise DeviceFlowError("issuer", f"the metadata at {url} is of another issuer")
            self._metadata = metadata
        return self._metadata

    def _ask(self, request: urllib.request.Request) -> tuple[int, Mapping[str, Any]]:
        """Return status and JSON object of an answer, empty if it is none. Raises DeviceFlowError (unavailable, untrusted, malformed)."""
        where = request.full_url
        try:
            with self._opener.open(request, timeout=_REQUEST_SECONDS) as response:
                status, body = response.status, response.read(_LARGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, _rest(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DeviceFlowError("untrusted", f"{where}: {error.reason.verify_message}") from None
            raise DeviceFlowError("unavailable", f"{where}: {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            raise DeviceFlowError("unavailable", f"{where}: {type(error).__name__}") from None
        if status in _PASSING:
            raise DeviceFlowError("unavailable", f"{where}: HTTP status {status}")
        try:
            answer = json.loads(body) if len(body) <= _LARGEST_ANSWER else None
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict):
            return status, answer
        if status == 200:
            raise DeviceFlowError("malformed", f"{where}: no JSON object of at most {_LARGEST_ANSWER} bytes")
        return status, {}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """What is sent is for the address that was discovered and for no other."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _rest(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(_LARGEST_ANSWER + 1)
    except (OSError, http.client.HTTPException):
        return b""


def _may_be_asked(url: str, issuer: str) -> bool:
    try:
        parts, base = urlsplit(url), urlsplit(issuer)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not url.isascii() or not url.isprintable() or " " in url or not host:
        return False
    return parts.scheme == "https" or (parts.scheme == base.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _text(answer: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a member that is a printable text. Raises DeviceFlowError (malformed)."""
    value = answer.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not value or not value.isprintable():
        raise DeviceFlowError("malformed", f"the issuer's answer has no {name}")
    return value


def _seconds(answer: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = answer.get(name, default)
    try:
        seconds = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= 1e9:  # which is not true of NaN either
        raise DeviceFlowError("malformed", f"the issuer's answer has no {name} in seconds")
    return seconds


def _shown(text: str) -> str:
    """Write what an issuer says so that it can be shown: some repeat the token that they did not like."""
    words = "".join(character if character.isprintable() else " " for character in text).split()
    return " ".join(word if len(word) <= _LONGEST_WORD else "..." for word in words)[:200]
