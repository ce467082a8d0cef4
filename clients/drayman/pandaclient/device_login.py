"""A new token for somebody at a terminal, by a code that they confirm in a browser.

PanDA, sections 3.4 and 11 of its behaviour.
"""

from __future__ import annotations

import sys

from drayman.client.device_flow import DeviceFlowError
from drayman.pandaclient.issuer_discovery import DiscoveryError, device_flow
from drayman.pandaclient.token_cache import TokenCache
from drayman.pandaclient.token_sources import get_token_string


def get_new_token() -> str | None:
    """Return an ID token: the environment's if there is one (see `get_token_string`), else that of a new login; None if that fails.

    What was cached under PANDA_CONFIG_ROOT (`~/.pathena`) is forgotten. The issuer is the one of the page
    `<server>/auth/<VO>_auth_config.json`, if PANDA_AUTH_VO has the virtual organisation and PANDA_URL_SSL is an `https` URL, else the one
    that the service names. The user is told an address and a code, says `y` or `n`, and the new token is cached. TLS certificates are
    always checked; DRAYMAN_CA_FILE names the authorities if they are not the system's. Sections 3.4 and 11.
    """
    try:
        given = get_token_string()
        if given:
            return given
        cache = TokenCache()
        cache.forget()
        flow = device_flow(cache)
        code = flow.begin()
        _say(f"Open {code.verification_uri_complete or code.verification_uri} and log in. The code is {code.user_code}")
        if not _confirmed():
            _say("No token: the login was not confirmed")
            return None
        tokens = flow.poll(code)
        if not tokens.id_token:
            _say("No token: the issuer granted no ID token")
            return None
        cache.keep(tokens)
    except (DiscoveryError, DeviceFlowError, OSError, ValueError) as error:
        _say(f"No token: {error}")
        return None
    return tokens.id_token


def _confirmed() -> bool:
    _say("Ready to get the token? [y/n]")
    while line := sys.stdin.readline():
        answer = line.strip().lower()
        if answer in ("y", "n"):
            return answer == "y"
        _say("[y/n]")
    return False


def _say(text: str) -> None:
    print(text, flush=True)
