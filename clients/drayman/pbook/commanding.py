"""Verbs that tell tasks and jobs what to do (section 12.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drayman.pbook.arguments import Kind, Parameter
from drayman.pbook.calls import Bare
from drayman.pbook.desk import Desk, say
from drayman.pbook.endings import Outcome, Refusal
from drayman.pbook.finding import FIRST_TASK_ID, active_states, tasks_of

TARGETS = Parameter("taskIDs", Kind.TARGETS, needed=True, words=("all",))
SOFT = Parameter("soft", Kind.FLAG, False)
RETRY = (
    TARGETS,
    Parameter("newOpts", Kind.OPTIONS),
    Parameter("days", Kind.NUMBER, 14),
    Parameter("limit", Kind.NUMBER, 1000),
)
DEBUG = (Parameter("PandaID", Kind.NUMBER, needed=True), Parameter("modeOn", Kind.FLAG, True))

#: What a retry may change, and what the task's parameter is called.
_NEW = {
    "site": "site",
    "includedSite": "includedSite",
    "excludedSite": "excludedSite",
    "nFilesPerJob": "nFilesPerJob",
    "nMaxFilesPerJob": "nMaxFilesPerJob",
    "maxNFilesPerJob": "nMaxFilesPerJob",
    "nGBPerJob": "nGBPerJob",
    "nFiles": "nFiles",
    "nEvents": "nEvents",
    "loopingCheck": "loopingCheck",
    "memory": "ramCount",
    "ramCount": "ramCount",
    "avoidVP": "avoidVP",
    "ignoreMissingInDS": "ignoreMissingInDS",
    "forceStaged": "forceStaged",
    "maxCore": "maxCoreCount",
}


async def kill(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Kill tasks; a list of True and False, one for each."""
    return await _command(desk, given["taskIDs"], "kill")


async def finish(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Finish tasks with what they have; `soft` lets jobs that run end."""
    return await _command(desk, given["taskIDs"], "finish_soft" if given["soft"] else "finish")


async def pause(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Pause tasks: what runs goes on, nothing else begins."""
    return await _command(desk, given["taskIDs"], "pause")


async def resume(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Let paused tasks go on."""
    return await _command(desk, given["taskIDs"], "resume")


async def reload_input(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Read the lists of inputs again, and process what is new and what was not processed."""
    return await _command(desk, given["taskIDs"], "reload_input")


async def retry(desk: Desk, given: Mapping[str, Any], further: Mapping[str, Any]) -> Outcome:
    """Try again what was not processed, with other options if some are given; of a task that runs, what failed."""
    options = {**(given["newOpts"] or {}), **further}
    unknown = [name for name in options if name not in _NEW]
    if unknown:
        raise Refusal(f"unknown option {unknown[0]!a}, and nothing was sent: expected some of {', '.join(_NEW)}")
    parameters = {_NEW[name]: _plain(name, value) for name, value in options.items()}
    targets = given["taskIDs"]
    if targets == "all":
        targets = await _retriable(desk, given["days"], given["limit"])
    return await _command(desk, targets, "retry", parameters=parameters or None, retry_live=True)


async def debug(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Switch the debug mode of a job: what it writes is sent while it runs."""
    await desk.jobs.debug(given["PandaID"], given["modeOn"])
    say(f"PandaID={given['PandaID']}: debug mode {'on' if given['modeOn'] else 'off'}")
    return Outcome()


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Bare):
        raise Refusal(f"{name}={value.name} is not understood: texts stand in quotes")
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


async def _retriable(desk: Desk, days: int, limit: int) -> list[int]:
    """Return the caller's own tasks that ended short of everything."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - for this alone

    tasks = desk.tasks.tasks(
        owner=await desk.user(),
        states=("finished", "failed", "exhausted"),
        changed_since=datetime.now(UTC) - timedelta(days=min(days, 36500)),
        limit=limit,
    )
    return [task.task_id async for task in tasks]


async def _command(desk: Desk, targets: Sequence[int] | str, command: str, **options: Any) -> Outcome:
    results = []
    for number, task_id in await _task_ids(desk, targets):
        if task_id is None:
            say(f"{number}: there is no such task")
            results.append(False)
            continue
        answer = await desk.tasks.command(task_id, command, **options)
        say(f"JediTaskID={task_id}: {answer.message}")
        results.append(answer.code == 0)
    if not results:
        say("there are no such tasks")
    return Outcome(results, all(results))


async def _task_ids(desk: Desk, targets: Sequence[int] | str) -> list[tuple[int, int | None]]:
    """Return what was typed, and the tasks that it means; None = there is none."""
    if isinstance(targets, str):
        tasks = desk.tasks.tasks(owner=await desk.user(), states=active_states())
        return [(task.task_id, task.task_id) async for task in tasks]
    found: dict[int, tuple[int, int | None]] = {}
    for number in targets:
        if number >= FIRST_TASK_ID:
            found[number] = number, number
            continue
        tasks_found = await tasks_of(desk, number)
        found.update((task.task_id, (number, task.task_id)) for task in tasks_found)
        if not tasks_found:
            found[-number] = number, None
    return list(found.values())
