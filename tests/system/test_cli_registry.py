"""`drayman registry`: the real command against real services."""

import json
import os
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Cli:
    return Cli.of(stack, stack.admin[0])


@pytest.fixture
def user(stack: LocalStack) -> tuple[str, Cli]:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return name, Cli.of(stack, name)


@pytest.fixture
def project(admin: Cli) -> str:
    name = f"c-{uuid4().hex[:12]}"
    assert admin.ok("registry", "project", "create", name).out == f"project {name} created\n"
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("A")
    (made / "sub/[b]").write_text("BB")
    (made / "hollow").mkdir()
    return made


def test_up_and_down_and_what_lies_between(stack: LocalStack, admin: Cli, project: str, folder: Path) -> None:
    v1, v2 = f"{project}/a/v1", f"{project}/a/v2"
    done = admin.ok("registry", "upload", v1, str(folder), "--json").json
    assert (done["version"]["entries"], done["version"]["usage"], done["deduplicated"]) == (3, 3, 0)
    # of two versions of one second a refresh takes the first by name
    first = int(time.time())
    while int(time.time()) == first:
        time.sleep(0.02)
    assert admin.ok("registry", "upload", v2, str(folder)).out == f"{v2}: 3 files, 0 bytes, 2 files were there\n"
    assert "(VERSION_EXISTS)" in admin.refused("registry", "upload", v2, str(folder))

    assert admin.ok("registry", "ls", v1).out.split() == ["a.txt", "hollow/", "sub/[b]"]
    assert admin.ok("registry", "ls", f"{v1}/sub/").out.split() == ["sub/[b]"]
    listed = admin.ok("registry", "ls", v2, "--json").json
    assert [each["path"] for each in listed] == ["a.txt", "hollow", "sub/[b]"]
    assert listed[0]["link"]["target"] == {"project": project, "asset": "a", "version": "v1", "path": "a.txt"}
    assert f"{v1}/a.txt" in admin.ok("registry", "ls", "-l", v2).out
    manifest = admin.ok("registry", "manifest", v2).json
    assert manifest == json.loads((stack.registry / v2 / "..manifest").read_text())
    assert admin.ok("registry", "latest", f"{project}/a").out == "v2\n"
    assert admin.ok("registry", "latest", f"{project}/a", "--refresh", "--json").json["version"] == "v2"

    copy = folder.parent / "copy"
    assert admin.ok("registry", "download", v2, str(copy)).out == "3 files, of which 2 were fetched, 3 bytes\n"
    assert (copy / "sub/[b]").read_text() == "BB"
    again = admin.ok("registry", "download", v2, str(copy), "--json", "-n", "2").json
    assert (again["files"], again["files_received"]) == (3, 0)
    admin.ok("registry", "download", f"{v2}/sub/", str(folder.parent / "part"))
    assert [path.name for path in (folder.parent / "part").iterdir()] == ["sub"]
    assert "(FILE_NOT_FOUND)" in admin.refused("registry", "download", f"{v2}/none", str(copy))


def test_lists_and_ends(admin: Cli, project: str, folder: Path) -> None:
    admin.ok("registry", "upload", f"{project}/a/v1", str(folder))
    admin.ok("registry", "upload", f"{project}/a/v2", str(folder))
    assert project in admin.ok("registry", "project", "list").out.split()
    assert admin.ok("registry", "asset", "list", project, "--json").json == ["a"]
    rows = admin.ok("registry", "version", "list", f"{project}/a").out.splitlines()
    assert [row.split()[-1] for row in rows] == ["version", "v1", "v2"]
    assert admin.ok("registry", "version", "show", f"{project}/a/v2", "--json").json["latest"] is True
    assert admin.ok("registry", "project", "show", project, "--json").json["usage"] == 3

    told = admin.ok("registry", "reroute", f"{project}/a/v1", "--dry-run", "--json").json
    assert {each["path"] for each in told} == {f"{project}/a/v2/a.txt", f"{project}/a/v2/sub/[b]"}
    assert "(LINKED_TO)" in admin.refused("registry", "version", "delete", f"{project}/a/v1")
    admin.ok("registry", "reroute", f"{project}/a/v1")
    assert admin.ok("registry", "version", "delete", f"{project}/a/v1").out == f"version {project}/a/v1 removed\n"
    assert admin.ok("registry", "version", "delete", f"{project}/a/v1", "--json").json["deleted"] is False
    assert admin.ok("registry", "validate", f"{project}/a/v2").out == "all is well\n"
    admin.ok("registry", "asset", "delete", f"{project}/a")
    changes = admin.ok("registry", "log", "--project", project, "--json").json
    assert [each["type"] for each in changes] == ["add-version", "add-version", "delete-version", "delete-asset"]
    after = str(changes[1]["change_id"])
    assert len(admin.ok("registry", "log", "--project", project, "--after", after).out.splitlines()) == 3
    admin.ok("registry", "project", "delete", project)
    assert "(REGISTRY_PROJECT_NOT_FOUND)" in admin.refused("registry", "project", "show", project)


def test_the_log_is_followed(admin: Cli, project: str, folder: Path) -> None:
    command = admin.command("registry", "log", "--project", project, "--follow", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=admin.environment) as following:
        assert following.stdout is not None
        admin.ok("registry", "upload", f"{project}/a/v1", str(folder))
        found = json.loads(following.stdout.readline())
        following.terminate()
    assert (found["type"], found["version"], found["latest"]) == ("add-version", "v1", True)


def test_who_may(admin: Cli, user: tuple[str, Cli], project: str, folder: Path) -> None:
    name, other = user
    version = f"{project}/a/v1"
    assert "(NOT_AN_UPLOADER)" in other.refused("registry", "upload", version, str(folder))
    uploader = json.dumps({"id": name, "asset": "a"})
    set_ = ("registry", "permissions", "set", project)
    found = admin.ok(*set_, "--add-uploader", uploader, "--add-owner", "akari", "--json").json
    assert found["owners"] == ["admin", "akari"]
    assert found["uploaders"] == [{"id": name, "asset": "a", "version": "", "until": "", "trusted": None}]
    assert name in other.ok("registry", "permissions", "show", project).out
    assert "(NOT_REGISTRY_OWNER)" in other.refused(*set_, "--add-owner", name)
    assert "nothing to change" in admin.refused(*set_, code=2)
    assert "no time" in admin.refused(*set_, "--add-uploader", '{"id": "x", "until": "soon"}')
    assert "not known" in admin.refused(*set_, "--add-uploader", '{"id": "x", "fro": "y"}', code=2)

    assert "waits for approval" in other.ok("registry", "upload", version, str(folder)).out
    waiting = admin.ok("registry", "probation", "list", project, "--json").json
    assert [(each["version"], each["upload_user"]) for each in waiting] == [("v1", name)]
    assert version in admin.ok("registry", "probation", "list").out
    assert "(NOT_REGISTRY_OWNER)" in other.refused("registry", "probation", "approve", version)
    assert "no version" in admin.refused("registry", "latest", f"{project}/a")
    assert admin.ok("registry", "probation", "approve", version).out == f"{version} approved, the latest now\n"
    assert "(NOT_ON_PROBATION)" in admin.refused("registry", "probation", "reject", version)
    other.ok("registry", "upload", f"{project}/a/v2", str(folder))
    other.ok("registry", "probation", "reject", f"{project}/a/v2")
    admin.ok(*set_, "--remove-uploader", name, "--remove-owner", "akari", "--global-write")
    assert "anybody creates assets  yes" in admin.ok("registry", "permissions", "show", project).out


def test_what_it_may_grow_to(admin: Cli, project: str, folder: Path) -> None:
    quota = admin.ok("registry", "quota", project, "--baseline", "2", "--growth-rate", "0", "--json").json
    assert (quota["baseline"], quota["growth_rate"], quota["limit"]) == (2, 0, 2)
    assert "(QUOTA_EXCEEDED)" in admin.refused("registry", "upload", f"{project}/a/v1", str(folder))
    admin.ok("registry", "quota", project, "--baseline", "3")
    admin.ok("registry", "upload", f"{project}/a/v1", str(folder))
    assert admin.ok("registry", "usage", project).out == "3 of 3 bytes\n"
    assert admin.ok("registry", "usage", project, "--refresh", "--json").json == {
        "project": project,
        "usage": 3,
        "limit": 3,
    }


def test_what_is_damaged(stack: LocalStack, admin: Cli, project: str, folder: Path) -> None:
    version = f"{project}/a/v1"
    admin.ok("registry", "upload", version, str(folder))
    (stack.registry / version / "more").write_text("more")
    found = admin.run("registry", "validate", version, "--json")
    assert (found.code, [each["path"] for each in found.json]) == (1, ["more"])
    assert admin.ok("registry", "reindex", version).out == "4 entries, 7 bytes\n"
    admin.ok("registry", "validate", version)


def test_a_staged_folder(stack: LocalStack, admin: Cli, project: str, folder: Path) -> None:
    staged = stack.staging / f"s-{uuid4().hex[:12]}"
    folder.rename(staged)
    admin.ok("registry", "upload", f"{project}/a/v1", str(staged), "--staged", "--consume")
    assert not staged.exists()
    assert (stack.registry / project / "a/v1/a.txt").read_text() == "A"


def test_a_registry_is_adopted_where_it_is(stack: LocalStack, admin: Cli, tmp_path: Path) -> None:
    assert admin.ok("registry", "info", "--json").json["registry"] == str(stack.registry)
    assert str(stack.staging) in admin.ok("registry", "info").out
    assert "DRAYMAN_REGISTRY" in admin.refused("registry", "adopt", str(tmp_path), code=2)
    assert "taken over" in admin.ok("registry", "adopt", str(stack.registry), "--dry-run").out


def test_addresses_that_are_none(admin: Cli, folder: Path) -> None:
    for arguments in (("ls", "p/a"), ("manifest", "p/a/v/x"), ("latest", "p"), ("reroute", "p//v"), ("validate", "//")):
        assert "expected PROJECT" in admin.refused("registry", *arguments, code=2)
    admin.refused("registry", "upload", "p/a/v", str(folder / "none"), code=2)


def test_what_cannot_be_uploaded(admin: Cli, project: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "pipe" in admin.refused("registry", "upload", f"{project}/a/v1", str(folder))
