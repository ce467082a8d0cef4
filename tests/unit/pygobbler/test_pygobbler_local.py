"""Reads of a mounted registry, as Gobbler left it: no service is asked."""

import os
from pathlib import Path

import pytest

from drayman import pygobbler as pyg
from service.registry.gobbler_registry import GobblerRegistry, To, write

NOBODY = "grpc://127.0.0.1:1"
UPLOADER = {"id": "alicia", "until": "2030-01-01T00:00:00Z"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = GobblerRegistry(tmp_path_factory.mktemp("mounted") / "registry")
    made.project("p", ["akari"], [UPLOADER])
    # as a global write leaves it
    made.asset("p", "a", {"owners": ["ann"], "uploaders": None})
    files = {"top.txt": b"top", "deep/a/b/c.txt": b"c", "deep/hollow": None, ".hidden": b"", "twin": b"twin"}
    made.version("p", "a", "v1", files)
    made.version("p", "a", "v2", {"only/below/this": b"1", "only/link": To("p", "a", "v1", "top.txt")})
    made.version("p", "a", "v3", {}, probation=True)
    made.project("empty", [])
    return str(made.root)


def test_lists_have_no_internal_names_and_an_order(registry: str) -> None:
    assert pyg.list_projects(registry, NOBODY) == ["empty", "p"]
    assert pyg.list_assets("p", registry, NOBODY) == ["a"]
    assert pyg.list_assets("empty", registry, NOBODY) == []
    assert pyg.list_versions("p", "a", registry, NOBODY) == ["v1", "v2", "v3"]
    with pytest.raises(FileNotFoundError):
        pyg.list_assets("nothing", registry, NOBODY)


def test_files_by_any_prefix_are_a_list(registry: str) -> None:
    def files(version: str = "v1", prefix: str | None = None, include_dotdot: bool = True) -> list[str]:
        found = pyg.list_files("p", "a", version, registry, NOBODY, prefix=prefix, include_dotdot=include_dotdot)
        assert isinstance(found, list)
        return found

    mine = [".hidden", "deep/a/b/c.txt", "deep/hollow/", "top.txt", "twin"]
    assert files(include_dotdot=False) == mine
    assert files() == sorted(["..manifest", "..summary", *mine])
    assert files(prefix="") == files()
    assert files(prefix="deep/") == ["deep/a/b/c.txt", "deep/hollow/"]
    assert files(prefix="deep") == ["deep/a/b/c.txt", "deep/hollow/"]
    assert files(prefix="deep/a") == ["deep/a/b/c.txt"]
    assert files(prefix="deep/hollow/") == []
    assert files(prefix="t", include_dotdot=False) == ["top.txt", "twin"]
    assert files(prefix="deep/h", include_dotdot=False) == ["deep/hollow/"]
    assert files(prefix="no/such/") == []
    assert files("v2", include_dotdot=False) == ["only/below/this", "only/link"]
    assert files("v2", "only/") == ["only/..links", "only/below/this", "only/link"]
    assert files("v3") == ["..manifest", "..summary"]
    assert files("v9") == []


def test_documents(registry: str) -> None:
    manifest = pyg.fetch_manifest("p", "a", "v2", registry, NOBODY)
    assert manifest["only/below/this"] == {"size": 1, "md5sum": "c4ca4238a0b923820dcc509a6f75849b"}
    assert manifest["only/link"]["link"] == {"project": "p", "asset": "a", "version": "v1", "path": "top.txt"}
    summary = pyg.fetch_summary("p", "a", "v3", registry, NOBODY)
    assert summary["upload_user_id"] == "ann"
    assert summary["on_probation"] is True
    assert "on_probation" not in pyg.fetch_summary("p", "a", "v1", registry, NOBODY)
    assert pyg.fetch_latest("p", "a", registry, NOBODY) == "v2"
    assert pyg.fetch_latest("p", "nothing", registry, NOBODY) is None
    assert pyg.fetch_usage("p", registry, NOBODY) == 9
    with pytest.raises(FileNotFoundError):
        pyg.fetch_manifest("p", "a", "v9", registry, NOBODY)
    with pytest.raises(FileNotFoundError):
        pyg.fetch_usage("nothing", registry, NOBODY)


def test_permissions_are_two_lists_whatever_lies_there(registry: str) -> None:
    assert pyg.fetch_permissions("p", registry, NOBODY) == {"owners": ["akari"], "uploaders": [UPLOADER]}
    assert pyg.fetch_permissions("p", registry, NOBODY, asset="a") == {"owners": ["ann"], "uploaders": []}
    assert pyg.fetch_permissions("p", registry, NOBODY, asset="none") == {"owners": [], "uploaders": []}
    with pytest.raises(FileNotFoundError):
        pyg.fetch_permissions("nothing", registry, NOBODY)


def test_what_would_be_sent_is_told_without_a_service(registry: str) -> None:
    def told(**changes: object) -> object:
        return pyg.set_permissions("p", registry, "", NOBODY, dry_run=True, **changes)  # type: ignore[arg-type]

    more = {"id": "bob"}
    assert told() == {}
    assert told(owners=["ann", "akari"], uploaders=[more]) == {
        "owners": ["akari", "ann"],
        "uploaders": [UPLOADER, more],
    }
    assert told(owners=["ann"], append=False) == {"owners": ["ann"]}
    assert told(global_write=True) == {"global_write": True}
    assert told(global_write=True, asset="a") == {}
    assert told(uploaders=[more], asset="a") == {"uploaders": [more]}
    with pytest.raises(FileNotFoundError):
        pyg.set_permissions("nothing", registry, "", NOBODY, owners=["ann"])


def test_paths_are_given_without_a_look(registry: str) -> None:
    assert pyg.fetch_file("p/a/v1/top.txt", registry, NOBODY) == f"{registry}/p/a/v1/top.txt"
    assert pyg.fetch_directory("p/a/v9", registry, NOBODY) == f"{registry}/p/a/v9"
    assert pyg.version_path("p", "a", "v1", registry=registry, url=NOBODY) == f"{registry}/p/a/v1"


def test_a_clone_is_links_into_the_registry(registry: str, tmp_path: Path) -> None:
    pyg.clone_version("p", "a", "v1", str(tmp_path / "clone"), registry)
    made = tmp_path / "clone"
    assert (made / "deep/a/b/c.txt").readlink() == Path(registry, "p/a/v1/deep/a/b/c.txt")
    assert (made / "deep/hollow").is_dir()
    assert not (made / "deep/hollow").is_symlink()
    assert not (made / "..manifest").exists()
    with pytest.raises(FileExistsError):
        pyg.clone_version("p", "a", "v1", str(made), registry)
    with pytest.raises(FileNotFoundError):
        pyg.clone_version("p", "a", "v9", str(tmp_path / "other"), registry)


def test_a_clone_stays_where_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "r/p/a/v").mkdir(parents=True)
    write(tmp_path / "r/p/a/v/..manifest", {"../../out": {"size": 0, "md5sum": "0" * 32}})
    with pytest.raises(ValueError, match="not a path"):
        pyg.clone_version("p", "a", "v", str(tmp_path / "clone"), str(tmp_path / "r"))


@pytest.mark.parametrize(
    ("path", "rest"),
    [("a/b/c", None), ("a/b/c/", None), ("a/b/c//d", None), ("a/b/c/d", "d"), ("a/b/c/d/e/", "d/e/")],
)
def test_unpacked_paths(path: str, rest: str | None) -> None:
    assert pyg.unpack_path(path) == {"project": "a", "asset": "b", "version": "c", "path": rest}


def test_too_short_a_path() -> None:
    with pytest.raises(ValueError, match="a/b"):
        pyg.unpack_path("a/b")


def test_nobody_there() -> None:
    with pytest.raises(ConnectionError):
        pyg.list_projects("/no/such/registry", NOBODY)
    with pytest.raises(TypeError):
        pyg.list_projects(None, NOBODY)  # type: ignore[arg-type]


def test_errors_look_like_those_of_requests() -> None:
    error = pyg.RegistryError(403, "not yours")
    assert isinstance(error, OSError)
    assert error.args == (403, "not yours")
    assert (error.status, error.errno, error.reason, error.response) == (403, 403, "not yours", None)
    assert str(error) == "[Errno 403] not yours"


def test_a_staging_folder_to_fill(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        made = pyg.allocate_upload_directory(str(tmp_path))
    finally:
        os.umask(mask)
    assert Path(made).parent == tmp_path
    assert Path(made).stat().st_mode & 0o777 == 0o755
    free = pyg.allocate_upload_directory(str(tmp_path), create=False)
    assert not Path(free).exists()
    assert free != made
