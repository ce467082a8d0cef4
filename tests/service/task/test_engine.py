"""Tasks from submission to their end."""

import asyncio
from functools import partial
from typing import Any
from uuid import uuid4

from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, parameters, reading


async def _finish(tasks: Tasks, worker: Worker, task_id: int, outcome: Any = "finished", **options: Any) -> Any:
    """Run jobs as they come until the task is over."""
    over = ("done", "finished", "failed", "aborted", "broken", "exhausted")
    while True:
        task = await tasks.wait(
            task_id, until=lambda task: task.state >= 13 or task.counts.jobs_live > 0 or task.error != ""
        )
        if await worker.run(task_id, outcome, **options):
            continue
        if await tasks.state(task_id) in over:
            return await tasks.get(task_id)
        assert task is not None
        await asyncio.sleep(0.01)


def _name() -> str:
    return f"set.{uuid4().hex[:8]}"


async def test_a_task_without_input_has_a_job_for_each_window(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(nEvents=7, nEventsPerJob=3))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    jobs = await worker.take(task_id)
    assert [job["serial"] for job in jobs] == [1, 2, 3]
    inputs = await ann.inputs(task_id)
    assert [(found.first_event, found.events) for found in inputs] == [(0, 3), (3, 3), (6, 1)]
    assert [found.state for found in inputs] == ["picked"] * 3
    await worker.report(jobs)
    task = await ann.wait(task_id, "done")
    assert (task.counts.inputs, task.counts.inputs_finished, task.counts.jobs_finished) == (3, 3, 3)
    assert task.HasField("end_time")
    assert task.HasField("start_time")
    assert not task.error


async def test_files_are_grouped_and_outputs_put_together(ann: Tasks, worker: Worker, task_house: House) -> None:
    name, out = _name(), _name()
    task_house.shelf.put(name, 5)
    output = {"type": "template", "param_type": "output", "value": "o.${SN}.root", "dataset": out}
    given = reading(name, nFilesPerJob=2)
    given["jobParameters"].append(output)
    task_id = await ann.made(given)
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    jobs = await worker.take(task_id)
    assert [len(job["inputs"]) for job in jobs] == [2, 2, 1]
    await worker.report(jobs, outputs=True)
    await ann.wait(task_id, "done")
    parts = [f"{task_id}.{serial:06d}" for serial in (1, 2, 3)]
    assert task_house.shelf.assembled["outputs", out, str(task_id)] == parts
    details = await ann.call("GetTaskDetails", _details(task_id))
    assert [(found.stream, found.files, found.files_finished) for found in details.datasets] == [
        ("IN", 5, 5),
        ("OUTPUT0", 3, 3),
    ]
    assert list(details.job_ids) == [job["job_id"] for job in jobs]


def _details(task_id: int) -> Any:
    from drayman.task.v1 import task_service_pb2 as pb  # noqa: PLC0415

    return pb.GetTaskDetailsRequest(task_id=task_id)


async def test_failed_jobs_are_tried_again_as_often_as_allowed(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(nEvents=2, maxAttempt=5, maxFailure=2))
    first = await _taken(ann, worker, task_id, 2)
    await worker.report(first, lambda job: "failed" if job["serial"] == 1 else "finished")
    second = await _taken(ann, worker, task_id, 1)
    assert second[0]["inputs"] == first[0]["inputs"]
    assert (second[0]["attempt"], second[0]["serial"]) == (2, 3)
    parent = await ann.house.one("SELECT parent_id FROM task.job WHERE job_id = $1", second[0]["job_id"])
    assert parent == first[0]["job_id"]
    await worker.report(second, "failed")
    task = await ann.wait(task_id, "finished")
    assert (task.counts.inputs_finished, task.counts.inputs_failed) == (1, 1)
    assert "1 of 2 inputs" in task.error


def _more_live(count: int, task: Any) -> bool:
    return task.counts.jobs_live > count


async def _taken(tasks: Tasks, worker: Worker, task_id: int, count: int) -> list[Any]:
    """Wait until so many jobs are ready, and take them."""
    jobs: list[Any] = []
    async with asyncio.timeout(20):
        while len(jobs) < count:
            jobs += await worker.take(task_id)
            if len(jobs) < count:
                await tasks.wait(task_id, until=partial(_more_live, len(jobs)))
    assert len(jobs) == count
    return jobs


async def test_jobs_that_failed_ask_for_more_memory(ann: Tasks, worker: Worker, task_house: House) -> None:
    task_id = await ann.made(parameters(nEvents=1, ramCount=1000, retryRamStep=500, retryRamMax=1800, maxFailure=9))
    asked = []
    for _ in range(3):
        (job,) = await _taken(ann, worker, task_id, 1)
        lot = "SELECT memory_mb FROM task.lot JOIN task.job USING (lot_id) WHERE job_id = $1"
        asked.append(await task_house.one(lot, job["job_id"]))
        await worker.report([job], "failed" if len(asked) < 3 else "finished")
    await ann.wait(task_id, "done")
    assert asked == [1000, 1500, 1800]


async def test_scouts_go_first(ann: Tasks, worker: Worker, task_house: House) -> None:
    task_id = await ann.made(parameters(nEvents=40))
    task = await ann.wait(task_id, "scouting", until=lambda task: task.counts.jobs > 0)
    assert task.counts.jobs == task_house.settings.task_scouts
    scouts = await _taken(ann, worker, task_id, task.counts.jobs)
    await worker.report(scouts[:5])
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 40)
    await worker.report(scouts[5:])
    await _finish(ann, worker, task_id)
    assert await ann.state(task_id) == "done"


async def test_scouts_that_all_fail_break_a_task(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(nEvents=40))
    await worker.report(await _taken(ann, worker, task_id, 10), "failed")
    task = await ann.wait(task_id, "broken")
    assert "no scout job succeeded" in task.error


async def test_scouts_of_which_few_succeed_exhaust_a_task_and_a_retry_goes_on(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(nEvents=40))
    scouts = await _taken(ann, worker, task_id, 10)
    await worker.report(scouts, lambda job: "finished" if job["serial"] < 3 else "failed")
    task = await ann.wait(task_id, "exhausted")
    assert "scoutSuccessRate" in task.error
    assert (await ann.command(task_id, "retry")).code == 0
    await ann.wait(task_id, "scouting", until=lambda task: task.counts.jobs == 18)
    await _finish(ann, worker, task_id)
    assert await ann.state(task_id) == "done"


async def test_an_avalanche_ends_the_scouting(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(nEvents=40))
    await ann.wait(task_id, "scouting", until=lambda task: task.counts.jobs == 10)
    assert (await ann.command(task_id, "avalanche")).code == 0
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 40)


async def test_a_bad_parameter_breaks_a_task(ann: Tasks) -> None:
    task_id = await ann.made(parameters(transPath=None))
    assert "transPath" in (await ann.wait(task_id, "broken")).error


async def test_an_unknown_collection_breaks_a_task_or_is_waited_for(
    ann: Tasks, worker: Worker, task_house: House
) -> None:
    name = _name()
    broken = await ann.made(reading(name))
    assert name in (await ann.wait(broken, "broken")).error
    waiting = await ann.made(reading(name, waitInput=True))
    task = await ann.wait(waiting, "pending")
    assert name in task.error
    task_house.shelf.put(name, 2)
    await task_house.pool.execute("UPDATE task.tally SET attend_at = now() WHERE task_id = $1", waiting)
    task_house.room.kick(waiting)
    await ann.wait(waiting, "running")
    await _finish(ann, worker, waiting)
    assert await ann.state(waiting) == "done"


async def test_what_waits_too_long_is_given_up(ann: Tasks, task_house: House) -> None:
    task_id = await ann.made(reading(_name(), waitInput=True))
    await ann.wait(task_id, "pending")
    await task_house.pool.execute(
        "UPDATE task.task SET waiting_since = now() - interval '8 days' WHERE task_id = $1", task_id
    )
    await task_house.pool.execute("UPDATE task.tally SET attend_at = now() WHERE task_id = $1", task_id)
    task_house.room.kick(task_id)
    task = await ann.wait(task_id, "exhausted")
    assert "pending for 7 days" in task.error


async def test_an_empty_collection(ann: Tasks, task_house: House) -> None:
    name = _name()
    task_house.shelf.lists[name] = []
    assert "empty" in (await ann.wait(await ann.made(reading(name)), "broken")).error
    await ann.wait(await ann.made(reading(name, allowEmptyInput=True)), "finished")


async def test_a_task_stays_open_while_its_collection_grows(ann: Tasks, worker: Worker, task_house: House) -> None:
    name = _name()
    task_house.shelf.put(name, 2)
    task_house.shelf.growing.add(name)
    task_id = await ann.made(reading(name, runUntilClosed=True))
    await worker.report(await _taken(ann, worker, task_id, 2))
    task_house.shelf.put(name, 1, first=3)
    await task_house.pool.execute("UPDATE task.tally SET attend_at = now() WHERE task_id = $1", task_id)
    task_house.room.kick(task_id)
    await worker.report(await _taken(ann, worker, task_id, 1))
    assert await ann.state(task_id) == "running"
    task_house.shelf.growing.discard(name)
    await task_house.pool.execute("UPDATE task.tally SET attend_at = now() WHERE task_id = $1", task_id)
    task_house.room.kick(task_id)
    task = await ann.wait(task_id, "done")
    assert task.counts.inputs == 3


async def test_the_build_job_comes_first(ann: Tasks, worker: Worker, task_house: House) -> None:
    build = {
        "jobParameters": "-i sources.1.tar.gz -o ${OUT}",
        "archiveName": "sources.1.tar.gz",
        "prodSourceLabel": "panda",
    }
    task_id = await ann.made(parameters(buildSpec=build))
    (job,) = await _taken(ann, worker, task_id, 1)
    assert (job["kind"], job["serial"], job["inputs"]) == ("build", 0, [])
    await worker.report([job], "failed")
    (job,) = await _taken(ann, worker, task_id, 1)
    assert (job["kind"], job["attempt"]) == ("build", 2)
    assert (await ann.get(task_id)).counts.jobs == 2
    await worker.report([job])
    jobs = await _taken(ann, worker, task_id, 3)
    assert [job["serial"] for job in jobs] == [1, 2, 3]
    await worker.report(jobs)
    await ann.wait(task_id, "done")


async def test_a_build_that_fails_for_good_breaks_a_task(ann: Tasks, worker: Worker) -> None:
    build = {"jobParameters": "-i sources.1.tar.gz", "archiveName": "sources.1.tar.gz"}
    task_id = await ann.made(parameters(buildSpec=build))
    for _ in range(3):
        await worker.report(await _taken(ann, worker, task_id, 1), "failed")
    assert "build" in (await ann.wait(task_id, "broken")).error


async def test_outputs_are_merged_when_all_inputs_are_over(ann: Tasks, worker: Worker, task_house: House) -> None:
    out = _name()
    given = parameters(nEvents=5, mergeOutput=True, nFilesPerMergeJob=2, mergeSpec={"jobParameters": "merge"})
    given["jobParameters"].append({"type": "template", "param_type": "output", "value": "o.${SN}.root", "dataset": out})
    task_id = await ann.made(given)
    runs = await _taken(ann, worker, task_id, 5)
    await worker.report(runs, outputs=True)
    merges = await _taken(ann, worker, task_id, 3)
    assert {job["kind"] for job in merges} == {"merge"}
    rows = await task_house.pool.fetch(
        "SELECT merges FROM task.job WHERE task_id = $1 AND kind = 'merge' ORDER BY 1", task_id
    )
    ids = [job["job_id"] for job in runs]
    assert [row["merges"] for row in rows] == [ids[:2], ids[2:4], ids[4:]]
    await worker.report(merges, lambda job: "failed" if job is merges[0] else "finished", outputs=True)
    (again,) = await _taken(ann, worker, task_id, 1)
    await worker.report([again], outputs=True)
    await ann.wait(task_id, "done")
    parts = task_house.shelf.assembled["outputs", out, str(task_id)]
    assert parts == sorted(f"{task_id}.{job['serial']:06d}" for job in [*merges[1:], again])
    details = await ann.call("GetTaskDetails", _details(task_id))
    assert len(details.merge_job_ids) == 4


async def test_secondary_files_follow_the_primary_ones(ann: Tasks, worker: Worker, task_house: House) -> None:
    one, two = _name(), _name()
    task_house.shelf.put(one, 3)
    task_house.shelf.put(two, 4)
    given = reading(one)
    second = {"type": "template", "param_type": "input", "value": "-j ${IN2}", "dataset": two, "nFilesPerJob": 2}
    given["jobParameters"].append(second | {"reusable": True})
    task_id = await ann.made(given)
    jobs = await _taken(ann, worker, task_id, 3)
    assert await _others(task_house, jobs) == [[4, 5], [6, 7], [4, 5]]
    await worker.report(jobs, lambda job: "failed" if job is jobs[1] else "finished")
    (again,) = await _taken(ann, worker, task_id, 1)
    assert await _others(task_house, [again]) == [[6, 7]]


async def _others(house: House, jobs: list[Any]) -> list[list[int]]:
    statement = "SELECT others FROM task.job WHERE job_id = $1"
    return [await house.one(statement, job["job_id"]) for job in jobs]


async def test_too_few_secondary_files_break_a_task(ann: Tasks, task_house: House) -> None:
    one, two = _name(), _name()
    task_house.shelf.put(one, 3)
    task_house.shelf.put(two, 2)
    given = reading(one)
    given["jobParameters"].append({"type": "template", "param_type": "input", "value": "-j ${IN2}", "dataset": two})
    assert "IN2" in (await ann.wait(await ann.made(given), "broken")).error


async def test_parameters_can_limit_files_and_jobs(ann: Tasks, worker: Worker, task_house: House) -> None:
    name = _name()
    task_house.shelf.put(name, 9)
    task_id = await ann.made(reading(name, nFiles=4))
    assert (await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 4)).counts.inputs == 4
    task_id = await ann.made(reading(name, totNumJobs=2))
    await worker.report(await _taken(ann, worker, task_id, 2))
    assert (await ann.wait(task_id, "finished")).counts.inputs_finished == 2
    items = reading(name)["jobParameters"]
    items[0] |= {"include": "*.0000[1-3]", "exclude": "00002"}
    task_id = await ann.made(reading(name, jobParameters=items))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 2)
    assert [found.name[-5:] for found in await ann.inputs(task_id)] == ["00001", "00003"]


async def test_all_jobs_of_a_task_may_be_in_debug_mode(ann: Tasks, worker: Worker) -> None:
    task_id = await ann.made(parameters(nEvents=2, nEventsPerJob=1, debugMode=True))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 2)
    assert [job["debug"] for job in await worker.take(task_id)] == [True, True]


async def test_a_retry_puts_everything_together_anew(ann: Tasks, worker: Worker, task_house: House) -> None:
    out = _name()
    output = {"type": "template", "param_type": "output", "value": "o.${SN}.root", "dataset": out}
    given = parameters(nEvents=2, nEventsPerJob=1, maxAttempt=1)
    given["jobParameters"].append(output)
    task_id = await ann.made(given)
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 2)
    good, bad = await worker.take(task_id)
    await worker.report([bad], "failed")
    await worker.report([good], outputs=True)
    await ann.wait(task_id, "finished")
    assert task_house.shelf.assembled["outputs", out, f"{task_id}"] == [f"{task_id}.000001"]
    assert (await ann.command(task_id, "RETRY")).code == 0
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    await worker.report(await worker.take(task_id), outputs=True)
    await ann.wait(task_id, "done")
    parts = [f"{task_id}.000001", f"{task_id}.000003"]
    assert task_house.shelf.assembled["outputs", out, f"{task_id}-2"] == parts
