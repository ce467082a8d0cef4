"""How folders become versions through the mirror of pygobbler. Against a live stack."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from drayman import pygobbler as pyg
from drayman.testing import LocalStack


class Place:
    """A project to upload to."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.project = f"u-{uuid4().hex[:12]}"
        self.staging = str(stack.staging)
        self.write = {"staging": self.staging, "url": stack.url}
        self.read = {"registry": str(stack.registry), "url": stack.url}
        pyg.create_project(self.project, **self.write)

    def upload(self, folder: Path | str, version: str = "v1", asset: str = "a", **options: Any) -> None:
        pyg.upload_directory(self.project, asset, version, str(folder), **self.write, **options)

    def manifest(self, version: str = "v1", asset: str = "a") -> dict[str, Any]:
        return pyg.fetch_manifest(self.project, asset, version, **self.read)

    def path(self, version: str = "v1", asset: str = "a") -> Path:
        return Path(pyg.version_path(self.project, asset, version, **self.read))


@pytest.fixture
def place(stack: LocalStack) -> Iterator[Place]:
    with stack.as_user(stack.admin[0]):
        yield Place(stack)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    (made / "sub/deeper").mkdir(parents=True)
    (made / "blah.txt").write_text("BAR")
    (made / "sub/deeper/one").write_text("1 2 3")
    (made / "hollow").mkdir()
    (made / ".hidden").write_text("h")
    (made / "..own").write_text("o")
    return made


def test_a_folder_and_the_same_again(place: Place, folder: Path) -> None:
    place.upload(folder)
    assert sorted(place.manifest()) == ["blah.txt", "hollow", "sub/deeper/one"]
    assert not any("link" in entry for entry in place.manifest().values())
    assert (place.path() / "sub/deeper/one").read_text() == "1 2 3"
    assert (folder / "blah.txt").exists()

    (folder / "blah.txt").rename(folder / "renamed.txt")
    place.upload(folder, "v2")
    again = place.manifest("v2")
    assert again["renamed.txt"]["link"] == {"project": place.project, "asset": "a", "version": "v1", "path": "blah.txt"}
    assert again["hollow"] == {"size": 0, "md5sum": ""}
    assert pyg.fetch_usage(place.project, **place.read) == 8


def test_names_with_dots(place: Place, folder: Path) -> None:
    place.upload(folder, ignore_dot=False)
    assert sorted(place.manifest()) == [".hidden", "blah.txt", "hollow", "sub/deeper/one"]
    # the name of the folder itself says nothing
    place.upload(folder.rename(folder.parent / "..dots"), "v2")
    assert sorted(place.manifest("v2")) == ["blah.txt", "hollow", "sub/deeper/one"]


def test_links_of_every_kind(place: Place, folder: Path) -> None:
    place.upload(folder, asset="first")
    (folder / "near").symlink_to("blah.txt")
    (folder / "absolute").symlink_to(folder / "blah.txt")
    (folder / "chain").symlink_to("near")
    (folder / "old").symlink_to(place.path(asset="first") / "blah.txt")
    (folder / "folder").symlink_to("sub")
    place.upload(folder)
    manifest = place.manifest()
    mine = {"project": place.project, "asset": "a", "version": "v1"}
    assert manifest["near"]["link"] == mine | {"path": "blah.txt"}
    assert manifest["absolute"]["link"] == mine | {"path": "blah.txt"}
    assert manifest["chain"]["link"] == mine | {"path": "near", "ancestor": mine | {"path": "blah.txt"}}
    assert manifest["old"]["link"]["asset"] == "first"
    # what is behind a link to a directory is there
    assert (place.path() / "folder/deeper/one").read_text() == "1 2 3"
    pyg.validate_version(place.project, "a", "v1", **place.write)


def test_a_clone_with_a_change(place: Place, folder: Path, tmp_path: Path) -> None:
    place.upload(folder)
    pyg.clone_version(place.project, "a", "v1", str(tmp_path / "clone"), place.read["registry"])
    (tmp_path / "clone/more").write_text("more")
    place.upload(tmp_path / "clone", "v2")
    manifest = place.manifest("v2")
    assert sorted(manifest) == ["blah.txt", "hollow", "more", "sub/deeper/one"]
    assert [path for path in manifest if "link" in manifest[path]] == ["blah.txt", "sub/deeper/one"]


def test_what_cannot_be_uploaded_is_refused_and_leaves_the_name_free(place: Place, folder: Path) -> None:
    def refused(what: str) -> None:
        with pytest.raises(pyg.RegistryError, match=what) as error:
            place.upload(folder)
        assert error.value.status == 500

    odd = folder / "sub/odd"
    os.mkfifo(odd)
    refused("sub/odd.*FIFO")
    odd.unlink()
    with socket.socket(socket.AF_UNIX) as held:
        here = Path.cwd()
        os.chdir(folder)  # such a name must be short
        try:
            held.bind("odd")
        finally:
            os.chdir(here)
    refused("odd.*socket")
    (folder / "odd").unlink()
    for target in ("nowhere", "odd", str(folder.parent), "/etc/hostname", ".."):
        (folder / "odd").symlink_to(target)
        refused("odd")
        (folder / "odd").unlink()
    assert pyg.list_assets(place.project, **place.read) == []
    place.upload(folder)


def test_no_folder(place: Place, folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.upload(folder / "nothing")
    with pytest.raises(NotADirectoryError):
        place.upload(folder / "blah.txt")
    assert pyg.list_assets(place.project, **place.read) == []


def test_refusals(place: Place, folder: Path) -> None:
    place.upload(folder)
    (folder / "blah.txt").write_text("something else")
    for status, options in (
        (400, {}),
        (400, {"version": "v/2"}),
        (400, {"version": "."}),
        (400, {"asset": ".."}),
        (400, {"asset": "a" * 300}),
        (400, {"version": "nul\0"}),
        (403, {"spoof": "somebody"}),
    ):
        with pytest.raises(pyg.RegistryError) as error:
            place.upload(folder, **options)  # type: ignore[arg-type]
        assert error.value.status == status, options
    with pytest.raises(pyg.RegistryError) as error:
        pyg.upload_directory("nothing", "a", "v", str(folder), **place.write)
    assert error.value.status == 404


def _fill(place: Place) -> Path:
    made = Path(pyg.allocate_upload_directory(place.staging))
    (made / "sub").mkdir()
    (made / "a").write_text("A")
    (made / "sub/b").write_text("B")
    return made


def test_staged_folders(place: Place) -> None:
    filled = _fill(place)
    place.upload(filled)
    assert sorted(place.manifest()) == ["a", "sub/b"]
    assert (filled / "sub/b").read_text() == "B"

    (filled / "a").write_text("changed")
    place.upload(filled, "v2", consume=True)
    assert "link" not in place.manifest("v2")["a"]
    assert not (filled / "a").exists()
    assert (place.path("v2") / "a").read_text() == "changed"


def test_a_folder_deeper_in_staging(place: Place) -> None:
    filled = _fill(place)
    place.upload(filled / "sub")
    assert list(place.manifest()) == ["b"]
    place.upload(filled / "sub", "v2", consume=True)
    assert not (filled / "sub/b").exists()


def test_staged_by_another_account(place: Place) -> None:
    user = f"u{uuid4().hex[:12]}"
    place.stack.add_user(user)
    pyg.set_permissions(place.project, registry=place.read["registry"], **place.write, uploaders=[{"id": user}])
    with place.stack.as_user(user):
        place.upload(_fill(place))
    summary = pyg.fetch_summary(place.project, "a", "v1", **place.read)
    assert (summary["upload_user_id"], summary["on_probation"]) == (user, True)


def test_a_staging_folder_that_is_not_the_services(place: Place, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pyg.upload_directory(place.project, "a", "v1", str(folder), staging=str(tmp_path), url=place.stack.url)
    assert "blah.txt" in place.manifest()
