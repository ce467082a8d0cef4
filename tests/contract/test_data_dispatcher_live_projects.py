"""What Drayman adds to the mirrored interface for projects that grow, and what listing projects costs."""

import time
import uuid
from collections.abc import Callable

import pytest

from drayman.client import DispatchClient, File
from drayman.data_dispatcher.api import APIError, DataDispatcherClient, NotFoundError
from drayman.testing import LocalStack


@pytest.fixture
def ann(stack: LocalStack) -> DataDispatcherClient:
    name = f"u{uuid.uuid4().hex}"
    stack.add_user(name)
    return DataDispatcherClient(stack.url, token=stack.token(name), worker_id=f"w-{name}")


def status_of(call: Callable[[], object]) -> int:
    with pytest.raises(APIError) as refused:
        call()
    return refused.value.StatusCode


def test_files_are_added(ann: DataDispatcherClient, stack: LocalStack) -> None:
    project_id = ann.create_project(["a:1"], project_attributes={"virtual": True})["project_id"]
    added = ann.add_files(project_id, ["a:2", {"namespace": "a", "name": "3:x", "attributes": {"n": 2**70}}])
    assert added == (2, 0)
    assert ann.add_files(str(project_id), ["a:1", "a:4"], skip_existing=True) == (1, 1)
    handles = ann.get_project(project_id)["file_handles"]  # type: ignore[index]
    assert [(handle["name"], handle["attributes"]) for handle in handles] == [
        ("1", {}),
        ("2", {}),
        ("3:x", {"n": 2**70}),
        ("4", {}),
    ]
    assert status_of(lambda: ann.add_files(project_id, ["a:5", "a:1"])) == 400
    assert status_of(lambda: ann.add_files(project_id, ["a:5", "a:5"])) == 400
    with pytest.raises(ValueError, match="no colon"):
        ann.add_files(project_id, ["no colon"])
    with pytest.raises(NotFoundError):
        ann.add_files(2**62, ["a:5"])
    stranger = DataDispatcherClient(stack.url, token=stack.token(stack.admin[0]), worker_id="w")
    assert stranger.add_files(project_id, ["a:5"]) == (1, 0)  # an administrator may
    ann.cancel_project(project_id)
    assert status_of(lambda: ann.add_files(project_id, ["a:6"])) == 409
    assert len(ann.list_handles(project_id)) == 5


async def test_a_list_without_files_does_not_read_them(ann: DataDispatcherClient, stack: LocalStack) -> None:
    """Listing a project of fifty thousand files takes as long as listing one of ten."""

    def quickest(**attributes: str) -> float:
        took = []
        for _ in range(15):
            begin = time.perf_counter()
            listed = ann.list_projects(attributes=attributes, with_files=False)
            took.append(time.perf_counter() - begin)
            assert len(listed) == 1
            assert "file_handles" not in listed[0]
            begin = time.perf_counter()
            found = ann.get_project(listed[0]["project_id"], with_files=False)
            took[-1] += time.perf_counter() - begin
            assert found == listed[0]
        return min(took)

    tag = uuid.uuid4().hex
    async with DispatchClient(stack.url, ann.Token) as dispatch:
        for size in (10, 50_000):
            files = (File("n", str(number)) for number in range(size))
            await dispatch.create_project(files, attributes={"virtual": True, "size": f"{size} {tag}"})
    small, large = quickest(size=f"10 {tag}"), quickest(size=f"50000 {tag}")
    assert large < 3 * small + 0.005
