"""Governance and maintenance of a registry whose bytes are in an object store."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import DraymanError
from drayman.client.registry_values import Doomed, FileAddress, Link
from drayman.testing import local_stack
from s3_server import s3_server
from service.registry.people import People, listed
from service.registry.small_upload import Linked


@pytest_asyncio.fixture(scope="module")
async def people(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[People]:
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3")) as server:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        with local_stack(settings={"DRAYMAN_REGISTRY": f"s3://{server.bucket()}/a/prefix"}) as stack:
            everybody = People(stack)
            yield everybody
            await everybody.close()
            print(*(line for line in stack.log.read_text().splitlines() if '"defect"' in line), sep="\n")


@pytest_asyncio.fixture
async def project(people: People) -> str:
    """A project with two versions; much of the second one is in the first."""
    name = f"p-{uuid4().hex[:8]}"
    await people.admin.create_project(name)
    await people.upload("admin", f"{name}/a/v1", {"f": b"f", "g": b"g"})
    files = {"f": b"f", "new": b"new", "empty": None, "linked": Linked(f"{name}/a/v1/g")}
    await people.upload("admin", f"{name}/a/v2", files)
    return name


async def test_it_tells_its_url(people: People) -> None:
    assert (await people.admin.info()).registry.startswith("s3://")


async def test_what_is_well_is_well(people: People, project: str) -> None:
    for version in ("v1", "v2"):
        assert await people.admin.validate_version(project, "a", version) == []


async def test_reindexing_keeps_what_no_object_store_has(people: People, project: str) -> None:
    before = await listed(people.admin.entries(project, "a", "v2"))
    version = await people.admin.reindex_version(project, "a", "v2")
    assert (version.entries, version.usage) == (4, 3)
    assert await listed(people.admin.entries(project, "a", "v2")) == before
    assert await people.admin.validate_version(project, "a", "v2") == []


async def test_links_are_rerouted(people: People, project: str) -> None:
    await people.upload("admin", f"{project}/a/v3", {"f": b"f"})
    with pytest.raises(DraymanError) as caught:
        await people.admin.delete_version(project, "a", "v1")
    assert caught.value.reason == "LINKED_TO"
    changes = await people.admin.reroute_links([Doomed(project, "a", "v1")])
    assert [(change.path.removeprefix(project), change.copy) for change in changes] == [
        ("/a/v2/f", True),
        ("/a/v2/linked", True),
        ("/a/v3/f", False),
    ]
    assert await people.admin.delete_version(project, "a", "v1")
    [entry] = await listed(people.admin.entries(project, "a", "v3"))
    assert entry.link == Link(FileAddress(project, "a", "v2", "f"))
    for version in ("v2", "v3"):
        assert await people.admin.validate_version(project, "a", version) == []
    assert (await people.admin.get_project(project)).usage == 5 == await people.admin.refresh_usage(project)


async def test_there_is_nothing_to_adopt(people: People) -> None:
    with pytest.raises(DraymanError) as caught:
        await listed(people.admin.adopt())
    assert caught.value.reason == "NOT_OFFERED"


async def test_what_is_removed_is_gone(people: People, project: str) -> None:
    assert await people.admin.delete_asset(project, "a")
    assert await listed(people.admin.assets(project)) == []
    assert await people.admin.delete_project(project)
    await people.admin.create_project(project)
    assert (await people.upload("admin", f"{project}/a/v1", {"f": b"again"})).usage == 5
