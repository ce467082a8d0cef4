"""The commands that jobs run: from what a user types to the words that a worker starts."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.prun.commands import build_script, for_bash, random_base, run_script, with_placeholders
from drayman.prun.endings import ConfigurationError
from drayman.server.task.placeholders import PlaceholderError, command_line
from drayman.server.task.plan import Item, JobFacts

FACTS = JobFacts(
    task_id=7,
    serial=3,
    attempt=1,
    inputs={"IN": ("a.root", "b c.root"), "IN2": ("noise.root",)},
    outputs={"OUTPUT0": "user.me.7._000003.out.root", "OUTPUT1": "user.me.7._000003.log.tgz"},
    numbers={"RNDMSEED": 11},
    skip_events=20,
    max_events=10,
    library="lib.7.000001.tgz",
)


def ran(command: str, *, outputs: int = 2) -> str:
    """What bash is given, after the service and the worker."""
    replaced = with_placeholders(command, streams=("IN", "IN2"), outputs=outputs)
    words = shlex.split(command_line((Item(value=for_bash(replaced)),), FACTS))
    assert words[0] == "-c"
    assert len(words) == 2
    return words[1]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_command_arrives_as_it_was_typed(command: str) -> None:
    assert shlex.split(for_bash(command)) == ["-c", command]


@given(st.text(st.sampled_from("ab %'\"\\$`{}()|;&<>*?[]!#~\n\t"), max_size=30))
def test_a_command_without_placeholders_passes_the_service_unchanged(command: str) -> None:
    try:
        arrived = ran(command)
    except PlaceholderError:
        pytest.fail("nothing in it is a placeholder")
    assert arrived == command


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("prog %IN", "prog a.root,b c.root"),
        ("prog '%IN' %IN2", "prog 'a.root,b c.root' noise.root"),
        ("prog ${IN/T}", "prog ['a.root', 'b c.root']"),
        ("prog ${IN/A}", "prog 'a.root','b c.root'"),
        ("prog -o %OUT", "prog -o user.me.7._000003.out.root,user.me.7._000003.log.tgz"),
        ("prog %RNDM:10 %RNDM:10", "prog 11 11"),
        ("prog %SKIPEVENTS/%MAXEVENTS", "prog 20/10"),
        ("date +%F; printf '%s %INFO' x", "date +%F; printf '%s %INFO' x"),
        ('echo "$HOME" ${x%.root} \\', 'echo "$HOME" ${x%.root} \\'),
        ("echo ${LIB}", "echo lib.7.000001.tgz"),
    ],
)
def test_placeholders(typed: str, expected: str) -> None:
    assert ran(typed) == expected


def test_a_placeholder_for_nothing_is_told() -> None:
    with pytest.raises(ConfigurationError, match="--inDS"):
        with_placeholders("prog %IN", streams=(), outputs=0)
    with pytest.raises(ConfigurationError, match="--outputs"):
        with_placeholders("prog %OUT", streams=(), outputs=0)


def test_where_random_seeds_begin() -> None:
    assert random_base("prog") is None
    assert random_base("prog %RNDM") == 0
    assert random_base("prog %RNDM:5 %RNDM:5") == 5
    with pytest.raises(ConfigurationError, match="different"):
        random_base("prog %RNDM:5 %RNDM:6")


def bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, env=os.environ | environment, check=False
    )


def filled(script: str) -> str:
    return shlex.split(command_line((Item(value=for_bash(script)),), FACTS))[1]


@pytest.mark.parametrize("command", ["echo 1 > 'my out'", "echo 1 > 'my out'; exit 0", "echo 1 > 'my out' # done"])
def test_what_a_command_makes_gets_its_name(tmp_path: Path, command: str) -> None:
    (tmp_path / "b1.txt").touch()
    (tmp_path / "b2.txt").touch()
    done = bash(filled(run_script(command, [("my out", False), ("b*.txt", True)], library=False)), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "user.me.7._000003.out.root").read_text() == "1\n"
    listed = bash("tar -tzf user.me.7._000003.log.tgz", tmp_path).stdout.split()
    assert listed == ["b1.txt", "b2.txt"]


def test_what_was_written_under_the_final_name_stays_and_what_is_missing_is_left_to_the_worker(tmp_path: Path) -> None:
    script = run_script("echo 1 > ${OUTPUT0}", [("out", False), ("never", False)], library=False)
    assert bash(filled(script), tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["user.me.7._000003.out.root"]


def test_a_job_fails_as_its_command_does(tmp_path: Path) -> None:
    done = bash(filled(run_script("echo 1 > out; exit 42", [("out", False)], library=False)), tmp_path)
    assert done.returncode == 42
    assert (tmp_path / "out").exists()
    assert bash(filled(run_script("false", [("out", False)], library=True)), tmp_path).returncode != 0


def test_what_a_build_leaves_the_others_find(tmp_path: Path) -> None:
    build, job = tmp_path / "build", tmp_path / "job"
    build.mkdir()
    job.mkdir()
    (build / "code.c").write_text("x")
    assert bash(filled(build_script("echo made > program; mkdir -p sub; touch sub/a")), build).returncode == 0
    (build / FACTS.library).rename(job / FACTS.library)
    done = bash(filled(run_script("cat program code.c sub/a", [], library=True)), job)
    assert (done.returncode, done.stdout) == (0, "made\nx")
    assert bash(filled(build_script("exit 3")), build).returncode == 3
