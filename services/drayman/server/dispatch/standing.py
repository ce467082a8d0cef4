"""What a process remembers of a project: its rules, its counts, its ready groups. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from drayman.server.dispatch import lifecycle
from drayman.server.dispatch.allotment import Group, Stock
from drayman.server.dispatch.lifecycle import ProjectState


@dataclass(frozen=True, slots=True)
class Why:
    """Who cancelled a project, when and why."""

    code: str
    message: str
    username: str
    at: datetime


@dataclass(slots=True)
class Standing:
    """A project as last seen. Counts follow what this process does; other replicas' doings arrive with the next look-up."""

    project_id: int
    owner: str
    state: ProjectState
    attributes: str
    virtual: bool
    retry_on_timeout: bool
    worker_timeout: float | None
    users: frozenset[str]
    roles: frozenset[str]
    files: int
    done: int
    failed: int
    open_list: bool = False
    max_attempts: int | None = None
    max_running: int | None = None
    why_cancelled: Why | None = None
    groups: dict[Group, Stock] = field(default_factory=dict)

    @property
    def hands_out(self) -> bool:
        """Whether a worker that asks may still get a file, now or later."""
        return lifecycle.hands_out(self.state, self.files, self.done, self.failed, open_list=self.open_list)

    @property
    def initial(self) -> int:
        """Handles that wait."""
        return sum(stock.ready for stock in self.groups.values())

    @property
    def reserved(self) -> int:
        """Handles that workers hold."""
        return max(self.files - self.initial - self.done - self.failed, 0)

    @property
    def room(self) -> int | None:
        """How many more handles may be reserved; None = any number."""
        return None if self.max_running is None else max(self.max_running - self.reserved, 0)

    def welcomes(self, username: str, admin: bool, roles: Collection[str]) -> bool:
        """Whether somebody may work on the project."""
        return admin or username == self.owner or username in self.users or not self.roles.isdisjoint(roles)
