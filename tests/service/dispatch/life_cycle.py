"""The life cycle of a project and its handles as a Hypothesis state machine.

The model applies the pure rules of `drayman.server.dispatch.lifecycle`. The machine runs on the model alone, checking what must always
hold, and beside a running service, whose every answer and every count must then be the model's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from drayman.server.dispatch import lifecycle
from drayman.server.dispatch.lifecycle import AFTER, ENDED, HandleState, Holding, Outcome, ProjectState

WORKERS = ("ann", "bob", "cyd")
OUTCOMES = (Outcome.DONE, Outcome.FAILED, Outcome.RETRY, Outcome.RELEASED)


class Service(Protocol):
    """A running service with one project."""

    def reserve(self, worker: str) -> tuple[int, int] | str:
        """Handle id and attempt; or `ended`, or `nothing`."""

    def report(self, worker: str, handle_id: int, attempt: int, outcome: Outcome) -> str | None:
        """None, or the reason of the refusal."""

    def expire(self, handle_id: int) -> None:
        """Have the lease run out."""

    def cancel(self) -> None: ...

    def activate(self) -> None: ...

    def restart(self, states: list[HandleState], handle_ids: list[int]) -> int:
        """Number of handles put back."""

    def observe(self) -> tuple[str, bool, list[tuple[int, str, int, str | None]]]:
        """State, whether it has an end time, and handle id, state, attempts, worker of each handle."""


@dataclass
class ModelHandle:
    state: HandleState = HandleState.INITIAL
    attempts: int = 0
    worker: str | None = None


@dataclass
class Model:
    handles: dict[int, ModelHandle]
    retry_on_timeout: bool
    state: ProjectState = ProjectState.ACTIVE
    leases: set[tuple[int, int]] = field(default_factory=set)

    def counts(self) -> tuple[int, int, int]:
        states = [handle.state for handle in self.handles.values()]
        return len(states), states.count(HandleState.DONE), states.count(HandleState.FAILED)

    def reserve(self, worker: str) -> tuple[int, int] | str:
        if not lifecycle.hands_out(self.state, *self.counts()):
            return "ended"
        ready = [(h.attempts, number) for number, h in self.handles.items() if h.state is HandleState.INITIAL]
        if not ready:
            return "nothing"
        attempts, number = min(ready)
        self.handles[number] = ModelHandle(HandleState.RESERVED, attempts + 1, worker)
        return number, attempts + 1

    def report(self, worker: str, number: int, attempt: int, outcome: Outcome) -> str | None:
        handle = self.handles.get(number)
        if (
            handle
            and (handle.state, handle.worker) == (HandleState.RESERVED, worker)
            and attempt in (0, handle.attempts)
        ):
            self._settle(handle, outcome)
            return None
        holding = Holding(handle.state, handle.attempts, handle.worker, None) if handle else None
        return lifecycle.why_refused(holding, worker, attempt, None)

    def expire(self, number: int) -> None:
        self._settle(self.handles[number], Outcome.TIMEOUT_RETRY if self.retry_on_timeout else Outcome.TIMEOUT_FINAL)

    def _settle(self, handle: ModelHandle, outcome: Outcome) -> None:
        handle.state = AFTER[outcome]
        handle.attempts -= outcome is Outcome.RELEASED
        self.state = lifecycle.after_report(self.state, *self.counts())

    def restart(self, states: list[HandleState], numbers: list[int]) -> int:
        chosen = [h for n, h in self.handles.items() if (n in numbers if numbers else h.state in states)]
        chosen = [handle for handle in chosen if handle.state is not HandleState.INITIAL]
        for handle in chosen:
            handle.state = HandleState.INITIAL
        self.state = lifecycle.after_restart(self.state, *self.counts(), len(chosen))
        return len(chosen)


class LifeCycle(RuleBasedStateMachine):
    """The machine. Subclasses say what runs beside the model."""

    def start(self, files: int, retry_on_timeout: bool) -> Service | None:
        """Start what runs beside the model."""
        return None

    @initialize(files=st.integers(0, 5), retry=st.booleans())
    def begin(self, files: int, retry: bool) -> None:
        self.model = Model({number: ModelHandle() for number in range(1, files + 1)}, retry)
        self.service = self.start(files, retry)
        self.granted: set[tuple[int, int]] = set()

    def both(self, call: str, *arguments: Any) -> Any:
        """Do it to the model and to the service, whose answers must agree."""
        expected = getattr(self.model, call)(*arguments)
        if self.service is not None:
            assert getattr(self.service, call)(*arguments) == expected, (call, arguments)
        return expected

    @rule(worker=st.sampled_from(WORKERS))
    def reserve(self, worker: str) -> None:
        self.both("reserve", worker)

    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def report_what_is_held(self, data: st.DataObject, outcome: Outcome) -> None:
        held = [(n, h) for n, h in self.model.handles.items() if h.state is HandleState.RESERVED]
        if held:
            number, handle = data.draw(st.sampled_from(held))
            assert self.both("report", handle.worker, number, handle.attempts, outcome) is None

    @rule(
        worker=st.sampled_from(WORKERS),
        number=st.integers(1, 6),
        attempt=st.integers(0, 3),
        outcome=st.sampled_from(OUTCOMES),
    )
    def report_anything(self, worker: str, number: int, attempt: int, outcome: Outcome) -> None:
        self.both("report", worker, number, attempt, outcome)

    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        held = [n for n, h in self.model.handles.items() if h.state is HandleState.RESERVED]
        if held:
            self.both("expire", data.draw(st.sampled_from(held)))

    @rule()
    def cancel(self) -> None:
        self.model.state = ProjectState.CANCELLED
        if self.service is not None:
            self.service.cancel()

    @rule()
    def activate(self) -> None:
        self.model.state = lifecycle.after_activate(self.model.state, *self.model.counts())
        if self.service is not None:
            self.service.activate()

    @rule(states=st.lists(st.sampled_from(HandleState), unique=True))
    def restart_states(self, states: list[HandleState]) -> None:
        self.both("restart", states, [])

    @rule(numbers=st.lists(st.integers(1, 6), min_size=1, unique=True))
    def restart_files(self, numbers: list[int]) -> None:
        self.both("restart", [], numbers)

    @invariant()
    def a_finished_project_is_not_active(self) -> None:
        if hasattr(self, "model"):
            files, done, failed = self.model.counts()
            if lifecycle.is_over(files, done, failed):
                assert self.model.state in ENDED
            if self.model.state is ProjectState.DONE:
                assert done == files

    @invariant()
    def the_service_agrees(self) -> None:
        if hasattr(self, "model") and self.service is not None:
            state, ended, handles = self.service.observe()
            assert (state, ended) == (self.model.state, self.model.state in ENDED)
            assert handles == [
                (n, h.state, h.attempts, h.worker if h.state is HandleState.RESERVED else None)
                for n, h in self.model.handles.items()
            ]
