"""Reports of workers: fenced, never backwards, and what the end of a job does to its task."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.server.task.job_rules import after_report
from drayman.server.task.job_states import HELD, JobState
from drayman.task.v1 import job_pb2
from drayman.task.v1 import pilot_service_pb2 as pb
from service.task.workshop import Pilot, Workshop, say, workshop

STATE = {state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}
OUT = [pb.MadeFile(name="out.000001.txt", size=7, checksum="md5:00", events=3)]


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncIterator[Workshop]:
    async with workshop(database_url) as running:
        yield running


async def begun(shop: Workshop, **options: Any) -> tuple[Any, Pilot, pb.JobDescription]:
    task = await shop.task("ann", **options)
    pilot = shop.pilot("ann")
    (job,) = await pilot.take()
    await pilot.report(job, job_pb2.JOB_STATE_RUNNING)
    return task, pilot, job


async def test_a_job_runs_and_finishes(shop: Workshop) -> None:
    task, pilot, job = await begun(shop)
    row = await shop.row(job.job_id)
    assert (row["s"], row["started_at"] is not None) == ("running", True)
    assert (await shop.tally(task.task_id))["started_at"] is not None
    log = pb.MadeFile(name="log.000001.tgz", size=9)
    answer = await pilot.report(
        job, job_pb2.JOB_STATE_FINISHED, outputs=[*OUT, log], fields={"maxRSS": 12}, metadata_json='{"a": 1}'
    )
    assert (answer.status, answer.state) == (pb.ANSWER_STATUS_TAKEN, job_pb2.JOB_STATE_FINISHED)
    tally = await shop.tally(task.task_id)
    assert (tally["live"], tally["jobs_finished"], tally["picked"], tally["finished"]) == (0, 1, 0, 1)
    assert tally["attend_at"] is not None
    assert shop.replicas[0].kicked == [task.task_id]
    (record,) = await shop.inputs(task.task_id)
    assert record["s"] == "finished"
    outputs = await shop.pool.fetch("SELECT * FROM task.output ORDER BY name")
    assert [(o["name"], o["type"], o["size"], o["state"]) for o in outputs] == [
        ("log.000001.tgz", "log", 9, "ready"),
        ("out.000001.txt", "output", 7, "ready"),
    ]
    assert outputs[1]["version"] == f"{task.task_id}.000001"
    assert await shop.pool.fetchval("SELECT metadata FROM task.job_metadata") == '{"a": 1}'
    (shown,) = await shop.get(job.job_id)
    assert json.loads(shown.fields_json)["maxRSS"] == 12
    assert {file.name: file.status for file in shown.files} == {
        "file1.dat": "ready",
        "out.000001.txt": "ready",
        "log.000001.tgz": "ready",
    }


async def test_a_report_told_again_is_taken_again(shop: Workshop) -> None:
    task, pilot, job = await begun(shop)
    for _ in range(2):
        answer = await pilot.report(job, job_pb2.JOB_STATE_FINISHED, outputs=OUT)
        assert answer.status == pb.ANSWER_STATUS_TAKEN
    assert (await pilot.report(job, job_pb2.JOB_STATE_FAILED)).status == pb.ANSWER_STATUS_ALREADY_DONE
    assert (await pilot.report(job, job_pb2.JOB_STATE_RUNNING)).status == pb.ANSWER_STATUS_ALREADY_DONE
    assert (await shop.tally(task.task_id))["jobs_finished"] == 1


async def test_finished_without_an_output_is_failed(shop: Workshop) -> None:
    task, pilot, job = await begun(shop)
    for _ in range(2):  # told again it is the same
        answer = await pilot.report(job, job_pb2.JOB_STATE_FINISHED, metadata_json="{}")
        assert (answer.status, answer.state) == (pb.ANSWER_STATUS_TAKEN, job_pb2.JOB_STATE_FAILED)
    fields = json.loads((await shop.get(job.job_id))[0].fields_json)
    assert fields == {"pilotErrorCode": 1165, "pilotErrorDiag": "Expected output file is missing: out.000001.txt"}
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["failures"], record["attempts"]) == ("ready", 1, 1)
    assert await shop.pool.fetchval("SELECT count(*) FROM task.job_metadata") == 0


async def test_who_is_not_the_jobs_worker_is_not_heard(shop: Workshop) -> None:
    _, pilot, job = await begun(shop)
    other = shop.pilot("ann")
    assert (await other.report(job, job_pb2.JOB_STATE_FAILED)).status == pb.ANSWER_STATUS_WRONG_WORKER
    thief = shop.pilot("bob", worker_id=pilot.worker_id)
    assert (await thief.report(job, job_pb2.JOB_STATE_FAILED)).status == pb.ANSWER_STATUS_WRONG_WORKER
    assert (await pilot.report(job, job_pb2.JOB_STATE_FAILED, attempt=2)).status == pb.ANSWER_STATUS_BAD_ATTEMPT
    assert (await pilot.report(10**12, job_pb2.JOB_STATE_FAILED)).status == pb.ANSWER_STATUS_UNKNOWN
    assert (await shop.row(job.job_id))["s"] == "running"


async def test_reports_agree_with_the_rules(shop: Workshop) -> None:
    """What the statements do in every state is what the pure rule says."""
    reported = [
        JobState.ACTIVATED,
        JobState.STARTING,
        JobState.RUNNING,
        JobState.HOLDING,
        JobState.TRANSFERRING,
        JobState.FAILED,
    ]
    for state in sorted(HELD):
        for report in reported:
            task = await shop.task("ann")
            pilot = shop.pilot("ann")
            (job,) = await pilot.take(task_id=task.task_id)
            if state is not JobState.SENT:
                await pilot.report(job, STATE[state])
            answer = await pilot.report(job, STATE[report])
            becomes = after_report(state, report)
            assert (await shop.row(job.job_id))["s"] == (becomes or state), (state, report)
            expected = pb.ANSWER_STATUS_TAKEN if becomes else pb.ANSWER_STATUS_STATE_KEPT
            assert answer.status == expected, (state, report)
            assert await shop.ready(task.lot_id) == (1 if becomes is JobState.ACTIVATED else 0)
            await shop.pool.execute("UPDATE task.lot SET is_open = false WHERE lot_id = $1", task.lot_id)


async def test_the_rest_of_an_update_backwards_is_taken(shop: Workshop) -> None:
    _, pilot, job = await begun(shop)
    answer = await pilot.report(job, job_pb2.JOB_STATE_STARTING, fields={"node": "n1", "maxRSS": 5})
    assert answer.status == pb.ANSWER_STATUS_STATE_KEPT
    row = await shop.row(job.job_id)
    assert (row["s"], row["node"], json.loads(row["fields"])["maxRSS"]) == ("running", "n1", 5)


@pytest.mark.parametrize(
    ("max_attempts", "max_failures", "state"),
    [(3, None, "ready"), (1, None, "failed"), (3, 1, "failed"), (3, 2, "ready")],
)
async def test_a_failure_uses_an_attempt_and_a_failure(
    shop: Workshop, max_attempts: int, max_failures: int | None, state: str
) -> None:
    task, pilot, job = await begun(shop, max_attempts=max_attempts, max_failures=max_failures)
    await pilot.report(job, job_pb2.JOB_STATE_FAILED, fields={"pilotErrorCode": 7, "taskBufferErrorCode": 9})
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["failures"]) == (state, 1)
    tally = await shop.tally(task.task_id)
    assert (tally["jobs_failed"], tally["ready"], tally["failed"]) == (1, int(state == "ready"), int(state == "failed"))
    assert json.loads((await shop.row(job.job_id))["fields"]) == {"pilotErrorCode": 7}  # what is ours, we say


async def test_scouts_are_counted_and_judged(shop: Workshop) -> None:
    task = await shop.task("ann", 3, scouts=2)
    pilot = shop.pilot("ann")
    jobs = await pilot.take(max_jobs=3)
    await pilot.report(jobs[2], job_pb2.JOB_STATE_FAILED)
    assert (await shop.tally(task.task_id))["scouts_failed"] == 0
    await pilot.report(jobs[0], job_pb2.JOB_STATE_FAILED)
    await pilot.report(jobs[1], job_pb2.JOB_STATE_FINISHED, outputs=[pb.MadeFile(name="out.000002.txt")])
    tally = await shop.tally(task.task_id)
    assert (tally["scouts_failed"], tally["scouts_finished"], tally["live"]) == (1, 1, 0)
    assert len(shop.replicas[0].kicked) == 3


async def test_the_engine_is_left_alone_while_jobs_go_on(shop: Workshop) -> None:
    task = await shop.task("ann", 3)
    pilot = shop.pilot("ann")
    jobs = await pilot.take(max_jobs=3)
    await pilot.report(jobs[0], job_pb2.JOB_STATE_FINISHED, outputs=OUT)
    assert (await shop.tally(task.task_id))["attend_at"] is None
    assert shop.replicas[0].kicked == []


async def test_reports_of_many_at_once(shop: Workshop) -> None:
    """Several tasks, several replicas, one after the other and in one call: every count is right."""
    await shop.open_replica()
    tasks = [await shop.task("ann", 30, files_per_job=2) for _ in range(4)]
    pilots = [shop.pilot("ann", replica=number % 2) for number in range(12)]

    async def work(pilot: Pilot, number: int) -> None:
        while jobs := await pilot.take(max_jobs=3):
            await pilot.update(*(say(job.job_id, job_pb2.JOB_STATE_RUNNING) for job in jobs))
            ends = []
            for job in jobs:
                good = job.job_id % 3 != 0
                made = [pb.MadeFile(name=out.name, size=1) for out in job.outputs] if good else []
                state = job_pb2.JOB_STATE_FINISHED if good else job_pb2.JOB_STATE_FAILED
                ends.append(say(job.job_id, state, outputs=made))
            # the same twice in one call: the second time it is known
            answers = await pilot.update(*ends, *ends[:1])
            assert {answer.status for answer in answers} == {pb.ANSWER_STATUS_TAKEN}, number

    await asyncio.gather(*(work(pilot, number) for number, pilot in enumerate(pilots)))
    for task in tasks:
        good = sum(job_id % 3 != 0 for job_id in task.job_ids)
        tally = await shop.tally(task.task_id)
        assert (tally["live"], tally["jobs_finished"], tally["jobs_failed"]) == (0, good, 30 - good)
        assert (tally["finished"], tally["ready"], tally["picked"]) == (2 * good, 2 * (30 - good), 0)


async def test_a_job_over_inputs_that_another_has_now_changes_nothing_of_them(shop: Workshop) -> None:
    task, pilot, job = await begun(shop)
    await shop.pool.execute("UPDATE task.input SET job_id = 999999 WHERE task_id = $1", task.task_id)
    await pilot.report(job, job_pb2.JOB_STATE_FAILED)
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["failures"]) == ("picked", 0)


@pytest.mark.parametrize(
    "update",
    [
        {"state": job_pb2.JOB_STATE_CANCELLED},
        {"state": job_pb2.JOB_STATE_SENT},
        {"state": 99},
        {"fields_json": "[1]"},
        {"fields_json": "{"},
        {"fields_json": '{"a": NaN}'},
        {"fields_json": '{"a": 1e999}'},
        {"fields_json": '{"a": "' + "x" * 70_000 + '"}'},
        {"fields_json": "[" * 60_000},
        {"metadata_json": "nothing"},
        {"metadata_json": '"' + "x" * 1_000_001 + '"'},
        {"outputs": [pb.MadeFile(name="x", size=-1)]},
    ],
)
async def test_an_update_that_can_never_be_right_is_refused(shop: Workshop, update: dict[str, Any]) -> None:
    _, pilot, job = await begun(shop)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pilot.update(pb.JobUpdate(job_id=job.job_id, attempt=1, **update))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_postgresql_cannot_keep_is_replaced(shop: Workshop) -> None:
    _, pilot, job = await begun(shop)
    update = pb.JobUpdate(job_id=job.job_id, attempt=1, fields_json='{"a\\u0000": "b\\ud800", "n": "x\\u0000"}')
    (answer,) = await pilot.update(update)
    assert answer.status == pb.ANSWER_STATUS_TAKEN
    assert json.loads((await shop.row(job.job_id))["fields"]) == {"a\ufffd": "b?", "n": "x\ufffd"}
