"""Lost files: what is missing in the registry is made again."""

from typing import Any
from uuid import uuid4

from drayman.task.v1 import task_service_pb2 as pb
from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, parameters


async def _recover(tasks: Tasks, task_id: int, *, dry_run: bool = False) -> Any:
    return await tasks.call("RecoverLostFiles", pb.RecoverLostFilesRequest(task_id=task_id, dry_run=dry_run))


async def test_what_is_lost_is_made_again(ann: Tasks, bob: Tasks, worker: Worker, task_house: House) -> None:
    out = f"set.{uuid4().hex[:8]}"
    given = parameters()
    given["jobParameters"].append({"type": "template", "param_type": "output", "value": "o.${SN}.root", "dataset": out})
    task_id = await ann.made(given)
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 3)
    assert not (await _recover(ann, task_id)).accepted
    await worker.report(await worker.take(task_id), outputs=True)
    await ann.wait(task_id, "done")
    found = await _recover(ann, task_id)
    assert (found.accepted, list(found.lost), found.inputs) == (True, [], 0)
    assert "no files" in found.message

    version = f"{task_id}.000002"
    task_house.shelf.gone.add((version, "out.OUTPUT0.2"))
    assert not (await _recover(bob, task_id)).accepted
    found = await _recover(ann, task_id, dry_run=True)
    assert (list(found.lost), await ann.state(task_id)) == ([f"{out}/out.OUTPUT0.2"], "done")
    found = await _recover(ann, task_id)
    assert (found.accepted, list(found.lost), found.inputs) == (True, [f"{out}/out.OUTPUT0.2"], 1)
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 1)
    (job,) = await worker.take(task_id)
    assert job["inputs"] == [2]
    await worker.report([job], outputs=True)
    await ann.wait(task_id, "done")
    parts = task_house.shelf.assembled["outputs", out, f"{task_id}-2"]
    assert parts == [f"{task_id}.{serial:06d}" for serial in (1, 3, 4)]
    assert not (await _recover(ann, 2**40)).accepted


async def test_metadata_of_finished_jobs(ann: Tasks, worker: Worker, task_house: House) -> None:
    task_id = await ann.made(parameters(maxAttempt=1))
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs_live == 3)
    jobs = await worker.take(task_id)
    for job in jobs:
        await task_house.pool.execute(
            "INSERT INTO task.job_metadata VALUES ($1, $2, $3)", job["job_id"], task_id, f'{{"n": {job["serial"]}}}'
        )
    await worker.report(jobs, lambda job: "failed" if job["serial"] == 2 else "finished")
    request = pb.ListJobMetadataRequest(task_id=task_id)
    replies = [reply async for reply in ann.stream("ListJobMetadata", request)]
    found = {item.job_id: item.metadata_json for reply in replies for item in reply.metadata}
    assert found == {jobs[0]["job_id"]: '{"n": 1}', jobs[2]["job_id"]: '{"n": 3}'}
