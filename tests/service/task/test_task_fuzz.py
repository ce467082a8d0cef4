"""Whatever anybody sends to any RPC of the task service: a clear answer, in time, and the service and its engine go on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from drayman.client.channel import open_sync_channel
from drayman.client.credentials import bearer
from drayman.client.errors import from_rpc_error
from drayman.errors.v1 import reason_pb2
from drayman.task.v1 import (
    farm_service_pb2,
    job_service_pb2,
    pilot_service_pb2,
    sandbox_service_pb2,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
)
from drayman.testing import LocalStack, local_stack
from service.auth.message_fuzz import NASTY, Texts, messages, mutated_bytes, mutated_texts, texts
from service.task.task_house import parameters, reading

#: Seconds that an answer may take; far more than any does.
DEADLINE = 10.0
#: Seconds after which a stream that waits for something is left.
GLANCE = 0.3
#: Seconds for one RPC, and examples that are made at once.
SHARE = 0.8
PORTION = 25
LARGEST = 8 * 1024 * 1024
#: Records that a task may have.
MOST = 200_000

REASONS = {name.removeprefix("REASON_") for name in reason_pb2.Reason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED",
    "DEFECT",
}
MODULES = (farm_service_pb2, job_service_pb2, pilot_service_pb2, sandbox_service_pb2, task_service_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
#: Their answers may wait until there is something to tell.
WAITING = {"NextJob", "Attend", "WatchTask", "WatchOutput"}
CALLERS = ("administrator", "user", "user", "nobody")

every_phase_but_explaining = (Phase.explicit, Phase.generate, Phase.target, Phase.shrink)
quick = settings(
    deadline=None,
    database=None,
    print_blob=False,
    phases=every_phase_but_explaining,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Target:
    """A stack that is attacked, with a task of a user's that runs."""

    stack: LocalStack
    channel: grpc.Channel
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    read: int = 0  # lines of the log

    @property
    def tasks(self) -> Any:
        return task_service_pb2_grpc.TaskServiceStub(self.channel)

    def metadata(self, caller: str) -> Any:
        return bearer(self.tokens[caller]) if caller in self.tokens else ()

    def send(self, path: str, encoded: Sequence[bytes], metadata: Any) -> str:
        """Send; returns the reason of the refusal, or an empty text. Fails for an answer that no request should get."""
        method = METHODS[path]
        make: Any = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        request: Any = iter(encoded) if method.client_streaming else encoded[0]
        waits = method.name in WAITING
        started = time.monotonic()
        try:
            reply = make(path)(request, metadata=metadata, timeout=GLANCE if waits else DEADLINE)
            if method.server_streaming:
                for _ in reply:
                    pass
        except grpc.RpcError as error:
            refusal = from_rpc_error(error)
            if waits and refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                return ""
            assert refusal.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), refusal
            assert refusal.reason in REASONS, f"{refusal.code}: {refusal.message}"
            return refusal.reason
        finally:
            assert time.monotonic() - started < DEADLINE
        return ""

    def submit(self, given: Any) -> Any:
        text = given if isinstance(given, str) else json.dumps(given)
        request = task_service_pb2.SubmitTaskRequest(parameters_json=text)
        return self.tasks.SubmitTask(request, metadata=self.metadata("user"), timeout=DEADLINE * 3)

    def settled(self, task_id: int) -> Any:
        """Wait until the engine has made something of a task."""
        under_way = {task_pb2.TASK_STATE_REGISTERED, task_pb2.TASK_STATE_DEFINED, task_pb2.TASK_STATE_READY}
        request = task_service_pb2.WatchTaskRequest(task_id=task_id)
        request.interval.FromMilliseconds(50)
        seen = None
        for reply in (replies := self.tasks.WatchTask(request, timeout=DEADLINE * 6)):
            seen = reply.task
            if seen.state not in under_way:
                replies.cancel()
                break
        assert seen is not None
        return seen

    def complaints(self) -> list[str]:
        """What the service logged of its own mistakes since the last look, whether callers were told or not."""
        lines = self.stack.log.read_text().splitlines()[self.read :]
        self.read += len(lines)
        return [line for line in lines if "Traceback" in line or '"defect"' in line or '"level": "error"' in line]


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with local_stack() as stack:
        stack.add_user("fuzz")
        with open_sync_channel(stack.url, retries=False) as channel:
            found = Target(stack, channel, {"administrator": stack.token(stack.admin[0]), "user": stack.token("fuzz")})
            assert found.submit(parameters(taskName="fuzz.first")).task_id == 1
            found.settled(1)
            yield found
        assert found.complaints() == []


# --- any message -----------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**63 - 1, 10**30, MOST, MOST + 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(
        ["1", "3", "-1", "1e3", "NaN", "", "\0", "${IN}", "${", "${SN/P}", "${IN/M[(#-1)/9**9**9]}", "a/b/c", "1,2"]
    ),
    texts,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
OTHER_KEYS = """
parentTaskName official uniqueTaskName userName log pfnList nFiles nFilesPerJob nGBPerJob nMaxFilesPerJob maxWalltime
coreCount ramCount ramUnit maxFailure site includedSite excludedSite cloud goal useSecrets dsForIN fixedSandbox
buildSpec mergeSpec mergeOutput nEventsPerFile nEventsPerRange waitInput noWaitParent skipScout allowEmptyInput
cliParams workingGroup campaign reqID disableAutoRetry diskIO workDiskCount container_name multiStepExec sourceURL
runUntilClosed failGoalUnreached scoutSuccessRate tgtMaxOutputForNG maxOutputSize useExhausted splitRule ticketID
framework maxAttempt walltime firstEvent loopingCheck
"""
KEYS = sorted({*parameters(), *OTHER_KEYS.split()})
ITEM_KEYS = [
    "type",
    "param_type",
    "value",
    "dataset",
    "container",
    "expand",
    "hidden",
    "exclude",
    "include",
    "ratio",
    "offset",
    "nFilesPerJob",
]


@st.composite
def task_parameters(draw: st.DrawFn) -> dict[str, Any]:
    """Parameters of a task, with some of them wrong."""
    made: dict[str, Any] = draw(
        st.sampled_from([parameters, lambda: reading("dispatch:1"), lambda: reading("a/b/c")])
    )()
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        made[key] = draw(values)
    for _ in range(draw(st.integers(0, 2))):
        kinds = st.sampled_from(["input", "output", "log", "pseudo_input", "number", "random_seed", "x"])
        item: dict[str, Any] = {
            "type": "template",
            "param_type": draw(kinds),
            "value": draw(texts),
            "dataset": draw(texts),
        }
        for key in draw(st.lists(st.sampled_from(ITEM_KEYS), max_size=3)):
            item[key] = draw(values)
        items = made.setdefault("jobParameters", [])
        if isinstance(items, list):
            items.append(item)
    return made


json_texts = st.one_of(
    task_parameters().map(json.dumps),
    values.map(json.dumps),
    task_parameters().map(json.dumps).flatmap(mutated_texts),
    st.sampled_from(
        ["", "{}", "[]", "{", "null", '{"a": NaN}', '{"a": "\\ud800"}', '{"a": "\\u0000"}', "[" * 5000, '{"a":' * 5000]
    ),
)
KNOWN: Texts = {
    "parameters_json": json_texts,
    "new_parameters_json": json_texts,
    "fields_json": json_texts,
    "metadata_json": json_texts,
    "request_id": mutated_texts(str(uuid4())),
    "worker_id": st.sampled_from(["w1", "w2"]),
    "name": st.sampled_from(["jobO.fuzz.tar.gz", "sources.fuzz.tar.gz", "x.__ow__"]),
    "owner": st.sampled_from(["fuzz", "admin"]),
    "site": st.sampled_from(["", "S"]),
    "label": st.sampled_from(["user", "managed"]),
    "type": st.sampled_from(["input", "output", "log"]),
}


def encoded_requests(method: MethodDescriptor) -> st.SearchStrategy[list[bytes]]:
    right = messages(method.input_type, KNOWN).map(lambda message: message.SerializeToString())
    one = st.one_of(right, right, right, right.flatmap(mutated_bytes), st.binary(max_size=60))
    fitting = one.filter(lambda encoded: len(encoded) < LARGEST)
    return st.lists(fitting, min_size=1, max_size=3 if method.client_streaming else 1)


def decoded(method: MethodDescriptor, encoded: bytes) -> str:
    """Show a request that went wrong."""
    try:
        return f"{GetMessageClass(method.input_type).FromString(encoded)!s:.2000}"
    except Exception:
        return "(no message)"


@pytest.mark.parametrize("path", METHODS)
def test_every_answer_is_clear_whoever_sends_whatever(target: Target, path: str) -> None:
    method = METHODS[path]
    requests = encoded_requests(method)
    sent = 0

    @settings(quick, max_examples=PORTION)
    @given(data=st.data())
    def attack(data: st.DataObject) -> None:
        nonlocal sent
        caller = data.draw(st.sampled_from(CALLERS), "caller")
        encoded = data.draw(requests, "requests")
        sent += 1
        try:
            target.send(path, encoded, target.metadata(caller))
        except BaseException:
            shown = "\n".join(decoded(method, each) for each in encoded)
            print(f"{path} as {caller}:\n{[each[:300] for each in encoded]!r}\n{shown}", file=sys.stderr)
            raise

    end = time.monotonic() + SHARE
    attack()
    while time.monotonic() < end:
        attack()
    assert sent >= PORTION, "next to nothing was sent"
    assert target.stack.running
    assert target.complaints() == []


# --- what becomes of tasks -------------------------------------------------------------------------------------------


def outcome(target: Target, given: Any) -> str:
    """Submit a task: the reason of the refusal, `code N`, or the state that the engine brought it to and why."""
    try:
        answer = target.submit(given)
    except grpc.RpcError as error:
        refusal = from_rpc_error(error)
        assert refusal.reason in REASONS, refusal
        return refusal.reason
    if answer.code not in (0, 3):
        assert answer.message
        return f"code {answer.code}"
    task = target.settled(answer.task_id)
    state = task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_").lower()
    assert task.error or state in ("running", "scouting", "done", "finished"), task
    request = task_service_pb2.CommandTaskRequest(task_id=answer.task_id, command=task_service_pb2.TASK_COMMAND_KILL)
    target.tasks.CommandTask(request, metadata=target.metadata("user"), timeout=DEADLINE)
    return f"{state}: {task.error}"


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of what failed, which is what has to be seen
@settings(quick, max_examples=150)
@given(made=task_parameters())
def test_a_task_with_anything_in_it_gets_somewhere(target: Target, made: dict[str, Any]) -> None:
    try:
        outcome(target, made)
    except BaseException:
        print(json.dumps(made)[:3000], file=sys.stderr)
        raise
    assert target.complaints() == []


@pytest.mark.parametrize("place", ["taskName", "fixedSandbox", "output", "input", "value", "site", "pfnList"])
def test_nasty_texts_everywhere(target: Target, place: str) -> None:
    for nasty in NASTY:
        match place:
            case "output" | "input":
                item = {"type": "template", "param_type": place, "value": "x.${SN}", "dataset": nasty}
                made = parameters(jobParameters=[item])
            case "value":
                made = parameters(jobParameters=[{"type": "constant", "value": nasty}])
            case "pfnList":
                made = parameters(pfnList=[nasty, "b"], nFiles=2, nEvents=None, nEventsPerJob=None, nFilesPerJob=1)
            case _:
                made = parameters(**{place: nasty})
        try:
            outcome(target, made)
            assert target.complaints() == []
        except BaseException:
            print(f"{place}: {nasty[:100]!r}", file=sys.stderr)
            raise


@pytest.mark.parametrize(
    "wrong",
    [
        {"nEvents": "many"},
        {"nEvents": -1},
        {"nEvents": 2**80},
        {"nEvents": 1e300},
        {"nEvents": [3]},
        {"nEvents": {"n": 3}},
        {"nEventsPerJob": 0},
        {"nEventsPerJob": -5},
        {"maxAttempt": 10**20},
        {"coreCount": "two"},
        {"ramCount": 2**63},
        {"walltime": -(2**63)},
        {"taskPriority": 2**31},
        {"jobParameters": "-c true"},
        {"jobParameters": [7]},
        {"jobParameters": [{"type": "template"}]},
        {"jobParameters": {"type": "constant", "value": "x"}},
        {"log": 7},
        {"log": {"type": "template", "param_type": "log"}},
        {"buildSpec": []},
        {"mergeSpec": "x"},
        {"pfnList": {"a": 1}},
        {"site": {"a": 1}},
        {"transPath": None, "jobParameters": None},
    ],
    ids=str,
)
def test_values_of_wrong_types_are_named_or_understood(target: Target, wrong: dict[str, Any]) -> None:
    made = parameters() | wrong
    found = outcome(target, made)
    assert found.startswith(("broken: ", "running", "scouting", "code 4", "INVALID_FIELD")), found
    if found.startswith("broken"):
        assert any(key in found or str(key).lower() in found.lower() for key in wrong), found


@pytest.mark.parametrize("count", [MOST, MOST + 1])
@pytest.mark.parametrize("kind", ["events", "numbers"])
def test_more_records_than_a_task_may_have(target: Target, kind: str, count: int) -> None:
    if kind == "events":
        made = parameters(nEvents=count, nEventsPerJob=1)
    else:
        made = parameters(
            pfnList=[f"f{number}" for number in range(count)],
            nFiles=count,
            nEvents=None,
            nEventsPerJob=None,
            nFilesPerJob=1000,
        )
    found = outcome(target, made)
    if count > MOST:
        assert found.startswith("broken: "), found
        assert str(MOST) in found.replace(",", ""), found
    else:
        assert found.startswith(("scouting", "running")), found
