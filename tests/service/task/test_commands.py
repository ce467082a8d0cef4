"""Commands over a channel: who may give them, what they answer, what is in force at once."""

import asyncio
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from drayman.server.task.acceptance import Command, judge, next_state
from drayman.server.task.task_messages import COMMAND
from drayman.server.task.task_states import FINAL, TaskState
from drayman.task.v1 import task_pb2
from drayman.task.v1 import task_service_pb2 as pb
from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, house, parameters, reading, settle

COMMANDS = [pb.TaskCommand.Name(number).removeprefix("TASK_COMMAND_").lower() for number in COMMAND]


async def _put(house: House, task_id: int, state: TaskState) -> None:
    await house.pool.execute(
        """UPDATE task.task SET state = $2::task.task_state, ended_at = CASE WHEN $3 THEN now() END,
                                waiting_since = CASE WHEN $2::text = 'pending' THEN now() END,
                                old_state = CASE WHEN $2::text IN ('pending', 'paused') THEN 'running'::task.task_state END
            WHERE task_id = $1""",
        task_id,
        state,
        state in FINAL,
    )


async def test_every_command_in_every_state(database_url: str, tmp_path: Path) -> None:
    """Accepted or refused as the table says, by owners; refused before that to strangers. No engine moves what is looked at."""
    async with house(database_url, tmp_path, engine=False) as running:
        ann, bob = await running.tasks("ann"), await running.tasks("bob")
        for command, state in product(COMMANDS, TaskState):
            asked = _meant(command)
            options = {"increase": 1} if command == "increase_attempts" else {}
            task_id = await ann.made(parameters())
            await settle(running)
            assert (await ann.get(task_id)).counts.jobs_live == 3
            await _put(running, task_id, state)
            stranger = await bob.command(task_id, command, **options)
            assert (stranger.code, stranger.state) == (3, task_pb2.TASK_STATE_UNSPECIFIED), (command, state)
            answer = await ann.command(task_id, command, **options)
            old_state = TaskState.RUNNING if state in (TaskState.PENDING, TaskState.PAUSED) else None
            refused = 2 if command == "increase_attempts" else 4
            accepted = judge(asked, state, old_state)
            assert answer.code == (0 if accepted else refused), (command, state, answer)
            if not accepted:
                assert await ann.state(task_id) == state
            elif command != "increase_attempts":
                assert await ann.state(task_id) == next_state(asked, state, old_state)
            await running.pool.execute("UPDATE task.tally SET attend_at = NULL")


def _meant(command: str) -> Command:
    return COMMAND[pb.TaskCommand.Value(f"TASK_COMMAND_{command.upper()}")]


async def test_unknown_tasks_and_roles(ann: Tasks, bob: Tasks, boss: Tasks) -> None:
    for command in COMMANDS:
        answer = await ann.command(2**40, command)
        assert answer.code == (1 if command == "increase_attempts" else 2), command
    assert (await ann.command(2**40, "retry", parameters={"nFiles": 1})).code == 1
    task_id = await ann.made(parameters())
    assert (await bob.command(task_id, "increase_attempts", increase=-1)).code == 3
    assert (await ann.command(task_id, "increase_attempts", increase=-1)).code == 4
    assert (await ann.command(2**40, "increase_attempts", increase=-1)).code == 4
    assert (await boss.command(task_id, "kill")).code == 0


async def test_commands_that_cannot_be_read(ann: Tasks) -> None:
    task_id = await ann.made(parameters())
    for request in (
        pb.CommandTaskRequest(task_id=task_id),
        pb.CommandTaskRequest(task_id=task_id, command=77),
        pb.CommandTaskRequest(task_id=task_id, command=pb.TASK_COMMAND_RETRY, new_parameters_json="[1]"),
        pb.CommandTaskRequest(task_id=task_id, command=pb.TASK_COMMAND_RETRY, new_parameters_json="{"),
        pb.CommandTaskRequest(task_id=task_id, command=pb.TASK_COMMAND_KILL, new_parameters_json="{}"),
        pb.CommandTaskRequest(task_id=-1, command=pb.TASK_COMMAND_KILL),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ann.call("CommandTask", request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_kill_ends_what_waits_and_orders_what_runs(ann: Tasks, worker: Worker, task_house: House) -> None:
    task_id = await ann.made(parameters(nEvents=4))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 4)
    running, ended = await worker.take(task_id, 2)
    await worker.report([ended])
    assert (await ann.command(task_id, "kill")).code == 0
    assert await worker.take(task_id) == []
    task = await ann.wait(task_id, "aborting", until=lambda task: task.counts.jobs_live == 1)
    assert running["job_id"] in task_house.ordered
    assert task.counts.jobs_cancelled == 2
    fields = "SELECT fields->>'taskBufferErrorCode' FROM task.job WHERE task_id = $1 AND state = 'cancelled' LIMIT 1"
    assert await task_house.one(fields, task_id) == "100"
    await worker.report([running], "failed")
    task = await ann.wait(task_id, "aborted")
    assert (task.counts.inputs_finished, task.counts.inputs_ready, task.counts.jobs) == (1, 3, 4)
    assert (await ann.command(task_id, "kill")).code == 4


async def test_finish_by_force_keeps_what_is_done(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(goal=100, failGoalUnreached=True, useExhausted=True))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    jobs = await worker.take(task_id, 2)
    await worker.report(jobs[:1])
    assert (await ann.command(task_id, "finish")).code == 0
    task = await ann.wait(task_id, "finished")
    assert (task.counts.inputs_finished, task.counts.jobs_cancelled) == (1, 2)


async def test_a_soft_finish_waits_for_what_runs(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters())
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    (running,) = await worker.take(task_id, 1)
    assert (await ann.command(task_id, "finish_soft")).code == 0
    task = await ann.wait(task_id, "finishing", until=lambda task: task.counts.jobs_live == 1)
    await worker.report([running])
    task = await ann.wait(task_id, "finished")
    assert (task.counts.inputs_finished, task.counts.jobs_cancelled) == (1, 2)


async def test_a_paused_task_hands_nothing_out_and_lets_what_runs_end(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters())
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    (running,) = await worker.take(task_id, 1)
    assert (await ann.command(task_id, "pause")).code == 0
    assert (await ann.command(task_id, "pause")).code == 4
    assert await worker.take(task_id) == []
    details = await ann.call("GetTaskDetails", pb.GetTaskDetailsRequest(task_id=task_id))
    assert {found.state: found.count for found in details.live_jobs} == {"running": 1, "throttled": 2}
    await worker.report([running])
    assert (await ann.get(task_id)).old_state == task_pb2.TASK_STATE_RUNNING
    answer = await ann.command(task_id, "resume")
    assert (answer.code, answer.state) == (0, task_pb2.TASK_STATE_RUNNING)
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")


async def test_a_pause_before_anything_began(ann: Tasks, task_house: House) -> None:
    name = f"set.{uuid4().hex[:8]}"
    task_id = await ann.made(reading(name, waitInput=True))
    await ann.wait(task_id, "pending")
    assert (await ann.command(task_id, "pause")).code == 0
    assert (await ann.get(task_id)).old_state == task_pb2.TASK_STATE_DEFINED
    task_house.shelf.put(name, 1)
    assert (await ann.command(task_id, "resume")).code == 0
    await ann.wait(task_id, "running")


async def test_more_attempts_for_what_had_none(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(maxAttempt=1, maxFailure=1))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    jobs = await worker.take(task_id)
    await worker.report(jobs[:1], "failed")
    answer = await ann.command(task_id, "increase_attempts", increase=2)
    assert (answer.code, "3 inputs (1 reactivated)" in answer.message) == (0, True)
    await ann.wait(task_id, until=lambda task: task.counts.jobs == 4)
    assert [found.max_attempts for found in await ann.inputs(task_id)] == [3, 3, 3]
    assert (await ann.command(task_id, "increase_attempts", increase=0)).code == 0


async def test_reactivation_begins_from_the_beginning(ann: Tasks, worker: Worker, task_house: House) -> None:
    task_id = await ann.made(parameters())
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    jobs = await worker.take(task_id, 2)
    await worker.report(jobs[:1])
    assert (await ann.command(task_id, "reactivate")).code == 0
    task = await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 6 and task.counts.jobs_live == 3)
    assert (task.counts.inputs_picked, task.counts.inputs_finished) == (3, 0)
    assert [found.attempts for found in await ann.inputs(task_id)] == [1, 1, 1]
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")
    assert (await ann.command(task_id, "reactivate")).code == 0
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 3)
    await worker.report(await worker.take(task_id))
    task = await ann.wait(task_id, "done")
    assert task.counts.jobs_finished == 7


async def test_a_broken_task_can_only_be_reactivated(ann: Tasks) -> None:
    task_id = await ann.made(reading(f"set.{uuid4().hex[:8]}"))
    await ann.wait(task_id, "broken")
    for command in ("retry", "reload_input", "kill", "pause"):
        assert (await ann.command(task_id, command)).code == 4
    assert (await ann.command(task_id, "reactivate")).code == 0
    await ann.wait(task_id, "broken")


async def test_commands_at_the_same_time(ann: Tasks, worker: Worker) -> None:
    """Whatever comes first: the counts stay right, and the task ends."""
    for _ in range(3):
        task_id = await ann.made(parameters(nEvents=6))
        await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 6)
        jobs = await worker.take(task_id, 3)
        answers = await asyncio.gather(
            *(ann.command(task_id, command) for command in ("pause", "kill", "finish", "resume", "reload_input")),
            worker.report(jobs),
        )
        assert {answer.code for answer in answers[:-1]} <= {0, 4}
        await ann.command(task_id, "resume")
        await ann.command(task_id, "kill")
        await ann.wait(task_id, "aborted", "finished", "failed", until=_nothing_lives)


def _nothing_lives(task: Any) -> bool:
    counts = task.counts
    total = counts.inputs_ready + counts.inputs_picked + counts.inputs_finished + counts.inputs_failed
    return bool(counts.jobs_live == 0 and counts.inputs_picked == 0 and total == 6)


def test_the_table_of_commands_is_complete() -> None:
    by_call = {Command.RETRY_LIVE, Command.INCEXEC}  # asked for as a retry
    assert set(COMMAND.values()) | by_call == set(Command)
