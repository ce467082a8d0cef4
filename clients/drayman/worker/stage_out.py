"""Takes what a job made to the registry."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from uuid import NAMESPACE_URL, uuid4, uuid5

from drayman.client.errors import AlreadyExistsError, DraymanError
from drayman.client.job_values import JobDescription, JobOutput, MadeFile
from drayman.client.registry import RegistryClient
from drayman.worker.job_error import OUTPUT_MISSING, STAGE_OUT_FAILED, JobError
from drayman.worker.persistence import persist


class StageOut:
    """Uploads the outputs of jobs, in the name of their owners."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def outputs(self, job: JobDescription, folder: Path, scratch: Path) -> list[MadeFile]:
        """Upload what a job made in its folder. Raises JobError for what is missing, or cannot be stored."""
        wanted = [output for output in job.outputs if output.type != "log"]
        there = [(output, path) for output in wanted if (path := _made(folder, output.name)) is not None]
        found = {output.name for output, _ in there}
        missing = [output.name for output in wanted if output.name not in found and not output.optional]
        if missing:
            raise JobError(OUTPUT_MISSING, f"the job did not make {', '.join(missing)}")
        return await self._upload(job, there, scratch)

    async def logs(self, job: JobDescription, files: Sequence[Path], scratch: Path) -> list[MadeFile]:
        """Upload the log of a job, an archive of what it and its pilot wrote. Raises JobError."""
        made = []
        for output in (output for output in job.outputs if output.type == "log"):
            archive = scratch / f"log-{uuid4().hex}"
            await asyncio.to_thread(_pack, archive, output.name, files)
            made += await self._upload(job, [(output, archive)], scratch)
        return made

    async def _upload(
        self, job: JobDescription, files: Sequence[tuple[JobOutput, Path]], scratch: Path
    ) -> list[MadeFile]:
        places: defaultdict[tuple[str, str, str], list[tuple[JobOutput, Path]]] = defaultdict(list)
        for output, path in files:
            places[output.project, output.asset, output.version].append((output, path))
        made = []
        for place, members in places.items():
            folder = scratch / f"upload-{uuid4().hex}"
            try:
                made += await asyncio.to_thread(_gather, folder, members)
                await self._store(job, place, members[0][0].warrant, folder)
            except AlreadyExistsError as error:
                raise JobError(STAGE_OUT_FAILED, f"outputs are there already: {error}") from error
            except (DraymanError, OSError, ValueError) as error:
                raise JobError(STAGE_OUT_FAILED, f"outputs cannot be stored: {error}") from error
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return made

    async def _store(self, job: JobDescription, place: tuple[str, str, str], warrant: str, folder: Path) -> None:
        # who asks again after it lost the answer means the same upload
        upload_id = str(uuid5(NAMESPACE_URL, "/".join((str(job.job_id), str(job.attempt), *place))))
        await persist(
            lambda: self._registry.upload(*place, folder, upload_id=upload_id, warrant=warrant, follow_outside=False)
        )


def _made(folder: Path, name: str) -> Path | None:
    """Return the file that a job made under a name; None if there is none. A link counts for where it leads, within the folder.

    Raises JobError for one that leads out of it: what lies there is the pilot's, not the job's.
    """
    path = folder / name
    if not path.is_file():
        return None
    source = path.resolve()
    if not source.is_relative_to(folder.resolve()):
        raise JobError(STAGE_OUT_FAILED, f"the output {name} leads out of the job's folder, to {source}")
    return source


def _gather(folder: Path, members: Sequence[tuple[JobOutput, Path]]) -> list[MadeFile]:
    """Put files into a folder of their own, without copying them if that can be, and measure them."""
    folder.mkdir()
    made = []
    for output, source in members:
        if output.name.startswith(".."):
            raise ValueError(f"the registry does not keep {output.name!r}: names do not begin with two dots")
        target = folder / output.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        made.append(MadeFile(output.name, target.stat().st_size, f"md5:{digest}"))
    return made


def _pack(archive: Path, name: str, files: Sequence[Path]) -> None:
    mode = "w:gz" if name.endswith((".tgz", ".gz")) else "w"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload] # the mode is one of two
        for path in files:
            if path.is_file():
                tar.add(path, arcname=path.name)
