"""Packs a folder into the archive that jobs find the content of. The same content makes the same archive, to the byte.

Left out are files larger than a limit unless they are named, what a pattern excludes, the folders of version control, and what is no file,
folder or link (sockets and the like). A link that leads out of the folder cannot be packed.
"""

from __future__ import annotations

import fnmatch
import gzip
import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from drayman.prun.endings import ArchiveError

MB = 1024 * 1024
#: Bytes that an archive may have: one that jobs unpack themselves, and one that a build job does (section 7).
LARGEST = 10 * MB
LARGEST_SOURCES = 768 * MB
#: More files than anybody's code has: somebody is in the wrong folder.
_MOST_FILES = 100_000
_NEVER = frozenset({".git", ".hg", ".svn", "CVS", "__pycache__"})
_COMPRESSION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which files go along: `largest` is in bytes, patterns are of names or of paths below the folder; `written` is what we write there."""

    largest: int = MB
    included: Sequence[str] = ()
    excluded: Sequence[str] = ()
    written: Sequence[Path] = ()


@dataclass(slots=True)
class Packed:
    """What was packed: how many files, and which stayed, with the reason."""

    files: int = 0
    left: dict[str, str] = field(default_factory=dict)


def pack(folder: Path, archive: Path, choice: Choice, *, limit: int = LARGEST) -> Packed:
    """Pack a folder. Raises ArchiveError for what cannot be packed, and for an archive of more than `limit` bytes; then there is none."""
    packed = Packed()
    ours = frozenset(map(os.path.realpath, (archive, *choice.written)))
    try:
        with (
            archive.open("wb") as file,
            # no name and no time: the header would tell two archives of the same content apart
            gzip.GzipFile("", "wb", _COMPRESSION, file, 0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path in _walk(folder, PurePosixPath(), choice, packed, ours):
                _add(tar, folder, path)
                _check(file, packed, limit)
        size = archive.stat().st_size
        if size > limit:
            raise _too_large(limit)
    except OSError as error:
        archive.unlink(missing_ok=True)
        raise ArchiveError(f"{error.filename or folder} cannot be packed: {error.strerror or error}") from error
    except ArchiveError:
        archive.unlink(missing_ok=True)
        raise
    return packed


def check_archive(path: Path, *, limit: int) -> None:
    """Raise ArchiveError for what workers would not unpack: no archive, too large, or names and links that lead out of the folder."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise _too_large(limit, str(path))
        with tarfile.open(path) as tar:
            for member in tar:
                tarfile.data_filter(member, "/nowhere")
    except tarfile.FilterError as error:
        raise ArchiveError(f"{path}: {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ArchiveError(f"{path} is no archive that can be read: {error}") from error


def _walk(
    folder: Path, below: PurePosixPath, choice: Choice, packed: Packed, ours: frozenset[str]
) -> Iterator[PurePosixPath]:
    """Yield what goes along, in an order that does not depend on the disk's."""
    with os.scandir(folder / below) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        path = below / name
        if name in _NEVER or _matches(path, choice.excluded):
            continue
        status = (folder / path).lstat()
        if stat.S_ISDIR(status.st_mode):
            yield path
            yield from _walk(folder, path, choice, packed, ours)
        elif stat.S_ISLNK(status.st_mode):
            yield path
        elif not stat.S_ISREG(status.st_mode):
            packed.left[str(path)] = "it is no file"
        elif status.st_size > choice.largest and not _matches(path, choice.included):
            packed.left[str(path)] = f"it has more than {choice.largest // MB} MB"
        elif os.path.realpath(folder / path) not in ours:
            packed.files += 1
            yield path


def _add(tar: tarfile.TarFile, folder: Path, path: PurePosixPath) -> None:
    """Add a member: its name, its content, and whether it can be run."""
    source = folder / path
    info = tarfile.TarInfo(str(path))
    status = source.lstat()
    info.mode = 0o755 if stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR else 0o644
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif stat.S_ISLNK(status.st_mode):
        info.type = tarfile.SYMTYPE
        info.mode = 0o777
        info.linkname = _link(folder, path)
        tar.addfile(info)
    else:
        with source.open("rb") as file:
            info.size = os.fstat(file.fileno()).st_size
            tar.addfile(info, file)


def _link(folder: Path, path: PurePosixPath) -> str:
    """Return where a link leads, as seen from its own folder. Raises ArchiveError if that is out of the folder."""
    text = str((folder / path).readlink())
    root = os.path.realpath(folder)
    place = os.path.realpath(folder / path.parent)
    target = os.path.realpath(os.path.join(place, text))  # noqa: PTH118 - it may not be there
    if target != root and not target.startswith(root + os.sep):
        raise ArchiveError(
            f"{path} is a link to {text}, which is out of the folder: jobs would not find it; leave it out with --excludeFile"
        )
    return os.path.relpath(os.path.normpath(os.path.join(place, text)), place) if os.path.isabs(text) else text  # noqa: PTH117, PTH118 - as above


def _matches(path: PurePosixPath, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(text, pattern.strip("/").removeprefix("./"))
        for pattern in patterns
        for text in (path.name, str(path))
    )


def _check(file: IO[bytes], packed: Packed, limit: int) -> None:
    if packed.files > _MOST_FILES:
        raise ArchiveError(
            f"there are more than {_MOST_FILES} files: is this the right folder? --workDir names another one"
        )
    if file.tell() > limit:
        raise _too_large(limit)


def _too_large(limit: int, what: str = "the archive") -> ArchiveError:
    hint = "" if limit == LARGEST_SOURCES else f", or build in a job (--bexec), where it is {LARGEST_SOURCES // MB} MB"
    return ArchiveError(
        f"{what} has more than the {limit // MB} MB that it may: leave files out with --excludeFile or a smaller --maxFileSize{hint}"
    )
