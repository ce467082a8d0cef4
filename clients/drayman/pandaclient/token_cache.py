"""The token cache: what a login left in the configuration folder, `.token`, and pages that were read there less than an hour ago.

PanDA, section 11 of its behaviour. All files are for the account only.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drayman.client.device_flow import Tokens
from drayman.client.session_token import expiration
from drayman.pandaclient import settings

_TOKEN = ".token"  # noqa: S105 - a file name
_PAGE = ".page_cache_"
#: A token that ends sooner than that is as none, in seconds.
_LEAST_LEFT = 300.0
_PAGE_SECONDS = 3600.0


class TokenCache:
    """The cache in one folder. What cannot be read there is not there; writing raises OSError."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = settings.config_root() if folder is None else folder

    @property
    def id_token(self) -> str | None:
        """The cached ID token, if it is valid for more than five minutes."""
        return self._valid_for(_LEAST_LEFT)

    @property
    def ending_id_token(self) -> str | None:
        """The cached ID token, if it is still valid."""
        return self._valid_for(0.0)

    @property
    def refresh_token(self) -> str | None:
        """The cached refresh token."""
        return self._text("refresh_token")

    def keep(self, tokens: Tokens) -> None:
        """Put what an issuer granted in the place of what is there."""
        names = ("id_token", "access_token", "refresh_token")
        found = {name: value for name in names if (value := getattr(tokens, name))}
        self._write(self._folder / _TOKEN, json.dumps(found))

    def page(self, url: str) -> dict[str, Any] | None:
        """Return a page of the last hour."""
        path = self._page_path(url)
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:
            return None
        return _read(path) if 0 <= age < _PAGE_SECONDS else None

    def keep_page(self, url: str, page: Mapping[str, Any]) -> None:
        """Keep a page; a client's secret may be in it."""
        self._write(self._page_path(url), json.dumps(page))

    def forget(self) -> None:
        """Remove tokens and pages."""
        for pattern in (_TOKEN, f"{_PAGE}*"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _valid_for(self, seconds: float) -> str | None:
        token = self._text("id_token")
        end = expiration(token) if token else None
        return token if end is not None and end - time.time() > seconds else None

    def _text(self, name: str) -> str | None:
        value = (_read(self._folder / _TOKEN) or {}).get(name)
        return value if isinstance(value, str) and value else None

    def _page_path(self, url: str) -> Path:
        return self._folder / f"{_PAGE}{uuid.uuid5(uuid.NAMESPACE_URL, url)}"

    def _write(self, path: Path, text: str) -> None:
        """Write a file at once: another process sees the old or the new one."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=".new_", dir=self._folder)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
