"""Describes jobs to the workers who got them, and remembers what they have to make."""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from drayman.server.task.dataset_names import Place
from drayman.server.task.job_messages import input_message
from drayman.server.task.job_rendering import ExpectedOutput, Rendered, RenderingError, render
from drayman.server.task.job_store import JobStore, Row
from drayman.server.task.own_jobs import is_set, render_own
from drayman.server.task.parameters import ParameterError
from drayman.server.task.plan import TaskPlan
from drayman.server.task.plans import TaskGone
from drayman.server.task.ready_lots import Lot
from drayman.task.v1 import pilot_service_pb2 as pb

#: A secret with such a key is a file in the job's folder.
_FILE_SECRET = "___file___:"  # noqa: S105 - the name of a key
#: Bytes of log that are kept of a job at most (reference §7).
_LOG_LIMIT = 100 * 1024 * 1024
_KEPT_OUTPUTS = 50_000
_KEPT_TEMPLATES = 1024


class PlanSource(Protocol):
    """Where the plans of tasks are to be had."""

    async def plan(self, task_id: int, revision: int) -> TaskPlan:
        """Return a task's plan. Raises TaskGone, ParameterError."""


class WarrantWriter(Protocol):
    """What lets workers upload outputs."""

    def warrant(self, place: Place, user: str, seconds: float) -> str:
        """Write a warrant for one version."""


class SecretSource(Protocol):
    """Where users' secrets are to be had."""

    async def of(self, user: str) -> dict[str, str]:
        """Return a user's secrets. Raises Refusal."""


class Describing:
    """Turns rows of jobs into what workers get. `project` is the registry's one of outputs whose dataset names none."""

    def __init__(
        self,
        store: JobStore,
        plans: PlanSource,
        warrants: WarrantWriter,
        secrets: SecretSource,
        *,
        project: str,
        warrant_seconds: float,
    ) -> None:
        self._store = store
        self._plans = plans
        self._warrants = warrants
        self._secrets = secrets
        self._project = project
        self._warrant_seconds = warrant_seconds
        self._lease = Duration()
        self._lease.FromNanoseconds(round(store.limits.heartbeat * 1e9))
        self._outputs: OrderedDict[int, tuple[ExpectedOutput, ...]] = OrderedDict()
        self._templates: OrderedDict[tuple[int, int, int], pb.JobDescription] = OrderedDict()

    async def describe(self, lot: Lot, row: Row) -> pb.JobDescription:
        """Describe a job that was handed out. Raises RenderingError; Refusal (UNAVAILABLE) if secrets cannot be had."""
        job_id = row["job_id"]
        if row["task_id"] is None:
            rendered = render_own(row["own"], job_id, outputs=self._project)
            description = self._own(lot, row)
        else:
            plan = await self.plan(row)
            rendered = render(plan, row, outputs=self._project)
            description = pb.JobDescription()
            description.CopyFrom(self._template(lot, row, plan))
            description.name += str(job_id)
            if plan.use_secrets:
                _add_secrets(description, await self._secrets.of(lot.owner))
        description.job_id = job_id
        description.attempt = row["attempt"]
        description.kind = row["kind"]
        description.program = rendered.program
        description.parameters = rendered.parameters
        if row["debug"]:
            description.debug = True
        for file in rendered.inputs:
            description.inputs.append(input_message(file))
        for name, lines in rendered.lists.items():
            description.secret_files[name] = "".join(f"{line}\n" for line in lines).encode()
        self._add_outputs(description, lot.owner, rendered)
        self._keep(job_id, rendered.outputs)
        return description

    async def plan(self, row: Row) -> TaskPlan:
        """Return the plan of a job's task. Raises RenderingError."""
        try:
            return await self._plans.plan(row["task_id"], row["revision"])
        except (TaskGone, ParameterError) as error:
            raise RenderingError(str(error)) from error

    async def rendered(self, row: Row) -> Rendered:
        """Render a job. Raises RenderingError."""
        if row["task_id"] is None:
            return render_own(row["own"], row["job_id"], outputs=self._project)
        return render(await self.plan(row), row, outputs=self._project)

    async def expected(self, job_ids: Sequence[int]) -> dict[int, tuple[ExpectedOutput, ...]]:
        """Return what jobs have to make, by id; nothing of a job that there is not, or whose task is gone."""
        found = {job_id: self._outputs[job_id] for job_id in job_ids if job_id in self._outputs}
        unknown = [job_id for job_id in job_ids if job_id not in found]
        if unknown:
            for job_id, row in (await self._store.jobs(unknown)).items():
                try:
                    found[job_id] = (await self.rendered(row)).outputs
                except RenderingError:
                    found[job_id] = ()
                self._keep(job_id, found[job_id])
        return found

    def forget(self, job_id: int) -> None:
        """A job is over."""
        self._outputs.pop(job_id, None)

    def _keep(self, job_id: int, outputs: tuple[ExpectedOutput, ...]) -> None:
        self._outputs[job_id] = outputs
        while len(self._outputs) > _KEPT_OUTPUTS:
            self._outputs.popitem(last=False)

    def _add_outputs(self, description: pb.JobDescription, owner: str, rendered: Rendered) -> None:
        warrants: dict[Place, str] = {}
        for output in rendered.outputs:
            warrant = warrants.get(output.place)
            if warrant is None:
                warrant = self._warrants.warrant(output.place, owner, self._warrant_seconds)
                warrants[output.place] = warrant
            description.outputs.add(
                name=output.name,
                type=output.type,
                stream=output.stream,
                dataset=output.dataset,
                project=output.place.project,
                asset=output.place.asset,
                version=output.place.version,
                warrant=warrant,
                optional=output.optional,
            )

    def _template(self, lot: Lot, row: Row, plan: TaskPlan) -> pb.JobDescription:
        """What all jobs of a lot have in common."""
        key = (lot.lot_id, row["task_id"], row["revision"])
        found = self._templates.get(key)
        if found is None:
            found = self._templates[key] = pb.JobDescription(
                task_id=row["task_id"],
                owner=lot.owner,
                sandboxes=plan.sandboxes,
                environment=plan.environment,
                cores=lot.requirements.cores,
                memory_mb=lot.requirements.memory_mb,
                walltime_seconds=lot.requirements.walltime_seconds,
                lease=self._lease,
                container=plan.container,
                name=f"{plan.name}.",
                label=lot.label,
                no_looping_check=plan.no_looping_check,
                log_limit=_LOG_LIMIT,
            )
            while len(self._templates) > _KEPT_TEMPLATES:
                self._templates.popitem(last=False)
        return found

    def _own(self, lot: Lot, row: Row) -> pb.JobDescription:
        own: dict[str, Any] = json.loads(row["own"])

        def text(name: str) -> str:
            value = own.get(name)
            return str(value) if is_set(value) else ""

        return pb.JobDescription(
            owner=lot.owner,
            cores=lot.requirements.cores,
            memory_mb=lot.requirements.memory_mb,
            walltime_seconds=lot.requirements.walltime_seconds,
            lease=self._lease,
            container=text("container_name"),
            name=text("jobName") or f"job.{row['job_id']}",
            label=lot.label,
            software=text("AtlasRelease"),
            log_limit=_LOG_LIMIT,
        )


def _add_secrets(description: pb.JobDescription, secrets: dict[str, str]) -> None:
    for key, value in secrets.items():
        if key.startswith(_FILE_SECRET):
            try:
                content = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                content = value.encode()
            description.secret_files[key.removeprefix(_FILE_SECRET)] = content
        else:
            description.environment[key] = value
