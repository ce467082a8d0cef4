"""Takes jobs that belong to no task: checked one by one, stored in one transaction, the same submission once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.trust import Caller
from drayman.server.task.hand_out import HandOut
from drayman.server.task.job_kills import is_production
from drayman.server.task.job_rendering import RenderingError
from drayman.server.task.job_store import SQL
from drayman.server.task.outputs import Outputs
from drayman.server.task.own_jobs import (
    LABELS,
    PRODUCTION_LABEL,
    check,
    label_of,
    priority_of,
    render_own,
    requirements_of,
    without_ours,
)
from drayman.server.task.plan import Requirements

_MOST = 5000


@dataclass(slots=True)
class Submitted:
    """What became of a job: its id, or why it could not be stored."""

    job_id: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of a submission."""

    definition_id: int
    jobs: Sequence[Submitted]


@dataclass(slots=True)
class _Draft:
    place: int
    own: dict[str, Any]
    requirements: Requirements
    priority: int
    job_id: int = 0
    lot_id: int = 0


@dataclass(slots=True)
class _Sorted:
    good: list[_Draft] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)


class JobSubmission:
    """Submits jobs. `project` is the registry's one of outputs whose dataset names none."""

    def __init__(self, pool: asyncpg.Pool, outputs: Outputs, hand_out: HandOut, project: str) -> None:
        self._pool = pool
        self._outputs = outputs
        self._hand_out = hand_out
        self._project = project

    async def submit(self, caller: Caller, jobs: Sequence[Mapping[str, Any]], request_id: UUID | None) -> Submission:
        """Store jobs, given as their fields with `Files`. Raises Refusal."""
        if len(jobs) > _MOST:
            raise invalid("jobs", f"{len(jobs)} jobs: at most {_MOST:,}")
        if request_id is not None:
            found = await self._pool.fetchrow(SQL["submission"], caller.username, request_id)
            if found is not None:
                return _answered(found)
        _check_labels(caller, jobs)
        sorted_ = self._sort(jobs, production=is_production(caller))
        ids = await self._pool.fetchval(SQL["reserve_ids"], len(sorted_.good)) or []
        for draft, job_id in zip(sorted_.good, sorted(ids), strict=True):
            draft.job_id = job_id
        await self._open_outputs(caller.username, sorted_.good)
        answers = [Submitted(error=sorted_.errors.get(place, "")) for place in range(len(jobs))]
        for draft in sorted_.good:
            answers[draft.place].job_id = draft.job_id
        submission = await self._store(caller.username, sorted_.good, answers, request_id)
        if sorted_.good:
            self._hand_out.lots_changed()
        return submission

    def _sort(self, jobs: Sequence[Mapping[str, Any]], *, production: bool) -> _Sorted:
        found = _Sorted()
        for place, job in enumerate(jobs):
            try:
                own = without_ours(job)
                own["Files"] = [_file(file) for file in job.get("Files", ())]
                check(own, outputs=self._project)
                requirements, priority = requirements_of(own), priority_of(own, production=production)
                found.good.append(_Draft(place, own, requirements, priority))
            except (RenderingError, KeyError) as error:
                found.errors[place] = str(error)
        return found

    async def _open_outputs(self, user: str, drafts: Sequence[_Draft]) -> None:
        """See to it that what the jobs make can be kept."""
        places: dict[str, set[str]] = {}
        for draft in drafts:
            for output in render_own(draft.own, draft.job_id, outputs=self._project).outputs:
                places.setdefault(output.place.project, set()).add(output.place.asset)
        for project, assets in sorted(places.items()):
            await self._outputs.open(project, user, sorted(assets))

    async def _store(
        self, user: str, drafts: Sequence[_Draft], answers: list[Submitted], request_id: UUID | None
    ) -> Submission:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_submitter"], user)
            if request_id is not None:
                found = await connection.fetchrow(SQL["submission"], user, request_id)
                if found is not None:  # the same, at the same time
                    return _answered(found)
            definition_id: int = await connection.fetchval(SQL["new_definition"])
            if drafts:
                await self._store_jobs(connection, user, drafts, definition_id)
            if request_id is not None:
                job_ids = [answer.job_id for answer in answers]
                await connection.execute(SQL["insert_submission"], user, request_id, definition_id, job_ids)
        return Submission(definition_id, answers)

    async def _store_jobs(self, connection: Any, user: str, drafts: Sequence[_Draft], definition_id: int) -> None:
        lots: dict[tuple[Requirements, int], int] = {}
        for draft in drafts:
            key = (draft.requirements, draft.priority)
            if key not in lots:
                lots[key] = await _lot(connection, user, *key)
            draft.lot_id = lots[key]
        await connection.execute(
            SQL["insert_jobs"],
            definition_id,
            [draft.job_id for draft in drafts],
            [draft.lot_id for draft in drafts],
            [json.dumps(draft.own) for draft in drafts],
        )
        await connection.execute(SQL["fill_lots"], [draft.job_id for draft in drafts])


async def _lot(connection: Any, user: str, asked: Requirements, priority: int) -> int:
    values = (
        user,
        asked.label,
        priority,
        sorted(asked.sites),
        sorted(asked.excluded_sites),
        asked.cores,
        asked.memory_mb,
        asked.disk_mb,
        asked.walltime_seconds,
        asked.platform,
    )
    lot_id: int | None = await connection.fetchval(SQL["find_lot"], *values)
    if lot_id is None:
        lot_id = await connection.fetchval(SQL["insert_lot"], *values)
    assert lot_id is not None
    return lot_id


def _check_labels(caller: Caller, jobs: Sequence[Mapping[str, Any]]) -> None:
    for number, job in enumerate(jobs):
        label = label_of(job)
        if label not in LABELS:
            raise invalid(
                f"jobs[{number}].fields_json",
                f"prodSourceLabel {label[:80]!r} is unknown: expected one of {', '.join(LABELS)}",
            )
        if label == PRODUCTION_LABEL and not is_production(caller):
            raise Refusal(
                "ROLE_MISSING",
                f"Not authorized: prodSourceLabel {label} needs the role production",
                metadata={"role": "production", "user": caller.username},
            )


def _file(file: Mapping[str, Any]) -> dict[str, Any]:
    if not file.get("lfn"):
        raise RenderingError("a file has no name (lfn)")
    kind = file.get("type")
    if kind not in ("input", "output", "log", "pseudo_input"):
        raise RenderingError(
            f"file {str(file['lfn'])[:80]!r}: type {kind!r}: expected input, output, log or pseudo_input"
        )
    return dict(file)


def _answered(row: Any) -> Submission:
    return Submission(
        row["definition_id"],
        [Submitted(job_id, "" if job_id else "it could not be stored") for job_id in row["job_ids"]],
    )
