"""What workers offer and credentials that users delegate, through the PanDA mirror against a live stack."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from contract.panda_house import NOBODY, Panda
from drayman.pandaclient import Client


def offer(panda: Panda, platform: str, *software: str) -> None:
    """Ask for a job as a worker that has this."""
    with panda.worker() as worker:
        assert worker.next_job(platform=platform, software=software, timeout=0) is None


def eventually(ask: Any, expected: Any) -> None:
    """Wait for an answer: offers are recorded a moment after they were made."""
    deadline = time.monotonic() + 30
    while (found := ask()) != expected:
        assert time.monotonic() < deadline, found


def test_platforms_of_a_software(panda: Panda) -> None:
    name = f"Soft{uuid4().hex[:8]}"
    release = f"{name}-1.2"
    assert Client.getCmtConfigList(release, False) == []
    offer(panda, "x86_64-el9", f"{name}-1.1@x86_64-el9", release)
    offer(panda, "aarch64-el9", release)
    eventually(lambda: Client.getCmtConfigList(release), ["aarch64-el9", "x86_64-el9"])
    assert Client.getCmtConfigList(f"{name}-1.1@x86_64-el9") == ["x86_64-el9"]
    assert Client.getCmtConfigList(f"{name}-9") == []
    for wrong in ("", None):
        assert Client.getCmtConfigList(wrong) == []


def test_software_caches(panda: Panda) -> None:
    name = f"Soft{uuid4().hex[:8]}"
    offer(panda, "x86_64-el9", f"{name}-1.1@x86_64-el9", f"{name}-v2.0", f"{name}Tool", f"{name}-with-dash-3")
    wanted = [name, f"{name}-with-dash", f"{name}Tool"]
    eventually(lambda: sorted(each for each in Client.getCachePrefixes(False) if each.startswith(name)), sorted(wanted))


def test_where_nobody_answers(
    panda: Panda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAYMAN_URL", NOBODY)
    assert Client.getCachePrefixes(True) == []
    assert Client.getCmtConfigList("x", True) == []
    assert "UNAVAILABLE" in capsys.readouterr().out


def test_a_delegated_credential(panda: Panda) -> None:
    assert Client.getProxyKey() == (0, {})
    assert Client.registerProxyKey("cred", "host.example", "myproxy.example") == (0, True)
    status, found = Client.getProxyKey()
    assert status == 0
    assert set(found) == {"credname", "expires", "origin", "myproxy"}
    assert (found["credname"], found["origin"], found["myproxy"]) == ("cred", "host.example", "myproxy.example")
    expires = datetime.strptime(found["expires"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    attributes = Client.get_cert_attributes()[1]
    assert abs(expires - datetime.fromtimestamp(attributes["expiry"], UTC)) < timedelta(seconds=2), "as the token does"
    assert Client.registerProxyKey("cred", "other.example", "myproxy.example") == (0, True)
    assert Client.getProxyKey()[1]["origin"] == "other.example"
    assert os.environ["DRAYMAN_TOKEN"] not in json.dumps(found), "never its content"
    with panda.stranger():
        assert Client.getProxyKey() == (0, {})


def test_the_record_that_lasts_longest(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, lifetime in (("short", 60.0), ("long", 3600.0), ("shorter", 30.0)):
        monkeypatch.setenv("DRAYMAN_TOKEN", panda.stack.token(panda.name, lifetime))
        assert Client.registerProxyKey(name, "o", "m", True) == (0, True)
    assert Client.getProxyKey(True)[1]["credname"] == "long"


def test_expired_records_are_none(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAYMAN_TOKEN", panda.stack.token(panda.name, 3.0))
    assert Client.registerProxyKey("brief", "o", "m") == (0, True)
    panda.become(panda.name)
    assert Client.getProxyKey()[1]["credname"] == "brief"
    eventually(Client.getProxyKey, (0, {}))


@pytest.mark.parametrize("name", ["", None, "x" * 1001, "a\0b"])
def test_credentials_that_are_none(panda: Panda, name: Any) -> None:
    assert Client.registerProxyKey(name, "o", "m") == (0, False)
    assert Client.getProxyKey() == (0, {})


def test_credentials_of_nobody(panda: Panda) -> None:
    panda.be_nobody()
    assert Client.registerProxyKey("a", "o", "m") == (0, False)
    assert Client.getProxyKey() == (0, {})


def test_the_clients_version(panda: Panda) -> None:
    panda.be_nobody()
    status, version = Client.getPandaClientVer(False)
    assert status == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
