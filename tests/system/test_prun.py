"""`prun` and `drayman run`: the real commands against real services, with jobs that a real pilot runs."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.client import RegistryClient
from drayman.testing import LocalStack
from system.cli_runner import Cli
from system.pilot_process import pilot


class Prun:
    """`prun` as one user, in a folder of its own."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli = cli
        self.folder = folder

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        return self._run([sys.executable, "-m", "drayman.prun", *words], environment)

    def drayman(self, *words: str) -> tuple[int, str, str]:
        return self._run(self.cli.command(*words), {})

    def ok(self, *words: str, **environment: str) -> int:
        """Submit a task; returns its number."""
        code, out, err = self.run(*words, **environment)
        assert (code, err) == (0, ""), err
        head, _, number = out.strip().partition("new jediTaskID=")
        assert head == "INFO : succeeded. "
        return int(number)

    def refused(self, *words: str, code: int, **environment: str) -> str:
        """It must end with one line on standard error and nothing else."""
        ended, out, err = self.run(*words, **environment)
        assert (ended, out, err.count("\n")) == (code, "", 1), (out, err)
        assert err.startswith("prun: ")
        return err

    def ended(self, task_id: int) -> str:
        """Wait for a task; returns its state."""
        lines = self.cli.run("task", "watch", str(task_id), "--json").out.splitlines()
        print(self.cli.run("job", "list", "--task", str(task_id)).out)  # shown if the test fails
        return str(json.loads(lines[-1])["state"])

    def _run(self, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.cli.environment | environment,
            cwd=self.folder,
            timeout=90,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def user(stack: LocalStack) -> str:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return name


@pytest.fixture(scope="module")
def working(stack: LocalStack, user: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A pilot."""
    with pilot(Cli.of(stack, user), tmp_path_factory.mktemp("pilot"), "--parallel", "2"):
        yield


@pytest.fixture
def prun(stack: LocalStack, tmp_path: Path, user: str) -> Prun:
    folder = tmp_path / "code"
    folder.mkdir()
    return Prun(Cli.of(stack, user), folder)


def new_name(user: str) -> str:
    return f"user.{user}.{uuid4().hex[:8]}"


async def files_of(stack: LocalStack, user: str, asset: str, version: str, target: Path) -> dict[str, bytes]:
    async with RegistryClient(stack.url, stack.token(user)) as registry:
        await registry.download("outputs", asset, version, target)
    return {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}


async def test_a_chain_of_tasks(stack: LocalStack, prun: Prun, working: None, user: str, tmp_path: Path) -> None:
    script = prun.folder / "make.sh"
    script.write_text("#!/bin/sh\necho made $1 > out.txt\necho '{\"seed\": '$1'}' > userJobMetadata.json\n")
    script.chmod(0o755)
    (prun.folder / "big").write_bytes(bytes(2**20 + 1))
    first = new_name(user)
    words = ["--exec", "./make.sh %RNDM:100; test ! -e big", "--nJobs", "3", "--outputs", "out.txt", "--outDS", first]
    code, out, err = prun.run(*words, "--skipScout")
    assert (code, err) == (0, "prun: big stays here: it has more than 1 MB\n")
    task_id = int(out.rpartition("=")[2])
    assert prun.ended(task_id) == "done"
    made = await files_of(stack, user, f"{first}_out.txt", str(task_id), tmp_path / "first")
    assert made == {
        f"user.{user}.{task_id}._{number:06d}.out.txt": f"made {100 + number}\n".encode() for number in (1, 2, 3)
    }
    second = new_name(user)
    code, out, _ = prun.drayman(
        "run",
        *("--exec", "cat lib.txt $(echo %IN | tr , ' ') > all.txt; exit 0"),
        *("--bexec", "tr a-z A-Z < make.sh | head -1 > lib.txt; rm make.sh"),
        *("--inDS", f"{first}_out.txt", "--nFilesPerJob", "2", "--outputs", "all.txt", "--outDS", second),
        *("--excludeFile", "big"),
    )
    lines = out.splitlines()
    assert code == 0, out
    child = int(lines[0].rpartition("=")[2])
    assert " done  3 done" in lines[-1]
    made = await files_of(stack, user, f"{second}_all.txt", str(child), tmp_path / "second")
    assert sorted(made.values()) == [b"#!/BIN/SH\nmade 101\nmade 102\n", b"#!/BIN/SH\nmade 103\n"]


def test_the_same_folder_is_stored_once(prun: Prun, user: str) -> None:
    (prun.folder / "code").write_text(uuid4().hex)
    names = []
    for stored in ("prun: stored: ", "prun: the same was stored before: "):
        words = [
            "--exec",
            "true",
            "--outDS",
            new_name(user),
            "-v",
            "--dumpJson",
            "record.json",
            "--dumpTaskParams",
            "p.json",
        ]
        code, _, err = prun.run(*words)
        assert code == 0, err
        assert err.splitlines()[-1].startswith(stored)
        names.append(json.loads((prun.folder / "p.json").read_text())["fixedSandbox"])
        record = json.loads((prun.folder / "record.json").read_text())
        assert record["returnCode"] == 0
        parameters = prun.cli.ok("task", "parameters", str(record["jediTaskID"])).json
        assert parameters["cliParams"].startswith("prun --exec true")
    assert names[0] == names[1]
    # a build job's goes under another name
    code, _, err = prun.run("--exec", "true", "--bexec", "true", "--outDS", new_name(user), "-v")
    assert code == 0
    assert "prun: stored: sources." in err


def test_a_name_that_is_taken(prun: Prun, working: None, user: str) -> None:
    name = new_name(user)
    words = ["--exec", "true", "--outDS", name, "--nJobs", "1", "--site", "NOWHERE"]
    task_id = prun.ok(*words)
    text = prun.refused(*words, "--dumpJson", "record.json", code=90)
    assert f"jediTaskID={task_id} has the same name" in text
    record = json.loads((prun.folder / "record.json").read_text())
    assert (record["returnCode"], record["jediTaskID"]) == (90, task_id)
    assert prun.cli.run("task", "kill", str(task_id)).code == 0
    assert prun.ended(task_id) == "aborted"
    code, out, _ = prun.run(*words, "--site", "AUTO")
    assert code == 0
    assert f"jediTaskID={task_id}" in out


def test_exit_codes_and_where_services_are(stack: LocalStack, prun: Prun, user: str) -> None:
    words = ["--exec", "true", "--outDS", new_name(user)]
    assert "cannot be stored" not in prun.refused(*words, code=90, DRAYMAN_TOKEN="nonsense")  # nothing to store
    (prun.folder / "code").write_text("x")
    assert "cannot be stored" in prun.refused(*words, code=50, DRAYMAN_TOKEN="nonsense")
    assert "is it up" in prun.refused(*words, code=50, DRAYMAN_URL="grpc://127.0.0.1:1")
    assert "ftp://x" in prun.refused(*words, code=10, DRAYMAN_URL="ftp://x")
    (prun.folder / "link").symlink_to("/etc/passwd")
    assert "link is a link" in prun.refused(*words, code=60)
    (prun.folder / "link").unlink()
    (prun.folder / "noise").write_bytes(os.urandom(11 * 2**20))
    assert "10 MB" in prun.refused(*words, "--maxFileSize", "20", code=60)
    (prun.folder / "noise").unlink()
    token = stack.token(user)
    of_panda = {"PANDA_URL_SSL": stack.url, "PANDA_AUTH_ID_TOKEN": token}
    task_id = prun.ok(*words, DRAYMAN_URL="grpc://127.0.0.1:1", DRAYMAN_TOKEN="nonsense", **of_panda)
    assert prun.cli.ok("task", "show", str(task_id), "--json").json["task"]["name"] == words[-1]


def test_how_a_run_ends_tells_how_the_task_did(prun: Prun, working: None, user: str) -> None:
    code, out, err = prun.drayman(
        "run", "--exec", "echo no luck; exit 7", "--outDS", new_name(user), "--disableAutoRetry", "--json"
    )
    assert (code, err) == (1, "")
    last = json.loads(out.splitlines()[-1])
    assert last["state"] in ("failed", "broken")
    code, out, err = prun.drayman("run", "--exec", "true", "--outDS", new_name(user), "--no-follow", "--json")
    assert (code, err) == (0, "")
    parent = json.loads(out)["task_id"]
    code, out, _ = prun.drayman(
        *("run", "--exec", "true", "--outDS", new_name(user), "--parentTaskID", str(parent), "--json")
    )
    assert code == 0
    assert json.loads(out.splitlines()[-1])["parent_task_id"] == parent
    code, out, err = prun.drayman("run", "--exec", "true")
    assert (code, out, err) == (2, "", "drayman: --outDS is needed: the name of the task, such as user.me.test1\n")


def test_a_terminal_shows_a_bar(prun: Prun, working: None, user: str) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = prun.cli.command("run", "--exec", "true", "--nJobs", "2", "--outDS", new_name(user))
        process = subprocess.Popen(
            command, stdout=theirs, stderr=theirs, stdin=theirs, env=prun.cli.environment, cwd=prun.folder
        )
        os.close(theirs)
        shown = b""
        try:
            while block := terminal.read(65536):
                shown += block
        except OSError:  # the other end is closed
            pass
        assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "100%" in text
    assert "2 done" in text
