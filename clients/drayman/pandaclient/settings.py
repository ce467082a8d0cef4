"""What the environment says, read whenever it is asked for. An empty variable is as none.

PanDA, section 2 of its behaviour.
"""

from __future__ import annotations

import os
from pathlib import Path

from drayman.client.channel import DEFAULT_URL


def first_of(*names: str) -> str | None:
    """Return the value of the first of these variables that has one."""
    return next((value for name in names if (value := os.environ.get(name))), None)


def url() -> str:
    """Return the URL of the service, for calls that carry a token."""
    return first_of("PANDA_URL_SSL", "PANDA_URL", "DRAYMAN_URL") or DEFAULT_URL


def open_url() -> str:
    """Return the URL of the service, for calls that need no token."""
    return first_of("PANDA_URL", "PANDA_URL_SSL", "DRAYMAN_URL") or DEFAULT_URL


def virtual_organisation() -> str | None:
    """Return the virtual organisation, `vo`, `vo:role` or `vo.role`, or None."""
    return first_of("PANDA_AUTH_VO", "OIDC_AUTH_VO")


def config_root() -> Path:
    """Return the folder of the token cache."""
    return Path(first_of("PANDA_CONFIG_ROOT") or "~/.pathena").expanduser()


def use_oidc() -> bool:
    """Whether PANDA_AUTH is `oidc` now. Section 3.4."""
    return os.environ.get("PANDA_AUTH") == "oidc"


def use_x509_no_grid() -> bool:
    """Whether PANDA_AUTH is `x509_no_grid` now: a client certificate without grid tools. Section 3.4."""
    return os.environ.get("PANDA_AUTH") == "x509_no_grid"
