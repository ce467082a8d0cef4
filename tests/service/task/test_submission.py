"""Submission: what is stored, what is refused with which code, and tasks of the same name."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from drayman.task.v1 import task_service_pb2 as pb
from service.task.scripted_worker import Worker
from service.task.task_house import House, Tasks, house, parameters, reading


async def test_a_new_task(ann: Tasks) -> None:
    given = parameters(taskPriority=5000, userName="root", cliParams="prun --exec true", coreCount=4)
    answer = await ann.submit(given)
    assert (answer.code, f"new jediTaskID={answer.task_id}" in answer.message) == (0, True)
    task = await ann.get(answer.task_id)
    assert task.owner.startswith("ann-")
    assert (task.priority, task.type, task.request_id) == (1000, "anal", answer.task_id)
    assert (task.command_line, json.loads(task.attributes_json)["coreCount"]) == ("prun --exec true", 4)
    submitted = await ann.call("GetTaskParameters", pb.GetTaskParametersRequest(task_id=answer.task_id))
    assert json.loads(submitted.parameters_json) == given
    now = await ann.call("GetTaskParameters", pb.GetTaskParametersRequest(task_id=answer.task_id, effective=True))
    assert json.loads(now.parameters_json)["userName"] == task.owner


@pytest.mark.parametrize("key", ["taskName", "vo", "prodSourceLabel"])
async def test_what_is_missing_at_the_door(ann: Tasks, key: str) -> None:
    answer = await ann.submit(parameters(**{key: None}))
    assert (answer.code, answer.task_id, key in answer.message) == (4, 0, True)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', '{"a": "\\ud800"}', "[" * 100_000, '"x"'])
async def test_what_cannot_be_read(ann: Tasks, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ann.call("SubmitTask", pb.SubmitTaskRequest(parameters_json=text))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_same_request_again_is_the_same_task(ann: Tasks) -> None:
    given, request = parameters(), str(uuid4())
    answers = await asyncio.gather(*(ann.submit(given, request_id=request) for _ in range(4)))
    assert len({answer.task_id for answer in answers}) == 1
    assert {answer.code for answer in answers} == {0}


async def test_names_may_repeat_unless_they_are_to_be_unique(ann: Tasks) -> None:
    given = parameters()
    assert await ann.made(given) != await ann.made(given)


async def test_a_unique_name(ann: Tasks, bob: Tasks, worker: Worker, task_house: House) -> None:
    name = f"set.{uuid4().hex[:8]}"
    task_house.shelf.put(name, 2)
    given = reading(name, uniqueTaskName=True)
    task_id = await ann.made(given)
    await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 2)
    answer = await ann.submit(given)
    assert (answer.code, answer.task_id) == (2, task_id)
    assert (await bob.submit(given)).code == 0
    await worker.report(await worker.take(task_id))
    await ann.wait(task_id, "done")
    task_house.shelf.put(name, 1, first=3)
    request = str(uuid4())
    answer = await ann.submit(given | {"nFilesPerJob": 2, "transPath": "other"}, request_id=request)
    assert (answer.code, answer.task_id, f"jediTaskID={task_id}" in answer.message) == (3, task_id, True)
    assert (await ann.submit(given, request_id=request)).code == 3
    task = await ann.wait(task_id, "running", until=lambda task: task.counts.jobs == 3)
    assert (task.attempt, task.counts.inputs) == (2, 3)
    now = await ann.call("GetTaskParameters", pb.GetTaskParametersRequest(task_id=task_id, effective=True))
    assert json.loads(now.parameters_json)["nFilesPerJob"] == 2
    assert json.loads(now.parameters_json)["transPath"] == "bash"


async def test_a_name_that_is_queued_and_one_that_is_broken(ann: Tasks, task_house: House) -> None:
    given = parameters(uniqueTaskName=True)
    answers = await asyncio.gather(*(ann.submit(given) for _ in range(4)))
    assert min(answer.code for answer in answers) == 0
    assert {answer.code for answer in answers} <= {0, 1, 2}
    assert len({answer.task_id for answer in answers}) == 1
    given = parameters(uniqueTaskName=True, transPath=None)
    task_id = await ann.made(given)
    await ann.wait(task_id, "broken")
    assert (await ann.submit(given)).code == 2


async def test_queued_tasks_answer_1(database_url: str, tmp_path: Path) -> None:
    async with house(database_url, tmp_path, engine=False) as running:
        ann = await running.tasks()
        given = parameters(uniqueTaskName=True)
        task_id = await ann.made(given)
        answer = await ann.submit(given)
        assert (answer.code, answer.task_id) == (1, task_id)


async def test_the_limit_comes_first(database_url: str, tmp_path: Path) -> None:
    async with house(database_url, tmp_path, task_limit=2) as running:
        ann, bob, boss = await running.tasks(), await running.tasks("bob"), await running.tasks("boss", admin=True)
        given = parameters(uniqueTaskName=True)
        task_id = await ann.made(given)
        await ann.made(parameters())
        assert (await ann.submit(given)).code == 10
        assert (await ann.submit(parameters(prodSourceLabel="test"))).code == 0
        assert (await bob.submit(parameters())).code == 0
        assert (await boss.submit(parameters(taskType="prod"))).code == 0
        await ann.command(task_id, "kill")
        assert (await ann.submit(parameters())).code == 0


async def test_a_parent_by_name(ann: Tasks) -> None:
    assert (await ann.submit(parameters(parentTaskName="there.is.none"))).code == 11
    given = parameters()
    parent = await ann.made(given)
    child = await ann.made(parameters(parentTaskName=given["taskName"]))
    assert (await ann.get(child)).parent_task_id == parent


async def test_200_001_records(ann: Tasks) -> None:
    task_id = await ann.made(parameters(nEvents=200_001))
    task = await ann.wait(task_id, "broken")
    assert "200" in task.error


async def test_lists_of_tasks(ann: Tasks) -> None:
    tag = uuid4().hex[:8]
    ids = [await ann.made(parameters(taskName=f"{tag}_{number}")) for number in range(3)]
    user = (await ann.get(ids[0])).owner

    async def listed(**filters: object) -> list[int]:
        request = pb.ListTasksRequest(**filters)
        return [task.task_id async for reply in ann.stream("ListTasks", request) for task in reply.tasks]

    assert await listed(owner=user) == ids[::-1]
    assert await listed(name=f"{tag}*") == ids[::-1]
    assert await listed(name=f"{tag}_1") == [ids[1]]
    assert await listed(owner=user, after_task_id=ids[0], limit=1) == [ids[2]]
    assert await listed(task_ids=ids[:2]) == [ids[1], ids[0]]
    assert await listed(request_id=ids[0]) == [ids[0]]
    assert await listed(name="nobody's") == []
