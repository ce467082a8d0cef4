"""`ddisp`: the real command against real services, as shell scripts use it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman.data_dispatcher.api import DataDispatcherClient
from drayman.testing import LocalStack

#: What is put before every script.
PRELUDE = f"""
ddisp() {{ '{sys.executable}' -m drayman.ddisp "$@"; }}
fail() {{ echo "FAILED: $*"; exit 99; }}
"""

#: MetaCat's client, as far as a project needs it: it answers what it was asked.
METACAT = """
class MetaCatClient:
    def query(self, query, with_metadata=False):
        if query == "wrong":
            raise RuntimeError("syntax error")
        if query == "nothing":
            return
        for name in ("one", "two"):
            info = {"namespace": "mc", "name": name, "fid": "f-" + name, "size": 5}
            if with_metadata:
                info["metadata"] = {"core.run": [7], "asked": query}
            yield info
"""


class Ddisp:
    """`ddisp` as one user of a stack, in a folder of its own."""

    def __init__(self, stack: LocalStack, folder: Path, user: str | None, **environment: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DRAYMAN_", "DATA_DISP"))}
        self.folder = folder
        self.environment = kept | {"DATA_DISPATCHER_URL": stack.url, "HOME": str(folder)} | environment
        if user is not None:
            self.environment["DRAYMAN_TOKEN"] = stack.token(user)

    def run(self, *words: str, stdin: str = "") -> tuple[int, str, str]:
        command = [sys.executable, "-m", "drayman.ddisp", *words]
        return self._run(command, stdin)

    def script(self, text: str) -> str:
        """Run a shell script; it must end well and say nothing on standard error."""
        code, out, err = self._run(["bash", "-c", PRELUDE + text], "")
        assert (code, err) == (0, ""), (out, err)
        return out

    def ok(self, *words: str, stdin: str = "") -> str:
        code, out, err = self.run(*words, stdin=stdin)
        assert (code, err) == (0, ""), (out, err)
        return out

    def json(self, *words: str) -> Any:
        out = self.ok(*words)
        value = json.loads(out)
        assert out == json.dumps(value, indent=2, sort_keys=True) + "\n"
        return value

    def answered(self, *words: str) -> str:
        """Run it; it must print an answer that is none and end with 1."""
        code, out, err = self.run(*words)
        assert (code, err) == (1, ""), (out, err)
        return out

    def refused(self, *words: str, code: int = 1, stdin: str = "") -> str:
        """Run it; it must end with one line on standard error and nothing else."""
        ended, out, err = self.run(*words, stdin=stdin)
        assert (ended, out, err.count("\n")) == (code, "", 1), (out, err)
        assert err.startswith("ddisp: ")
        return err

    def _run(self, command: list[str], stdin: str) -> tuple[int, str, str]:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def user(stack: LocalStack) -> str:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name, password="open sesame")
    return name


@pytest.fixture
def ddisp(stack: LocalStack, tmp_path: Path, user: str) -> Ddisp:
    return Ddisp(stack, tmp_path, user)


@pytest.fixture
def admin(stack: LocalStack, tmp_path: Path) -> Ddisp:
    return Ddisp(stack, tmp_path, stack.admin[0])


@pytest.fixture
def api(stack: LocalStack, user: str) -> DataDispatcherClient:
    return DataDispatcherClient(stack.url, token=stack.token(user), worker_id=f"w{uuid4().hex[:8]}")


def test_a_shell_script_works_through_a_project(ddisp: Ddisp) -> None:
    out = ddisp.script(
        """
        printf 'run7:a\\nrun7:b n=5\\nrun7:c\\n' > list
        project=$(ddisp project create -l list -A 'virtual=true step=reco' -a 'n=1 site=x' -w 5m -t none) || fail create
        me=$(ddisp worker id -n)
        [ "$(ddisp worker id)" = "$me" ] || fail id
        while out=$(ddisp worker next -j -c here -t 10 $project)
        do
            did=$(echo "$out" | sed -n 's/.*"name": "\\(.*\\)",/run7:\\1/p')
            echo "got $did"
            case $did in
                run7:a) ddisp worker done $project $did || fail done ;;
                run7:b) ddisp worker failed -f $project $did || fail failed ;;
                run7:c) [ -e tried ] && ddisp worker done $project $did || { touch tried; ddisp worker failed $project $did; } ;;
            esac
        done
        echo "$out"
        ddisp worker next $project && fail next
        ddisp project restart -f -d $project || fail restart
        ddisp worker next -w other -t 0 $project
        echo "project $project"
        """
    )
    got, project = out.split("project ")
    lines = [line for line in got.splitlines() if line.startswith("got ")]
    assert sorted(set(lines)) == ["got run7:a", "got run7:b", "got run7:c"]
    assert len(lines) == 4
    assert '{\n  "state": "done"\n}\ndone\nrun7:' in got
    number = project.strip()
    shown = ddisp.json("project", "show", "-j", number)
    assert (shown["attributes"], shown["worker_timeout"], shown["idle_timeout"]) == (
        {"virtual": True, "step": "reco"},
        300.0,
        None,
    )
    assert [each["attributes"]["n"] for each in shown["file_handles"]] == [1, 5, 1]
    assert ddisp.json("project", "show", "-j", "-f", "done", number)["file_handles"] == []


def test_projects_are_shown_listed_copied_and_ended(ddisp: Ddisp, api: DataDispatcherClient, user: str) -> None:
    made = api.create_project(
        ["a:one", "a:two"],
        project_attributes={"virtual": True, "tag": "x", "list": [1]},
        query="files from a",
        users=["admin"],
    )
    number = str(made["project_id"])
    held = api.next_file(number)
    assert isinstance(held, dict)
    api.file_failed(number, held, retry=False)

    head, table = ddisp.ok("project", "show", number).split("Handles:\n")
    fields = dict(re.findall(r"^ *([\w ]+?): *(.*)$", head, re.MULTILINE))
    assert re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d UTC", fields.pop("Created"))
    assert fields == {
        "Project ID": number,
        "Owner": user,
        "Ended": "",
        "Query": "files from a",
        "Status": "active",
        "Worker timeout": "None",
        "Idle timeout": "259200.0",
        "Authorized users": "admin",
        "roles": "",
        "Project Attributes": "",
    }
    assert "  virtual         = True\n  tag             = x\n  list            = [1]\n" in head
    title, rule, *rows, end = table.splitlines()
    assert title.split() == ["Status", "Available", "Replicas", "Attempts", "Timeouts", "Worker", "File"]
    assert rule == end
    assert rule.strip("- ") == ""
    assert [row.split() for row in rows] == [
        ["initial", "no", "0/0", "0", "0", "-", "a:two" if held["name"] == "one" else "a:one"],
        ["failed", "no", "0/0", "1", "0", "-", f"a:{held['name']}"],
    ]
    assert ddisp.ok("project", "show", "-a", number) == "list [1]\ntag x\nvirtual True\n"
    assert ddisp.json("project", "show", "-a", "-j", number) == made["attributes"]

    title, _, *rows, _ = ddisp.ok("project", "list").splitlines()
    assert re.split(r" +(?=[A-Z])", title.strip()) == ["Project id", "Owner", "Created", "State", "Done/Failed/Total"]
    row = next(row.split() for row in rows if row.split()[0] == number)
    assert (row[1], row[-2:]) == (user, ["active", "0/1/2"])

    second = ddisp.ok("project", "copy", "-w", "none", "-t", "1d", "-A", "tag=y", number).strip()
    copied = ddisp.json("project", "copy", "-p", "json", "-a", "n=1", number)
    assert copied["idle_timeout"] == 259200.0
    assert ddisp.ok("project", "copy", "-p", "pprint", number).startswith("{'active': True,\n 'attributes': {")
    changed = ddisp.json("project", "list", "-j", "-a", "tag=y virtual=true")
    assert [str(each["project_id"]) for each in changed] == [second]
    assert (changed[0]["worker_timeout"], changed[0]["idle_timeout"], len(changed[0]["file_handles"])) == (
        None,
        86400.0,
        2,
    )

    (ddisp.folder / "query").write_text("tag = 'y'\nand virtual = true")
    found = ddisp.json("project", "search", "-j", "-u", user, "-q", "query")
    assert [str(each["project_id"]) for each in found] == [second]
    assert ddisp.ok("project", "search", "tag", "=", '"y"').splitlines()[2].split()[-1] == "0/0/2"
    assert "(400)" in ddisp.refused("project", "search", "tag", "=")

    assert ddisp.ok("project", "cancel", second) == ""
    assert ddisp.json("project", "list", "-j", "-a", "tag=y") == []
    assert len(ddisp.json("project", "list", "-j", "-s", "all", "-u", "all", "-a", "tag=y")) == 1
    assert ddisp.json("project", "list", "-j", "-s", "all", "-n", "cancelled", "-a", "tag=y") == []
    # a defect mended: this was the state before
    assert ddisp.json("project", "activate", "-j", second)["state"] == "active"
    assert ddisp.ok("project", "delete", second) == ""
    assert ddisp.answered("project", "show", second) == f"Project {second} not found\n"


def test_files_and_replicas(ddisp: Ddisp, admin: Ddisp, stack: LocalStack, api: DataDispatcherClient) -> None:
    tag = f"T{uuid4().hex[:8]}"
    near, far = f"{tag}near", f"{tag}far"
    shown = admin.ok("rse", "create", "-d", "a disk", "-o", "3", "-i", "wlcg", "-u", "https://pin", "-m", "/in", near)
    assert shown.splitlines()[:5] == [
        f"RSE:            {near}",
        "Preference:     3",
        "Tape:           no",
        "Enabled:        yes",
        "Available:      yes",
    ]
    assert admin.json("rse", "create", "-j", "-t", "True", "-e", "False", far)["is_tape"] is True
    changed = admin.json("rse", "update", "-j", "-e", "true", "-l", "/out", far)
    assert (changed["is_enabled"], changed["remove_prefix"]) == (True, "/out")
    boss = DataDispatcherClient(stack.url, token=stack.token(stack.admin[0]), worker_id="nobody")
    replicas = [(near, 1), (far, 9)]
    boss.add_replicas(
        {"namespace": tag, "name": "x", "rse": rse, "url": f"root://{rse}/x", "preference": n} for rse, n in replicas
    )
    boss.add_replicas([{"namespace": tag, "name": "y", "rse": far, "url": "root://y"}])
    boss.set_proximity(tag, far, 1)
    boss.set_proximity(tag, near, 50)
    number = ddisp.ok(
        "project", "create", "-j", "-", stdin=json.dumps([f"{tag}:x", {"namespace": tag, "name": "y"}])
    ).strip()

    title, _, first, *more = ddisp.ok("project", "show", "-r", number).split("Handles:\n")[1].splitlines()
    # a defect mended: this crashed as soon as there was a replica
    assert title.endswith("File / RSE, available, URL")
    assert first.split() == ["initial", "yes", "2/2", "0", "0", "-", f"{tag}:x"]
    assert [line.split() for line in more[:2]] == [[far, "yes", f"root://{far}/x"], [near, "yes", f"root://{near}/x"]]

    assert admin.ok("rse", "set", "-a", "down", far) == ""
    table = ddisp.ok("rse", "list").splitlines()
    assert table[0].split() == ["Name", "Tape", "Status", "Enabled", "Description"]
    assert next(line.split() for line in table if line.startswith(far)) == [far, "tape", "down", "yes"]
    assert ddisp.json("rse", "show", "-j", far)["is_available"] is False

    rows = [line.split() for line in ddisp.ok("file", "list", number).splitlines()[2:-1]]
    assert [row[1:3] + row[-1:] for row in rows] == [["yes", "1/2", f"{tag}:x"], ["no", "0/1", f"{tag}:y"]]
    assert [each["name"] for each in ddisp.json("file", "list", "-j", "-r", near, number)] == ["x"]
    assert ddisp.json("file", "list", "-j", "-s", "done", number) == []
    lines = ddisp.ok("file", "show", number, f"{tag}:x").splitlines()
    assert lines[:4] == [f"project_id: {number}", f"namespace : {tag}", "name      : x", "state     : initial"]
    assert lines[lines.index("replicas:") + 1 :][:5] == [
        "  Preference:  9",
        f"  RSE:         {far}",
        "  Path:",
        f"  URL:         root://{far}/x",
        "  Available:   no",
    ]
    assert sorted(ddisp.json("file", "show", "-j", number, f"{tag}:x")["replicas"]) == sorted([near, far])

    # a defect mended: the file that the manual speaks of; nearest first
    admin.ok("rse", "update", "-a", "True", far)
    assert ddisp.ok("worker", "next", "-w", "w1", "-j", "info.json", "-c", tag, number).startswith(f"{tag}:")
    second = ddisp.json("worker", "next", "-j", "-w", "w1", "-c", tag, number)
    infos = [json.loads((ddisp.folder / "info.json").read_text()), second]
    order = {info["name"]: [replica["rse"] for replica in info["replicas"]] for info in infos}
    assert order == {"x": [far, near], "y": [far]}

    assert admin.ok("rse", "delete", near) == ""
    assert admin.answered("rse", "show", near) == f"RSE {near} not found\n"
    assert admin.answered("rse", "delete", near) == f"RSE {near} not found\n"
    assert admin.answered("rse", "update", "-d", "x", near) == f"RSE {near} not found\n"
    assert "(403)" in ddisp.refused("rse", "set", "-a", "up", far)


def test_a_worker_given_by_name_is_that_worker(ddisp: Ddisp, api: DataDispatcherClient) -> None:
    names = [f"n:{number}" for number in range(4)]
    number = str(api.create_project(names, project_attributes={"virtual": True})["project_id"])
    ddisp.ok("worker", "id", "mine")
    for worker in ("mine", "other", "other", "third"):
        api.next_file(number, worker_id=worker)

    held = ddisp.json("worker", "list", "-j", "-w", "other", number)
    assert [each["worker_id"] for each in held] == ["other", "other"]
    assert ddisp.ok("worker", "list", number).splitlines()[4] == "worker_id : mine"
    # a defect mended: `all` took the files of the worker of this folder
    assert ddisp.ok("worker", "done", "-w", "other", number, "all") == ""
    assert ddisp.ok("worker", "failed", "-f", "-w", "third", number, "all") == ""
    states = [each["state"] for each in api.list_handles(number)]
    assert sorted(states) == ["done", "done", "failed", "reserved"]
    assert "(403)" in ddisp.refused("worker", "done", number, f"n:{held[0]['name']}")
    assert ddisp.ok("worker", "failed", number, "all") == ""


def test_waiting_ends_as_documented(ddisp: Ddisp, api: DataDispatcherClient) -> None:
    number = str(api.create_project(["a:b"], project_attributes={"virtual": True})["project_id"])
    api.next_file(number)
    assert ddisp.answered("worker", "next", "-t", "0", number) == "timeout\n"
    assert json.loads(ddisp.answered("worker", "next", "-j", "-t", "0", number)) == {"state": "timeout"}
    api.cancel_project(number)
    assert ddisp.answered("worker", "next", number) == "done\n"
    # a defect mended: this was `done` as well
    assert "Project 999999999 not found" in ddisp.refused("worker", "next", "999999999")
    assert "Project 999999999 not found" in ddisp.refused("worker", "done", "999999999", "all")


def test_files_that_metacat_finds(ddisp: Ddisp, stack: LocalStack, user: str, tmp_path: Path) -> None:
    create = ("project", "create", "-p", "json", "-A", "virtual=true")
    assert "pip install metacat-client" in ddisp.refused(*create, "files", "from", "a:b")
    package = tmp_path / "site" / "metacat"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "webapi.py").write_text(METACAT)
    (tmp_path / "query").write_text("files from\n  x:y\n")
    asking = Ddisp(stack, tmp_path, user, PYTHONPATH=str(package.parent), METACAT_SERVER_URL="http://metacat")

    # a defect mended: the file was never read
    made = asking.json(*create, "-q", "query", "-c", "core.run,fid,asked,none", "-a", "n=1")
    assert made["query"] == "files from\n  x:y"
    assert [(each["name"], each["attributes"]) for each in made["file_handles"]] == [
        (name, {"n": 1, "core.run": [7], "fid": f"f-{name}", "asked": made["query"], "none": None})
        for name in ("one", "two")
    ]
    inline = asking.json(*create, "files", "from", "x:y", "limit", "2")
    assert inline["query"] == "files from x:y limit 2"
    assert inline["file_handles"][0]["attributes"] == {}
    assert "MetaCat: syntax error" in asking.refused(*create, "wrong")
    assert "Empty file list" in asking.refused(*create, "nothing")
    assert "METACAT_SERVER_URL" in Ddisp(stack, tmp_path, user, PYTHONPATH=str(package.parent)).refused(*create, "x")


def test_logins(stack: LocalStack, user: str, tmp_path: Path) -> None:
    nobody = Ddisp(stack, tmp_path, None)
    assert "ddisp login" in nobody.refused("project", "list")
    out = nobody.ok("login", "-m", "password", user, stdin="open sesame\n")
    assert re.fullmatch(rf"User:    {user}\nExpires: \w+ \w+ [ \d]\d \d\d:\d\d:\d\d \d{{4}}\n", out)
    assert nobody.ok("project", "list", "-a", "no=such").count("\n") == 3
    assert "Authentication failed" in nobody.refused("login", user, stdin="wrong\n")
    assert "empty" in nobody.refused("login", user)
    assert "(401)" in nobody.refused("login", "-m", "token", "-t", "abc", user)
    assert "proxy.pem" in nobody.refused("login", "-m", "x509", user, "proxy.pem")
    assert "certificate" in nobody.refused("login", "-m", "x509", user, code=2)
    no_token = Ddisp(stack, tmp_path, None, XDG_RUNTIME_DIR=str(tmp_path))
    assert f"{tmp_path}/bt_u{os.geteuid()}" in no_token.refused("login", "-m", "token", user)

    lines = nobody.ok("version").splitlines()
    assert [line.split(":")[0] for line in lines] == ["Server URL", "Server version", "Client version"]
    elsewhere = Ddisp(stack, tmp_path, None, DATA_DISPATCHER_URL="grpc://nowhere.invalid:1")
    assert elsewhere.ok("-s", stack.url, "-a", stack.url, "version").splitlines() == lines
    unset = Ddisp(stack, tmp_path, None, DATA_DISPATCHER_URL="", DRAYMAN_URL=stack.url)
    assert unset.ok("version").splitlines() == lines
