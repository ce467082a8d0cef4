"""Every RPC of RegistryService: what it does, what it refuses, and who may."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio

from drayman.client import (
    AlreadyExistsError,
    DraymanError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
)
from drayman.client.channel import open_channel
from drayman.client.credentials import bearer
from drayman.client.registry_calls import RegistryCalls
from drayman.client.registry_values import Doomed, Permissions, Quota, Uploader
from drayman.registry.v1 import registry_service_pb2 as pb
from drayman.registry.v1 import registry_service_pb2_grpc
from drayman.testing import local_stack
from service.registry.people import People, listed
from service.registry.small_upload import Linked

ODD_NAMES = ["", ".", "..", "..x", "...", "a/b", "a\\b", "new\nline", "nul\x00", "\x7f", "x" * 256, "é" * 128]
GOOD_NAMES = [".hidden", "a b", "é", "a+b", "g%", "x" * 255, "#?&=", "a..b"]


@pytest_asyncio.fixture(scope="module")
async def people() -> AsyncIterator[People]:
    with local_stack() as stack:
        stack_people = People(stack)
        yield stack_people
        await stack_people.close()
        print(*(line for line in stack.log.read_text().splitlines() if '"defect"' in line), sep="\n")


@pytest_asyncio.fixture(scope="module")
async def admin(people: People) -> RegistryCalls:
    """The administrator's client, which is made in the loop that it lives in."""
    return people.admin


@pytest_asyncio.fixture
async def project(people: People, admin: RegistryCalls) -> str:
    """A project that ann owns."""
    assert people["ann"]
    name = f"project-{uuid4().hex[:8]}"
    await admin.create_project(name, owners=["ann"])
    return name


# --- projects --------------------------------------------------------------------------------------------------------


async def test_it_tells_where_it_is_even_to_strangers(people: People) -> None:
    async with RegistryCalls(people.stack.url, timeout=30) as stranger:
        info = await stranger.info()
    assert Path(info.registry) == people.stack.registry.resolve()
    assert Path(info.staging) == people.stack.staging
    assert info.probation_days == 0


async def test_a_project_is_as_it_was_made(people: People, admin: RegistryCalls) -> None:
    uploaders = [Uploader("bob", asset="a", until="2999-01-01T00:00:00.5+01:00"), Uploader("eve", trusted=True)]
    await admin.create_project(
        "made", owners=["ann", "zoe"], uploaders=uploaders, global_write=True, quota=Quota(10, 20, 2020)
    )
    stored = await admin.get_project("made")
    assert stored.permissions == Permissions(("ann", "zoe"), tuple(uploaders), global_write=True)
    assert stored.quota == Quota(10, 20, 2020)
    assert stored.limit == 10 + 20 * (datetime.now(UTC).year - 2020)
    assert stored.usage == 0
    assert people.document("made", "..permissions") == {
        "owners": ["ann", "zoe"],
        "uploaders": [
            {"id": "bob", "asset": "a", "until": "2999-01-01T00:00:00.5+01:00"},
            {"id": "eve", "trusted": True},
        ],
        "global_write": True,
    }
    assert people.document("made", "..quota") == {"baseline": 10, "growth_rate": 20, "year": 2020}
    assert people.document("made", "..usage") == {"total": 0}


async def test_a_project_belongs_to_who_made_it_unless_told_otherwise(people: People, admin: RegistryCalls) -> None:
    await admin.create_project("mine")
    stored = await admin.get_project("mine")
    assert stored.permissions == Permissions((people.stack.admin[0],))
    assert (stored.quota.baseline, stored.quota.growth_rate) == (10**9, 10**9)
    assert stored.quota.year == datetime.now(UTC).year
    await admin.create_project("nobodys", owners=[])
    assert (await admin.get_project("nobodys")).permissions == Permissions()


async def test_a_folder_that_was_not_adopted_is_nobodys_project(people: People, admin: RegistryCalls) -> None:
    folder = people.stack.registry / "foreign"
    (folder / "asset/v1").mkdir(parents=True)
    with pytest.raises(AlreadyExistsError, match="drayman registry adopt") as caught:
        await admin.create_project("foreign")
    assert caught.value.reason == "REGISTRY_PROJECT_EXISTS"
    assert "foreign" not in await listed(admin.projects())
    assert [path.name for path in folder.iterdir()] == ["asset"]
    (folder / "asset/v1").rmdir()
    (folder / "asset").rmdir()
    folder.rmdir()
    await admin.create_project("foreign")
    assert (folder / "..permissions").is_file()


async def test_false_is_told_from_what_was_never_said(people: People, admin: RegistryCalls, project: str) -> None:
    document = people.stack.registry / project / "..permissions"
    await admin.set_permissions(project, uploaders=[{"id": "ann"}, {"id": "bob", "trusted": False}])
    assert json.loads(document.read_bytes())["uploaders"] == [{"id": "ann"}, {"id": "bob", "trusted": False}]
    found = await admin.permissions(project)
    assert [each.trusted for each in found.uploaders] == [None, False]
    assert found.global_write is None
    await admin.set_permissions(project, uploaders=found.uploaders, global_write=False)
    assert (await admin.permissions(project)).global_write is False
    said = json.loads(document.read_bytes())
    assert said["global_write"] is False
    assert said["uploaders"] == [{"id": "ann"}, {"id": "bob", "trusted": False}]


async def test_a_project_is_made_once(admin: RegistryCalls, project: str) -> None:
    with pytest.raises(AlreadyExistsError) as caught:
        await admin.create_project(project)
    assert caught.value.reason == "REGISTRY_PROJECT_EXISTS"
    name = f"race-{uuid4().hex[:8]}"
    results = await asyncio.gather(*(admin.create_project(name) for _ in range(8)), return_exceptions=True)
    assert [result for result in results if result is None] == [None]
    assert {type(result) for result in results if result is not None} == {AlreadyExistsError}


async def test_a_project_that_cannot_be_is_not_made(people: People, admin: RegistryCalls) -> None:
    for options in (
        {"uploaders": [Uploader("")]},
        {"uploaders": [Uploader("bob", until="tomorrow")]},
        {"uploaders": [Uploader("bob", until="2024-02-30T00:00:00Z")]},
        {"uploaders": [Uploader("bob", asset="..")]},
        {"owners": ["nul\x00"]},
        {"quota": Quota(-1, 0, 2024)},
        {"quota": Quota(0, -1, 2024)},
        {"quota": Quota(0, 0, 123456)},
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await admin.create_project("cannot-be", **{"owners": ["ann"], **options})  # type: ignore[arg-type]
        assert caught.value.reason == "INVALID_FIELD", options
    assert not (people.stack.registry / "cannot-be").exists()
    await admin.create_project("cannot-be")


@pytest.mark.parametrize("name", GOOD_NAMES)
async def test_good_names(people: People, admin: RegistryCalls, name: str) -> None:
    await admin.create_project(name)
    await admin.set_permissions(name, name, owners=["ann"])
    assert name in await listed(admin.projects())
    assert await listed(admin.assets(name)) == [name]
    assert (people.stack.registry / name / name / "..permissions").exists()
    assert await admin.delete_project(name)
    assert not (people.stack.registry / name).exists()


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_names_that_cannot_be_reach_nothing(
    people: People, admin: RegistryCalls, project: str, name: str
) -> None:
    before = sorted(path.name for path in people.stack.registry.iterdir())
    calls: list[Awaitable[object]] = [
        admin.create_project(name),
        admin.get_project(name),
        admin.delete_project(name, force=True),
        admin.delete_asset(project, name, force=True),
        admin.delete_version(project, "a", name, force=True),
        admin.get_version(project, name, "v"),
        admin.latest(project, name),
        admin.set_quota(name, baseline=1),
        admin.approve_probation(project, "a", name),
        admin.reject_probation(project, "a", name, force=True),
        admin.refresh_usage(name),
        admin.refresh_latest(project, name),
        admin.reindex_version(project, "a", name),
        admin.validate_version(project, "a", name),
        listed(admin.assets(name)),
        listed(admin.versions(project, name)),
        listed(admin.entries(project, "a", name)),
    ]
    if name:  # empty = all projects, the project itself
        calls += [
            listed(admin.probation(name)),
            admin.set_permissions(project, name, owners=["eve"]),
            admin.reroute_links([Doomed(project, name)]),
        ]
    for call in calls:
        with pytest.raises(InvalidRequestError):
            await call
    assert sorted(path.name for path in people.stack.registry.iterdir()) == before


async def test_what_is_not_there_is_not_found(admin: RegistryCalls, project: str) -> None:
    await admin.set_permissions(project, "asset", owners=["ann"])
    for call, reason in (
        (admin.get_project("nowhere"), "REGISTRY_PROJECT_NOT_FOUND"),
        (listed(admin.assets("nowhere")), "REGISTRY_PROJECT_NOT_FOUND"),
        (listed(admin.versions("nowhere", "a")), "REGISTRY_PROJECT_NOT_FOUND"),
        (listed(admin.versions(project, "nothing")), "ASSET_NOT_FOUND"),
        (admin.latest(project, "nothing"), "ASSET_NOT_FOUND"),
        (admin.get_version(project, "nothing", "v"), "ASSET_NOT_FOUND"),
        (admin.get_version(project, "asset", "v"), "VERSION_NOT_FOUND"),
        (listed(admin.entries(project, "asset", "v")), "VERSION_NOT_FOUND"),
        (admin.permissions("nowhere"), "REGISTRY_PROJECT_NOT_FOUND"),
        (admin.set_permissions("nowhere", owners=[]), "REGISTRY_PROJECT_NOT_FOUND"),
        (admin.set_quota("nowhere", baseline=1), "REGISTRY_PROJECT_NOT_FOUND"),
        (listed(admin.probation("nowhere")), "REGISTRY_PROJECT_NOT_FOUND"),
        (admin.approve_probation("nowhere", "a", "v"), "REGISTRY_PROJECT_NOT_FOUND"),
        (admin.approve_probation(project, "nothing", "v"), "ASSET_NOT_FOUND"),
        (admin.approve_probation(project, "asset", "v"), "VERSION_NOT_FOUND"),
        (admin.reject_probation(project, "asset", "v"), "VERSION_NOT_FOUND"),
        (admin.refresh_usage("nowhere"), "REGISTRY_PROJECT_NOT_FOUND"),
        (admin.refresh_latest(project, "nothing"), "ASSET_NOT_FOUND"),
        (admin.reindex_version(project, "asset", "v"), "VERSION_NOT_FOUND"),
        (admin.validate_version(project, "asset", "v"), "VERSION_NOT_FOUND"),
        (admin.reroute_links([Doomed("nowhere")]), "REGISTRY_PROJECT_NOT_FOUND"),
        (admin.reroute_links([Doomed(project, "nothing")]), "ASSET_NOT_FOUND"),
        (admin.reroute_links([Doomed(project, "asset", "v")]), "VERSION_NOT_FOUND"),
    ):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert caught.value.reason == reason
    for deleted in (
        admin.delete_project("nowhere"),
        admin.delete_asset("nowhere", "a"),
        admin.delete_asset(project, "nothing"),
        admin.delete_version(project, "nothing", "v"),
        admin.delete_version(project, "asset", "v"),
    ):
        assert not await deleted
    assert await admin.permissions(project, "nothing") == Permissions()
    assert await admin.latest(project, "asset") is None
    assert await admin.refresh_latest(project, "asset") is None


async def test_only_administrators_govern(people: People, project: str) -> None:
    owner = people["ann"]
    for call in (
        owner.create_project("anns"),
        owner.delete_project(project),
        owner.delete_asset(project, "a"),
        owner.delete_version(project, "a", "v"),
        owner.set_quota(project, baseline=1),
        owner.refresh_usage(project),
        owner.refresh_latest(project, "a"),
        owner.reindex_version(project, "a", "v"),
        owner.validate_version(project, "a", "v"),
        owner.reroute_links([]),
        listed(owner.adopt(dry_run=True)),
    ):
        with pytest.raises(ForbiddenError) as caught:
            await call
        assert caught.value.reason == "ADMIN_ONLY"


async def test_strangers_read_and_change_nothing(people: People, project: str) -> None:
    async with RegistryCalls(people.stack.url, "", timeout=30) as stranger:
        async with open_channel(people.stack.url) as channel:
            stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
            assert (await stub.GetProject(pb.GetProjectRequest(project=project), timeout=10)).permissions.owners == [
                "ann"
            ]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.SetPermissions(pb.SetPermissionsRequest(project=project), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises((UnauthenticatedError, DraymanError)):
            await stranger.create_project("strangers")


# --- pages -----------------------------------------------------------------------------------------------------------


async def test_lists_come_in_pages(people: People, admin: RegistryCalls, project: str) -> None:
    names = sorted(["b", "a", "é", "B", "a b", "z"])
    for name in names:
        await admin.set_permissions(project, name, owners=["ann"])
    assert await listed(admin.assets(project)) == names
    async with open_channel(people.stack.url) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        metadata = tuple(bearer(people.stack.token("ann")))
        found, token = [], ""
        while True:
            request = pb.ListAssetsRequest(project=project, page_size=4, page_token=token)
            reply = await stub.ListAssets(request, metadata=metadata, timeout=10)
            found.append(list(reply.assets))
            token = reply.next_page_token
            if not token:
                break
        assert found == [names[:4], names[4:]]
        token = (await stub.ListAssets(pb.ListAssetsRequest(project=project, page_size=1), timeout=10)).next_page_token
        for refused in (
            stub.ListProjects(pb.ListProjectsRequest(page_token=token)),
            stub.ListProjects(pb.ListProjectsRequest(page_token="é")),
            stub.ListProjects(pb.ListProjectsRequest(page_token="QQ")),
            stub.ListProjects(pb.ListProjectsRequest(page_size=-1)),
            stub.ListVersions(pb.ListVersionsRequest(project=project, asset="a", page_token=token)),
            stub.ListProbation(pb.ListProbationRequest(project=project, page_token=token), metadata=metadata),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- permissions -----------------------------------------------------------------------------------------------------


async def test_owners_change_permissions(people: People, project: str) -> None:
    ann = people["ann"]
    changed = await ann.set_permissions(project, add_owners=["zoe", "ann"], add_uploaders=[Uploader("bob")])
    assert changed == Permissions(("ann", "zoe"), (Uploader("bob"),))
    changed = await ann.set_permissions(project, uploaders=[Uploader("eve", version="v1")], global_write=True)
    assert changed == Permissions(("ann", "zoe"), (Uploader("eve", version="v1"),), global_write=True)
    changed = await ann.set_permissions(project, remove_owners=["zoe"], remove_uploaders=["eve"], global_write=False)
    assert changed == Permissions(("ann",), global_write=False) == await ann.permissions(project)
    assert people.document(project, "..permissions") == {"owners": ["ann"], "uploaders": [], "global_write": False}
    assert await ann.set_permissions(project, owners=[]) == Permissions(global_write=False)
    with pytest.raises(ForbiddenError) as caught:
        await ann.set_permissions(project, owners=["ann"])
    assert caught.value.reason == "NOT_REGISTRY_OWNER"


async def test_an_asset_has_owners_of_its_own(people: People, admin: RegistryCalls, project: str) -> None:
    ann, bob, eve = people["ann"], people["bob"], people["eve"]
    with pytest.raises(ForbiddenError):
        await bob.set_permissions(project, "asset", owners=["bob"])
    await ann.set_permissions(project, "asset", owners=["bob"], add_uploaders=[Uploader("eve", asset="other")])
    assert await ann.permissions(project, "asset") == Permissions(("bob",), (Uploader("eve"),))
    assert people.document(project, "asset", "..permissions") == {"owners": ["bob"], "uploaders": [{"id": "eve"}]}
    await bob.set_permissions(project, "asset", add_owners=["eve"])
    await eve.set_permissions(project, "asset", remove_owners=["bob"])
    for call in (
        bob.set_permissions(project, "asset", owners=["bob"]),
        eve.set_permissions(project, owners=["eve"]),
        eve.set_permissions(project, "another", owners=["eve"]),
    ):
        with pytest.raises(ForbiddenError):
            await call
    assert await listed(admin.assets(project)) == ["asset"]
    with pytest.raises(InvalidRequestError):
        await ann.set_permissions(project, "asset", global_write=True)


async def test_permissions_that_cannot_be_change_nothing(people: People, admin: RegistryCalls, project: str) -> None:
    for uploader in (
        Uploader(""),
        Uploader("b", until="soon"),
        Uploader("b", version="a/b"),
        Uploader("b", until="2024-01-01"),
    ):
        for asset in ("", "new"):
            with pytest.raises(InvalidRequestError) as caught:
                await admin.set_permissions(project, asset, owners=["eve"], add_uploaders=[uploader])
            assert caught.value.reason == "INVALID_FIELD"
    assert await admin.permissions(project) == Permissions(("ann",))
    assert await listed(admin.assets(project)) == []
    assert not (people.stack.registry / project / "new").exists()


async def test_twenty_append_at_once_and_none_is_lost(people: People, admin: RegistryCalls, project: str) -> None:
    names = [f"owner-{number}" for number in range(20)]
    await asyncio.gather(*(admin.set_permissions(project, add_owners=[name]) for name in names))
    assert set((await admin.permissions(project)).owners) == {"ann", *names}
    await asyncio.gather(*(admin.set_permissions(project, "asset", add_uploaders=[Uploader(name)]) for name in names))
    stored = await admin.permissions(project, "asset")
    assert sorted(uploader.id for uploader in stored.uploaders) == sorted(names)
    written = people.document(project, "asset", "..permissions")
    assert sorted(each["id"] for each in written["uploaders"]) == sorted(names)
    assert set(people.document(project, "..permissions")["owners"]) == {"ann", *names}


# --- quotas ----------------------------------------------------------------------------------------------------------


async def test_a_quota_can_be_changed_and_holds(people: People, admin: RegistryCalls, project: str) -> None:
    year = datetime.now(UTC).year
    assert await admin.set_quota(project, baseline=100, growth_rate=0) == (Quota(100, 0, year), 100)
    await people.upload("ann", f"{project}/a/v1", {"file": b"x" * 60})
    with pytest.raises(DraymanError) as caught:
        await people.upload("ann", f"{project}/a/v2", {"file": b"y" * 60})
    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert "60" in str(caught.value)
    assert await admin.set_quota(project, growth_rate=10, year=year - 2) == (Quota(100, 10, year - 2), 120)
    await people.upload("ann", f"{project}/a/v2", {"file": b"y" * 60})
    assert (await admin.get_project(project)).usage == 120
    assert people.document(project, "..quota") == {"baseline": 100, "growth_rate": 10, "year": year - 2}
    for wrong in ({"baseline": -1}, {"growth_rate": -5}, {"year": 0}):
        with pytest.raises(InvalidRequestError):
            await admin.set_quota(project, **wrong)
    assert (await admin.get_project(project)).quota == Quota(100, 10, year - 2)


# --- probation -------------------------------------------------------------------------------------------------------


async def test_what_waits_is_listed_approved_and_rejected(people: People, admin: RegistryCalls, project: str) -> None:
    ann, bob, eve = people["ann"], people["bob"], people["eve"]
    await ann.set_permissions(project, add_uploaders=[Uploader("bob")])
    assert not (await people.upload("ann", f"{project}/a/v0", {"f": b"0"})).on_probation
    for number in (1, 2, 3):
        assert (await people.upload("bob", f"{project}/a/v{number}", {"f": b"%d" % number})).on_probation
    assert [each.version for each in await listed(ann.probation(project))] == ["v1", "v2", "v3"]
    waiting = [each for each in await listed(admin.probation()) if each.project == project]
    assert [each.version for each in waiting] == ["v1", "v2", "v3"]
    async with open_channel(people.stack.url) as channel:
        stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
        found: list[str] = []
        token = ""
        while len(found) < 3:
            request = pb.ListProbationRequest(project=project, page_size=1, page_token=token)
            reply = await stub.ListProbation(request, metadata=tuple(bearer(people.stack.token("ann"))), timeout=10)
            found += [each.version for each in reply.versions]
            token = reply.next_page_token
        assert (found, token) == (["v1", "v2", "v3"], "")

    for refused in (
        listed(bob.probation(project)),
        listed(ann.probation()),
        bob.approve_probation(project, "a", "v1"),
        eve.reject_probation(project, "a", "v1"),
    ):
        with pytest.raises(ForbiddenError) as caught:
            await refused
        assert caught.value.reason == "NOT_REGISTRY_OWNER"

    latest = await ann.latest(project, "a")
    assert latest is not None
    assert latest.version == "v0"
    approved = await ann.approve_probation(project, "a", "v2")
    assert (approved.on_probation, approved.upload_user) == (False, "bob")
    assert "on_probation" not in people.document(project, "a", "v2", "..summary")
    assert people.document(project, "a", "v1", "..summary")["on_probation"] is True
    await bob.reject_probation(project, "a", "v1")  # who uploaded it may
    assert not (people.stack.registry / project / "a" / "v1").exists()
    await ann.reject_probation(project, "a", "v3")
    assert await listed(ann.probation(project)) == []
    assert (await ann.get_project(project)).usage == 2
    for call in (ann.approve_probation(project, "a", "v2"), ann.reject_probation(project, "a", "v2")):
        with pytest.raises(PreconditionError) as wrong:
            await call
        assert wrong.value.reason == "NOT_ON_PROBATION"
    await people.upload("bob", f"{project}/a/v1", {"f": b"again"})


async def test_two_who_decide_at_once_do_not_both(people: People, project: str) -> None:
    ann = people["ann"]
    await people.upload("ann", f"{project}/a/v", {"f": b"1"}, probation=True)
    results = await asyncio.gather(
        *(ann.approve_probation(project, "a", "v") for _ in range(4)),
        *(ann.reject_probation(project, "a", "v") for _ in range(4)),
        return_exceptions=True,
    )
    approved = [result for result in results[:4] if not isinstance(result, BaseException)]
    rejected = [result for result in results[4:] if not isinstance(result, BaseException)]
    assert (len(approved), len(rejected)) in ((1, 0), (0, 1))
    assert [each.version for each in await listed(ann.versions(project, "a"))] == ["v"] * len(approved)


# --- deletion --------------------------------------------------------------------------------------------------------


async def test_what_others_link_to_stays_until_forced(people: People, admin: RegistryCalls, project: str) -> None:
    other = f"{project}-other"
    await admin.create_project(other, owners=["ann"])
    await people.upload("ann", f"{project}/a/v1", {"f": b"content"})
    await people.upload("ann", f"{other}/b/v1", {"g": Linked(f"{project}/a/v1/f")})
    for call in (
        admin.delete_project(project),
        admin.delete_asset(project, "a"),
        admin.delete_version(project, "a", "v1"),
    ):
        with pytest.raises(DraymanError) as caught:
            await call
        assert caught.value.reason == "LINKED_TO"
    assert await admin.delete_version(project, "a", "v1", force=True)
    assert not (people.stack.registry / project / "a" / "v1").exists()
    assert (people.stack.registry / project / "a").is_dir()
    assert await admin.delete_project(project, force=True)
    assert not (people.stack.registry / project).exists()
    assert project not in await listed(admin.projects())
    await admin.create_project(project)
    assert {each.path for each in await admin.validate_version(other, "b", "v1")} == {"g"}


async def test_the_latest_version_follows_deletions(people: People, admin: RegistryCalls, project: str) -> None:
    for name in ("c", "b", "a"):  # of one second, the first by name is found to be the latest
        await people.upload("ann", f"{project}/x/{name}", {"f": name.encode()})
    assert await admin.delete_version(project, "x", "b")
    assert people.document(project, "x", "..latest") == {"version": "a"}
    assert await admin.delete_version(project, "x", "a")
    latest = await admin.latest(project, "x")
    assert latest is not None
    assert latest.version == "c"
    assert people.document(project, "x", "..latest") == {"version": "c"}
    assert await admin.delete_version(project, "x", "c")
    assert await admin.latest(project, "x") is None
    assert not (people.stack.registry / project / "x" / "..latest").exists()
    assert (await admin.get_project(project)).usage == 0
    assert people.document(project, "..usage") == {"total": 0}


# --- changes ---------------------------------------------------------------------------------------------------------


async def test_changes_are_told_and_followed(people: People, admin: RegistryCalls, project: str) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=5)
    ann = people["ann"]
    heard: list[tuple[str, str, bool]] = []

    async def follow() -> None:
        async with aclosing(ann.changes(project=project, follow=True)) as changes:  # type: ignore[type-var]
            async for change in changes:
                heard.append((change.type, change.version, change.latest))
                if change.type == "delete-project":
                    return

    following = asyncio.create_task(follow())
    await people.upload("ann", f"{project}/a/v1", {"f": b"1"})
    await people.upload("ann", f"{project}/a/v2", {"f": b"2"}, probation=True)
    await ann.approve_probation(project, "a", "v2")
    await admin.reindex_version(project, "a", "v1")
    await admin.delete_version(project, "a", "v1", force=True)
    await admin.delete_asset(project, "a")
    await admin.delete_project(project)
    async with asyncio.timeout(20):
        await following
    expected = [
        ("add-version", "v1", True),
        ("add-version", "v2", False),
        ("reindex-version", "v1", True),
        ("delete-version", "v1", True),
        ("delete-asset", "", False),
        ("delete-project", "", False),
    ]
    read = await listed(ann.changes(project=project))
    assert heard == [(change.type, change.version, change.latest) for change in read]
    # within one second an approved version does not become the latest
    assert [each[:2] for each in heard] == [each[:2] for each in expected]
    assert [change.change_id for change in read] == sorted(change.change_id for change in read)
    assert await listed(ann.changes(project=project, after=read[2].change_id)) == read[3:]
    assert await listed(ann.changes(project=project, since=begun)) == read
    assert await listed(ann.changes(project=project, since=begun + timedelta(days=1))) == []
    with pytest.raises(InvalidRequestError):
        await listed(ann.changes(after=-1))
    logs = [json.loads(path.read_text()) for path in sorted((people.stack.registry / "..logs").iterdir())]
    ours = [entry for entry in logs if entry["project"] == project]
    assert sorted(entry["type"] for entry in ours) == sorted(each[0] for each in expected)


async def test_who_follows_is_told_of_the_end(admin: RegistryCalls) -> None:
    assert admin
    with local_stack() as stack:
        async with open_channel(stack.url) as channel:
            stub = registry_service_pb2_grpc.RegistryServiceStub(channel)
            stream: Any = stub.ListChanges(pb.ListChangesRequest(follow=True))
            assert not (await stream.read()).changes
            assert await asyncio.to_thread(stack.stop_services) == 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# --- acting as others ------------------------------------------------------------------------------------------------


async def test_acting_as_others(tmp_path: Path) -> None:
    rules = tmp_path / "spoof"
    rules.write_text("gate:ann,bob\nadmin:*\n")
    with local_stack(settings={"DRAYMAN_REGISTRY_SPOOF": str(rules)}) as stack:
        people = People(stack)
        admin, gate, eve = people["admin"], people["gate"], people["eve"]
        for name in ("ann", "bob"):
            assert people[name]
        await admin.create_project("p", owners=["ann"])
        with pytest.raises(ForbiddenError) as caught:
            await gate.set_permissions("p", add_owners=["gate"])
        assert caught.value.reason == "NOT_REGISTRY_OWNER"
        await gate.set_permissions("p", add_uploaders=[Uploader("bob")], spoof="ann")
        uploaded = await people.upload("gate", "p/a/v", {"f": b""}, spoof="bob")
        assert (uploaded.upload_user, uploaded.on_probation) == ("bob", True)
        for call, reason in (
            (gate.approve_probation("p", "a", "v", spoof="bob"), "NOT_REGISTRY_OWNER"),
            (gate.approve_probation("p", "a", "v", spoof="admin"), "SPOOFING_REFUSED"),
            (eve.approve_probation("p", "a", "v", spoof="ann"), "SPOOFING_REFUSED"),
            # an administrator who acts as somebody is none
            (admin.reject_probation("p", "a", "v", spoof="eve"), "NOT_REGISTRY_OWNER"),
        ):
            with pytest.raises(ForbiddenError) as caught:
                await call
            assert caught.value.reason == reason
        assert not (await gate.approve_probation("p", "a", "v", spoof="ann")).on_probation
        await people.close()
