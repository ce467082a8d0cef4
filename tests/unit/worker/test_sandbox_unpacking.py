"""Sandboxes: what is in them stays in the job's folder."""

import io
import os
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from drayman.worker.job_error import SANDBOX_FAILED, JobError
from drayman.worker.sandbox_unpacking import unpack


def archive(path: Path, *members: tuple[str, object], mode: str = "w:gz") -> Path:
    """Make one: a name with bytes is a file, with a text a symbolic link, with a tuple another type and what it links to."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, what in members:
            member = tarfile.TarInfo(name)
            content = b""
            if isinstance(what, bytes):
                content = what
                member.size, member.mode = len(content), 0o6755
            elif isinstance(what, str):
                member.type, member.linkname = tarfile.SYMTYPE, what
            else:
                assert isinstance(what, tuple)
                member.type, member.linkname = what
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w:gz", "w", "w:bz2", "w:xz"])
def test_a_good_one(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    members = (
        ("./run.sh", b"#!/bin/sh\n"),
        ("lib/a", b"a"),
        ("lib/up", "../run.sh"),
        ("here", "lib"),
        ("hard", (tarfile.LNKTYPE, "lib/a")),
        ("empty/", (tarfile.DIRTYPE, "")),
    )
    unpack(archive(tmp_path / "sandbox", *members, mode=mode), folder)
    assert os.access(folder / "run.sh", os.X_OK)
    assert (folder / "run.sh").stat().st_mode & 0o7000 == 0
    assert (folder / "here/up").read_text() == "#!/bin/sh\n"
    assert (folder / "hard").read_bytes() == b"a"
    assert (folder / "empty").is_dir()


@pytest.mark.parametrize(
    "members",
    [
        (("../x", b"x"),),
        (("a/../../x", b"x"),),
        (("/tmp/x", b"x"),),
        (("//x", b"x"),),
        (("link", "/etc/passwd"),),
        (("link", "../x"),),
        (("a/link", "../../x"),),
        (("link", ".."), ("link/x", b"x")),
        (("hard", (tarfile.LNKTYPE, "/etc/passwd")),),
        (("hard", (tarfile.LNKTYPE, "../x")),),
        (("null", (tarfile.CHRTYPE, "")),),
        (("pipe", (tarfile.FIFOTYPE, "")),),
        # each step stays inside, the whole does not
        (("d/e/f", "."), ("d/up", "e/f/../../.."), ("d/up/x", b"x")),
        (("a", "b/.."), ("b", ".."), ("a/x", b"x")),
    ],
    ids=str,
)
def test_names_and_links_that_lead_out(tmp_path: Path, members: tuple[tuple[str, object], ...]) -> None:
    folder = tmp_path / "outside" / "work"
    folder.mkdir(parents=True)
    with pytest.raises(JobError) as raised:
        unpack(archive(tmp_path / "sandbox", *members), folder, "sources.tgz")
    assert raised.value.fields["pilotErrorCode"] == SANDBOX_FAILED
    assert "sources.tgz" in str(raised.value)
    assert list((tmp_path / "outside").iterdir()) == [folder]
    assert not os.path.lexists("/tmp/x")
    assert not os.path.lexists("/x")


def whole(path: Path) -> bytes:
    return archive(path, ("a", os.urandom(100_000))).read_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"no archive",
        lambda content: content[:50_000],
        lambda content: content[:5_000] + b"\xff" * 1000 + content[6_000:],
        lambda content: content[:-4] + b"oops",
    ],
    ids=["empty", "text", "cut", "spoilt", "checksum"],
)
def test_what_is_no_archive(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "sandbox"
    path.write_bytes(spoil(whole(path)))
    folder = tmp_path / "work"
    folder.mkdir()
    with pytest.raises(JobError, match="cannot be unpacked") as raised:
        unpack(path, folder)
    assert raised.value.fields["pilotErrorCode"] == SANDBOX_FAILED


def test_a_disk_that_is_full_is_not_the_sandboxs_fault(tmp_path: Path) -> None:
    path = archive(tmp_path / "sandbox", ("a", bytes(2_000_000)))
    folder = tmp_path / "work"
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            unpack(path, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
