"""What `ddisp` can do, done with `drayman`: the real command against real services."""

import json
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.data_dispatcher.api import DataDispatcherClient
from drayman.testing import LocalStack
from system.cli_runner import Cli, Outcome


class FolderCli(Cli):
    """`drayman` run in a folder of its own, where the worker id is kept."""

    folder: Path

    def run(self, *arguments: str, stdin: str | bytes | None = None) -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.command(*arguments),
            input=data or b"",
            capture_output=True,
            env=self.environment,
            cwd=self.folder,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def cli(stack: LocalStack, tmp_path: Path) -> FolderCli:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    made = FolderCli(stack.url, stack.token(name))
    made.folder = tmp_path
    return made


def _created(cli: FolderCli, *options: str, files: object = ("n:a", "n:b", "n:c")) -> str:
    create = ("project", "create", "-", "--list-format", "json", "--virtual")
    return cli.ok(*create, *options, stdin=json.dumps(files)).out.strip()


def test_a_worker_that_is_a_shell_script(cli: FolderCli) -> None:
    project = _created(cli)
    made_up = cli.ok("worker", "id").out.strip()
    assert cli.ok("worker", "id").out.strip() == made_up
    assert cli.ok("worker", "id", "--new", "--json").json["worker_id"] != made_up
    assert cli.ok("worker", "id", "mine").out == "mine\n"

    assert cli.ok("worker", "next", project).out == "n:a\n"
    second = cli.ok("worker", "next", project, "--worker-id", "other", "--json").json
    assert (second["name"], second["worker_id"], second["project_attributes"]) == ("b", "other", {"virtual": True})
    held = cli.ok("worker", "list", project, "--json").json
    assert [(each["name"], each["worker_id"]) for each in held] == [("a", "mine")]
    assert cli.ok("worker", "list", project, "--worker-id", "other").out.splitlines()[1].split()[-2:] == [
        "other",
        "n:b",
    ]
    assert "(WRONG_WORKER)" in cli.refused("worker", "done", project, "n:b")
    assert cli.ok("worker", "done", project, "--all", "--worker-id", "other", "--json").json == {"reported": 1}
    assert cli.ok("worker", "failed", project, "n:a").out == ""
    assert cli.ok("worker", "next", project).out == "n:c\n"
    assert cli.ok("worker", "failed", project, "n:c", "--final", "--message", "no such event").out == ""
    assert cli.ok("worker", "next", project).out == "n:a\n"
    waited = cli.run("worker", "next", project, "--no-wait", "--json")
    assert (waited.code, waited.json) == (1, {"state": "timeout"})
    cli.ok("worker", "done", project, "n:a")
    ended = cli.run("worker", "next", project)
    assert (ended.code, ended.out, ended.err) == (1, "done\n", "")
    assert "(PROJECT_NOT_FOUND)" in cli.refused("worker", "next", "999999999")
    assert "--all" in cli.refused("worker", "done", project, code=2)


def test_projects_have_what_ddisp_gives_them(cli: FolderCli, stack: LocalStack) -> None:
    files = ["n:a", {"namespace": "x:y", "name": "b", "attributes": {"n": 2}}]
    project = _created(cli, "--file-attributes", '{"n": 1, "s": "x"}', "--attributes", '{"tag": "t"}', files=files)
    listed = cli.ok("file", "list", project, "--json").json
    assert [each["attributes"] for each in listed] == [{"n": 1, "s": "x"}, {"n": 2, "s": "x"}]
    assert cli.ok("project", "show", project, "--attributes", "--json").json == {"tag": "t", "virtual": True}
    assert cli.ok("project", "show", project, "--attributes").out.split() == ["tag", "t", "virtual", "true"]
    copied = cli.ok("project", "copy", project, "--worker-timeout", "none", "--json").json
    assert (copied["worker_timeout"], copied["idle_timeout"]) == (None, 72 * 3600.0)
    copied = cli.ok("project", "copy", project, "--idle-timeout", "1d", "--json").json
    assert (copied["worker_timeout"], copied["idle_timeout"]) == (12 * 3600.0, 86400.0)

    rse = f"R{uuid4().hex}"
    admin = DataDispatcherClient(stack.url, token=stack.token(stack.admin[0]), worker_id="nobody")
    admin.create_rse(rse)
    namespace = f"n{uuid4().hex}"
    admin.add_replicas([{"namespace": namespace, "name": "b", "rse": rse, "url": "root://b"}])
    project = _created(cli, files=[f"{namespace}:a", f"{namespace}:b"])
    at = cli.ok("project", "files", project, "--rse", rse, "--limit", "1", "--json").json
    assert [each["name"] for each in at] == ["b"]
    shown = cli.ok("file", "show", project, f"{namespace}:b", "--json").json
    assert shown["replicas"][0]["rse"] == rse
    assert f"replica     {rse}: available root://b\n" in cli.ok("file", "show", project, f"{namespace}:b").out
    assert "(HANDLE_NOT_FOUND)" in cli.refused("file", "show", project, "no:such")
    assert "entry 2: 'd'" in cli.refused("project", "create", "-", "--list-format", "json", stdin='["a:b", "d"]')


def test_queries_logins_and_versions(cli: FolderCli, stack: LocalStack, tmp_path: Path) -> None:
    create = ("project", "create", "--virtual", "--metadata", "run", "--json")
    assert "pip install metacat-client" in cli.refused(*create, "--mql", "files from a:b")
    package = tmp_path / "site" / "metacat"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "webapi.py").write_text(
        "class MetaCatClient:\n"
        "    def query(self, query, with_metadata):\n"
        "        return [{'namespace': 'mc', 'name': query, 'metadata': {'run': with_metadata}}]\n"
    )
    query = tmp_path / "query"
    query.write_text("files from x\n")
    cli.environment |= {"PYTHONPATH": str(package.parent), "METACAT_SERVER_URL": "http://metacat"}
    made = cli.ok(*create, "--mql-file", str(query)).json
    assert made["query"] == "files from x"
    files = cli.ok("file", "list", str(made["project_id"]), "--json").json
    assert [(each["name"], each["attributes"]) for each in files] == [("files from x", {"run": True})]

    assert "the token is no JWT" in cli.refused("login", "ann", "--method", "token", "--bearer", "abc")
    assert "proxy.pem: No such file" in cli.refused("login", "ann", "--method", "x509", "--cert", "proxy.pem")
    assert "--method x509" in cli.refused("login", "ann", "--cert", "proxy.pem", code=2)
    versions = cli.ok("version", "--json").json
    assert versions["url"] == stack.url
    assert versions["server"] == versions["client"]
