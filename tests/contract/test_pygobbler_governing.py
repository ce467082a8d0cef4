"""What the mirror of pygobbler changes: projects, permissions, probation, maintenance. Against a live stack."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from drayman import pygobbler as pyg
from drayman.testing import LocalStack


class House:
    """A stack as an administrator's scripts know it."""

    def __init__(self, stack: LocalStack, tmp_path: Path) -> None:
        self.stack = stack
        self.staging, self.registry, self.url = str(stack.staging), str(stack.registry), stack.url
        self.write = {"staging": self.staging, "url": self.url}
        self.read = {"registry": self.registry, "url": self.url}
        self.both = self.write | self.read
        self.folder = tmp_path / "files"
        self.folder.mkdir()
        (self.folder / "a.txt").write_text("A")

    def project(self, **options: object) -> str:
        name = f"p-{uuid4().hex[:12]}"
        pyg.create_project(name, **self.write, **options)  # type: ignore[arg-type]
        return name

    def upload(self, project: str, asset: str = "a", version: str = "v1", **options: object) -> None:
        pyg.upload_directory(project, asset, version, str(self.folder), **self.write, **options)  # type: ignore[arg-type]

    def user(self) -> str:
        name = f"u{uuid4().hex[:12]}"
        self.stack.add_user(name)
        return name


@pytest.fixture
def house(stack: LocalStack, tmp_path: Path) -> Iterator[House]:
    with stack.as_user(stack.admin[0]):
        yield House(stack, tmp_path)


def refusal(status: int, call: Callable[[], object]) -> str:
    with pytest.raises(pyg.RegistryError) as refused:
        call()
    error = refused.value
    assert (error.status, error.args) == (status, (status, error.reason))
    return error.reason


def test_service_info(house: House) -> None:
    assert pyg.service_info(house.url) == {"staging": house.staging, "registry": house.registry}


def test_a_project_from_its_making_to_its_end(house: House) -> None:
    name = house.project()
    assert name in pyg.list_projects(**house.read)
    assert pyg.fetch_permissions(name, **house.read) == {"owners": ["admin"], "uploaders": []}
    assert pyg.fetch_usage(name, **house.read) == 0
    refusal(400, lambda: pyg.create_project(name, **house.write))
    refusal(400, lambda: pyg.create_project(".", **house.write))
    refusal(400, lambda: pyg.create_project("..x", **house.write))
    pyg.remove_project(name, **house.write)
    assert name not in pyg.list_projects(**house.read)
    assert name not in pyg.list_projects(**house.read, force_remote=True)
    pyg.remove_project(name, **house.write)
    pyg.remove_asset(name, "a", **house.write)
    pyg.remove_version(name, "a", "v1", **house.write)


def test_owners_and_uploaders_from_the_start(house: House) -> None:
    uploader = {"id": "alicia", "asset": "a", "trusted": True}
    name = house.project(owners=["akari"], uploaders=[uploader])
    assert pyg.fetch_permissions(name, **house.read) == {"owners": ["akari"], "uploaders": [uploader]}
    mine = house.project(uploaders=[uploader])
    assert pyg.fetch_permissions(mine, **house.read) == {"owners": ["admin"], "uploaders": [uploader]}
    assert pyg.fetch_permissions(house.project(owners=[]), **house.read)["owners"] == []

    broken = f"p-{uuid4().hex[:12]}"
    refusal(400, lambda: pyg.create_project(broken, **house.write, uploaders=[{"id": "x", "until": "tomorrow"}]))
    refusal(400, lambda: pyg.create_project(broken, **house.write, uploaders=[{"asset": "x"}]))
    refusal(400, lambda: pyg.create_project(broken, **house.write, uploaders=[{"id": "x", "trusted": "no"}]))
    pyg.create_project(broken, **house.write)  # nothing of it was left behind


def test_only_administrators_make_and_remove(house: House) -> None:
    name = house.project()
    with house.stack.as_user(house.user()):
        refusal(403, lambda: pyg.create_project("mine", **house.write))
        refusal(403, lambda: pyg.remove_project(name, **house.write))
        refusal(403, lambda: pyg.refresh_usage(name, **house.write))
        refusal(403, lambda: pyg.reroute_links([], **house.write))


def test_permissions_are_added_or_replaced(house: House) -> None:
    name = house.project(owners=["akari"])
    until = datetime.now(UTC) + timedelta(days=1)
    assert (
        pyg.set_permissions(name, **house.both, owners=["ann", "akari"], uploaders=[{"id": "bob", "until": until}])
        is None
    )
    found = pyg.fetch_permissions(name, **house.read)
    assert found["owners"] == ["akari", "ann"]
    assert [each["id"] for each in found["uploaders"]] == ["bob"]
    assert datetime.fromisoformat(found["uploaders"][0]["until"]) == until
    assert pyg.fetch_permissions(name, **house.read, force_remote=True) == found

    pyg.set_permissions(name, **house.both, uploaders=[{"id": "carl"}], global_write=True)
    found = pyg.fetch_permissions(name, **house.read)
    assert [each["id"] for each in found["uploaders"]] == ["bob", "carl"]
    assert found["global_write"] is True
    pyg.set_permissions(name, **house.both, owners=["only"], uploaders=[], append=False)
    found = pyg.fetch_permissions(name, **house.read)
    assert found == {"owners": ["only"], "uploaders": [], "global_write": True}
    refusal(400, lambda: pyg.set_permissions(name, **house.both, uploaders=[{"id": "x", "until": "never"}]))
    refusal(404, lambda: pyg.set_permissions("nothing", **house.both, owners=["x"], append=False))
    with house.stack.as_user(house.user()):
        refusal(403, lambda: pyg.set_permissions(name, **house.both, owners=["me"]))


def test_an_asset_of_ones_own_by_a_global_write(house: House) -> None:
    name = house.project()
    pyg.set_permissions(name, **house.both, global_write=True)
    user = house.user()
    with house.stack.as_user(user):
        house.upload(name, "mine")
        mine = pyg.fetch_permissions(name, **house.read, asset="mine")
        assert mine == {"owners": [user], "uploaders": []}
        pyg.set_permissions(name, **house.both, asset="mine", uploaders=[{"id": "bob"}])
        house.upload(name, "mine", "v2")
    assert [each["id"] for each in pyg.fetch_permissions(name, **house.read, asset="mine")["uploaders"]] == ["bob"]
    assert pyg.fetch_latest(name, "mine", **house.read) == "v2"


def test_twenty_who_add_themselves_at_once_are_twenty(house: House) -> None:
    name = house.project(owners=["first"])
    added = [f"owner{number}" for number in range(20)]
    threads = [
        threading.Thread(target=pyg.set_permissions, args=(name,), kwargs=house.both | {"owners": [each]})
        for each in added
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(pyg.fetch_permissions(name, **house.read)["owners"]) == {"first", *added}


def test_probation(house: House) -> None:
    name = house.project()
    house.upload(name, version="v1", probation=True)
    assert pyg.fetch_latest(name, "a", **house.read) is None
    assert pyg.fetch_latest(name, "a", **house.read, force_remote=True) is None
    assert pyg.fetch_summary(name, "a", "v1", **house.read)["on_probation"] is True
    with house.stack.as_user(house.user()):
        refusal(403, lambda: pyg.approve_probation(name, "a", "v1", **house.write))
    pyg.approve_probation(name, "a", "v1", **house.write)
    assert pyg.fetch_latest(name, "a", **house.read) == "v1"
    refusal(500, lambda: pyg.approve_probation(name, "a", "v1", **house.write))
    refusal(500, lambda: pyg.reject_probation(name, "a", "v1", **house.write))
    refusal(404, lambda: pyg.approve_probation(name, "a", "v9", **house.write))

    house.upload(name, version="v2", probation=True)
    pyg.reject_probation(name, "a", "v2", **house.write)
    assert pyg.list_versions(name, "a", **house.read) == ["v1"]
    house.upload(name, version="v2")


def test_who_uploads_without_trust_may_take_it_back(house: House) -> None:
    user = house.user()
    name = house.project(uploaders=[{"id": user}])
    with house.stack.as_user(user):
        house.upload(name)
        assert pyg.fetch_summary(name, "a", "v1", **house.read)["on_probation"] is True
        refusal(403, lambda: pyg.approve_probation(name, "a", "v1", **house.write))
        pyg.reject_probation(name, "a", "v1", **house.write)
    assert pyg.list_versions(name, "a", **house.read) == []


def test_nobody_acts_as_somebody_else_without_a_rule(house: House) -> None:
    name = house.project()
    with house.stack.as_user(house.user()):
        refusal(403, lambda: house.upload(name, spoof="admin"))
        refusal(403, lambda: pyg.set_permissions(name, **house.both, owners=["x"], spoof="admin"))


def test_latest_and_usage_are_found_again(house: House) -> None:
    name = house.project()
    house.upload(name)
    assert pyg.refresh_latest(name, "a", **house.write) == "v1"
    assert pyg.refresh_usage(name, **house.write) == 1 == pyg.fetch_usage(name, **house.read)
    pyg.remove_version(name, "a", "v1", **house.write)
    assert pyg.refresh_latest(name, "a", **house.write) is None
    assert pyg.refresh_usage(name, **house.write) == 0 == pyg.fetch_usage(name, **house.read, force_remote=True)
    refusal(404, lambda: pyg.refresh_usage("nothing", **house.write))
    refusal(404, lambda: pyg.refresh_latest(name, "nothing", **house.write))


def test_validation_says_what_is_wrong_and_reindexing_takes_it_over(house: House) -> None:
    name = house.project()
    house.upload(name)
    pyg.validate_version(name, "a", "v1", **house.write)
    (house.stack.registry / name / "a/v1/more.txt").write_text("more")
    assert "extra file" in refusal(500, lambda: pyg.validate_version(name, "a", "v1", **house.write))
    pyg.reindex_version(name, "a", "v1", **house.write)
    pyg.validate_version(name, "a", "v1", **house.write)
    assert sorted(pyg.fetch_manifest(name, "a", "v1", **house.read)) == ["a.txt", "more.txt"]


def test_links_are_rerouted_and_nothing_is_lost_by_removing(house: House) -> None:
    name = house.project()
    for version in ("v1", "v2", "v3"):
        house.upload(name, version=version)
    doomed = [{"project": name, "asset": "a", "version": "v1"}]
    told = pyg.reroute_links(doomed, **house.write, dry_run=True)
    source = f"{name}/a/v1/a.txt"
    assert sorted(told, key=lambda each: str(each["path"])) == [
        {"path": f"{name}/a/v2/a.txt", "copy": True, "source": source, "usage": 1},
        {"path": f"{name}/a/v3/a.txt", "copy": False, "source": source, "usage": 0},
    ]
    assert "link" in pyg.fetch_manifest(name, "a", "v2", **house.read)["a.txt"]
    # done by removing as well: what others link to stays theirs
    pyg.remove_version(name, "a", "v1", **house.write)
    assert "link" not in pyg.fetch_manifest(name, "a", "v2", **house.read)["a.txt"]
    assert Path(house.registry, name, "a/v3/a.txt").read_text() == "A"
    for version in ("v2", "v3"):
        pyg.validate_version(name, "a", version, **house.write)
    assert pyg.fetch_usage(name, **house.read) == 1
    refusal(400, lambda: pyg.reroute_links([{"project": name, "version": "v1"}], **house.write))
    refusal(400, lambda: pyg.reroute_links([{}], **house.write))
    refusal(500, lambda: pyg.reroute_links([{"project": "nothing"}], **house.write))
    assert pyg.reroute_links([], **house.write) == []


def test_projects_that_others_link_to(house: House) -> None:
    first, second = house.project(), house.project()
    house.upload(first)
    pyg.clone_version(first, "a", "v1", str(house.folder.parent / "clone"), house.registry)
    pyg.upload_directory(second, "b", "v1", str(house.folder.parent / "clone"), **house.write)
    assert pyg.fetch_manifest(second, "b", "v1", **house.read)["a.txt"]["link"]["project"] == first
    pyg.remove_project(first, **house.write)
    assert Path(house.registry, second, "b/v1/a.txt").read_text() == "A"
    pyg.validate_version(second, "b", "v1", **house.write)


def test_without_a_token(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRAYMAN_TOKEN")
    refusal(401, lambda: pyg.create_project("x", **house.write))
