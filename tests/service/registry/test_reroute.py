"""Links made independent of what is about to be deleted: on disk and by RPC, and after a crash."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import DraymanError, InvalidRequestError
from drayman.client.registry_values import Doomed, FileAddress, Link, Rerouted
from drayman.server.registry import rerouting
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.maintenance import Maintenance
from drayman.server.registry.reroute_run import Rerouter
from drayman.testing import local_stack
from service.registry.bare_registry import adopt, bare_registry
from service.registry.gobbler_registry import GobblerRegistry, To
from service.registry.people import People, listed
from service.registry.small_upload import Linked

SIZE = 5
CONTENT = b"12345"


@pytest_asyncio.fixture(scope="module")
async def people() -> AsyncIterator[People]:
    with local_stack() as stack:
        everybody = People(stack)
        yield everybody
        await everybody.close()
        print(*(line for line in stack.log.read_text().splitlines() if '"defect"' in line), sep="\n")


@pytest_asyncio.fixture
async def project(people: People) -> str:
    name = f"p-{uuid4().hex[:8]}"
    await people.admin.create_project(name)
    return name


async def chain(people: People, project: str, length: int = 4) -> None:
    """The registry's own example: v1 is real, each of the others is deduplicated against the one before."""
    for number in range(1, length + 1):
        await people.upload("admin", f"{project}/a/v{number}", {"f": CONTENT})


def on_disk(people: People, project: str) -> dict[str, str | None]:
    """Where the file of each version leads; None = it is one itself."""
    folder = people.stack.registry / project / "a"
    return {
        version.name: str((version / "f").readlink()) if (version / "f").is_symlink() else None
        for version in sorted(folder.iterdir())
        if not version.name.startswith("..")
    }


async def links(people: People, project: str) -> dict[str, Link | None]:
    found = {}
    for version in await listed(people.admin.versions(project, "a")):
        [entry] = await listed(people.admin.entries(project, "a", version.version))
        assert (entry.path, entry.size) == ("f", SIZE)
        found[version.version] = entry.link
    return found


async def check(people: People, project: str) -> None:
    """Everything that is there is right, and every file has its content."""
    usage = 0
    for version in await listed(people.admin.versions(project, "a")):
        assert await people.admin.validate_version(project, "a", version.version) == []
        assert (people.stack.registry / project / "a" / version.version / "f").read_bytes() == CONTENT
        usage += version.usage
    assert people.document(project, "..usage") == {"total": usage}
    assert (await people.admin.get_project(project)).usage == usage == await people.admin.refresh_usage(project)


async def test_the_examples_chain_is_what_it_says(people: People, project: str) -> None:
    await chain(people, project)
    assert on_disk(people, project) == {"v1": None, "v2": "../v1/f", "v3": "../v1/f", "v4": "../v1/f"}
    to = [FileAddress(project, "a", f"v{number}", "f") for number in range(5)]
    expected = {"v1": None, "v2": Link(to[1]), "v3": Link(to[2], to[1]), "v4": Link(to[3], to[1])}
    assert await links(people, project) == expected
    await check(people, project)


async def test_the_one_that_has_the_content_is_doomed(people: People, project: str) -> None:
    await chain(people, project)
    doomed = [Doomed(project, "a", "v1")]
    before = on_disk(people, project), people.document(project, "..usage")
    told = await people.admin.reroute_links(doomed, dry_run=True)
    source = f"{project}/a/v1/f"
    assert told == [
        Rerouted(f"{project}/a/v2/f", copy=True, source=source, usage=SIZE),
        Rerouted(f"{project}/a/v3/f", copy=False, source=source, usage=0),
        Rerouted(f"{project}/a/v4/f", copy=False, source=source, usage=0),
    ]
    assert (on_disk(people, project), people.document(project, "..usage")) == before
    await check(people, project)

    assert await people.admin.reroute_links(doomed) == told
    assert on_disk(people, project) == {"v1": None, "v2": None, "v3": "../v2/f", "v4": "../v2/f"}
    to = [FileAddress(project, "a", f"v{number}", "f") for number in range(5)]
    assert await links(people, project) == {"v1": None, "v2": None, "v3": Link(to[2]), "v4": Link(to[3], to[2])}
    assert not (people.stack.registry / project / "a" / "v2" / "..links").exists()
    assert "ancestor" not in people.document(project, "a", "v3", "..links")["f"]
    await check(people, project)
    assert await people.admin.reroute_links(doomed) == []
    assert await people.admin.delete_version(project, "a", "v1")
    await check(people, project)
    assert people.document(project, "..usage") == {"total": SIZE}


async def test_one_in_the_middle_is_doomed(people: People, project: str) -> None:
    await chain(people, project)
    changes = await people.admin.reroute_links([Doomed(project, "a", "v2")])
    assert changes == [Rerouted(f"{project}/a/v3/f", copy=False, source=f"{project}/a/v2/f", usage=0)]
    assert (await links(people, project))["v3"] == Link(FileAddress(project, "a", "v1", "f"))
    await check(people, project)
    assert await people.admin.delete_version(project, "a", "v2")
    await check(people, project)


async def test_the_whole_beginning_is_doomed(people: People, project: str) -> None:
    await chain(people, project)
    changes = await people.admin.reroute_links([Doomed(project, "a", "v1"), Doomed(project, "a", "v2")])
    assert [(change.path, change.copy, change.source) for change in changes] == [
        (f"{project}/a/v3/f", True, f"{project}/a/v2/f"),
        (f"{project}/a/v4/f", False, f"{project}/a/v1/f"),
    ]
    assert await people.admin.delete_version(project, "a", "v2")
    assert await people.admin.delete_version(project, "a", "v1")
    assert on_disk(people, project) == {"v3": None, "v4": "../v3/f"}
    await check(people, project)


async def test_other_projects_become_independent(people: People, project: str) -> None:
    other = f"{project}-other"
    await people.admin.create_project(other)
    await people.upload("admin", f"{other}/b/v", {"dir/g": CONTENT, "dir/h": b"else"})
    files = {"f": Linked(f"{other}/b/v/dir/g"), "deep/er/h": Linked(f"{other}/b/v/dir/h")}
    await people.upload("admin", f"{project}/x/v", files)
    with pytest.raises(DraymanError) as caught:
        await people.admin.delete_project(other)
    assert caught.value.reason == "LINKED_TO"
    changes = await people.admin.reroute_links([Doomed(other)])
    assert [(change.path, change.copy, change.usage) for change in changes] == [
        (f"{project}/x/v/deep/er/h", True, 4),
        (f"{project}/x/v/f", True, SIZE),
    ]
    assert await people.admin.delete_project(other)
    assert await people.admin.validate_version(project, "x", "v") == []
    assert (people.stack.registry / project / "x/v/deep/er/h").read_bytes() == b"else"
    assert (await people.admin.get_project(project)).usage == SIZE + 4
    # it deletes nothing and logs nothing
    assert [change.type for change in await listed(people.admin.changes(project=project))] == ["add-version"]


async def test_what_cannot_be_doomed(people: People, project: str) -> None:
    assert await people.admin.reroute_links([]) == []
    assert await people.admin.reroute_links([Doomed(project)]) == []
    for doomed in (
        Doomed(project, "", "v"),
        Doomed(""),
        Doomed(".."),
        Doomed(project, "a/b"),
        Doomed(project, "a", "."),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await people.admin.reroute_links([Doomed(project), doomed])
        assert caught.value.reason == "INVALID_FIELD"


async def test_two_at_once_agree(people: People, project: str) -> None:
    await chain(people, project)
    doomed = [Doomed(project, "a", "v1")]
    results = await asyncio.gather(*(people.admin.reroute_links(doomed) for _ in range(4)))
    assert sorted(map(len, results)) == [0, 0, 0, 3]
    await check(people, project)


async def test_a_file_that_is_gone_is_told_of(people: People, project: str) -> None:
    await chain(people, project, 2)
    (people.stack.registry / project / "a/v1/f").unlink()
    with pytest.raises(DraymanError) as caught:
        await people.admin.reroute_links([Doomed(project, "a", "v1")])
    assert caught.value.reason == "CONTENT_LOST"
    assert (await links(people, project))["v2"] is not None


async def test_links_follow_rows_that_were_changed_before_a_crash(database_url: str, tmp_path: Path) -> None:
    """Killed after the rows and before the links: the next start turns the links, and leaves copies alone."""
    gobbler = GobblerRegistry(tmp_path / "registry")
    gobbler.project("p", [])
    gobbler.asset("p", "a")
    gobbler.version("p", "a", "v1", {"f": CONTENT})
    first = To("p", "a", "v1", "f")
    second = To("p", "a", "v2", "f", first)
    gobbler.version("p", "a", "v2", {"f": first})
    gobbler.version("p", "a", "v3", {"f": second})
    gobbler.version("p", "a", "v4", {"f": To("p", "a", "v3", "f", first), "deep/er/f": second})
    folder = gobbler.root / "p" / "a"
    async with bare_registry(database_url, gobbler.root) as registry:
        await adopt(registry)
        doomed = [rerouting.Doomed("p", "a", "v1")]
        changes = rerouting.plan(doomed, await registry.repairs.links_around(doomed))
        await registry.content.copy("p/a/v1/f", "p/a/v2/f")
        for version in ("v2", "v3", "v4"):
            at = VersionAddress("p", "a", version)
            await registry.repairs.reroute(at, [each for each in changes if each.address.version_address == at])
        assert str((folder / "v3/f").readlink()) == "../v1/f"
        await registry.recovery.recover()
        assert str((folder / "v3/f").readlink()) == "../v2/f"
        assert str((folder / "v4/f").readlink()) == "../v2/f"
        assert str((folder / "v4/deep/er/f").readlink()) == "../../../v2/f"
        assert not (folder / "v2/f").is_symlink()
        assert not (folder / "v2/..links").exists()
        rerouter = Rerouter(registry.repairs, registry.content, registry.documenter)
        assert await rerouter.run(doomed) == []
        assert await registry.remover.delete(doomed[0], force=False)
        maintenance = Maintenance(registry.store, registry.repairs, registry.content, registry.documenter)
        for version in ("v2", "v3", "v4"):
            assert await maintenance.validate(VersionAddress("p", "a", version)) == []
            assert (folder / version / "f").read_bytes() == CONTENT


async def test_a_crash_in_the_middle_loses_nothing() -> None:
    """Killed at any moment, each file has its content; done again, it is done."""
    files = 300
    with local_stack() as stack:
        people = People(stack)
        await people.admin.create_project("p")
        content = {f"d{number % 7}/f{number}": b"%d" % number * 50 for number in range(files)}
        for version in ("v1", "v2", "v3"):
            await people.upload("admin", f"p/a/{version}", dict(content))
        doomed = [Doomed("p", "a", "v1")]
        for seconds in (0.03, 0.15):
            running = asyncio.create_task(people.admin.reroute_links(doomed))
            await asyncio.sleep(seconds)  # anywhere within
            await asyncio.to_thread(stack.kill)
            await asyncio.gather(running, return_exceptions=True)
            for version in ("v2", "v3"):
                for path, expected in content.items():
                    assert (stack.registry / "p/a" / version / path).read_bytes() == expected
            await people.restart()
        await people.admin.reroute_links(doomed)
        assert await people.admin.delete_version("p", "a", "v1")
        async with asyncio.timeout(30):
            # whoever was killed may have left documents: they are written at the start
            while any([await people.admin.validate_version("p", "a", version) for version in ("v2", "v3")]):
                await asyncio.sleep(0.2)
        usage = sum(map(len, content.values()))
        assert (await people.admin.get_project("p")).usage == usage == await people.admin.refresh_usage("p")
        await people.close()
