"""Where the services are and who calls, as the environment of PanDA's users says it, and else as Drayman's does."""

from __future__ import annotations

from dataclasses import dataclass

from drayman.client.channel import UrlError
from drayman.client.errors import DraymanError, UnauthenticatedError, UnavailableError
from drayman.pandaclient import settings
from drayman.prun.endings import Failure

_TOKENS = ("PANDA_AUTH_ID_TOKEN", "OIDC_AUTH_TOKEN_FILE", "OIDC_AUTH_ID_TOKEN")


@dataclass(frozen=True, slots=True)
class Connection:
    """Arguments for clients; `token` None = DRAYMAN_TOKEN, or what `drayman login` has kept."""

    url: str
    token: str | None


def connection() -> Connection:
    """Read PANDA_URL_SSL, PANDA_URL, DRAYMAN_URL, and the variables for tokens. Raises DraymanError, Failure."""
    if settings.use_oidc() or settings.first_of(*_TOKENS):
        from drayman.pandaclient.token_sources import Bearer  # noqa: PLC0415 - few need it, and it takes its time

        try:
            return Connection(settings.url(), Bearer().token)
        except (OSError, UrlError) as error:
            raise Failure(str(error)) from error
    return Connection(settings.url(), None)


def explained(error: DraymanError) -> str:
    """Say what a client raised, and what would help."""
    text = error.message
    if isinstance(error, UnavailableError) and not error.reason:
        return f"cannot reach {settings.url()}: is it up, and is DRAYMAN_URL right? ({text})"
    if isinstance(error, UnauthenticatedError):
        return f"{text}; `drayman login USERNAME` gets a token"
    return f"{text} ({error.reason or error.code.name})"
