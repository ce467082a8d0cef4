"""The token that calls carry.

PanDA, sections 3.4 and 11 of its behaviour.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any

from drayman.client.device_flow import DeviceFlowError
from drayman.client.login_exchange import carry_out
from drayman.client.login_steps import by_token
from drayman.client.session_keeper import SessionKeeper
from drayman.client.session_token import Session
from drayman.pandaclient import settings
from drayman.pandaclient.issuer_discovery import DiscoveryError, device_flow
from drayman.pandaclient.token_cache import TokenCache

_LOGIN_SECONDS = 30.0

_lock = threading.Lock()
#: What `drayman login` has kept, by URL.
_libraries: dict[str, SessionKeeper] = {}
#: Sessions that tokens of other issuers were traded for, by URL and token; the last few, since those tokens change.
_trades: dict[tuple[str, str], SessionKeeper] = {}
_MOST_TRADES = 16


def get_token_string(tmp_log: Any = None, verbose: bool = False) -> str | None:
    """Return the token that the environment has, or None; nobody is asked.

    PANDA_AUTH_ID_TOKEN, else what is in the file OIDC_AUTH_TOKEN_FILE, to the byte, else OIDC_AUTH_ID_TOKEN. With `verbose` the name of
    the variable goes to `tmp_log.debug`. Raises OSError if the file cannot be read. Section 3.4.
    """
    for name in ("PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN"):
        value = os.environ.get(name)
        if not value:
            continue
        if verbose and tmp_log is not None:
            tmp_log.debug(f"use ${name}")
        return Path(value).read_text(encoding="utf-8") if name == "OIDC_AUTH_TOKEN_FILE" else value
    return None


def claims(token: str) -> dict[str, Any]:
    """Return what a token says, unchecked; nothing if it is no JWT."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (LookupError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def held_token() -> str | None:
    """Return the token at hand, without asking anybody: the environment's, the cached one, or that of `drayman login`. Raises OSError."""
    found = (get_token_string() or "").strip()
    if not found and settings.use_oidc():
        found = TokenCache().ending_id_token or ""
    return found or settings.first_of("DRAYMAN_TOKEN") or _library(settings.url()).token()


class Bearer:
    """The token of one call: `token` is None for an anonymous one."""

    def __init__(self) -> None:
        """Find it. A cached token that ends is refreshed, that of another issuer traded. Raises DraymanError, OSError, UrlError."""
        self._keeper: SessionKeeper | None = None
        self.token = self._given()
        if self.token is None:
            self._keeper = _library(settings.url())
        elif _is_foreign(self.token):
            self._keeper = _traded(settings.url(), self.token)
        if self._keeper is not None:
            self.token, wanted = self._keeper.state()
            if wanted:
                self.token = self._keeper.renew()

    def renewed(self) -> bool:
        """Whether there is another token, now that a service has refused this one. Raises DraymanError."""
        before = self.token
        if self._keeper is not None:
            self.token = self._keeper.renew(before)
        return self.token is not None and self.token != before

    @staticmethod
    def _given() -> str | None:
        found = (get_token_string() or "").strip()
        if not found and settings.use_oidc():
            found = _cached_or_refreshed() or ""
        return found or settings.first_of("DRAYMAN_TOKEN")


def _cached_or_refreshed() -> str | None:
    cache = TokenCache()
    with _lock:  # a refresh token serves once
        token, refresh_token = cache.id_token, cache.refresh_token
        if token is not None or refresh_token is None:
            return token or cache.ending_id_token
        try:
            tokens = device_flow(cache).refresh(refresh_token)
        except (DiscoveryError, DeviceFlowError):
            # another process may have used it
            return cache.id_token or cache.ending_id_token
        cache.keep(tokens)
        return tokens.id_token or None


def _is_foreign(token: str) -> bool:
    """Whether a token is an issuer's: session tokens say whether their user is an administrator, and nobody else's do."""
    said = claims(token)
    return "iss" in said and "adm" not in said


def _library(url: str) -> SessionKeeper:
    with _lock:
        keeper = _libraries.get(url)
        if keeper is None:
            keeper = _libraries[url] = SessionKeeper(url)
        return keeper


def _traded(url: str, token: str) -> SessionKeeper:
    """Return the session that a token of another issuer was traded for. Raises DraymanError, UrlError."""
    with _lock:
        keeper = _trades.get((url, token))
        if keeper is None:

            def log_in() -> Session:
                return carry_out(url, by_token(url, "", token), _LOGIN_SECONDS)

            keeper = SessionKeeper(None)
            keeper.take(log_in(), url, log_in)
            while len(_trades) >= _MOST_TRADES:
                del _trades[next(iter(_trades))]
            _trades[url, token] = keeper
        return keeper
