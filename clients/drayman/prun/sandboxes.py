"""The sandbox of a task: packed, or given; and stored, unless the same one was stored before (section 7)."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from drayman.client.errors import DraymanError
from drayman.client.sandboxes import SandboxClient
from drayman.prun.endings import ArchiveError, ConfigurationError, UploadError
from drayman.prun.options import Options
from drayman.prun.sandbox_packing import LARGEST, LARGEST_SOURCES, MB, Choice, Packed, check_archive, pack

_TRAILER = 8
#: Options that name files which a run writes: they would make each sandbox another one.
_WRITTEN = ("outTarBall", "dumpJson", "dumpTaskParams")
_GZIP = b"\x1f\x8b"


class Sandbox:
    """An archive on disk, and the name that it is stored under; an empty one is none."""

    def __init__(self, path: Path | None, name: str, packed: Packed) -> None:
        self.path = path
        self.name = name
        self.packed = packed

    async def store(self, client: SandboxClient, explain: Callable[[DraymanError], str]) -> bool:
        """Store it; returns whether that was necessary: what is there already gives it its name. Raises UploadError."""
        if self.path is None:
            return False
        try:
            found = await self._stored(client, self.path)
            if found is not None:
                self.name = found
                return False
            self.name = await client.put(self.path, self.name)
        except DraymanError as error:
            raise UploadError(f"the sandbox cannot be stored: {explain(error)}") from error
        except OSError as error:
            raise UploadError(f"the sandbox cannot be stored: {error}") from error
        return True

    async def _stored(self, client: SandboxClient, path: Path) -> str | None:
        with path.open("rb") as file:
            if file.read(len(_GZIP)) != _GZIP:
                return None  # its last bytes say nothing of the others
            size = file.seek(0, 2)
            file.seek(max(0, size - _TRAILER))
            trailer = file.read()
        found = await client.find(size, trailer)
        # what a build job unpacks goes under another name
        return found if found is not None and found.partition(".")[0] == self.name.partition(".")[0] else None


def make_sandbox(options: Options, scratch: Path) -> Sandbox:
    """Pack the folder that the options name into `scratch`, or look at the archive they give. Raises ArchiveError, ConfigurationError."""
    building = options.has("bexec")
    limit = LARGEST_SOURCES if building else LARGEST
    name = f"{'sources' if building else 'jobO'}.{uuid.uuid4()}.tar.gz"
    if options.has("inTarBall"):
        given = Path(options.text("inTarBall"))
        check_archive(given, limit=limit)
        _keep(given, options)
        return Sandbox(given, name, Packed())
    folder = Path(options.text("workDir") or ".")
    if not folder.is_dir():
        raise ConfigurationError(f"--workDir {str(folder)!a} is no folder")
    choice = Choice(
        largest=(options.number("maxFileSize") or 1) * MB,
        included=options.words("extFile"),
        excluded=options.words("excludeFile"),
        written=[Path(options.text(name)) for name in _WRITTEN if options.has(name)],
    )
    archive = scratch / name
    packed = pack(folder, archive, choice, limit=limit)
    _keep(archive, options)
    return Sandbox(archive if packed.files else None, name if packed.files else "", packed)


def _keep(archive: Path, options: Options) -> None:
    if not options.has("outTarBall"):
        return
    target = Path(options.text("outTarBall"))
    try:
        shutil.copyfile(archive, target)
    except (OSError, shutil.SameFileError) as error:
        raise ArchiveError(f"--outTarBall {str(target)!a} cannot be written: {error}") from error
