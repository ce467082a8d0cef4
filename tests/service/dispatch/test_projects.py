"""Projects over a real channel: created whole or not at all, copied, listed, ended, revived, removed."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drayman.client import (
    AlreadyExistsError,
    DispatchClient,
    DraymanError,
    File,
    ForbiddenError,
    Handle,
    InvalidRequestError,
    NotFoundError,
    ProjectEnded,
    Rse,
    open_channel,
)
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import project_pb2, project_service_pb2, project_service_pb2_grpc
from drayman.testing import LocalStack

ODD_NAMES = [
    "a+b&c#d%e",
    "per%cent",
    "quo'te\"s",
    "back\\slash",
    "tab\tnew\nline",
    " spaces ",
    "a:b:c",
    "ü€😀",
    "/",
    "..",
    "{}",
    "\x01\x7f",
]


async def all_handles(dispatch: DispatchClient, project_id: int, **options: Any) -> list[Handle]:
    return [handle async for handle in dispatch.handles(project_id, **options)]


async def test_a_project_comes_back_as_it_was_made(dispatch: DispatchClient, user: str, stack: LocalStack) -> None:
    friend, role = f"friend-{uuid4().hex[:6]}", f"role-{uuid4().hex[:6]}"
    stack.add_user(friend, roles=[role])
    attributes = {"virtual": True, "big": 2**63 - 1, "n": 5.0, "ü": "€", "nested": {"a": [1, None, True]}}
    made = await dispatch.create_project(
        [File("n", "1", {"x": -(2**63)}), File("n", "2")],
        attributes=attributes,
        query="files from x",
        worker_timeout=1.5,
        idle_timeout=3600,
        users=[friend, user, friend],
        roles=[role],
    )
    project = await dispatch.get_project(made.project_id)
    assert project == made
    assert project.attributes == attributes
    assert (project.owner, project.state, project.query) == (user, "active", "files from x")
    assert (project.worker_timeout, project.idle_timeout) == (1.5, 3600)
    assert (set(project.users), project.roles) == ({friend, user}, (role,))
    assert (project.counts.total, project.counts.initial, project.ended) == (2, 2, None)
    handles = await all_handles(dispatch, project.project_id)
    assert [(handle.did, handle.attributes, handle.state, handle.attempts) for handle in handles] == [
        ("n:1", {"x": -(2**63)}, "initial", 0),
        ("n:2", {}, "initial", 0),
    ]


async def test_odd_names_travel_byte_for_byte(dispatch: DispatchClient) -> None:
    files = [File(namespace, name) for namespace in (*ODD_NAMES, "") for name in ODD_NAMES]
    project = await dispatch.create_project(files, attributes={"virtual": True})
    taken = await dispatch.reserve(project.project_id, "w", 1000)
    assert isinstance(taken, list)
    assert [(handle.namespace, handle.name) for handle in taken] == [(file.namespace, file.name) for file in files]
    for handle in taken[:20]:
        found = await dispatch.get_handle(project.project_id, handle.namespace, handle.name)
        assert found.handle_id == handle.handle_id


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    project_attributes=st.dictionaries(st.text(), JSON, max_size=4),
    file_attributes=st.dictionaries(st.text(), JSON, max_size=4),
)
async def test_any_attributes_survive(
    dispatch: DispatchClient, project_attributes: dict[str, Any], file_attributes: dict[str, Any]
) -> None:
    project_attributes["virtual"] = True
    made = await dispatch.create_project([File("n", "f", file_attributes)], attributes=project_attributes)
    handle = await dispatch.next_file(made.project_id, "w")
    assert isinstance(handle, Handle)
    assert handle.attributes == file_attributes
    assert handle.project_attributes == project_attributes


async def test_a_wrong_file_list_leaves_nothing_behind(dispatch: DispatchClient, user: str) -> None:
    before = [project.project_id async for project in dispatch.projects(owner=user)]
    wrong: list[tuple[list[File], dict[str, Any], str]] = [
        ([File("n", "1"), File("n", "2"), File("n", "1")], {}, "DUPLICATE_FILE"),
        ([File("n", "1")], {"users": ["nobody-at-all"]}, "UNKNOWN_NAME"),
        ([File("n", "1")], {"roles": ["no-such-role"]}, "UNKNOWN_NAME"),
        ([File("n", "a\x00b")], {}, "INVALID_FIELD"),
        ([File("n", "1")], {"worker_timeout": -1}, "INVALID_FIELD"),
        ([File("n", "".join(map(str, range(1000))))], {}, "INVALID_FIELD"),
    ]
    for files, options, reason in wrong:
        with pytest.raises(InvalidRequestError) as caught:
            await dispatch.create_project(files, **options)
        assert caught.value.reason == reason, caught.value
    assert [project.project_id async for project in dispatch.projects(owner=user)] == before


async def test_a_duplicate_is_named(dispatch: DispatchClient) -> None:
    files = [File("n", str(number)) for number in range(5000)]
    with pytest.raises(InvalidRequestError, match="n:4711"):
        await dispatch.create_project([*files, File("n", "4711")])


async def test_an_error_of_the_callers_own_list_is_theirs(dispatch: DispatchClient, user: str) -> None:
    def files() -> Iterator[File]:
        yield File("n", "1")
        raise LookupError("the catalogue is away")

    before = [project.project_id async for project in dispatch.projects(owner=user)]
    with pytest.raises(LookupError, match="catalogue"):
        await dispatch.create_project(files())
    assert [project.project_id async for project in dispatch.projects(owner=user)] == before


async def test_a_list_that_breaks_off_makes_no_project(stack: LocalStack, dispatch: DispatchClient, user: str) -> None:
    before = [project.project_id async for project in dispatch.projects(owner=user)]
    request = project_service_pb2.CreateProjectRequest
    did = project_pb2.Did(namespace="n", name="1")
    batch = project_service_pb2.FileBatch(files=[project_pb2.File(did=did)])
    parts = {
        "no end": [request(spec={}), request(files=batch)],
        "wrong count": [request(spec={}), request(files=batch), request(end={"file_count": 2})],
        "no spec": [request(files=batch), request(end={"file_count": 1})],
        "two specs": [request(spec={}), request(spec={})],
        "after the end": [request(spec={}), request(end={"file_count": 0}), request(files=batch)],
        "nothing": [],
        "empty part": [request()],
    }
    async with open_channel(stack.url) as channel:
        stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        for name, messages in parts.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.CreateProject(iter(messages), metadata=bearer(stack.token(user)), timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
    assert [project.project_id async for project in dispatch.projects(owner=user)] == before


async def test_a_creation_that_is_sent_again_makes_one_project(stack: LocalStack, user: str) -> None:
    request = project_service_pb2.CreateProjectRequest
    request_id = str(uuid4())
    parts = [
        request(spec={"request_id": request_id}),
        request(
            files=project_service_pb2.FileBatch(
                files=[project_pb2.File(did=project_pb2.Did(namespace="n", name=str(number))) for number in range(3)]
            )
        ),
        request(end={"file_count": 3}),
    ]
    async with open_channel(stack.url) as channel:
        stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        metadata = bearer(stack.token(user))
        made = await asyncio.gather(*(stub.CreateProject(iter(parts), metadata=metadata, timeout=20) for _ in range(5)))
        assert len({reply.project.project_id for reply in made}) == 1
        assert made[0].project.counts.total == 3
        copy = project_service_pb2.CopyProjectRequest(project_id=made[0].project.project_id, request_id=str(uuid4()))
        copies = await asyncio.gather(*(stub.CopyProject(copy, metadata=metadata, timeout=20) for _ in range(5)))
        assert len({reply.project.project_id for reply in copies}) == 1
        assert copies[0].project.project_id != made[0].project.project_id


async def test_an_empty_project_stays_active_and_gives_nothing(dispatch: DispatchClient) -> None:
    project = await dispatch.create_project([])
    assert await dispatch.next_file(project.project_id, "w") == ProjectEnded("active")
    assert (await dispatch.get_project(project.project_id)).state == "active"


async def test_a_copy_is_fresh_and_the_copiers_own(dispatch: DispatchClient, admin: DispatchClient) -> None:
    original = await dispatch.create_project(
        [File("n", "1", {"a": 1, "b": 2}), File("n", "2")], attributes={"virtual": True, "x": 1}, worker_timeout=60
    )
    taken = await dispatch.next_file(original.project_id, "w")
    assert isinstance(taken, Handle)
    await dispatch.done(taken)
    copy = await admin.copy_project(original.project_id, project_attributes={"x": 2}, file_attributes={"b": 3})
    assert copy.owner != original.owner
    assert copy.attributes == {"virtual": True, "x": 2}
    assert (copy.worker_timeout, copy.users, copy.counts.initial) == (60, (), 2)
    handles = await all_handles(dispatch, copy.project_id)
    assert [handle.attributes for handle in handles] == [{"a": 1, "b": 3}, {"b": 3}]


async def test_lists_filter_and_page(dispatch: DispatchClient, make: Any, user: str) -> None:
    mark = uuid4().hex
    one = await make(1, attributes={"mark": mark, "n": 1})
    two = await make(1, attributes={"mark": mark, "n": "1"})
    await dispatch.cancel_project(two.project_id)

    async def ids(**options: Any) -> list[int]:
        return [project.project_id async for project in dispatch.projects(**options)]

    assert await ids(attributes={"mark": mark}) == [one.project_id, two.project_id]
    assert await ids(attributes={"mark": mark, "n": 1}) == [one.project_id]
    assert await ids(attributes={"mark": mark, "n": "1"}) == [two.project_id]
    assert await ids(attributes={"mark": mark}, state="cancelled") == [two.project_id]
    assert await ids(attributes={"mark": mark}, not_state="cancelled") == [one.project_id]
    assert await ids(attributes={"mark": mark}, owner="somebody-else") == []
    assert one.project_id in await ids(owner=user)


async def test_pages_follow_each_other(stack: LocalStack, make: Any, user: str) -> None:
    made = [(await make(1)).project_id for _ in range(5)]
    async with open_channel(stack.url) as channel:
        stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        request = project_service_pb2.ListProjectsRequest(owner=user, page_size=2)
        seen: list[int] = []
        while True:
            reply = await stub.ListProjects(request, metadata=bearer(stack.token(user)))
            assert len(reply.projects) <= 2
            seen += [project.project_id for project in reply.projects]
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
    assert seen == sorted(set(seen))
    assert set(made) <= set(seen)


async def test_handles_are_listed_by_state_and_from_anywhere(dispatch: DispatchClient, make: Any) -> None:
    project = await make(2500)
    taken = await dispatch.reserve(project.project_id, "w", 3)
    assert isinstance(taken, list)
    await dispatch.done(taken[0])
    listed = await all_handles(dispatch, project.project_id)
    assert [handle.handle_id for handle in listed] == list(range(1, 2501))
    assert [handle.handle_id for handle in await all_handles(dispatch, project.project_id, state="reserved")] == [2, 3]
    assert len(await all_handles(dispatch, project.project_id, not_state="initial")) == 3
    assert [h.handle_id for h in await all_handles(dispatch, project.project_id, after=2000, limit=2)] == [2001, 2002]


async def test_cancel_activate_restart_delete(dispatch: DispatchClient, make: Any) -> None:
    project = await make(2)
    held, other = await dispatch.reserve(project.project_id, "w", 2)
    cancelled = await dispatch.cancel_project(project.project_id)
    assert cancelled.state == "cancelled"
    assert cancelled.ended is not None
    assert (await dispatch.cancel_project(project.project_id)).ended == cancelled.ended
    assert await dispatch.next_file(project.project_id, "w") == ProjectEnded("cancelled")
    await dispatch.failed(held, retry=False)  # who holds a file of a cancelled project may still report
    active = await dispatch.activate_project(project.project_id)
    assert (active.state, active.ended) == ("active", None)
    await dispatch.done(other)
    ended = await dispatch.get_project(project.project_id)
    assert ended.state == "failed"
    assert ended.ended is not None
    revived, restarted = await dispatch.restart_handles(project.project_id, states=["failed"])
    assert (revived.state, revived.ended, restarted, revived.counts.initial) == ("active", None, 1, 1)
    again = await dispatch.next_file(project.project_id, "w")
    assert isinstance(again, Handle)
    assert again.attempts == 2  # a restart keeps the attempts
    _, restarted = await dispatch.restart_handles(project.project_id, files=[File("ns", "f000000"), File("no", "such")])
    assert restarted == 1
    with pytest.raises(ForbiddenError):
        await dispatch.done(again)
    await dispatch.delete_project(project.project_id)
    for call in (dispatch.get_project, dispatch.delete_project, dispatch.cancel_project):
        with pytest.raises(NotFoundError) as caught:
            await call(project.project_id)
        assert caught.value.reason == "PROJECT_NOT_FOUND"
    with pytest.raises(NotFoundError):
        await dispatch.next_file(project.project_id, "w")


async def test_restarting_nothing_revives_nothing(dispatch: DispatchClient, make: Any) -> None:
    project = await make(1)
    await dispatch.cancel_project(project.project_id)
    same, restarted = await dispatch.restart_handles(project.project_id, states=["failed"])
    assert (same.state, restarted) == ("cancelled", 0)


async def test_strangers_may_read_and_copy_and_nothing_else(
    stack: LocalStack, dispatch: DispatchClient, make: Any
) -> None:
    name = f"stranger-{uuid4().hex[:6]}"
    stack.add_user(name)
    project = await make(1)
    async with DispatchClient(stack.url, stack.token(name)) as stranger:
        assert (await stranger.get_project(project.project_id)).project_id == project.project_id
        for call in (
            stranger.cancel_project,
            stranger.activate_project,
            stranger.delete_project,
            stranger.restart_handles,
        ):
            with pytest.raises(ForbiddenError) as caught:
                await call(project.project_id)
            assert caught.value.reason == "NOT_OWNER"
        with pytest.raises(ForbiddenError) as caught:
            await stranger.next_file(project.project_id, "w")
        assert caught.value.reason == "NOT_A_WORKER"
        with pytest.raises(ForbiddenError):
            await stranger.update_replicas([], [])
        assert (await stranger.copy_project(project.project_id)).owner == name
    async with DispatchClient(stack.url, "nonsense") as nobody:
        with pytest.raises(DraymanError) as refused:
            await nobody.get_project(project.project_id)
        assert refused.value.reason == "TOKEN_INVALID"


@pytest.mark.parametrize("how", ["users", "roles"])
async def test_listed_users_and_roles_have_the_whole_worker_interface(
    stack: LocalStack, dispatch: DispatchClient, how: str
) -> None:
    name, role = f"worker-{uuid4().hex[:6]}", f"role-{uuid4().hex[:6]}"
    stack.add_user(name, roles=[role])
    options: dict[str, Any] = {how: [name if how == "users" else role]}
    project = await dispatch.create_project([File("n", "1"), File("n", "2")], attributes={"virtual": True}, **options)
    async with DispatchClient(stack.url, stack.token(name)) as worker:
        first = await worker.next_file(project.project_id, "w")
        assert isinstance(first, Handle)
        await worker.done(first)
        second = await worker.next_file(project.project_id, "w")
        assert isinstance(second, Handle)
        assert await worker.renew([second]) == []
        await worker.failed(second, retry=False)
        with pytest.raises(ForbiddenError):
            await worker.cancel_project(project.project_id)


async def test_rses_are_unique(admin: DispatchClient) -> None:
    rse = Rse(f"RSE_{uuid4().hex[:6]}")
    await admin.create_rse(rse)
    with pytest.raises(AlreadyExistsError) as caught:
        await admin.create_rse(rse)
    assert caught.value.reason == "RSE_EXISTS"
