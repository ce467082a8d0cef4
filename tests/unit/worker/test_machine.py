"""What a pilot says of its machine, and which jobs that fits."""

import platform

import pytest

from drayman.server.task.matching import platform_fits
from drayman.worker.machine import own_platform

ALMA = {"ID": "almalinux", "ID_LIKE": "rhel centos fedora", "VERSION_ID": "9.4"}


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (ALMA, "x86_64-el9@el9#x86_64"),
        ({"ID": "rhel", "VERSION_ID": "8.10", "ID_LIKE": "fedora"}, "x86_64-el8@el8#x86_64"),
        ({"ID": "centos", "VERSION_ID": "7"}, "x86_64-el7@el7#x86_64"),
        ({"ID": "ubuntu", "VERSION_ID": "24.04", "ID_LIKE": "debian"}, "x86_64-ubuntu24@ubuntu24#x86_64"),
        ({"ID": "arch"}, "x86_64-arch@arch#x86_64"),
        ({"ID": "opensuse-leap", "VERSION_ID": "15.6"}, "x86_64-opensuseleap15@opensuseleap15#x86_64"),
    ],
)
def test_names(monkeypatch: pytest.MonkeyPatch, release: dict[str, str], expected: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert own_platform() == expected


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ("", True),
        ("x86_64", True),
        ("x86_64-el9", True),
        ("@el9", True),
        ("#x86_64", True),
        ("x86_64-*@el9#x86_64", True),
        ("x86_64-el8", False),
        ("aarch64", False),
        ("@el7", False),
        ("x86_64-el9-gcc13-opt", False),
        ("x86_64&nvidia", False),
    ],
)
def test_jobs_that_ask_for_it(monkeypatch: pytest.MonkeyPatch, asked: str, fits: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: ALMA)
    assert (not asked or platform_fits(asked, own_platform())) is fits


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "freedesktop_os_release", unknown)
    assert own_platform() == "arm64-darwin@darwin#arm64"
