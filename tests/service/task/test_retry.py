"""Retry, with new parameters and without, of tasks that are over and of those that run; reading inputs anew."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from drayman.task.v1 import task_pb2
from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, house, parameters, reading


def _name() -> str:
    return f"set.{uuid4().hex[:8]}"


async def _ready(tasks: Tasks, task_id: int, live: int) -> Any:
    return await tasks.wait(task_id, "running", until=lambda task: task.counts.jobs_live == live)


async def _finished(tasks: Tasks, worker: Worker, *, good: int = 1, **changes: Any) -> int:
    """Make a task of three inputs of which so many are processed and the rest is given up."""
    task_id = await tasks.made(parameters(**({"maxAttempt": 1, "maxFailure": 1} | changes)))
    await _ready(tasks, task_id, 3)
    await worker.report(await worker.take(task_id), lambda job: "finished" if job["serial"] <= good else "failed")
    await tasks.wait(task_id, "finished" if good else "failed")
    return task_id


async def test_a_retry_gives_five_more_attempts_to_what_had_none(ann: Tasks, worker: Worker) -> None:
    task_id = await _finished(ann, worker)
    answer = await ann.command(task_id, "retry")
    assert (answer.code, answer.incremental, answer.state) == (0, False, task_pb2.TASK_STATE_TORETRY)
    task = await _ready(ann, task_id, 2)
    assert (task.attempt, task.error, task.counts.inputs_finished) == (2, "", 1)
    assert not task.HasField("end_time")
    assert [found.max_attempts for found in await ann.inputs(task_id)] == [1, 6, 6]
    assert [found.max_failures for found in await ann.inputs(task_id)] == [1, 6, 6]
    jobs = await worker.take(task_id)
    assert [job["attempt"] for job in jobs] == [2, 2]
    await worker.report(jobs)
    await ann.wait(task_id, "done")
    assert (await ann.command(task_id, "retry")).code == 4


async def test_what_was_killed_cannot_be_retried_but_reloaded(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters())
    await _ready(ann, task_id, 3)
    await ann.command(task_id, "kill")
    await ann.wait(task_id, "aborted")
    assert (await ann.command(task_id, "retry")).code == 4
    assert (await ann.command(task_id, "reload_input")).code == 0
    await _ready(ann, task_id, 3)
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")


async def test_a_retry_with_new_parameters(ann: Tasks, bob: Tasks, worker: Worker, task_house: House) -> None:
    name = _name()
    task_house.shelf.put(name, 2)
    task_id = await ann.made(reading(name))
    await _ready(ann, task_id, 2)
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")
    task_house.shelf.put(name, 4, first=3)
    assert (await bob.command(task_id, "retry", parameters={"nFilesPerJob": 2})).code == 3
    answer = await ann.command(task_id, "retry", parameters={"nFilesPerJob": 2, "jobParameters": []})
    assert (answer.code, answer.incremental) == (0, True)
    await _ready(ann, task_id, 2)
    jobs = await worker.take(task_id)
    assert [job["inputs"] for job in jobs] == [[3, 4], [5, 6]]
    await worker.report(jobs)
    task = await ann.wait(task_id, "done")
    assert (task.counts.inputs_finished, task.attempt) == (6, 2)


async def test_lists_are_compared(ann: Tasks, worker: Worker, task_house: House) -> None:
    """What is new is added, what vanished is missing, and welcome when it comes back; what is processed stays so."""
    name = _name()
    task_house.shelf.put(name, 4)
    task_id = await ann.made(reading(name, maxAttempt=1))
    await _ready(ann, task_id, 4)
    await worker.report(await worker.take(task_id), lambda job: "finished" if job["serial"] < 3 else "failed")
    await ann.wait(task_id, "finished")
    first, second, third, fourth = task_house.shelf.lists[name]
    task_house.shelf.lists[name] = [second, fourth]
    task_house.shelf.put(name, 1, first=9)
    assert (await ann.command(task_id, "reload_input")).code == 0
    await _ready(ann, task_id, 2)
    states = {found.name[-1]: found.state for found in await ann.inputs(task_id)}
    assert states == {"1": "finished", "2": "finished", "3": "missing", "4": "picked", "9": "picked"}
    await worker.report(await worker.take(task_id))
    task = await ann.wait(task_id, "done")
    assert (task.counts.inputs, task.counts.inputs_missing) == (4, 1)
    task_house.shelf.lists[name] += [first, third]
    await ann.command(task_id, "reload_input")
    await _ready(ann, task_id, 1)
    (job,) = await worker.take(task_id)
    assert job["inputs"] == [3]
    await worker.report([job])
    assert (await ann.wait(task_id, "done")).counts.inputs == 5


async def test_nothing_to_do(ann: Tasks, worker: Worker, task_house: House) -> None:
    name = _name()
    task_house.shelf.put(name, 1)
    task_id = await ann.made(reading(name))
    await _ready(ann, task_id, 1)
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")
    assert (await ann.command(task_id, "reload_input")).code == 0
    task = await ann.wait(task_id, "done", until=lambda task: task.error != "")
    assert "nothing to do" in task.error
    assert task.attempt == 2


async def test_a_retry_of_a_live_task(ann: Tasks, boss: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(maxAttempt=1, maxFailure=1))
    await _ready(ann, task_id, 3)
    jobs = await worker.take(task_id)
    await worker.report(jobs[:1], "failed")
    assert (await ann.command(task_id, "retry")).code == 4
    answer = await ann.command(task_id, "retry", retry_live=True)
    assert (answer.code, answer.state) == (0, task_pb2.TASK_STATE_RUNNING)
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 4)
    (again,) = await worker.take(task_id)
    assert (again["inputs"], again["attempt"]) == (jobs[0]["inputs"], 2)
    answer = await ann.command(task_id, "retry", retry_live=True, parameters={"ramCount": 4000})
    assert (answer.code, answer.incremental) == (0, True)
    await worker.report([*jobs[1:], again])
    assert (await ann.wait(task_id, "done")).attempt == 1
    managed = await boss.made(parameters(prodSourceLabel="managed", userName="boss", taskType="prod", skipScout=True))
    await _ready(boss, managed, 3)
    assert (await boss.command(managed, "retry", retry_live=True)).code == 4


async def test_there_is_an_end_to_retries(database_url: str, tmp_path: Path) -> None:
    async with house(database_url, tmp_path, task_attempt_limit=2) as running:
        ann, worker = await running.tasks(), Worker(running)
        task_id = await _finished(ann, worker)
        assert (await ann.command(task_id, "retry")).code == 0
        await _ready(ann, task_id, 2)
        await ann.command(task_id, "finish")
        await ann.wait(task_id, "finished")
        answer = await ann.command(task_id, "retry")
        assert (answer.code, answer.state) == (4, task_pb2.TASK_STATE_EXHAUSTED)
        task = await ann.get(task_id)
        assert (task.state, "2 times" in task.error) == (task_pb2.TASK_STATE_EXHAUSTED, True)


async def test_less_memory_for_what_had_grown(ann: Tasks, worker: Worker, task_house: House) -> None:
    task_id = await ann.made(parameters(nEvents=1, ramCount=1000, retryRamStep=1000, maxAttempt=2, maxFailure=2))
    for _ in range(2):
        await ann.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 1)
        await worker.run(task_id, "failed")
    await ann.wait(task_id, "failed")
    assert await task_house.one("SELECT memory_mb FROM task.input WHERE task_id = $1", task_id) == 2000
    assert (await ann.command(task_id, "retry", parameters={"ramCount": 500})).code == 0
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 1)
    asked = "SELECT memory_mb FROM task.job JOIN task.lot USING (lot_id) WHERE job.task_id = $1 AND state = 'activated'"
    assert await task_house.one(asked, task_id) == 2500


async def test_an_incomplete_end_may_be_for_the_user_to_judge(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(useExhausted=True, maxAttempt=1))
    await _ready(ann, task_id, 3)
    await worker.report(await worker.take(task_id), lambda job: "finished" if job["serial"] < 3 else "failed")
    await ann.wait(task_id, "exhausted")
    assert (await ann.command(task_id, "retry")).code == 0
    await _ready(ann, task_id, 1)
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")
