"""Command lines that cannot be right, help, and dry runs: `prun` without a server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drayman.cli.run import run as verb
from drayman.prun.command_line import parser
from drayman.prun.options import TABLE
from drayman.prun.program import run

Captured = pytest.CaptureFixture[str]
LEAST = ["--exec", "prog", "--outDS", "user.me.x"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "prog").write_text("echo")
    monkeypatch.chdir(tmp_path / "code")
    monkeypatch.setenv("DRAYMAN_URL", "grpc://127.0.0.1:1")
    return tmp_path / "code"


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        ([], 10, "--exec is needed"),
        (["--exec", "x"], 10, "--outDS is needed"),
        (["--what"], 10, "unrecognized arguments: --what"),
        (["--exec"], 10, "expected one argument"),
        ([*LEAST, "--nJobs", "many"], 10, "--nJobs 'many': expected a whole number"),
        ([*LEAST, "--maxAttempt", "51"], 10, "from 1 to 50"),
        ([*LEAST, "--workDir", "none"], 10, "is no folder"),
        ([*LEAST, "--loadJson", "none"], 10, "cannot be read"),
        ([*LEAST, "--noSubmit", "--dumpJson", "no/x.json"], 10, "cannot be written"),
        ([*LEAST, "--inTarBall", "none"], 60, "no archive that can be read"),
        ([*LEAST, "--outTarBall", "no/x"], 60, "cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(words: list[str], code: int, problem: str, capsys: Captured) -> None:
    assert run(words) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("prun: ")
    assert problem in err


def test_nothing_is_asked_of_services_in_a_dry_run(folder: Path, capsys: Captured) -> None:
    words = [*LEAST, "--nJobs", "2", "--noSubmit", "--dumpTaskParams", "-", "--dumpJson", "record.json"]
    assert run(words) == 0
    parameters = json.loads(capsys.readouterr().out)
    assert parameters["nEvents"] == 2
    assert parameters["cliParams"].startswith("prun --exec prog")
    assert parameters["fixedSandbox"].startswith("jobO.")
    record = json.loads((folder / "record.json").read_text())
    assert (record["returnCode"], record["jediTaskID"], record["nJobs"]) == (0, None, 2)

    assert run(["--loadJson", "record.json", "--nJobs", "5", "--dumpTaskParams", "params.json"]) == 0
    again = json.loads((folder / "params.json").read_text())
    assert again["nEvents"] == 5
    assert again["jobParameters"] == parameters["jobParameters"]
    (folder / "bad.json").write_text('{"nJbos": 1}')
    assert run(["--loadJson", "bad.json"]) == 10
    assert "nJbos" in capsys.readouterr().err


def test_what_stays_here_is_told(folder: Path, capsys: Captured) -> None:
    (folder / "big\x1b").write_bytes(bytes(2**20 + 1))
    assert run([*LEAST, "--noSubmit"]) == 0
    assert capsys.readouterr().err == "prun: big\\x1b stays here: it has more than 1 MB\n"


def test_options_may_be_shortened_and_repeated(folder: Path) -> None:
    words = ["--exe", "prog %IN", "--outDS", "x", "--inDS", "a,b", "--inDS", "c", "--noSub", "--dumpT", "p.json"]
    assert run(words) == 0
    items = json.loads((folder / "p.json").read_text())["jobParameters"]
    assert items[0]["dataset"] == "a,b,c"


def test_help_names_every_option(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as end:
        run(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in TABLE)
    assert "%IN, %OUT" in text
    assert "%%" not in text


def test_both_commands_have_the_same_options() -> None:
    ours = {action.dest for action in parser()._actions} - {"help", "version"}
    theirs = {parameter.name for parameter in verb.params} - {"following", "as_json", "help"}
    assert ours == theirs == set(TABLE)


def test_a_mistake_is_told_before_anything_slow_is_imported(folder: Path) -> None:
    program = (
        "import sys; from drayman.prun.program import run; assert run(sys.argv[1:]) == 10;"
        "assert not {'grpc', 'asyncio', 'click', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, "--nJobs", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
