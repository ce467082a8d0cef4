"""What the mirror of pygobbler reads: from the mounted registry and from the service alike, and what it keeps of that. A live stack."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman import pygobbler as pyg
from drayman.testing import LocalStack


class Reader:
    """A project with two versions, read from here or from there."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.stack = stack
        self.project = f"r-{uuid4().hex[:12]}"
        self.write = {"staging": str(stack.staging), "url": stack.url}
        self.local = {"registry": str(stack.registry), "url": stack.url}
        self.remote = self.local | {"force_remote": True}
        self.cache = folder / "cache"
        self.folder = folder / "files"
        for path, content in {
            "foo": "BAR",
            "whee/blah": "stuff",
            "deep/a/b/c": "c",
            "odd #?%41+ é": "odd",
            "e": "",
        }.items():
            place = self.folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        (self.folder / "deep/hollow").mkdir()
        pyg.create_project(self.project, **self.write, owners=["akari"], uploaders=[{"id": "ann", "trusted": True}])
        self.upload("v1")
        self.upload("v2")

    def upload(self, version: str, **options: Any) -> None:
        pyg.upload_directory(self.project, "a", version, str(self.folder), **self.write, **options)

    @property
    def kept(self) -> dict[str, Any]:
        return self.remote | {"cache": str(self.cache)}

    def summary(self, version: str) -> dict[str, Any]:
        return pyg.fetch_summary(self.project, "a", version, **self.kept)

    def directory(self, path: str = "a/v2", **options: Any) -> Path:
        return Path(pyg.fetch_directory(f"{self.project}/{path}", **self.kept, **options))


@pytest.fixture
def reader(stack: LocalStack, tmp_path: Path) -> Iterator[Reader]:
    with stack.as_user(stack.admin[0]):
        yield Reader(stack, tmp_path)


@pytest.fixture(scope="module")
def unchanged(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with stack.as_user(stack.admin[0]):
        made = Reader(stack, tmp_path_factory.mktemp("reader"))
        made.upload("v3", probation=True)
        yield made


@pytest.mark.parametrize("prefix", [None, "", "f", "whee/", "whee/b", "deep/", "deep/a", "deep/hollow/", "..", "none/"])
@pytest.mark.parametrize("include_dotdot", [True, False])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_files_are_the_same_from_here_and_there(
    unchanged: Reader, version: str, prefix: str | None, include_dotdot: bool
) -> None:
    options: dict[str, Any] = {"prefix": prefix, "include_dotdot": include_dotdot}
    here = pyg.list_files(unchanged.project, "a", version, **unchanged.local, **options)
    assert here == pyg.list_files(unchanged.project, "a", version, **unchanged.remote, **options)
    assert isinstance(here, list)


def test_everything_else_is_the_same_from_here_and_there(unchanged: Reader) -> None:
    name, here, there = unchanged.project, unchanged.local, unchanged.remote
    kept = unchanged.kept
    assert name in pyg.list_projects(**here)
    assert name in pyg.list_projects(**there)
    assert pyg.list_assets(name, **here) == pyg.list_assets(name, **there) == ["a"]
    assert pyg.list_versions(name, "a", **here) == pyg.list_versions(name, "a", **there) == ["v1", "v2", "v3"]
    for version in ("v1", "v2", "v3"):
        mine = pyg.fetch_manifest(name, "a", version, **here)
        assert mine == pyg.fetch_manifest(name, "a", version, **kept)
        assert list(mine) == list(pyg.fetch_manifest(name, "a", version, **kept))
        assert pyg.fetch_summary(name, "a", version, **here) == pyg.fetch_summary(name, "a", version, **kept)
    assert pyg.fetch_latest(name, "a", **here) == pyg.fetch_latest(name, "a", **there) == "v2"
    assert pyg.fetch_usage(name, **here) == pyg.fetch_usage(name, **there) == 12
    assert pyg.fetch_permissions(name, **here) == pyg.fetch_permissions(name, **there)
    assert pyg.fetch_permissions(name, **here, asset="a") == pyg.fetch_permissions(name, **there, asset="a")


def test_copies_have_the_bytes_of_the_registry(unchanged: Reader) -> None:
    mounted = unchanged.stack.registry / unchanged.project
    copied = unchanged.directory("a")
    assert str(copied).startswith(str(unchanged.cache))
    for parent, _, names in os.walk(mounted / "a"):
        for name in names:
            path = Path(parent, name).relative_to(mounted / "a")
            assert (copied / path).read_bytes() == (mounted / "a" / path).read_bytes(), path
            assert not (copied / path).is_symlink()
    assert (copied / "v1/deep/hollow").is_dir()
    whole = unchanged.directory("")
    for name in ("..permissions", "..usage", "..quota"):
        assert (whole / name).read_bytes() == (mounted / name).read_bytes()


def test_one_file(unchanged: Reader) -> None:
    for path in ("foo", "odd #?%41+ é", "e", "..manifest", "..links", "deep/a/b/..links"):
        kept = pyg.fetch_file(f"{unchanged.project}/a/v2/{path}", **unchanged.kept)
        assert Path(kept).read_bytes() == (unchanged.stack.registry / unchanged.project / "a/v2" / path).read_bytes()
    usage = pyg.fetch_file(f"{unchanged.project}/..usage", **unchanged.kept)
    assert Path(usage).read_bytes() == (unchanged.stack.registry / unchanged.project / "..usage").read_bytes()


def test_what_is_not_there(unchanged: Reader) -> None:
    name = unchanged.project

    def status(call: Any, *arguments: Any, **options: Any) -> int:
        with pytest.raises(pyg.RegistryError) as error:
            call(*arguments, **options)
        found: int = error.value.status
        return found

    assert status(pyg.list_assets, "nothing", **unchanged.remote) == 500
    assert status(pyg.list_versions, name, "nothing", **unchanged.remote) == 500
    assert status(pyg.list_files, name, "a", "v9", **unchanged.remote) == 500
    assert status(pyg.list_files, name, "a", "v9", **unchanged.remote, prefix="x") == 500
    assert status(pyg.fetch_manifest, name, "a", "v9", **unchanged.kept) == 404
    assert status(pyg.fetch_summary, name, "a", "v9", **unchanged.kept) == 404
    assert status(pyg.fetch_usage, "nothing", **unchanged.remote) == 404
    assert status(pyg.fetch_permissions, "nothing", **unchanged.remote) == 404
    assert status(pyg.fetch_file, f"{name}/a/v1/nothing", **unchanged.kept) == 404
    assert status(pyg.fetch_file, f"{name}/a/v1/..nothing", **unchanged.kept) == 404
    assert status(pyg.fetch_file, f"{name}/a/v1/../../../../out", **unchanged.kept) == 400
    assert status(pyg.fetch_directory, f"{name}/a/v9", **unchanged.kept) == 500
    assert pyg.fetch_latest(name, "nothing", **unchanged.remote) is None
    assert pyg.fetch_latest("nothing", "nothing", **unchanged.remote) is None


def test_a_copy_is_ones_own_until_it_is_to_be_overwritten(reader: Reader) -> None:
    copied = reader.directory()
    (copied / "foo").write_text("mine")
    (copied / "new").write_text("mine")
    assert reader.directory() == copied
    assert (copied / "foo").read_text() == "mine"
    assert (reader.directory(overwrite=True) / "foo").read_text() == "BAR"
    assert (copied / "new").read_text() == "mine"
    (copied / "foo").unlink()
    assert (reader.directory(concurrent=2) / "foo").read_text() == "BAR"


def test_a_summary_is_not_that_of_before(reader: Reader) -> None:
    reader.upload("v3", probation=True)
    assert reader.summary("v3")["on_probation"] is True
    pyg.approve_probation(reader.project, "a", "v3", **reader.write)
    assert "on_probation" not in reader.summary("v3")


def test_a_version_of_the_same_name_is_not_that_of_before(reader: Reader) -> None:
    copied = reader.directory()
    pyg.remove_version(reader.project, "a", "v2", **reader.write)
    with pytest.raises(pyg.RegistryError):
        reader.directory()
    with pytest.raises(pyg.RegistryError):
        pyg.fetch_file(f"{reader.project}/a/v2/foo", **reader.kept)
    (reader.folder / "foo").write_text("BAZ")
    (reader.folder / "whee/blah").unlink()
    reader.upload("v2")
    assert Path(pyg.fetch_file(f"{reader.project}/a/v2/foo", **reader.kept)).read_text() == "BAZ"
    assert reader.directory() == copied
    assert (copied / "foo").read_text() == "BAZ"
    assert not (copied / "whee/blah").exists()
    assert "whee/blah" not in pyg.fetch_manifest(reader.project, "a", "v2", **reader.kept)


def test_many_who_fetch_the_same(reader: Reader) -> None:
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: reader.directory(), range(8)))
    assert len(set(found)) == 1
    assert (found[0] / "foo").read_text() == "BAR"
    assert not list((reader.cache).glob("*/TEMP/*"))
