"""What tests of auth share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from slapd import Slapd, find_slapd


@pytest.fixture(scope="session")
def slapd_installed() -> None:
    """For tests that start a slapd of their own. Without the program they are skipped, but in CI they fail."""
    if find_slapd() is None:
        reason = "NO LDAP LOGIN IS TESTED: slapd is not installed (Debian: apt-get install slapd)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slapd(slapd_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """A directory for the whole run, searched by its account only: do not stop it."""
    with Slapd(tmp_path_factory.mktemp("slapd")) as running:
        yield running


@pytest.fixture
def slapd_folder(slapd_installed: None, tmp_path: Path) -> Path:
    """An empty folder for a slapd of one's own."""
    folder = tmp_path / "slapd"
    folder.mkdir()
    return folder
