"""Unpacks sandboxes: nothing in one may reach beyond the job's folder."""

from __future__ import annotations

import tarfile
import zlib
from errno import EDQUOT, EFBIG, EIO, ENOSPC, EROFS
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from drayman.worker.job_error import SANDBOX_FAILED, JobError

_BLOCK = 1 << 20


def unpack(archive: Path, folder: Path, name: str = "") -> None:
    """Unpack an archive into a folder. Raises JobError for what is no archive, and for one with names or links that lead out of it.

    `name` is what its user calls it. Raises OSError where the folder cannot take it.
    """
    name = name or archive.name
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                # tar would make names relative that are not: nobody wants what comes of that
                _look_at(member)
                tar.extract(member, folder, filter="data")
            _read_on(tar)
    except _OutsideError as error:
        raise JobError(SANDBOX_FAILED, f"sandbox {name}: {error}") from error
    except tarfile.FilterError as error:
        raise JobError(SANDBOX_FAILED, f"sandbox {name}: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, ValueError, KeyError) as error:
        raise JobError(SANDBOX_FAILED, f"sandbox {name} cannot be unpacked: {error}") from error
    except OSError as error:
        if not _is_disk(error):
            raise JobError(SANDBOX_FAILED, f"sandbox {name} cannot be unpacked: {error}") from error
        raise


class _OutsideError(ValueError):
    """A member that leads out of the folder."""


def _read_on(tar: tarfile.TarFile) -> None:
    """Read what is behind the last member: the checksum of the whole."""
    while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
        pass


def _look_at(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise _OutsideError(f"{member.name!r} leads out of the job's folder")
    if member.islnk() or member.issym():
        target = PurePosixPath(member.linkname)
        # a hard link names a member, a symbolic one goes from where it is
        depth = 0 if member.islnk() else len(path.parts) - 1
        for part in target.parts:
            depth += -1 if part == ".." else 1
            if depth < 0:
                break
        if target.is_absolute() or depth < 0:
            raise _OutsideError(f"the link {member.name!r} to {member.linkname!r} leads out of the job's folder")


def _is_disk(error: OSError) -> bool:
    """Whether it is the disk that is to blame, and not what is in the archive."""
    return error.errno in (EDQUOT, EFBIG, EIO, ENOSPC, EROFS)
