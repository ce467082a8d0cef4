"""Tasks' parameters, understood: kept in memory for those that are in work."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drayman.server.platform.settings import Settings
from drayman.server.task.parameters import examine
from drayman.server.task.plan import TaskPlan
from drayman.server.task.task_store import TaskStore

_KEPT = 512
#: What lists show of a task besides what is in its row.
_SHOWN = (
    "architecture",
    "transUses",
    "transHome",
    "transPath",
    "coreCount",
    "ramCount",
    "walltime",
    "baseWalltime",
    "outDiskCount",
    "cpuTime",
    "cpuEfficiency",
    "site",
    "cloud",
    "campaign",
    "goal",
    "container_name",
    "framework",
    "ticketID",
    "ticketSystemType",
    "requestType",
)


@dataclass(frozen=True, slots=True)
class Appearance:
    """What lists show of a task's parameters: the command as it was typed, and attributes as one JSON object."""

    command_line: str
    attributes: str


class TaskGone(LookupError):
    """There is no such task."""


class Plans:
    """Plans by task. A job of an earlier revision gets the plan of now: only keys that do not change what a job is can be changed."""

    def __init__(self, store: TaskStore, settings: Settings) -> None:
        self._store = store
        self._scouts = settings.task_scouts
        self._plans: OrderedDict[tuple[int, int], TaskPlan] = OrderedDict()
        self._appearances: OrderedDict[tuple[int, int], Appearance] = OrderedDict()

    async def plan(self, task_id: int, revision: int) -> TaskPlan:
        """Return the plan of a task that has one. Raises TaskGone, and ParameterError if it has none."""
        found = self._plans.get((task_id, revision))
        if found is not None:
            self._plans.move_to_end((task_id, revision))
            return found
        parameters, now = await self._parameters(task_id)
        plan = examine(parameters, task_id=task_id, scouts=self._scouts)
        _keep(self._plans, (task_id, now), plan)
        if now != revision:
            _keep(self._plans, (task_id, revision), plan)
        return plan

    async def appearance(self, task_id: int, revision: int) -> Appearance:
        """Return what lists show of a task's parameters. Raises TaskGone."""
        found = self._appearances.get((task_id, revision))
        if found is None:
            parameters, _ = await self._parameters(task_id)
            found = _appearance(parameters)
            _keep(self._appearances, (task_id, revision), found)
        return found

    async def _parameters(self, task_id: int) -> tuple[dict[str, Any], int]:
        row = await self._store.fetchrow("parameters", task_id)
        if row is None:
            raise TaskGone(f"task {task_id} not found")
        return json.loads(row["parameters"]), row["revision"]


def _appearance(parameters: Mapping[str, Any]) -> Appearance:
    line = parameters.get("cliParams")
    shown = {name: parameters[name] for name in _SHOWN if parameters.get(name) is not None}
    return Appearance(line if isinstance(line, str) else "", json.dumps(shown))


def _keep(kept: OrderedDict[tuple[int, int], Any], key: tuple[int, int], value: object) -> None:
    kept[key] = value
    while len(kept) > _KEPT:
        kept.popitem(last=False)
