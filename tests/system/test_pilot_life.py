"""Pilots under orders and signals, and when they or the service die."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from drayman.client import PilotClient, RegistryClient, SandboxClient
from drayman.testing import LocalStack, local_stack
from drayman.worker.pilot import Offer, Pilot
from system.pilot_house import House

#: Seconds: nothing is heard of a pilot for that long, and its jobs are another one's.
HEARTBEAT = 3


@pytest.fixture
async def house(stack: LocalStack, tmp_path: Path) -> AsyncIterator[House]:
    async with House(stack, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def hasty_stack() -> Iterator[LocalStack]:
    """One that soon gives up on who is silent, and that is killed."""
    with local_stack(settings={"DRAYMAN_TASK_HEARTBEAT_TIMEOUT": str(HEARTBEAT)}) as running:
        yield running


@pytest.fixture
async def hasty(hasty_stack: LocalStack, tmp_path: Path) -> AsyncIterator[House]:
    async with House(hasty_stack, tmp_path) as made:
        yield made


def mark(house: House) -> Path:
    return house.folder / "mark"


def blocking(house: House) -> str:
    """A script that says that it began, and ends when it is told to."""
    return f"echo $$ >> {mark(house)}; while ! [ -e {house.folder}/go ]; do sleep 0.1; done; echo went"


def let_go(house: House) -> None:
    (house.folder / "go").touch()


async def pids(house: House, count: int = 1) -> list[int]:
    """Wait until so many scripts began."""
    async with asyncio.timeout(60):
        while not mark(house).exists() or len(mark(house).read_text().splitlines()) < count:
            await asyncio.sleep(0.05)
    return [int(line) for line in mark(house).read_text().splitlines()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


def options(task_id: int, *more: str) -> tuple[str, ...]:
    return "--task", str(task_id), *more


# --- orders ------------------------------------------------------------------------------------------------------------


async def test_a_kill_reaches_a_running_job_within_seconds(house: House) -> None:
    task_id = await house.submit(blocking(house))
    pilot = house.start(*options(task_id, "--jobs", "1"))
    (pid,) = await pids(house)
    job = await house.running(task_id)
    begin = time.monotonic()
    assert await house.jobs_of.kill([job.job_id], reason="enough") == [True]
    (job,) = await house.until(task_id, lambda jobs: jobs[0].state == "cancelled")
    assert time.monotonic() - begin < 5
    assert job.fields["pilotErrorCode"] == 1200
    assert not lives(pid)
    assert f"job {job.job_id}: cancelled after" in await pilot.ended_well()


async def test_a_job_that_had_not_begun_is_dropped_when_it_is_killed(house: House) -> None:
    source = house.folder / "slow"
    fetch = f"bash -c 'echo $$ >> {mark(house)}; exec sleep 300'"
    task_id = await house.submit("true", house.input(await slow_input(house, source)))
    pilot = house.start(*options(task_id, "--jobs", "1", "--fetch", fetch))
    (pid,) = await pids(house)
    (job,) = await house.until(task_id, lambda jobs: jobs[0].state == "starting")
    assert await house.jobs_of.kill([job.job_id]) == [True]
    assert (await house.job(task_id)).state == "cancelled"
    assert f"job {job.job_id}: lost after" in await pilot.ended_well()
    assert not lives(pid)


async def slow_input(house: House, source: Path) -> str:
    from drayman.client import DispatchClient, File, Replica, Rse  # noqa: PLC0415 - for these only

    site = f"S{house.mark}"
    async with DispatchClient(house.stack.url, house.stack.token(house.stack.admin[0])) as dispatch:
        await dispatch.create_rse(Rse(site))
        await dispatch.update_replicas([Replica(house.mark, "in", site, urls=(f"root://slow/{source.name}",))])
    async with DispatchClient(house.stack.url, house.token) as dispatch:
        return f"dispatch:{(await dispatch.create_project([File(house.mark, 'in')])).project_id}"


async def test_debug_mode_is_switched_while_a_job_runs(house: House) -> None:
    script = f"n=0; while ! [ -e {house.folder}/go ]; do n=$((n + 1)); echo line $n; sleep 0.05; done"
    task_id = await house.submit(script)
    pilot = house.start(*options(task_id, "--jobs", "1"))
    job = await house.running(task_id)
    assert job.output_tail == ""
    await house.jobs_of.debug(job.job_id, True)
    tails: list[str] = []
    async with asyncio.timeout(30), contextlib.aclosing(house.jobs_of.output(job.job_id)) as news:
        async for tail, _state in news:
            if tail:
                tails.append(tail)
            if len(tails) == 2:
                break
    first, second = tails
    assert first.startswith("line 1\n")
    assert second.startswith(first.rpartition("\n")[0])
    assert len(second) > len(first)
    await house.jobs_of.debug(job.job_id, False)
    let_go(house)
    await pilot.ended_well()
    assert (await house.job(task_id)).state == "finished"


# --- signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_run_what_runs(house: House, number: signal.Signals) -> None:
    task_id = await house.submit(blocking(house), nEvents=2)
    pilot = house.start(*options(task_id))
    await pids(house)
    pilot.send(number)
    assert pilot.process.stderr is not None
    line = await asyncio.to_thread(pilot.process.stderr.readline)
    assert line.startswith("taking no more jobs")
    let_go(house)
    assert ": finished after" in await pilot.ended_well()
    assert sorted(job.state for job in await house.jobs(task_id)) == ["activated", "finished"]


async def test_the_grace_ends(house: House) -> None:
    task_id = await house.submit(blocking(house))
    pilot = house.start(*options(task_id, "--grace", "0.5"))
    (pid,) = await pids(house)
    await house.running(task_id)
    pilot.send(signal.SIGTERM)
    await pilot.ended_well(20)
    job = await house.job(task_id)
    assert (job.state, job.fields["pilotErrorCode"]) == ("failed", 1201)
    assert job.fields["pilotErrorDiag"] == "its worker was told to stop"
    assert not lives(pid)


async def test_the_second_signal_kills_at_once(house: House) -> None:
    task_id = await house.submit(f"trap '' TERM; {blocking(house)}", nEvents=2)
    pilot = house.start(*options(task_id, "--parallel", "2"))
    both = await pids(house, 2)
    await house.until(task_id, lambda jobs: all(job.state == "running" for job in jobs))
    pilot.send(signal.SIGTERM)
    assert pilot.process.stderr is not None
    await asyncio.to_thread(pilot.process.stderr.readline)
    begin = time.monotonic()
    pilot.send(signal.SIGTERM)
    await pilot.ended_well(20)
    assert time.monotonic() - begin < 8
    assert [(job.state, job.fields["pilotErrorCode"]) for job in await house.jobs(task_id)] == [("failed", 1201)] * 2
    assert not any(map(lives, both))


async def test_what_has_not_begun_is_given_back(house: House) -> None:
    fetch = f"bash -c 'echo $$ >> {mark(house)}; exec sleep 300'"
    task_id = await house.submit("true", house.input(await slow_input(house, house.folder / "slow")))
    pilot = house.start(*options(task_id, "--fetch", fetch))
    (pid,) = await pids(house)
    await house.until(task_id, lambda jobs: jobs[0].state == "starting")
    begin = time.monotonic()
    pilot.send(signal.SIGTERM)
    assert "returned after" in await pilot.ended_well(20)
    assert time.monotonic() - begin < 8
    assert not lives(pid)
    job = await house.job(task_id)
    assert (job.state, job.attempt, job.worker_id) == ("activated", 1, "")
    # and runs elsewhere, as if nothing had been
    await house.run(task_id, "--fetch", "touch {file}")
    assert [(job.state, job.attempt) for job in await house.jobs(task_id)] == [("finished", 1)]


async def test_an_idle_pilot_ends_at_once(house: House) -> None:
    task_id = await house.submit("true")
    pilot = house.start(*options(task_id + 10**6))
    await asyncio.sleep(2)  # it waits by then; if not, it ends the same way
    begin = time.monotonic()
    pilot.send(signal.SIGTERM)
    with contextlib.suppress(AssertionError):
        assert await pilot.end(20) == 0
    assert time.monotonic() - begin < 8


async def test_no_job_is_lost_between_its_hand_out_and_a_stop(house: House) -> None:
    count = 12
    task_id = await house.submit("true", nEvents=count)
    await house.until(task_id, lambda jobs: len(jobs) == count)
    token = house.stack.token(house.worker)
    seen = set()
    async with (
        PilotClient(house.stack.url, token) as pilots,
        RegistryClient(house.stack.url, token) as registry,
        SandboxClient(house.stack.url, token) as sandboxes,
    ):
        for number in range(count):
            pilot = Pilot(
                pilots,
                registry,
                sandboxes,
                worker_id=f"w{number}-{house.mark}",
                offer=Offer(task_id=task_id),
                scratch=house.scratch,
                on_end=lambda end: seen.add(end.state),
            )
            running = asyncio.create_task(pilot.run())
            await asyncio.sleep(0.005 * number)
            stand_still(0.2)  # what it asked for arrives, and nobody has looked at it when it is told to stop
            pilot.stop()
            await asyncio.wait_for(running, 30)
    states = {job.state for job in await house.jobs(task_id)}
    assert states <= {"activated", "finished"}, states
    assert seen <= {"returned", "finished"}


# --- deaths ---------------------------------------------------------------------------------------------------------------


async def test_leases_are_renewed_however_short(hasty: House) -> None:
    task_id = await hasty.submit(f"sleep {HEARTBEAT * 2.5}")
    # the pilot has been idle before, and its next heartbeat far
    pilot = hasty.start(*options(task_id, "--jobs", "1", "--wait", "20"))
    await pilot.ended_well()
    assert [(job.state, job.attempt) for job in await hasty.jobs(task_id)] == [("finished", 1)]


async def test_a_pilot_that_dies_loses_its_job_to_another_one(hasty: House) -> None:
    task_id = await hasty.submit(blocking(hasty), hasty.output(allowNoOutput=True), maxAttempt=3)
    pilot = hasty.start(*options(task_id))
    (pid,) = await pids(hasty)
    first = await hasty.running(task_id)
    pilot.send(signal.SIGKILL)
    other = hasty.start(*options(task_id, "--jobs", "1"))
    jobs = await hasty.until(task_id, lambda jobs: len(jobs) == 2 and jobs[1].state == "running")
    assert jobs[0].state == "failed"
    assert jobs[0].fields["jobDispatcherErrorCode"] == 100
    assert jobs[0].fields["jobDispatcherErrorDiag"].startswith("lost heartbeat : ")
    assert (jobs[1].attempt, jobs[1].parent_job_id) == (2, first.job_id)
    let_go(hasty)
    await other.ended_well()
    assert (await hasty.over(task_id)).state == "done"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def test_a_pilot_that_was_away_does_not_report_what_is_another_ones(hasty: House) -> None:
    task_id = await hasty.submit(blocking(hasty), maxAttempt=3)
    pilot = hasty.start(*options(task_id, "--jobs", "1"))
    await pids(hasty)
    await hasty.running(task_id)
    pilot.send(signal.SIGSTOP)
    await hasty.until(task_id, lambda jobs: len(jobs) == 2 and jobs[0].state == "failed")
    pilot.send(signal.SIGCONT)
    assert ": lost after" in await pilot.ended_well()
    let_go(hasty)
    await hasty.run(task_id)
    assert [job.state for job in await hasty.jobs(task_id)] == ["failed", "finished"]


@pytest.mark.parametrize("when", ["while it is away", "afterwards"])
async def test_the_service_is_killed_while_a_job_runs(own_stack: LocalStack, tmp_path: Path, when: str) -> None:
    async with House(own_stack, tmp_path) as house:
        script = f"({blocking(house)}) > ${{OUTPUT0}}"
        task_id = await house.submit(script, house.output(), maxAttempt=3)
        pilot = house.start(*options(task_id, "--jobs", "1"))
        await pids(house)
        await house.running(task_id)
        own_stack.kill()
        if when == "while it is away":
            let_go(house)
            await asyncio.sleep(1)  # it ends, and there is nobody to tell
        await asyncio.to_thread(own_stack.restart)
        if when == "afterwards":
            await asyncio.sleep(1)  # it is heard of again
            let_go(house)
        await pilot.ended_well()
        assert (await house.over(task_id)).state == "done"
        assert [(job.state, job.attempt) for job in await house.jobs(task_id)] == [("finished", 1)]
        assert len(await pids(house)) == 1
        assert await house.read(house.dataset(), str(task_id), f"{house.dataset()}.000001") == b"went\n"
