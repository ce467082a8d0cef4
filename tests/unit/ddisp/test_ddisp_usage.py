"""Command lines that cannot be right, and help: `ddisp` without a server."""

import dataclasses
import socket
from pathlib import Path

import pytest

from drayman.ddisp.program import DDISP, run
from drayman.ddisp.version import VERSION

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Worker-id files are made in the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "a command is needed"),
        ("project", "a command is needed"),
        ("projects", "no command 'projects'"),
        ("project shew 1", "no command 'shew'"),
        ("project show", "expected <project id>"),
        ("project show -x 1", "option -x not recognized"),
        ("project show 1 -j", "options go before"),
        ("project show one", "'one' is no project id"),
        ("project create", "exactly one of"),
        ("project create -l a -j b", "exactly one of"),
        ("project create -p yaml -l a", "expected one of json"),
        ("project create -w soon -l a", "no time-out"),
        ("project create -a x -l a", "expected name=value"),
        ("project restart 1", "say which files"),
        ("project restart 1 nocolon", "expected namespace:name"),
        ("project list -s sad", "expected one of all"),
        ("project search", "words of a query"),
        ("worker next -t soon 1", "expected seconds"),
        ("worker id -n mine", "one of the two"),
        ("worker done 1", "expected <project id> <DID>|all"),
        ("rse create -e maybe x", "True or False"),
        ("rse create -o much x", "whole number"),
        ("rse create -i tape x", "wlcg"),
        ("rse set x", "-a up"),
        ("login -m magic ann", "expected one of password"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    words: str, problem: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DISPATCHER_URL", "grpc://127.0.0.1:1")
    assert run(words.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("ddisp: ")
    assert problem in err


@pytest.mark.parametrize(
    "words", ["help", "--help", "-?", "-s x help", "project help", "project create --help", "worker next -?", "rse -?"]
)
def test_help_at_every_level(words: str, capsys: Captured) -> None:
    assert run(words.split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ddisp ")
    assert err == ""


def test_no_url_no_server_and_no_file_are_said_in_one_line(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["version"]) == 2
    assert "DATA_DISPATCHER_URL" in capsys.readouterr().err
    monkeypatch.setitem(DDISP.members, "version", dataclasses.replace(VERSION, patience=0.0))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{nobody.getsockname()[1]}"
        assert run(["-s", url, "version"]) == 1
    assert f"cannot reach {url}" in capsys.readouterr().err
    assert run(["-s", "ftp://x", "version"]) == 1
    assert "ftp://x" in capsys.readouterr().err
    assert run(["-s", url, "project", "create", "-l", "none"]) == 1
    assert "No such file" in capsys.readouterr().err
    assert run(["-s", url, "project", "show", "-f", "sad", "1"]) == 1
    assert capsys.readouterr().out.startswith("Invalid file state")
