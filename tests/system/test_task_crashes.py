"""Tasks and their jobs against a simple model.

Whatever is submitted, taken, reported and commanded, and wherever the service or its database is killed: no input is lost or processed
twice, no job is two workers' at a time, every figure is right, and what was acknowledged is there.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from drayman.client import DraymanError, JobsClient, PilotClient, TaskClient, UnavailableError
from drayman.client.job_values import JobDescription, JobUpdate
from drayman.testing import LocalStack, local_stack

WORKERS = st.sampled_from(["w1", "w2", "w3"])
COMMANDS = st.sampled_from(["kill", "finish", "finish_soft", "pause", "resume", "retry", "pause", "resume"])
REPORTS = st.sampled_from(["running", "finished", "failed", "finished", "failed", "activated"])
#: Who reports: the worker that has the job, another one, or the right one of an attempt that is none.
MANNERS = st.sampled_from(["right", "right", "right", "right", "other worker", "other attempt"])
#: Seconds after which something is killed: before, within, and after what is under way.
MOMENTS = st.sampled_from([0.0, 0.002, 0.005, 0.01, 0.03])
MOST_CRASHES = 3
PATIENCE = 40.0

OVER = {"finished", "failed", "cancelled", "closed"}
HELD = {"sent", "starting", "running", "holding", "transferring"}
FINAL = {"done", "finished", "failed", "aborted", "broken", "exhausted"}
ORDER = ["sent", "starting", "running", "holding", "transferring", "finished"]

#: One of those that there are then: what is drawn must not depend on what the service does.
PICKS = st.integers(0, 10**6)


def pick(choices: Sequence[int], which: int) -> int:
    return choices[which % len(choices)]


@dataclass
class Given:
    """A job that a worker was told it has."""

    worker: str
    attempt: int
    task_id: int
    back: bool = False  # it was given back, which was acknowledged
    acknowledged: str = ""  # the end that was


@dataclass
class Snapshot:
    """Everything of the machine's tasks, as it is at one moment."""

    tasks: dict[int, Any]
    jobs: dict[int, Any]
    inputs: list[Any]


class TaskMachine(RuleBasedStateMachine):
    """Moves of some tasks, and what is known of them."""

    stack: LocalStack
    token: str
    #: one for all: gRPC is bound to its loop
    runner: asyncio.Runner
    numbers = count(1)

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"m{next(self.numbers)}"
        self.names = count(1)
        self.tasks: dict[int, int] = {}  # to the number of their inputs
        self.killed: set[int] = set()
        self.unknown: set[int] = set()  # nobody knows whether they were
        self.given: dict[int, Given] = {}
        self.crashes = 0
        self.sight = Snapshot({}, {}, [])

    # --- moves -------------------------------------------------------------------------------------------------------

    @rule(inputs=st.integers(1, 5), per_job=st.integers(1, 2), attempts=st.integers(1, 3))
    def submit(self, inputs: int, per_job: int, attempts: int) -> None:
        self.run(self.submitting(self.parameters(inputs, per_job, attempts)))

    @precondition(lambda self: self.tasks)
    @rule(which=PICKS, worker=WORKERS, most=st.integers(1, 3))
    def take(self, which: int, worker: str, most: int) -> None:
        task_id = pick(sorted(self.tasks), which)
        ready = [job for job in self.sight.jobs.values() if job["task_id"] == task_id and job["state"] == "activated"]
        taken = self.run(self.taking(task_id, worker, most))
        if self.sight.tasks[task_id]["state"] == "running":
            assert len(taken) == min(most, len(ready))
        elif self.sight.tasks[task_id]["state"] != "scouting":
            assert not taken, "jobs of a task that is held or over"

    @precondition(lambda self: self.tasks)
    @rule(which=PICKS, state=REPORTS, manner=MANNERS)
    def report(self, which: int, state: str, manner: str) -> None:
        """Of a job that is held, more often than not; else of any that was ever given out."""
        jobs = self.held() if which % 4 else sorted(self.given)
        if jobs:
            self.run(self.reporting(pick(jobs, which), state, manner))

    @precondition(lambda self: self.tasks)
    @rule(which=PICKS)
    def go_silent(self, which: int) -> None:
        """Nothing is heard of a worker for too long. That is not waited for: its lease is made to end."""
        if held := self.held():
            job_id = pick(held, which)
            self.run(self.expire([job_id]))
            assert self.sight.jobs[job_id]["state"] in OVER

    @precondition(lambda self: self.tasks)
    @rule(which=PICKS, command=COMMANDS)
    def command(self, which: int, command: str) -> None:
        self.run(self.commanding(pick(sorted(self.tasks), which), command))

    @precondition(lambda self: self.tasks)
    @rule(which=PICKS)
    def kill_a_job(self, which: int) -> None:
        if not self.sight.jobs:
            return
        job_id = pick(sorted(self.sight.jobs), which)
        before = self.sight.jobs[job_id]
        answer = self.run(self.killing(job_id))
        if before["state"] in OVER:
            assert not answer
        elif before["state"] not in HELD:
            assert answer

    # --- moves that are cut off --------------------------------------------------------------------------------------

    @precondition(lambda self: self.crashes < MOST_CRASHES and self.tasks)
    @rule(
        which=st.tuples(PICKS, PICKS, PICKS),
        worker=WORKERS,
        state=REPORTS,
        command=COMMANDS | st.none(),
        moment=MOMENTS,
        database=st.booleans(),
    )
    def crash(
        self,
        which: tuple[int, int, int],
        worker: str,
        state: str,
        command: str | None,
        moment: float,
        database: bool,
    ) -> None:
        """Do several things at a time, and kill the service or the database meanwhile."""
        self.crashes += 1
        tasks = sorted(self.tasks)
        actions = [self.submitting(self.parameters(3, 1, 2)), self.taking(pick(tasks, which[0]), worker, 2)]
        if held := self.held():
            actions.append(self.reporting(pick(held, which[1]), state, "right", cut=True))
        if command is not None:
            actions.append(self.commanding(pick(tasks, which[2]), command, cut=True))
        self.run(self.dying(actions, moment, database))

    async def dying(self, actions: Sequence[Awaitable[Any]], moment: float, database: bool) -> None:
        begun = [asyncio.ensure_future(action) for action in actions]
        await asyncio.sleep(moment)  # the moment is the point: anywhere within
        if database:
            await asyncio.to_thread(self.stack.kill_database)
            await asyncio.to_thread(self.stack.start_database)
        else:
            await asyncio.to_thread(self.stack.kill)
            await asyncio.to_thread(self.stack.restart)
        for outcome in await asyncio.gather(*begun, return_exceptions=True):
            # that it is away is all that may be said
            if isinstance(outcome, BaseException) and not isinstance(outcome, UnavailableError):
                raise outcome
        async with asyncio.timeout(PATIENCE):
            while not await self.answers():
                await asyncio.sleep(0.05)
        # what a process looked after that died is looked after by another one a minute later: that is not waited for
        await self.query("UPDATE task.tally SET attend_at = now() WHERE attend_at IS NOT NULL")

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def everything_is_as_it_has_to_be(self) -> None:
        self.run(self.settle())
        self.run(self.compare())

    def teardown(self) -> None:
        """Whatever was done: every task comes to its end when workers do their work."""
        self.run(self.end())

    async def end(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                await self.settle()
                left = {task_id: task for task_id, task in self.sight.tasks.items() if task["state"] not in FINAL}
                if not left:
                    break
                # of what somebody was given and never heard of, nothing will be heard
                await self.expire(
                    [
                        job_id
                        for job_id, job in self.sight.jobs.items()
                        if job["state"] in HELD and job_id not in self.given
                    ]
                )
                for job_id in self.held():
                    await self.reporting(job_id, "finished", "right")
                for task_id, task in left.items():
                    if task["state"] == "paused":
                        await self.commanding(task_id, "resume")
                    await self.taking(task_id, "w1", 100)
        await self.compare()

    async def compare(self) -> None:
        """What the service says, and what the model knows, against what is stored."""
        now = self.sight
        async with TaskClient(self.stack.url, self.token) as tasks, JobsClient(self.stack.url, self.token) as jobs:
            for task_id in self.tasks:
                told = await tasks.get(task_id)
                counts = told.counts
                listed = [job async for job in jobs.jobs(task_id)]
                records = Counter([each.state async for each in tasks.inputs(task_id)])
                states = Counter(job.state for job in listed)
                assert told.state == now.tasks[task_id]["state"]
                assert {job.job_id for job in listed} == {
                    job_id for job_id, job in now.jobs.items() if job["task_id"] == task_id
                }
                assert (counts.inputs_ready, counts.inputs_picked) == (records["ready"], records["picked"])
                assert (counts.inputs_finished, counts.inputs_failed) == (records["finished"], records["failed"])
                assert counts.inputs == records.total()
                assert (counts.jobs_finished, counts.jobs_failed) == (states["finished"], states["failed"])
                assert counts.jobs_cancelled == states["cancelled"] + states["closed"]
                assert counts.jobs_live == sum(not job.over for job in listed)
                assert counts.jobs == len(listed)
        for job_id, given in self.given.items():
            if given.acknowledged:
                assert now.jobs[job_id]["state"] == given.acknowledged

    def check(self, now: Snapshot) -> None:
        """What is true at any moment."""
        for task_id, task in now.tasks.items():
            inputs = [each for each in now.inputs if each["task_id"] == task_id]
            jobs = {job_id: job for job_id, job in now.jobs.items() if job["task_id"] == task_id}
            states = Counter(each["state"] for each in inputs)
            assert {state: task[state] for state in ("ready", "picked", "finished", "failed")} == {
                state: states[state] for state in ("ready", "picked", "finished", "failed")
            }, (task, inputs)
            assert task["live"] == sum(job["state"] not in OVER for job in jobs.values())
            assert task["activated"] == sum(job["state"] == "activated" for job in jobs.values())
            for each in inputs:
                users = [job for job in jobs.values() if each["input_no"] in job["inputs"]]
                ends = Counter(job["state"] for job in users)
                live = sum(job["state"] not in OVER for job in users)
                assert live == (each["state"] == "picked"), (each, users)
                assert ends["finished"] == (each["state"] == "finished"), (each, users)
                assert each["attempts"] == len(users) - ends["closed"], (each, users)
                assert each["attempts"] <= each["max_attempts"]
                assert each["failures"] == ends["failed"]
            if task["state"] in FINAL:
                assert not task["live"], task
                if task_id in self.killed:
                    assert task["state"] == "aborted"
                elif inputs:
                    finished = states["finished"]
                    right = "done" if finished == len(inputs) else "finished" if finished else "failed"
                    assert task["state"] == right, (task, states)

    # --- how ---------------------------------------------------------------------------------------------------------

    def held(self) -> list[int]:
        """Jobs that a worker knows it has, and that are not over."""
        return sorted(
            job_id
            for job_id, given in self.given.items()
            if not given.back and self.sight.jobs[job_id]["state"] in HELD
        )

    def parameters(self, inputs: int, per_job: int, attempts: int) -> dict[str, Any]:
        name = f"{self.prefix}.{next(self.names)}"
        return {
            "taskName": name,
            "userName": "",
            "vo": "wlcg",
            "prodSourceLabel": "user",
            "taskType": "anal",
            "taskPriority": 1000,
            "processingType": "test",
            "architecture": "",
            "transUses": "",
            "transHome": "",
            "transPath": "bash",
            "noInput": True,
            "pfnList": [f"{name}.{number}" for number in range(inputs)],
            "nFiles": inputs,
            "nFilesPerJob": per_job,
            "maxAttempt": attempts,
            "maxFailure": attempts,
            "jobParameters": [{"type": "constant", "value": "-c true"}],
        }

    async def submitting(self, parameters: dict[str, Any]) -> None:
        async with TaskClient(self.stack.url, self.token) as tasks:
            answer = await tasks.submit(parameters)
        assert answer.code == 0, answer
        self.tasks[answer.task_id] = len(parameters["pfnList"])

    async def taking(self, task_id: int, worker: str, most: int) -> list[JobDescription]:
        async with PilotClient(self.stack.url, self.token, patience=PATIENCE) as pilots:
            taken = await pilots.next_jobs(worker_id=worker, task_id=task_id, max_jobs=most, timeout=0)
        for job in taken:
            before = self.given.get(job.job_id)
            assert before is None or before.back or before.worker == worker, f"job {job.job_id} is two workers'"
            assert before is None or not before.acknowledged
            self.given[job.job_id] = Given(worker, job.attempt, task_id)
        return taken

    async def reporting(self, job_id: int, state: str, manner: str, *, cut: bool = False) -> None:
        given = self.given[job_id]
        before = self.sight.jobs[job_id]["state"]
        worker = "somebody else" if manner == "other worker" else given.worker
        attempt = given.attempt + 1 if manner == "other attempt" else given.attempt
        async with PilotClient(self.stack.url, self.token, patience=PATIENCE) as pilots:
            (answer,) = await pilots.update(worker, [JobUpdate(job_id, attempt, state)])
        if answer.status == "taken" and manner == "right":
            if state == "activated":
                given.back = True
            elif state in OVER:
                given.acknowledged = state
        if cut:  # something else was done to it at the same time, and what was reported may have been reported twice
            return
        if before in OVER:
            allowed = {"other attempt": "bad_attempt", "other worker": "wrong_worker"}.get(manner, "taken")
            assert answer.status in ("already_done", allowed), answer
            given.acknowledged = ""  # of what was over there is nothing new
            assert answer.state == before
        elif manner == "other attempt":
            assert answer.status == "bad_attempt", answer
        elif given.back and manner == "right" and state == "activated":
            assert answer.status != "taken" or answer.state == "activated", answer  # the same again
        elif manner == "other worker" or given.back:
            assert answer.status != "taken", answer
        elif self.goes(before, state):
            assert (answer.status, answer.state) == ("taken", state), (before, answer)
        else:
            assert (answer.status, answer.state) == ("state_kept", before), answer

    @staticmethod
    def goes(before: str, state: str) -> bool:
        """Whether a job may go from one state to another by a report."""
        if state == "activated":
            return before in ("sent", "starting")
        return state == "failed" or ORDER.index(state) >= ORDER.index(before)

    async def commanding(self, task_id: int, command: str, *, cut: bool = False) -> None:
        async with TaskClient(self.stack.url, self.token) as tasks:
            try:
                answer = await tasks.command(task_id, command)
            except UnavailableError:
                if command == "kill":  # nobody knows: that it is aborted says so
                    self.unknown.add(task_id)
                raise
        assert answer.code in (0, 4), answer
        if answer.code == 0 and command == "kill":
            self.killed.add(task_id)
        if answer.code == 4 and command == "kill" and cut:
            self.unknown.add(task_id)  # it was sent again

    async def killing(self, job_id: int) -> bool:
        async with JobsClient(self.stack.url, self.token) as jobs:
            return (await jobs.kill([job_id]))[0]

    async def expire(self, job_ids: list[int]) -> None:
        if not job_ids:
            return
        await self.query(
            "UPDATE task.job SET lease_until = now() WHERE job_id = ANY ($1) AND lease_until > now()", job_ids
        )
        async with asyncio.timeout(PATIENCE):
            while await self.query("SELECT FROM task.job WHERE job_id = ANY ($1) AND state < 'finished'", job_ids):
                await asyncio.sleep(0.05)
        await self.settle()

    async def settle(self) -> None:
        """Look until nothing happens by itself any more; what is seen on the way has to be right as well."""
        quiet = 0
        try:
            async with asyncio.timeout(PATIENCE):
                while quiet < 2:
                    before, self.sight = self.sight, await self.look()
                    for task_id in self.unknown & self.sight.tasks.keys():
                        if self.sight.tasks[task_id]["state"] in ("aborting", "aborted"):
                            self.killed.add(task_id)
                    self.check(self.sight)
                    quiet = quiet + 1 if before == self.sight and all(map(self.rests, self.sight.tasks.values())) else 0
                    await asyncio.sleep(0.03)
        except TimeoutError:
            raise AssertionError(f"something goes on and on, or does not go on: {self.sight}") from None
        for task_id, task in self.sight.tasks.items():
            if task["state"] in ("running", "done"):
                assert task["inputs"] == self.tasks[task_id]

    @staticmethod
    def rests(task: Any) -> bool:
        """Whether there is nothing that the service has to do for a task."""
        match task["state"]:
            case "running":
                return bool(task["live"] and not task["ready"])
            case "aborting" | "finishing":
                return bool(task["live"] and not task["activated"])
            case state:
                return state in FINAL or state == "paused"

    async def look(self) -> Snapshot:
        connection = await self.connect()
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                rows = await connection.fetch(_TASKS, f"{self.prefix}.%")
                tasks = {row["task_id"]: row for row in rows}
                jobs = await connection.fetch(_JOBS, list(tasks))
                inputs = await connection.fetch(_INPUTS, list(tasks))
        finally:
            await connection.close()
        for task_id in tasks:  # of whose submission no answer came
            self.tasks.setdefault(task_id, sum(each["task_id"] == task_id for each in inputs))
        assert self.tasks.keys() <= tasks.keys(), "a task that was acknowledged is lost"
        return Snapshot(tasks, {job["job_id"]: job for job in jobs}, inputs)

    async def query(self, statement: str, *values: Any) -> list[Any]:
        connection = await self.connect()
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()

    async def connect(self) -> asyncpg.Connection:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await asyncpg.connect(self.stack.dsn)
                except (OSError, asyncpg.PostgresError):  # it recovers
                    await asyncio.sleep(0.05)

    async def answers(self) -> bool:
        """Whether the service does; gRPC believes for a while that nobody is there."""
        try:
            async with TaskClient(self.stack.url, self.token, timeout=5) as tasks:
                await tasks.get(next(iter(self.tasks)))
        except DraymanError:
            return False
        return True

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())


_TASKS = """
SELECT task_id, state::text, inputs, ready, picked, finished, failed, live, jobs,
       coalesce((SELECT sum(l.ready) FROM task.lot l WHERE l.task_id = t.task_id), 0) AS activated
  FROM task.task t JOIN task.tally USING (task_id)
 WHERE t.name LIKE $1
"""
_JOBS = "SELECT job_id, task_id, state::text, attempt, inputs, worker_id FROM task.job WHERE task_id = ANY ($1)"
_INPUTS = """
SELECT task_id, input_no, state::text, attempts, max_attempts, failures, job_id FROM task.input WHERE task_id = ANY ($1)
"""


@pytest.mark.timeout(400)
def test_tasks_behave_like_their_model() -> None:
    few = settings(
        max_examples=5,
        stateful_step_count=16,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # a failure is shown as it was found: finding a smaller one would take an hour
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    with local_stack() as stack, asyncio.Runner() as TaskMachine.runner:
        TaskMachine.stack = stack
        TaskMachine.token = stack.token(stack.admin[0])
        try:
            run_state_machine_as_test(TaskMachine, settings=few)
        finally:
            print(*(line for line in stack.log.read_text().splitlines() if '"defect"' in line), sep="\n")
