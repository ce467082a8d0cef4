"""The PanDA mirror where things go wrong or are shared: no answer, no token, restarts, threads, forks, named servers."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from contract.panda_house import NOBODY, Panda, parameters
from drayman.pandaclient import Client
from drayman.pandaclient.JobSpec import JobSpec
from drayman.testing import LocalStack

# --- no answer -------------------------------------------------------------------------------------------------------

SILENT: dict[str, tuple[Callable[[], Any], type | None]] = {
    "insertTaskParams": (lambda: Client.insertTaskParams({}), str),
    "killTask": (lambda: Client.killTask(1), None),
    "finishTask": (lambda: Client.finishTask(1), None),
    "retryTask": (lambda: Client.retryTask(1), None),
    "reload_input": (lambda: Client.reload_input(1), str),
    "pauseTask": (lambda: Client.pauseTask(1), str),
    "resumeTask": (lambda: Client.resumeTask(1), str),
    "reactivateTask": (lambda: Client.reactivateTask(1), str),
    "increase_attempt_nr": (lambda: Client.increase_attempt_nr(1), str),
    "send_file_recovery_request": (lambda: Client.send_file_recovery_request(1), str),
    "getTaskStatus": (lambda: Client.getTaskStatus(1), str),
    "getTaskParamsMap": (lambda: Client.getTaskParamsMap(1), str),
    "getPandaIDsWithTaskID": (lambda: Client.getPandaIDsWithTaskID(1), str),
    "getUserJobMetadata": (lambda: Client.getUserJobMetadata(1), str),
    "get_files_in_datasets": (lambda: Client.get_files_in_datasets(1), str),
    "getJediTaskDetails": (lambda: Client.getJediTaskDetails({"jediTaskID": 1}, False, False), None),
    "getJobIDsJediTasksInTimeRange": (lambda: Client.getJobIDsJediTasksInTimeRange("2026-01-01 00:00:00"), str),
    "get_tasks_detailed_info_since": (Client.get_tasks_detailed_info_since, None),
    "get_task_details_json": (lambda: Client.get_task_details_json(1), str),
    "get_parent_detailed_info": (lambda: Client.get_parent_detailed_info(1), None),
    "getJobStatus": (lambda: Client.getJobStatus([1]), None),
    "getFullJobStatus": (lambda: Client.getFullJobStatus([1]), None),
    "get_job_descriptions": (lambda: Client.get_job_descriptions(1), None),
    "killJobs": (lambda: Client.killJobs([1]), None),
    "submitJobs": (lambda: Client.submitJobs([JobSpec()]), None),
    "setDebugMode": (lambda: Client.setDebugMode(1, True, False), str),
    "registerProxyKey": (lambda: Client.registerProxyKey("a", "b", "c"), None),
    "getProxyKey": (Client.getProxyKey, None),
    "getPandaClientVer": (Client.getPandaClientVer, str),
    "hello": (Client.hello, str),
    "get_cert_attributes": (Client.get_cert_attributes, str),
}


@pytest.mark.parametrize("name", SILENT)
def test_where_nobody_answers(panda: Panda, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ask, kind = SILENT[name]
    for url in (NOBODY, "ftp://nowhere", "grpc://user:pass@host"):
        monkeypatch.setenv("DRAYMAN_URL", url)
        began = time.monotonic()
        status, payload = ask()
        assert time.monotonic() - began < 10
        assert status == 255
        if kind is None:
            assert payload is None
        else:
            assert isinstance(payload, kind)
            assert payload


@pytest.mark.parametrize("name", [name for name in SILENT if name not in ("hello", "getPandaClientVer")])
def test_a_token_that_is_none(panda: Panda, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DRAYMAN_TOKEN", "nonsense")
    ask, kind = SILENT[name]
    status, payload = ask()
    assert status == 255
    assert payload is None if kind is None else "TOKEN_INVALID" in payload


def test_hello_to_a_server_that_went_down(monkeypatch: pytest.MonkeyPatch, own_stack: LocalStack) -> None:
    monkeypatch.setenv("DRAYMAN_URL", own_stack.url)
    monkeypatch.delenv("DRAYMAN_TOKEN", raising=False)
    assert Client.hello() == (0, "OK")
    own_stack.kill()
    began = time.monotonic()
    status, text = Client.hello()
    assert status == 255
    assert isinstance(text, str)
    assert text
    assert time.monotonic() - began < 8
    own_stack.restart()
    deadline = time.monotonic() + 30
    while Client.hello() != (0, "OK"):
        assert time.monotonic() < deadline


def test_tasks_outlive_the_service(monkeypatch: pytest.MonkeyPatch, own_stack: LocalStack) -> None:
    own_stack.add_user("ann")
    monkeypatch.setenv("DRAYMAN_URL", own_stack.url)
    monkeypatch.setenv("DRAYMAN_TOKEN", own_stack.token("ann"))
    task_id = Client.insertTaskParams(parameters())[1][2]
    own_stack.restart()
    deadline = time.monotonic() + 30
    while Client.hello() != (0, "OK"):
        assert time.monotonic() < deadline
    assert Client.getTaskStatus(task_id)[0] == 0
    assert Client.getTaskParamsMap(task_id)[1][1]["vo"] == "wlcg"


# --- processes, threads, words -----------------------------------------------------------------------------------------


def test_verbose_changes_nothing(panda: Panda, capsys: pytest.CaptureFixture[str]) -> None:
    task_id = panda.run()
    for ask in (
        lambda verbose: Client.getTaskStatus(task_id, verbose),
        lambda verbose: Client.killTask(task_id, verbose),
        lambda verbose: Client.pauseTask(task_id, verbose=verbose),
        lambda verbose: Client.getPandaIDsWithTaskID(task_id, verbose),
        lambda verbose: Client.getJediTaskDetails({"jediTaskID": task_id}, True, True, verbose),
        lambda verbose: Client.getUserJobMetadata(task_id, verbose),
        lambda verbose: Client.killJobs([1], verbose),
        lambda verbose: Client.insertTaskParams({}, verbose),
    ):
        quiet = ask(False)
        capsys.readouterr()
        assert ask(True) == quiet
        shown = capsys.readouterr().out
        assert shown
        assert os.environ["DRAYMAN_TOKEN"] not in shown


def test_threads_share_the_connection(panda: Panda) -> None:
    found: list[Any] = []

    def work() -> None:
        for _ in range(3):
            task_id = panda.submit(parameters(1))
            found.append((task_id, Client.getTaskParamsMap(task_id)[1][0], Client.killTask(task_id)[1][0]))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({task_id for task_id, _, _ in found}) == 6
    assert {codes[1:] for codes in found} == {(0, 0)}


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_connects_anew(panda: Panda) -> None:
    task_id = panda.submit()
    assert Client.getTaskStatus(task_id)[0] == 0
    read, write = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - another process
        with suppress(BaseException):
            os.write(write, json.dumps(Client.getTaskParamsMap(task_id)[1][0]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "0"
    os.waitpid(child, 0)
    assert Client.getTaskStatus(task_id)[0] == 0


def test_the_environment_is_read_at_each_call(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id = panda.submit()
    url = os.environ["DRAYMAN_URL"]
    monkeypatch.setenv("DRAYMAN_URL", NOBODY)
    assert Client.getTaskStatus(task_id)[0] == 255
    monkeypatch.setenv("PANDA_URL_SSL", url)
    assert Client.getTaskStatus(task_id)[0] == 0
    monkeypatch.setenv("PANDA_URL_SSL", NOBODY)
    monkeypatch.setenv("PANDA_URL", url)
    assert Client.getTaskStatus(task_id)[0] == 255
    assert Client.hello() == (0, "OK")


def test_named_servers(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    url = os.environ["DRAYMAN_URL"]
    for variable, use in (("PANDA_DEV_URL", Client.useDevServer), ("PANDA_INTR_URL", Client.useIntrServer)):
        with pytest.raises(ValueError, match=variable):
            use()
        assert Client.hello() == (0, "OK"), "nothing changed"
        monkeypatch.setenv(variable, "ftp://nowhere")
        with pytest.raises(ValueError, match="ftp"):
            use()
    monkeypatch.setenv("DRAYMAN_URL", NOBODY)
    assert Client.hello()[0] == 255
    monkeypatch.setenv("PANDA_DEV_URL", url)
    assert Client.useDevServer() is None
    assert Client.hello() == (0, "OK")
    assert Client.getTaskStatus(panda.submit())[0] == 0
    monkeypatch.setenv("PANDA_INTR_URL", NOBODY)
    assert Client.useIntrServer() is None
    assert Client.hello()[0] == 255
