"""Packing a folder: what goes along, what stays, and the same archive for the same content."""

import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drayman.prun.endings import ArchiveError
from drayman.prun.options import Options
from drayman.prun.sandbox_packing import MB, Choice, check_archive, pack
from drayman.prun.sandboxes import make_sandbox
from drayman.worker.sandbox_unpacking import unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "code"
    place.mkdir()
    return place


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive.tar.gz"


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_workers_get_what_was_packed(folder: Path, archive: Path, tmp_path: Path) -> None:
    (folder / "run.sh").write_text("echo")
    (folder / "run.sh").chmod(0o750)
    (folder / "data").mkdir()
    (folder / "data" / "Zoë\n.txt").write_bytes(b"\0\xff")
    (folder / os.fsdecode(b"raw\xff")).touch()
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("data/none")
    (folder / "absolute").symlink_to(folder / "run.sh")
    for skipped in (".git", "__pycache__", "data/.svn"):
        (folder / skipped).mkdir()
        (folder / skipped / "x").touch()
    packed = pack(folder, archive, Choice())
    assert (packed.files, packed.left) == (3, {})
    target = tmp_path / "job"
    target.mkdir()
    unpack(archive, target)
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert found == sorted(["absolute", "data", "data/Zoë\n.txt", "empty", "link", os.fsdecode(b"raw\xff"), "run.sh"])
    assert (target / "data" / "Zoë\n.txt").read_bytes() == b"\0\xff"
    assert os.access(target / "run.sh", os.X_OK)
    assert (target / "absolute").read_text() == "echo"
    assert (target / "absolute").readlink() == Path("run.sh")


def test_large_files_stay_unless_they_are_named(folder: Path, archive: Path) -> None:
    for name in ("big.dat", "sub/big.root", "exactly"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(MB + (name != "exactly")))
    os.mkfifo(folder / "pipe")
    packed = pack(folder, archive, Choice())
    assert packed.left == {
        "big.dat": "it has more than 1 MB",
        "pipe": "it is no file",
        "sub/big.root": "it has more than 1 MB",
    }
    assert names(archive) == ["exactly", "sub"]
    assert pack(folder, archive, Choice(included=["*.root", "./big.dat"])).files == 3
    assert pack(folder, archive, Choice(largest=2 * MB)).files == 3


def test_patterns_exclude_names_and_paths(folder: Path, archive: Path) -> None:
    for name in ("a/x.o", "a/y.c", "b/x.o", "b/z"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    pack(folder, archive, Choice(excluded=["*.o", "b/"]))
    assert names(archive) == ["a", "a/y.c"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_link_out_of_the_folder_is_an_error(folder: Path, archive: Path, target: str) -> None:
    (folder / "link").symlink_to(target)
    with pytest.raises(ArchiveError, match="link is a link to") as caught:
        pack(folder, archive, Choice())
    assert caught.value.code == 60
    assert not archive.exists()
    (folder / "file").touch()
    pack(folder, archive, Choice(excluded=["link"]))
    assert names(archive) == ["file"]


def test_an_archive_has_a_limit(folder: Path, archive: Path) -> None:
    for number in range(4):
        (folder / str(number)).write_bytes(os.urandom(1000))
    pack(folder, archive, Choice(), limit=10_000)
    exactly = archive.stat().st_size
    pack(folder, archive, Choice(), limit=exactly)
    with pytest.raises(ArchiveError, match="--excludeFile"):
        pack(folder, archive, Choice(), limit=exactly - 1)
    assert not archive.exists()


def test_what_cannot_be_packed_is_told(folder: Path, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be packed"):
        pack(tmp_path / "none", archive, Choice())
    with pytest.raises(ArchiveError, match="cannot be packed"):
        pack(folder, tmp_path / "none" / "archive", Choice())


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e", "f/g/h"]), st.binary(max_size=50), max_size=5),
    st.randoms(),
)
def test_the_same_content_makes_the_same_archive(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], draw: "st.random.Random"
) -> None:
    archives = []
    for place in ("one", "two"):
        folder = tmp_path_factory.mktemp(place)
        order = list(files)
        draw.shuffle(order)
        for name in order:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
            os.utime(folder / name, (draw.randint(0, 2**31), draw.randint(0, 2**31)))
            (folder / name).chmod(draw.choice([0o600, 0o644, 0o664]))
        archive = tmp_path_factory.mktemp("archives") / f"{place}.tar.gz"
        pack(folder, archive, Choice())
        archives.append(archive.read_bytes())
    assert archives[0] == archives[1]


def test_a_given_archive_is_looked_at(tmp_path: Path, folder: Path, archive: Path) -> None:
    (folder / "a").write_text("a")
    pack(folder, archive, Choice())
    sandbox = make_sandbox(Options({"inTarBall": str(archive), "outTarBall": str(tmp_path / "copy")}), tmp_path)
    assert sandbox.path == archive
    assert (tmp_path / "copy").read_bytes() == archive.read_bytes()
    with pytest.raises(ArchiveError, match="more than"):
        check_archive(archive, limit=10)
    for text, content in (("no archive", b"nonsense" * 100), ("none", None)):
        bad = tmp_path / text
        if content is not None:
            bad.write_bytes(content)
        with pytest.raises(ArchiveError, match="no archive that can be read"):
            check_archive(bad, limit=MB)
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(ArchiveError, match="evil"):
        check_archive(tmp_path / "evil.tar", limit=MB)


def test_what_a_run_writes_itself_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / "a").touch()
    options = Options(
        {"workDir": str(folder), "outTarBall": str(folder / "out.tgz"), "dumpJson": str(folder / "x.json")}
    )
    (folder / "x.json").write_text("{}")
    first = make_sandbox(options, tmp_path)
    assert first.path is not None
    assert names(first.path) == ["a"]
    again = make_sandbox(options, tmp_path)
    assert again.path is not None
    assert again.path.read_bytes() == first.path.read_bytes()
    assert (first.name[:5], first.name[-7:]) == ("jobO.", ".tar.gz")
    assert first.name != again.name
    assert make_sandbox(Options({"workDir": str(folder), "bexec": "make"}), tmp_path).name.startswith("sources.")


def test_an_empty_folder_makes_no_sandbox(folder: Path, tmp_path: Path) -> None:
    sandbox = make_sandbox(Options({"workDir": str(folder)}), tmp_path)
    assert (sandbox.path, sandbox.name) == (None, "")
