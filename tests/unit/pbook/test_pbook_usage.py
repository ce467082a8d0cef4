"""Help, and what cannot be right: `pbook` without a server."""

import io
import subprocess
import sys

import pytest

from drayman.pbook.endings import Refusal
from drayman.pbook.finding import active_states, states_of, superstatus
from drayman.pbook.program import run
from drayman.pbook.verbs import VERBS

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAYMAN_URL", "grpc://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["shew"], "there is no verb 'shew'"),
        (["--what"], "there is no option"),
        (["-c"], "-c takes one text"),
        (["-c", "show(1"], "not understood"),
        (["-c", "os.getcwd()"], "not understood"),
        (["-c", "kill(me)"], "texts stand in quotes"),
        (["kill"], "needs taskIDs"),
        (["kill", "some"], "expected an ID or a list of them, or 'all'"),
        (["show", "123", "formt=long"], "unknown option 'formt'"),
        (["show", "format=xml"], "expected one of standard, long"),
        (["show", "status=walking"], "there is no status 'walking'"),
        (["show", "superstatus=walking"], "there is no superstatus"),
        (["show", "days=91"], "at most 90"),
        (["retry", "1", "nJobs=2"], "nothing was sent"),
        (["help", "me"], "there is no verb 'me'"),
        (["set_secret", "", "x"], "the key is empty"),
        (["set_secret", "k", "/no/file", "True"], "cannot be read"),
        (["set_secret", "k", "x" * 1_024_001], "at most 1024000"),
        (["delete_secret", ""], "the key is empty"),
        (["debug", "1", "perhaps"], "expected True or False"),
    ],
)
def test_what_is_wrong_is_one_line_and_1(words: list[str], problem: str, capsys: Captured) -> None:
    assert run(words) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("pbook: ")
    assert problem in err


def test_help(capsys: Captured) -> None:
    assert run(["help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"  {name} " in overview for name in VERBS)
    for words in (["help", "retry"], ["retry", "--help"], ["-c", "help(retry)"], ["-c", "help('retry')"]):
        assert run(words) == 0
        assert capsys.readouterr().out.startswith("retry(taskIDs, ")
    for words in (["--help"], ["-h"], ["--version"]):
        assert run(words) == 0
        assert "pbook" in capsys.readouterr().out


def test_lines_that_are_piped_in(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, code in (
        ("help(show)\n\n# nothing\n", 0),
        ("help(show)\nshew()\n", 1),
        ("shew()\nquit()\nhelp(", 1),
        ("", 0),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert run([]) == code
    out, err = capsys.readouterr()
    assert out.count("show(some_id=None") == 2
    assert err.count("there is no verb") == 2


def test_states() -> None:
    assert superstatus("scouting") == superstatus("paused") == "running"
    assert states_of(["done"], coarse=False) == ["done"]
    assert "scouting" in states_of(["running"], coarse=True)
    assert states_of(["finished", "done"], coarse=True) == ["done", "finished"]
    assert not {"done", "exhausted", "aborted"} & set(active_states())
    assert {"registered", "running", "paused"} <= set(active_states())
    with pytest.raises(Refusal):
        states_of([""], coarse=False)


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys; from drayman.pbook.program import run; assert run(sys.argv[1:]) == 0;"
        "assert not {'grpc', 'asyncio', 'click', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, "help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
