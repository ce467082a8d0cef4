"""What the environment says, read whenever it is asked for, and what functions have changed for the process. An empty variable is as none.

PanDA, sections 2 and 3.4 of its behaviour.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from drayman.client.channel import DEFAULT_URL, UrlError, parse_url


@dataclass
class _Changes:
    """What the process has changed; None = nothing."""

    server: str | None = None
    cache_host: str | None = None
    uploaded_to: str | None = None
    temporary: str | None = None


_changes = _Changes()


def first_of(*names: str) -> str | None:
    """Return the value of the first of these variables that has one."""
    return next((value for name in names if (value := os.environ.get(name))), None)


def url() -> str:
    """Return the URL of the service, for calls that carry a token."""
    return _changes.server or first_of("PANDA_URL_SSL", "PANDA_URL", "DRAYMAN_URL") or DEFAULT_URL


def open_url() -> str:
    """Return the URL of the service, for calls that need no token."""
    return _changes.server or first_of("PANDA_URL", "PANDA_URL_SSL", "DRAYMAN_URL") or DEFAULT_URL


def cache_url() -> str:
    """Return the URL of the sandbox cache: PANDACACHE_URL, or where an upload went since, with the host of `setCacheServer`."""
    server = url()
    follows = _changes.server is not None or _changes.uploaded_to == server
    base = server if follows else first_of("PANDACACHE_URL") or server
    return _with_host(base, _changes.cache_host) if _changes.cache_host else base


def uploaded_to(server: str) -> None:
    """From now on the cache is where this upload went, as long as that is the server."""
    _changes.uploaded_to, _changes.cache_host = server, None


def temporary_folder() -> Path | None:
    """Return the folder of `setGlobalTmpDir`, or None."""
    return Path(_changes.temporary) if _changes.temporary else None


def setCacheServer(host_name: str | None) -> None:
    """Change the host of the sandbox cache for this process; scheme, port and path stay. None = as the environment says. Section 3.3."""
    _changes.cache_host = str(host_name) if host_name else None


def setGlobalTmpDir(tmpDir: str | os.PathLike[str] | None) -> None:
    """Change the folder of this process's temporary files: where `getFile` collects a file. None = beside the target. Section 3.4."""
    _changes.temporary = os.fspath(tmpDir) if tmpDir else None


def useDevServer() -> None:
    """Turn this process to the server PANDA_DEV_URL, whatever else the environment says. Raises UrlError (a ValueError). Section 3.4."""
    _use("PANDA_DEV_URL")


def useIntrServer() -> None:
    """Turn this process to the server PANDA_INTR_URL, whatever else the environment says. Raises UrlError (a ValueError). Section 3.4."""
    _use("PANDA_INTR_URL")


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


def _use(variable: str) -> None:
    server = first_of(variable)
    if server is None:
        raise UrlError(f"{variable} is not set: it has to be the URL of that server")
    parse_url(server)
    _changes.server, _changes.uploaded_to, _changes.cache_host = server, None, None


def _with_host(url: str, host: str) -> str:
    """Swap the host of a URL."""
    parts = urlsplit(url if "://" in url else f"grpc://{url}")
    user, at, place = parts.netloc.rpartition("@")
    port = place.rpartition(":")[2] if ":" in place.rpartition("]")[2] else ""
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"  # an IPv6 address
    return parts._replace(netloc=f"{user}{at}{host}{f':{port}' if port else ''}").geturl()
