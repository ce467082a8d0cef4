"""Tasks that wait for others, go down with them, and are run again with them."""

from uuid import uuid4

from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, parameters, reading


async def _parent(tasks: Tasks, **changes: object) -> int:
    task_id = await tasks.made(parameters(**changes))
    await tasks.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 3)
    return task_id


async def test_a_child_waits_for_its_parent(ann: Tasks, worker: Worker, task_house: House) -> None:
    parent = await _parent(ann)
    name = f"set.{uuid4().hex[:8]}"
    child = await ann.made(reading(name), parent=parent)
    task = await ann.wait(child, "pending")
    assert str(parent) in task.error
    task_house.shelf.put(name, 2)  # what the parent made
    await worker.report(await worker.take(parent))
    await ann.wait(parent, "done")
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 2)
    await worker.report(await worker.take(child))
    await ann.wait(child, "done")


async def test_a_child_of_a_failed_parent_is_broken(ann: Tasks, worker: Worker) -> None:
    parent = await _parent(ann, maxAttempt=1)
    child = await ann.made(parameters(), parent=parent)
    await ann.wait(child, "pending")
    await worker.report(await worker.take(parent), "failed")
    await ann.wait(parent, "failed")
    assert "failed to complete" in (await ann.wait(child, "broken")).error
    late = await ann.made(parameters(), parent=parent)
    assert "failed to complete" in (await ann.wait(late, "broken")).error


async def test_a_child_that_has_begun_is_killed_with_its_parent(ann: Tasks) -> None:
    parent = await _parent(ann)
    child = await ann.made(parameters(noWaitParent=True), parent=parent)
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 3)
    await ann.command(parent, "kill")
    await ann.wait(parent, "aborted")
    task = await ann.wait(child, "aborted")
    assert "failed to complete" in task.error


async def test_a_parent_that_does_not_exist(ann: Tasks) -> None:
    child = await ann.made(parameters(), parent=2**40)
    assert "does not exist" in (await ann.wait(child, "broken")).error


async def test_a_child_that_does_not_wait_reads_what_comes(ann: Tasks, worker: Worker, task_house: House) -> None:
    parent = await _parent(ann)
    name = f"set.{uuid4().hex[:8]}"
    child = await ann.made(reading(name, noWaitParent=True), parent=parent)
    await ann.wait(child, "pending")  # its input is not there yet, and may come
    task_house.shelf.put(name, 1)
    await task_house.pool.execute("UPDATE task.tally SET attend_at = now() WHERE task_id = $1", child)
    task_house.room.kick(child)
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 1)
    await worker.report(await worker.take(child))
    task_house.shelf.put(name, 1, first=2)
    await worker.report(await worker.take(parent))
    await ann.wait(parent, "done")
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 1)
    await worker.report(await worker.take(child))
    task = await ann.wait(child, "done")
    assert task.counts.inputs == 2


async def test_a_child_of_a_parent_that_is_not_done_is_finished(ann: Tasks, worker: Worker) -> None:
    parent = await _parent(ann, maxAttempt=1)
    child = await ann.made(parameters(), parent=parent)
    jobs = await worker.take(parent)
    await worker.report(jobs, lambda job: "failed" if job is jobs[0] else "finished")
    await ann.wait(parent, "finished")
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 3)
    await worker.report(await worker.take(child))
    await ann.wait(child, "finished")


async def test_children_are_retried_with_their_parent(ann: Tasks, worker: Worker) -> None:
    parent = await _parent(ann, maxAttempt=1)
    child = await ann.made(parameters(), parent=parent)
    jobs = await worker.take(parent)
    await worker.report(jobs, lambda job: "failed" if job is jobs[0] else "finished")
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 3)
    await worker.report(await worker.take(child))
    await ann.wait(child, "finished")
    assert (await ann.command(parent, "retry", sole=True)).code == 0
    await ann.wait(parent, "running", until=lambda task: task.counts.jobs_live == 1)
    assert await ann.state(child) == "finished"
    await worker.report(await worker.take(parent), "finished")
    await ann.wait(parent, "done")


async def test_a_retried_child_waits_again(ann: Tasks, worker: Worker) -> None:
    parent = await _parent(ann, maxAttempt=1)
    child = await ann.made(parameters(maxAttempt=1), parent=parent)
    await worker.report(await worker.take(parent), lambda job: "failed" if job["serial"] == 1 else "finished")
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 3)
    await worker.report(await worker.take(child), lambda job: "failed" if job["serial"] == 1 else "finished")
    await ann.wait(child, "finished")
    assert (await ann.command(parent, "retry")).code == 0
    await ann.wait(parent, "running", until=lambda task: task.counts.jobs_live == 1)
    task = await ann.wait(child, "pending")
    assert task.attempt == 2
    await worker.report(await worker.take(parent))
    await ann.wait(parent, "done")
    await ann.wait(child, "running", until=lambda task: task.counts.jobs_live == 1)
    await worker.report(await worker.take(child))
    await ann.wait(child, "done")
