"""`drayman project history` and `drayman file history`: the real command against real services."""

from uuid import uuid4

import pytest

from drayman.client import DispatchClient, Handle
from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture(scope="module")
def user(stack: LocalStack) -> str:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    return name


async def test_what_happened(stack: LocalStack, user: str) -> None:
    cli = Cli.of(stack, user)
    project = cli.ok("project", "create", "--virtual", "--file", "ns:a", "--file", "ns:[b]").out.strip()
    async with DispatchClient(stack.url, stack.token(user), timeout=30) as dispatch:
        for _ in range(2):
            handle = await dispatch.next_file(int(project), "w7", cpu_site="FNAL", timeout=10)
            assert isinstance(handle, Handle)
            await dispatch.failed(handle, retry=False, code="exit 3", message="two\nlines")

    told = cli.ok("project", "history", project, "-j").json
    assert [(event["event"], event["state"], event["username"]) for event in told] == [
        ("create", "active", user),
        ("release", "failed", None),
    ]
    assert told[0]["data"] == {"files": 2}
    lines = cli.ok("project", "history", project).out.splitlines()
    assert lines[0].split() == ["time", "event", "state", "user", "more"]
    assert lines[1].endswith('{"files": 2}')
    assert len(cli.ok("project", "history", project, "--event", "release").out.splitlines()) == 2

    told = cli.ok("file", "history", project, "ns:[b]", "--json").json
    assert [(event["event"], event["attempt"]) for event in told] == [("create", 0), ("reserve", 1), ("failed", 1)]
    reason = {"code": "exit 3", "message": "two\nlines", "worker_id": "w7", "site": "FNAL"}
    assert told[2]["reason"] == reason | {"username": "", "time": None}
    last = cli.ok("file", "history", project, "ns:[b]").out.splitlines()[-1]
    assert last.split(maxsplit=4)[1:] == ["1", "failed", "failed", "w7 at FNAL: exit 3: two\\nlines"]

    told = cli.ok("project", "history", project, "--files", "--json").json
    assert [event["event"] for event in told].count("reserve") == len(told) / 3 == 2
    assert len(cli.ok("project", "history", project, "--reason", "exit 3").out.splitlines()) == 3
    assert len(cli.ok("file", "list", project, "--reason", "exit 3", "--json").json) == 2
    assert cli.ok("file", "list", project, "--reason", "exit 4", "--json").json == []

    assert "--file-event" in cli.refused("project", "history", project, "--event", "add", "--files", code=2)
    assert "(HANDLE_NOT_FOUND)" in cli.refused("file", "history", project, "ns:c")
    assert "(PROJECT_NOT_FOUND)" in cli.refused("project", "history", "9999999999")
