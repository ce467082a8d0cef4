"""The overview's example with two users, and a registry of one's own by `start_gobbler`."""

import os
import pwd
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drayman import pygobbler as pyg
from drayman.testing import LocalStack

ROOT = Path(__file__).parents[2]


def test_two_users(stack: LocalStack, tmp_path: Path) -> None:
    for user in ("akari", "alicia"):
        stack.add_user(user)
    registry, write = str(stack.registry), {"staging": str(stack.staging), "url": stack.url}
    read = {"registry": registry, "url": stack.url}
    first, second = tmp_path / "first", tmp_path / "second"
    for number, folder in enumerate((first, second)):
        (folder / "sub").mkdir(parents=True)
        (folder / "foo").write_text("foo")
        (folder / "sub/bar").write_text(f"bar {number}")

    with stack.as_user("admin"):
        pyg.create_project("walk", **write, owners=["akari"])
        assert pyg.fetch_permissions("walk", **read) == {"owners": ["akari"], "uploaders": []}

    with stack.as_user("akari"):
        pyg.upload_directory("walk", "simple", "v1", str(first), **write)
        assert pyg.list_files("walk", "simple", "v1", **read) == ["..manifest", "..summary", "foo", "sub/bar"]
        assert pyg.fetch_manifest("walk", "simple", "v1", **read)["foo"]["size"] == 3
        assert pyg.fetch_summary("walk", "simple", "v1", **read)["upload_user_id"] == "akari"
        assert pyg.version_path("walk", "simple", "v1", **read) == f"{registry}/walk/simple/v1"
        pyg.set_permissions("walk", **read, staging=write["staging"], uploaders=[{"id": "alicia", "asset": "simple"}])

    # of two versions of one second the first one stays the latest
    finished = datetime.fromisoformat(pyg.fetch_summary("walk", "simple", "v1", **read)["upload_finish"])
    while (passed := datetime.now(UTC) - finished) < timedelta(seconds=1):
        time.sleep((timedelta(seconds=1) - passed).total_seconds())

    with stack.as_user("alicia"):
        pyg.upload_directory("walk", "simple", "v2", str(second), **write)
        assert pyg.fetch_summary("walk", "simple", "v2", **read)["on_probation"] is True
        assert pyg.fetch_latest("walk", "simple", **read) == "v1"
        with pytest.raises(pyg.RegistryError) as refused:
            pyg.approve_probation("walk", "simple", "v2", **write)
        assert refused.value.status == 403
        with pytest.raises(pyg.RegistryError) as refused:
            pyg.upload_directory("walk", "other", "v1", str(second), **write)
        assert refused.value.status == 403

    with stack.as_user("akari"):
        pyg.approve_probation("walk", "simple", "v2", **write)
        assert pyg.fetch_latest("walk", "simple", **read) == "v2"
        assert pyg.fetch_manifest("walk", "simple", "v2", **read)["foo"]["link"]["version"] == "v1"
        assert pyg.fetch_usage("walk", **read) == 13

    with stack.as_user("admin"):
        pyg.remove_project("walk", **write)
    assert "walk" not in pyg.list_projects(**read)


def test_the_readme_does_what_it_shows(tmp_path: Path) -> None:
    code = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "['foo.txt']"
    assert done.stdout.splitlines()[2:5] == ["akari", "True", "False"]


def test_children_ask_for_themselves(stack: LocalStack) -> None:
    code = """
import multiprocessing, sys
from drayman import pygobbler as pyg

def ask(number):
    return pyg.service_info(sys.argv[1])["registry"]

if __name__ == "__main__":
    mine = ask(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(ask, range(4)) == [mine] * 4
    assert ask(1) == mine
"""
    done = subprocess.run(
        [sys.executable, "-c", code, stack.url], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_a_registry_of_ones_own(tmp_path: Path) -> None:
    spoof = tmp_path / "spoof"
    me = pwd.getpwuid(os.getuid()).pw_name
    spoof.write_text(f"{me}:*\n")
    with pytest.raises(ValueError, match="-nothing"):
        pyg.start_gobbler(extra_args=["-nothing"])
    lake = tmp_path / "lake"
    lake.mkdir()
    (lake / "big").write_text("far too big to be copied")
    whitelist = tmp_path / "whitelist"
    whitelist.write_text(f"{lake}\n")
    options = ["-spoof", str(spoof), "-whitelist", str(whitelist), "-concurrency=10", "-probation", "-1"]
    started, staging, registry, url = pyg.start_gobbler(extra_args=options)
    try:
        assert started
        assert pyg.start_gobbler(staging="elsewhere") == (False, staging, registry, url)
        assert pyg.service_info(url) == {"staging": staging, "registry": registry}
        assert url.startswith("grpc://127.0.0.1:")

        pyg.create_project("p", staging, url, uploaders=[{"id": "alicia"}])
        assert pyg.fetch_permissions("p", registry, url)["owners"] == [me]
        filled = pyg.allocate_upload_directory(staging)
        Path(filled, "a").write_text("A")
        pyg.upload_directory("p", "a", "v1", filled, staging, url, spoof="alicia")
        summary = pyg.fetch_summary("p", "a", "v1", registry, url)
        assert (summary["upload_user_id"], summary["on_probation"]) == ("alicia", True)
        pyg.approve_probation("p", "a", "v1", staging, url)

        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "big").symlink_to(lake / "big")
        pyg.upload_directory("p", "lake", "v1", str(mine), staging, url)
        assert "link" not in pyg.fetch_manifest("p", "lake", "v1", registry, url)["big"]
        assert Path(registry, "p/lake/v1/big").readlink() == lake / "big"
        (mine / "big").unlink()
        (mine / "big").symlink_to(whitelist)
        with pytest.raises(pyg.RegistryError) as refused:
            pyg.upload_directory("p", "lake", "v2", str(mine), staging, url)
        assert refused.value.status == 500
        assert os.listdir(staging) == [Path(filled).name]  # noqa: PTH208 - names
    finally:
        pyg.stop_gobbler()
    with pytest.raises(ConnectionError):
        pyg.service_info(url)
    assert Path(registry, "p/a/v1/a").read_text() == "A"
    pyg.stop_gobbler()

    # what lies there is taken over by the next one; without administrators one may less
    started, *_, url = pyg.start_gobbler(staging=staging, registry=registry, admin=[])
    try:
        assert started
        assert pyg.list_versions("p", "a", registry, url, force_remote=True) == ["v1"]
        assert pyg.fetch_latest("p", "a", registry, url, force_remote=True) == "v1"
        with pytest.raises(pyg.RegistryError) as refused:
            pyg.create_project("q", staging, url)
        assert refused.value.status == 403
    finally:
        pyg.stop_gobbler()
