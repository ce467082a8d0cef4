"""Refreshed, reindexed and validated: what is stored, against what is known."""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.client import DraymanError, NotFoundError
from drayman.client.registry_values import FileAddress, Link
from drayman.testing import local_stack
from service.registry.people import People, listed
from service.registry.small_upload import Linked


@pytest_asyncio.fixture(scope="module")
async def people() -> AsyncIterator[People]:
    with local_stack() as stack:
        everybody = People(stack)
        yield everybody
        await everybody.close()
        print(*(line for line in stack.log.read_text().splitlines() if '"defect"' in line), sep="\n")


@pytest_asyncio.fixture
async def folder(people: People) -> Path:
    """The folder of a version with files, links and an empty directory: `project/a/v2`."""
    project = f"p-{uuid4().hex[:8]}"
    await people.admin.create_project(project)
    first = {"same": b"same", "sub/same": b"also the same", "old": b"old"}
    await people.upload("admin", f"{project}/a/v1", first)
    second: dict[str, bytes | Linked | None] = {
        "same": b"same",
        "sub/same": b"also the same",
        "new": b"new",
        "sub/empty": None,
        "zero": b"",
    }
    second["linked"] = Linked(f"{project}/a/v1/old")
    await people.upload("admin", f"{project}/a/v2", second)
    return people.stack.registry / project / "a" / "v2"


def address(folder: Path) -> tuple[str, str, str]:
    return folder.parent.parent.name, folder.parent.name, folder.name


async def told(people: People, folder: Path) -> dict[str, str]:
    return {each.path: each.text for each in await people.admin.validate_version(*address(folder))}


async def test_what_is_well_is_well(people: People, folder: Path) -> None:
    assert await told(people, folder) == {}
    assert await told(people, folder.parent / "v1") == {}


async def test_every_difference_is_told(people: People, folder: Path) -> None:
    (folder / "new").write_bytes(b"mew")
    (folder / "zero").write_bytes(b"longer")
    (folder / "same").unlink()
    (folder / "sub/same").unlink()
    (folder / "sub/same").write_bytes(b"also the same")
    (folder / "linked").unlink()
    (folder / "linked").symlink_to(folder.parent / "v1" / "old")
    (folder / "sub/empty").rmdir()
    (folder / "stray").write_bytes(b"")
    (folder / ".temp123.json").write_bytes(b"{}")
    (folder / "..stray").write_bytes(b"")
    (folder / "more/emptiness").mkdir(parents=True)
    (folder / "sub/..links").unlink()
    (folder / "more/..links").write_text("{}")
    os.mkfifo(folder / "pipe")
    summary = json.loads((folder / "..summary").read_text())
    (folder / "..summary").write_text(json.dumps(summary | {"upload_user_id": "eve"}))
    found = await told(people, folder)
    assert found.keys() == {
        "new",
        "zero",
        "same",
        "sub/same",
        "linked",
        "sub/empty",
        "stray",
        ".temp123.json",
        "..stray",
        "more/emptiness",
        "sub/..links",
        "more/..links",
        "pipe",
        "..summary",
    }
    assert hashlib.md5(b"new").hexdigest() in found["new"]
    assert found["zero"] == "has 6 bytes, expected 0"
    assert found["same"].startswith("missing")
    assert found["sub/same"].startswith("missing: a link")
    assert "expected '../v1/old'" in found["linked"]
    for extra in ("stray", ".temp123.json", "more/..links", "pipe", "..stray"):
        assert found[extra].startswith("extra file"), extra
    assert found["more/emptiness"].startswith("extra empty directory")
    assert found["sub/..links"] == "missing"


async def test_a_manifest_that_says_something_else_is_told(people: People, folder: Path) -> None:
    manifest = json.loads((folder / "..manifest").read_text())
    del manifest["new"]
    (folder / "..manifest").write_text(json.dumps(manifest))
    assert (await told(people, folder)).keys() == {"..manifest"}
    (folder / "..manifest").write_text("{")
    assert (await told(people, folder)).keys() == {"..manifest"}
    (folder / "..manifest").unlink()
    assert await told(people, folder) == {"..manifest": "missing"}
    await people.admin.reindex_version(*address(folder))
    assert await told(people, folder) == {}


async def test_a_version_whose_folder_is_gone(people: People, folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    assert len(await told(people, folder)) == 1
    with pytest.raises(DraymanError) as caught:
        await people.admin.reindex_version(*address(folder))
    assert caught.value.reason == "VERSION_DAMAGED"
    # what has no summary is no version, and what is no version is left alone
    assert await people.admin.delete_version(*address(folder), force=True)
    assert folder.with_name("elsewhere").exists()


async def test_a_lost_target_is_told(people: People, folder: Path) -> None:
    (folder.parent / "v1" / "old").unlink()
    assert (await told(people, folder)) == {"linked": "cannot be read"}


async def test_reindexing_takes_what_is_there(people: People, folder: Path) -> None:
    project, asset, version = address(folder)
    before = {entry.path: entry for entry in await listed(people.admin.entries(project, asset, version))}
    (folder / "new").write_bytes(b"newer")
    (folder / "zero").unlink()
    (folder / "extra/deep").mkdir(parents=True)
    (folder / "extra/file").write_bytes(b"extra")
    (folder / "extra/deep/link").symlink_to(folder.parent / "v1" / "old")  # absolute
    (folder / "local").symlink_to("extra/file")
    (folder / "sub/same").unlink()
    changed = await people.admin.reindex_version(project, asset, version)
    entries = {entry.path: entry for entry in await listed(people.admin.entries(project, asset, version))}
    assert entries.keys() == {"same", "new", "linked", "sub/empty", "extra/file", "extra/deep/link", "local"}
    assert entries["same"] == before["same"]
    assert entries["new"].md5 == hashlib.md5(b"newer").hexdigest()
    assert entries["new"].sha256 == hashlib.sha256(b"newer").hexdigest()
    assert entries["local"].link == Link(FileAddress(project, asset, version, "extra/file"))
    assert entries["extra/deep/link"].link == Link(FileAddress(project, asset, "v1", "old"))
    assert str((folder / "extra/deep/link").readlink()) == "../../../v1/old"
    assert not (folder / "sub/..links").exists()
    assert (changed.entries, changed.usage) == (7, len(b"newer") + len(b"extra"))
    assert await told(people, folder) == {}
    usage = (await people.admin.get_project(project)).usage
    assert usage == await people.admin.refresh_usage(project)
    last = (await listed(people.admin.changes(project=project)))[-1]
    assert (last.type, last.version, last.latest) == ("reindex-version", "v2", True)


async def test_what_cannot_be_a_version_stays_as_it_was(people: People, folder: Path) -> None:
    before = await listed(people.admin.entries(*address(folder)))
    damages: list[Callable[[], object]] = [
        lambda: os.mkfifo(folder / "damage"),
        lambda: (folder / "damage").symlink_to("nowhere"),
        lambda: (folder / "damage").symlink_to("damage"),
        lambda: (folder / "damage").symlink_to("sub"),
        lambda: (folder / "damage").symlink_to("../../../../../etc/passwd"),
        lambda: (folder / "damage").symlink_to("/etc/passwd"),
        lambda: (folder / "damage").symlink_to("../v1/nothing"),
        lambda: (folder / "bad\nname").write_bytes(b""),
        lambda: Path(os.fsdecode(bytes(folder) + b"/\xff")).write_bytes(b""),
    ]
    names = {path.name for path in folder.iterdir()}
    for damage in damages:
        damage()
        with pytest.raises(DraymanError) as caught:
            await people.admin.reindex_version(*address(folder))
        assert caught.value.reason == "VERSION_DAMAGED"
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()
    assert await listed(people.admin.entries(*address(folder))) == before
    assert await told(people, folder) == {}


async def test_a_link_that_was_turned_elsewhere_is_refused_while_its_record_stands(
    people: People, folder: Path
) -> None:
    (folder / "linked").unlink()
    (folder / "linked").symlink_to("../v1/same")
    with pytest.raises(DraymanError, match=r"linked.* leads to"):
        await people.admin.reindex_version(*address(folder))
    (folder / "..links").unlink()
    await people.admin.reindex_version(*address(folder))
    [entry] = await listed(people.admin.entries(*address(folder), prefix="linked"))
    assert entry.link is not None
    assert entry.link.target.path == "same"


async def test_chains_keep_their_middle(people: People, folder: Path) -> None:
    project, asset, _ = address(folder)
    await people.upload("admin", f"{project}/{asset}/v3", {"same": b"same"})
    third = folder.with_name("v3")
    before = await listed(people.admin.entries(project, asset, "v3"))
    assert before[0].link is not None
    assert (before[0].link.target.version, str((third / "same").readlink())) == ("v2", "../v1/same")
    for document in ("..links", "..manifest"):
        (third / document).unlink()
        await people.admin.reindex_version(project, asset, "v3")
        assert await listed(people.admin.entries(project, asset, "v3")) == before
        assert await told(people, third) == {}


async def test_bulk_loading(people: People, folder: Path) -> None:
    """Files and a hand-written summary become a version; so Gobbler's manuals say."""
    project, asset, _ = address(folder)
    loaded = folder.parent.parent / "new asset" / "v9"
    loaded.mkdir(parents=True)
    (loaded / "file").write_bytes(b"loaded")
    (loaded / "link").symlink_to(f"../../{asset}/v1/old")
    with pytest.raises(DraymanError) as caught:
        await people.admin.reindex_version(project, "new asset", "v9")
    assert caught.value.reason == "VERSION_DAMAGED"
    times = {"upload_start": "2024-05-06T07:08:09+02:00", "upload_finish": "2024-05-06T07:08:10+02:00"}
    (loaded / "..summary").write_text(json.dumps({"upload_user_id": "loader", **times}))
    version = await people.admin.reindex_version(project, "new asset", "v9")
    assert (version.upload_user, version.entries, version.usage) == ("loader", 2, 6)
    assert await told(people, loaded) == {}
    assert await people.admin.refresh_latest(project, "new asset") == "v9"
    assert people.document(project, "new asset", "..latest") == {"version": "v9"}
    assert (await people.admin.get_project(project)).usage == await people.admin.refresh_usage(project)
    with pytest.raises(NotFoundError):
        await people.admin.reindex_version(project, "new asset", "v10")


async def test_latest_and_usage_are_found_again(people: People, folder: Path) -> None:
    project, asset, _ = address(folder)
    connection = await asyncpg.connect(people.stack.dsn)
    try:
        await connection.execute("UPDATE registry.project SET usage = 12345 WHERE name = $1", project)
        await connection.execute(
            "UPDATE registry.asset SET latest_id = NULL WHERE project_id = (SELECT project_id FROM registry.project WHERE name = $1)",
            project,
        )
        await connection.execute(
            """UPDATE registry.version SET upload_finish = '2020-01-01 00:00:00Z'
               WHERE project_id = (SELECT project_id FROM registry.project WHERE name = $1)""",
            project,
        )
    finally:
        await connection.close()
    assert await people.admin.refresh_latest(project, asset) == "v1"  # of one second, the first by name
    assert people.document(project, asset, "..latest") == {"version": "v1"}
    right = len(b"same" + b"also the same" + b"old" + b"new")
    assert await people.admin.refresh_usage(project) == right
    assert people.document(project, "..usage") == {"total": right}
