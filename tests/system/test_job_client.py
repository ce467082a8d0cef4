"""`JobClient`: what sites write their own pilots with."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from drayman.client import DraymanError, UnauthenticatedError
from drayman.client.job_values import MadeFile
from drayman.testing import LocalStack
from drayman.worker import JobClient
from system.pilot_house import House


@pytest.fixture
async def house(stack: LocalStack, tmp_path: Path) -> AsyncIterator[House]:
    async with House(stack, tmp_path) as made:
        yield made


@pytest.fixture
def client(house: House) -> Iterator[JobClient]:
    """A worker of somebody who gets anybody's jobs."""
    with JobClient(house.stack.url, house.stack.token(house.worker)) as made:
        yield made


async def test_a_job_from_its_hand_out_to_its_end(house: House, client: JobClient) -> None:
    task_id = await house.submit(
        "echo $X > ${OUTPUT0}", house.output(), nEvents=1, coreCount=1, ramCount=100, ramUnit="MB"
    )
    job = client.next_job(task_id=task_id, timeout=20, cores=2, memory=500, node="my-node")
    assert job is not None
    assert job.PandaID == job["PandaID"] == (await house.job(task_id)).job_id
    assert (job.StatusCode, job.attemptNr, job.taskID, job.jediTaskID) == (0, 1, task_id, task_id)
    assert (job.prodUserID, job.prodSourceLabel, job.transformation) == (house.user, "user", "bash")
    assert job.jobPars.startswith("-c ")
    assert job.outFiles.split(",") == [output.name for output in job.description.outputs]
    assert job.logFile.endswith(".tgz")
    assert job.destinationDblock == ",".join([house.dataset(), house.dataset("log")])
    assert (job.coreCount, job.minRamCount, job.debug) == (1, 100, False)
    assert job.heartbeatSeconds == 7200
    with pytest.raises(AttributeError, match=r"a job has no pandaID: it has .*PandaID"):
        _ = job.pandaID

    for state in ("starting", "running", "running", "holding", "transferring"):
        reply = client.update(job.PandaID, state, attemptNr=job.attemptNr, maxRSS=12345)
        assert (reply.StatusCode, reply["command"], reply.result, reply.jobStatus) == (0, "NULL", "succeeded", state)
    # never backwards
    reply = client.update(job.PandaID, "running", attemptNr=job.attemptNr)
    assert (reply.StatusCode, reply.jobStatus) == (0, "transferring")
    made = [MadeFile(name, 3, "md5:x") for name in job.outFiles.split(",")]
    reply = client.update(job.PandaID, "finished", attemptNr=1, outputs=made, metadata='{"n": 1}', transExitCode=0)
    assert (reply.StatusCode, reply.jobStatus) == (0, "finished")
    # the same again is the same
    assert client.update(job.PandaID, "finished", attemptNr=1, outputs=made).result == "succeeded"
    stored = await house.job(task_id)
    assert (stored.state, stored.node, stored.worker_id) == ("finished", "my-node", client.worker_id)
    assert stored.fields["maxRSS"] == 12345
    assert {job_id: value async for job_id, value in house.tasks.metadata(task_id)} == {job.PandaID: {"n": 1}}
    with pytest.raises(AttributeError, match="a reply has no Command"):
        _ = reply.Command


async def test_what_is_stale_or_not_ones_own_is_told(house: House, client: JobClient) -> None:
    task_id = await house.submit("true")
    job = client.next_job(task_id=task_id, timeout=20)
    assert job is not None
    reply = client.update(job.PandaID, "running", attemptNr=2)
    assert (reply.StatusCode, reply.result, reply.command) == (30, "badattemptnr", "tobekilled")
    with JobClient(house.stack.url, house.stack.token(house.worker)) as other:
        reply = other.update(job.PandaID, "failed", attemptNr=1)
        assert (reply.StatusCode, reply.result, reply.command) == (30, "wrongworker", "tobekilled")
    with JobClient(house.stack.url, house.token, worker_id=client.worker_id) as other:
        assert other.update(job.PandaID, "failed", attemptNr=1).result == "wrongworker"
    assert client.update(2**40, "running", attemptNr=1).result == "unknown"
    assert (await house.job(task_id)).state == "sent"
    assert client.update(job.PandaID, "failed", attemptNr=1, pilotErrorCode=1305, pilotErrorDiag="no").StatusCode == 0
    reply = client.update(job.PandaID, "running", attemptNr=1)
    assert (reply.StatusCode, reply.result, reply.command) == (30, "alreadydone", "tobekilled")
    assert (await house.job(task_id)).fields["pilotErrorDiag"] == "no"


async def test_orders_come_with_the_answers(house: House, client: JobClient) -> None:
    task_id = await house.submit("true")
    job = client.next_job(task_id=task_id, timeout=20)
    assert job is not None
    client.update(job.PandaID, "running", attemptNr=1)
    await house.jobs_of.debug(job.PandaID, True)
    assert client.update(job.PandaID, attemptNr=1, stdout="a tail").command == "debug"
    assert (await house.job(task_id)).state == "running"
    assert await house.jobs_of.kill([job.PandaID]) == [True]
    assert client.update(job.PandaID, attemptNr=1).command == "tobekilled,debug"
    await house.jobs_of.debug(job.PandaID, False)
    assert client.update(job.PandaID, attemptNr=1).command == "tobekilled"
    assert client.update(job.PandaID, "failed", attemptNr=1, pilotErrorCode=1200).StatusCode == 0
    assert (await house.job(task_id)).state == "cancelled"


async def test_what_has_not_begun_can_be_given_back(house: House, client: JobClient) -> None:
    task_id = await house.submit("true")
    job = client.next_job(task_id=task_id, timeout=20)
    assert job is not None
    client.update(job.PandaID, "starting", attemptNr=1)
    reply = client.update(job.PandaID, "activated", attemptNr=1)
    assert (reply.StatusCode, reply.jobStatus) == (0, "activated")
    again = client.next_job(task_id=task_id, timeout=20)
    assert again is not None
    assert (again.PandaID, again.attemptNr) == (job.PandaID, 1)
    client.update(job.PandaID, "running", attemptNr=1)
    assert client.update(job.PandaID, "activated", attemptNr=1).jobStatus == "running"


async def test_no_job(house: House, client: JobClient) -> None:
    task_id = await house.submit("true")
    begin = time.monotonic()
    assert client.next_job(task_id=task_id + 10**6, timeout=0) is None
    assert client.next_job(task_id=task_id + 10**6, timeout=0.5) is None
    assert 0.5 <= time.monotonic() - begin < 10
    assert client.next_job(task_id=task_id, timeout=5, label="managed") is None


async def test_secrets_are_not_shown(house: House, client: JobClient) -> None:
    from drayman.client.user_secrets import SecretClient  # noqa: PLC0415 - for this one

    async with SecretClient(house.stack.url, house.token) as secrets:
        await secrets.set("MY_KEY", f"key-{house.mark}")
        await secrets.set("___file___:my.txt", "ZmlsZQ==")
    task_id = await house.submit("true", useSecrets=True)
    job = client.next_job(task_id=task_id, timeout=20)
    assert job is not None
    assert job.secrets["MY_KEY"] == f"key-{house.mark}"
    assert job.secrets["___file___:my.txt"] == "ZmlsZQ=="
    assert house.mark not in repr(job).replace(house.user, "").replace(house.worker, "")
    assert "key-" not in repr(job.description)


async def test_wrong_use(house: House, client: JobClient) -> None:
    with pytest.raises(ValueError, match="no job state 'done'"):
        client.update(1, "done", attemptNr=1)
    with pytest.raises(DraymanError, match="cancelled"):
        client.update(1, "cancelled", attemptNr=1)
    with pytest.raises(DraymanError, match="negative"):
        client.next_job(cores=-1, timeout=0)
    with JobClient(house.stack.url, "no token") as nobody, pytest.raises(UnauthenticatedError):
        nobody.next_job(timeout=0)


async def test_several_threads(house: House, client: JobClient) -> None:
    jobs = 24
    task_id = await house.submit("true", nEvents=jobs)
    done: list[int] = []

    def work() -> None:
        while (job := client.next_job(task_id=task_id, timeout=1)) is not None:
            assert client.update(job.PandaID, "running", attemptNr=1).StatusCode == 0
            assert client.update(job.PandaID, "finished", attemptNr=1).StatusCode == 0
            done.append(job.PandaID)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert len(set(done)) == len(done) == jobs
    assert (await house.over(task_id)).state == "done"


async def test_use_after_close(house: House) -> None:
    client = JobClient(house.stack.url, house.token)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            client.next_job(label=house.mark)
        except RuntimeError as error:
            raised.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    client.next_job(timeout=0.3, label=house.mark)
    client.close()
    client.close()
    waiting.join(10)
    assert "was closed" in str(raised[0])
    with pytest.raises(RuntimeError, match="the job client is closed"):
        client.next_job(timeout=0)
    with pytest.raises(RuntimeError, match="the job client is closed"):
        client.update(1, "running", attemptNr=1)


def test_ctrl_c_ends_a_wait(stack: LocalStack) -> None:
    program = (
        "from drayman.worker import JobClient\n"
        "with JobClient() as client:\n"
        "    client.next_job(timeout=0)\n"
        "    print('waiting', flush=True)\n"
        "    try:\n"
        "        client.next_job(label='nothing')\n"
        "    except KeyboardInterrupt:\n"
        "        print(client.next_job(timeout=0, label='nothing'))\n"
    )
    environment = os.environ | {"DRAYMAN_URL": stack.url, "DRAYMAN_TOKEN": stack.token(stack.admin[0])}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)  # until it waits; before that it would end the same way
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "None\n")
    finally:
        process.kill()
        process.wait()
