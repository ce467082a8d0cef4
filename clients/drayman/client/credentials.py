"""Where a client's session token comes from."""

from __future__ import annotations

import os
from collections.abc import Sequence

from drayman.client.channel import DEFAULT_URL
from drayman.client.token_library import TokenLibrary

Metadata = Sequence[tuple[str, str]]


class Credentials:
    """The token to call with: the given one, else `DRAYMAN_TOKEN`, else what the token library holds for the URL.

    The library is looked at with each call, so that a login of another process is noticed.
    """

    def __init__(self, url: str | None = None, token: str | None = None, library: TokenLibrary | None = None) -> None:
        self._url = url or os.environ.get("DRAYMAN_URL") or DEFAULT_URL
        self._token = token or os.environ.get("DRAYMAN_TOKEN") or None
        self._library = library if library is not None or self._token else TokenLibrary()

    @property
    def token(self) -> str | None:
        """The encoded token, or None: calls are anonymous then."""
        if self._token:
            return self._token
        return self._library.get(self._url) if self._library is not None else None

    def use(self, token: str | None) -> None:
        """Call with this token from now on; None = look it up again."""
        self._token = token

    def metadata(self) -> Metadata:
        """Return what goes with a call."""
        return bearer(self.token)


def bearer(token: str | None) -> Metadata:
    """Return the metadata that carries a token; nothing if there is none."""
    return (("authorization", f"Bearer {token}"),) if token else ()
