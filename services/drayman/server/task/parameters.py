"""What the parameters of a task say (reference §4.1): checked, and understood as a TaskPlan.

Values are read as users write them: `"3"` is 3, lists may be texts with commas, null is as if the key were not there.

What was settled where the reference leaves it open (what jobs ask of workers: job_requirements.py):

* A user's task is one of `taskType` anal or `prodSourceLabel` user or panda. `skipScout` holds for everybody's: who knows that a task
  works need not wait for scouts (the reference's §14 rather than §4.1).
* `pfnList` means `noInput`, and its `nFiles` is 1 unless given. `tgtNumEventsPerJob` counts if neither `nEventsPerJob` nor `nFilesPerJob`
  is there. A GB of input is 2^30 bytes.
* `fixedSandbox` takes the place of sandboxes that values of jobParameters name. `loopingCheck` false is `noLoopingCheck`.
* `mergeSpec` without `mergeOutput` merges too, unless that is false.

Read elsewhere: `uniqueTaskName`, `official`, `parentTaskName`, `reqID`, `taskPriority` and the like when a task is submitted; `cliParams`,
`campaign`, `ticketID`, `ticketSystemType`, `requestType`, `processingType`, `transUses`, `transHome` are shown only.

Stored and without effect, since what they steer does not exist here: `nEventsPerRange`, `nEventsPerWorker`, `nChunksToWait`,
`allowIncompleteInDS`, `avoidVP`, `allowInputLAN`, `allowInputWAN`, `inputPreStaging`, `useLocalIO`, `orderInputBy`, `messageDriven`,
`fullChain`, `intermediateTask`, `pushJob`, `hpoWorkflow`. `preproSpec` and `multiStepExec`, without which a task would do something
else than meant, are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from drayman.server.task.job_requirements import memory, requirements
from drayman.server.task.parameter_values import ParameterError, Problems, Reader, as_text, as_words, storable
from drayman.server.task.placeholders import PlaceholderError, compile_items, output_name
from drayman.server.task.plan import Item, JobFacts, SplitRule, Stream, TaskPlan
from drayman.server.task.splitting import MOST_FILES_OF_A_JOB, MOST_RECORDS
from drayman.server.task.streams import parse

__all__ = [
    "DOOR",
    "INCREMENTAL",
    "MANDATORY",
    "ParameterError",
    "adopt",
    "counts_against_limit",
    "duplicate_key",
    "examine",
    "merge_incremental",
    "missing_at_the_door",
]

#: Without these nothing is stored; without those a task is broken.
DOOR = ("taskName", "vo", "prodSourceLabel")
MANDATORY = (
    *DOOR,
    "userName",
    "taskType",
    "processingType",
    "taskPriority",
    "architecture",
    "transUses",
    "transHome",
    "transPath",
    "jobParameters",
)
#: What an incremental execution takes over, besides every key that begins with `dsFor` (reference §4.6).
INCREMENTAL = frozenset(
    {
        "site",
        "cloud",
        "includedSite",
        "excludedSite",
        "cliParams",
        "nFiles",
        "nEvents",
        "nFilesPerJob",
        "nGBPerJob",
        "nMaxFilesPerJob",
        "fixedSandbox",
        "sourceURL",
        "currentPriority",
        "priority",
        "ramCount",
        "loopingCheck",
        "noLoopingCheck",
        "avoidVP",
        "ignoreMissingInDS",
        "forceStaged",
        "allowIncompleteInDS",
        "t1Weight",
        "nEsConsumers",
        "noInputPooling",
        "nEventsPerWorker",
        "nJumboJobs",
        "allowInputLAN",
        "useLocalIO",
        "maxCoreCount",
        "onlyTagsForFC",
        "useZipToPin",
        "noAutoPause",
    }
)
#: Two keys for one thing: a new value of one removes the other.
_SAME = {
    "loopingCheck": "noLoopingCheck",
    "noLoopingCheck": "loopingCheck",
    "priority": "currentPriority",
    "currentPriority": "priority",
}

USER_PRIORITY = 1000
DEFAULT_PRIORITY = 100
_GB = 1024**3
_LARGE = 2**53
_SANDBOX = re.compile(r"\b(?:jobO|sources)\.[\w.-]+", re.ASCII)  # and what may stand after it, such as a full stop
_ENDING = re.compile(r"\.(?:tar\.gz|tgz)\b", re.ASCII)
_ARCHIVE = re.compile(r"(?:^|\s)-a\s+[\"']?([\w.-]{1,200}\.(?:tar\.gz|tgz))\b", re.ASCII)
#: Keys that ask for steps that there are not.
_NOT_DONE = ("preproSpec", "multiStepExec")


def missing_at_the_door(parameters: Mapping[str, Any]) -> str | None:
    """Return why a request cannot be stored at all; None if it can."""
    for key in DOOR:
        value = parameters.get(key)
        if value is None or value == "":
            return f"{key} is missing: a task needs {', '.join(DOOR[:-1])} and {DOOR[-1]}"
        if not isinstance(value, str) or not storable(value):
            return f"{key} must be a text"
    return None


def adopt(parameters: Mapping[str, Any], *, owner: str, privileged: bool) -> dict[str, Any]:
    """Return parameters as they are stored: what only privileged users may choose is set for the others.

    `processingType`, `workingGroup`, `taskType` and `parentTaskName` are texts afterwards if there, `taskPriority` and `reqID` numbers.
    Raises ParameterError if one of them cannot be.
    """
    problems = Problems()
    adopted = dict(parameters)
    reader = Reader(parameters, problems)
    if privileged:
        adopted["userName"] = reader.text("userName") or owner
        adopted["taskPriority"] = reader.whole("taskPriority", DEFAULT_PRIORITY)
    else:
        adopted |= {"userName": owner, "taskType": "anal", "taskPriority": USER_PRIORITY}
    for key in ("processingType", "workingGroup", "taskType", "parentTaskName"):
        if Reader(adopted, problems).has(key):
            adopted[key] = Reader(adopted, problems).text(key)
    if reader.has("reqID"):
        adopted["reqID"] = reader.whole("reqID", most=_LARGE)
    if len(adopted.get("workingGroup") or "") > 32:
        reader.wrong("workingGroup", "a text of at most 32 characters")
    problems.raise_any()
    return adopted


def duplicate_key(parameters: Mapping[str, Any]) -> str | None:
    """Return what two submissions of one task have in common; None if submitting twice is no mistake (reference §4.6)."""
    if parameters.get("taskType") != "anal" or parameters.get("uniqueTaskName") is not True:
        return None
    user = "" if parameters.get("official") is True else parameters.get("userName")
    return json.dumps([parameters.get("vo"), parameters.get("prodSourceLabel"), user, parameters.get("taskName")])


def counts_against_limit(parameters: Mapping[str, Any]) -> bool:
    """Return whether the limit on a user's active tasks applies: not to what is planned with the production role."""
    return parameters.get("taskType") == "anal"


def merge_incremental(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with what an incremental execution takes over from new ones: null removes a key, names of `dsFor…` are added."""
    merged = dict(old)
    for key, value in new.items():
        if not (key in INCREMENTAL or key.startswith("dsFor")) or (key == "sourceURL" and not new.get("fixedSandbox")):
            continue
        if value is None:
            merged.pop(key, None)
            continue
        before, after = as_words(old.get(key)), as_words(value)
        if key.startswith("dsFor") and before and after is not None:
            merged[key] = ",".join(dict.fromkeys((*before, *after)))
        else:
            merged[key] = value
        if key in _SAME and new.get(_SAME[key]) is None:
            merged.pop(_SAME[key], None)
    return merged


def examine(parameters: Mapping[str, Any], *, task_id: int, scouts: int) -> TaskPlan:
    """Return the plan of a task, of which the first `scouts` jobs are scouts if it has any.

    Raises ParameterError, in the words of a task's error text, for anything that no task can be made of.
    """
    problems = Problems()
    reader = Reader(parameters, problems)
    for key in MANDATORY:
        if not reader.has(key) and key not in ("userName", "taskPriority"):  # adopt() sees to these
            problems.add(f"{key} is missing")
    for key in ("vo", "userName", "processingType", "transUses", "transHome"):
        reader.text(key)
    program = reader.text("transPath").strip()
    if reader.has("transPath") and not program:
        reader.wrong("transPath", "the name or the URL of a program, such as bash")
    listed = reader.names("pfnList")
    no_input = reader.truth("noInput") or bool(listed)
    items, streams = parse(
        parameters.get("jobParameters") if reader.has("jobParameters") else [],
        parameters.get("log"),
        no_input=no_input,
        listed=bool(listed),
        added={key.removeprefix("dsFor"): reader.words(key) for key in parameters if key.startswith("dsFor")},
        problems=problems,
    )
    primary = next((stream for stream in streams if stream.primary), None)
    if primary is None and not no_input and isinstance(parameters.get("jobParameters"), list):
        problems.add(
            "jobParameters declares no input: an item of param_type input with a dataset is needed, or noInput true"
        )
    _check_placeholders(items, streams, task_id, problems)
    rule = _split_rule(reader, primary, listed)
    _few_enough(problems, rule, listed, no_input=no_input, streams=streams)
    user = _of_a_user(reader)
    build, merge = reader.object("buildSpec"), reader.object("mergeSpec")
    _specification("buildSpec", build, problems)
    _specification("mergeSpec", merge, problems)
    if reader.truth("mergeOutput"):
        merge = merge or {}
    elif reader.has("mergeOutput"):
        merge = None
    skip = reader.truth("skipScout")
    fixed = reader.text("fixedSandbox").strip()
    attempts = reader.whole("maxAttempt", 10 if user else 3, least=1)
    plan = TaskPlan(
        name=reader.text("taskName", f"task.{task_id}"),
        program=program,
        items=tuple(replace(item, value=_with_sandbox(item.value, fixed)) for item in items) if fixed else items,
        streams=streams,
        rule=rule,
        requirements=requirements(reader, rule, user=user),
        no_input=no_input or (primary is not None and primary.kind == "pseudo_input"),
        listed_files=listed,
        max_attempts=1 if reader.truth("disableAutoRetry") else attempts,
        max_failures=reader.whole("maxFailure", 3, least=1) if user or reader.has("maxFailure") else None,
        scouts=0 if skip else max(scouts, 0),
        scout_success_rate=reader.number("scoutSuccessRate", 5 if user else 0, most=10) / 10,
        build=build,
        merge=merge,
        sandboxes=tuple(dict.fromkeys(_sandboxes(parameters, items, build, merge, fixed))),
        container=reader.text("container_name").strip(),
        goal=reader.number("goal", 100, most=100),
        fail_goal_unreached=reader.truth("failGoalUnreached"),
        use_exhausted="useExhausted" in parameters,
        allow_empty_input=reader.truth("allowEmptyInput"),
        allow_partial_finish=reader.truth("allowPartialFinish"),
        wait_input=reader.truth("waitInput"),
        wait_parent=not reader.truth("noWaitParent"),
        run_until_closed=reader.truth("runUntilClosed"),
        use_secrets=reader.truth("useSecrets"),
        debug=reader.truth("debugMode"),
        no_looping_check=not reader.truth("loopingCheck", default=not reader.truth("noLoopingCheck")),
        memory_step_mb=memory(reader, "retryRamStep"),
        memory_max_mb=memory(reader, "retryRamMax"),
        respect_split_rule=reader.truth("respectSplitRule"),
        ignore_missing_inputs=reader.truth("ignoreMissingInDS"),
        merge_rule=SplitRule(
            files_per_job=reader.whole("nFilesPerMergeJob", most=MOST_FILES_OF_A_JOB),
            max_files_per_job=min(reader.whole("nMaxFilesPerMergeJob", 200, least=1), MOST_FILES_OF_A_JOB),
            bytes_per_job=_gigabytes(reader, "nGBPerMergeJob"),
        ),
        source_url=reader.text("sourceURL").strip(),
    )
    for key in _NOT_DONE:
        if parameters.get(key):
            problems.add(f"{key}: this service has no such steps, and the task would do something else without them")
    problems.raise_any()
    return plan


def _check_placeholders(items: tuple[Item, ...], streams: tuple[Stream, ...], task_id: int, problems: Problems) -> None:
    """Note placeholders that no job could fill in: what depends on the inputs' names is not known yet."""
    try:
        compile_items(items)
    except PlaceholderError as error:
        problems.add(f"jobParameters: {error}")
    facts = JobFacts(
        task_id=task_id,
        serial=1,
        attempt=1,
        inputs={stream.name: ("1",) for stream in streams if stream.kind in ("input", "pseudo_input")},
        outputs={},
        numbers={stream.name: 1 for stream in streams if stream.kind in ("number", "random_seed")},
    )
    for stream in streams:
        if stream.kind in ("output", "log") and not re.search(r"MIDDLENAME|/M\[", stream.value):
            try:
                output_name(stream.value, facts, stream)
            except PlaceholderError as error:
                problems.add(f"{stream.name}: {error}")


def _of_a_user(reader: Reader) -> bool:
    return reader.text("taskType") == "anal" or reader.text("prodSourceLabel") in ("user", "panda")


def _gigabytes(reader: Reader, key: str) -> int:
    """Read a size in GB, as bytes. MAX leaves it to the default."""
    if reader.text(key).strip().upper() == "MAX":
        return 0
    return reader.whole(key, least=1, most=10**6) * _GB


def _split_rule(reader: Reader, primary: Stream | None, listed: tuple[str, ...]) -> SplitRule:
    n_files = reader.whole("nFiles", 1 if listed else 0)
    files_per_job = reader.whole("nFilesPerJob", most=MOST_FILES_OF_A_JOB)
    events_per_file = reader.whole("nEventsPerFile", reader.whole("nEventsPerInputFile"))
    events_per_job = reader.whole("nEventsPerJob")
    if primary is not None:
        n_files = min((number for number in (n_files, primary.n_files) if number), default=0)
        files_per_job = files_per_job or primary.files_per_job
    target = reader.whole("tgtNumEventsPerJob")
    if target and not events_per_job and not files_per_job:
        if events_per_file and target >= events_per_file:
            files_per_job = min(target // events_per_file, MOST_FILES_OF_A_JOB)
        else:
            events_per_job = target
    jobs = [number for key in ("totNumJobs", "maxNumJobs") if (number := reader.whole(key))]
    return SplitRule(
        n_files=n_files,
        n_events=reader.whole("nEvents", most=_LARGE),
        files_per_job=files_per_job,
        max_files_per_job=min(reader.whole("nMaxFilesPerJob", 200, least=1), MOST_FILES_OF_A_JOB),
        bytes_per_job=_gigabytes(reader, "nGBPerJob"),
        events_per_job=events_per_job,
        events_per_file=events_per_file,
        max_jobs=min(jobs, default=0),
    )


def _few_enough(
    problems: Problems, rule: SplitRule, listed: tuple[str, ...], *, no_input: bool, streams: tuple[Stream, ...]
) -> None:
    """Note a number of records that is too large and known already."""
    known = {"pfnList": min(len(listed), rule.n_files)} if listed else {}
    if no_input and not listed:
        known["nEvents / nEventsPerJob"] = -(-rule.n_events // rule.events_per_job) if rule.events_per_job else 0
        known["nFiles"] = rule.n_files
    known |= {f"num_records of {stream.name}": stream.num_records for stream in streams}
    for key, number in known.items():
        if number > MOST_RECORDS:
            problems.add(f"{key} makes {number} records, more than {MOST_RECORDS}")


def _specification(key: str, specification: Mapping[str, Any] | None, problems: Problems) -> None:
    """Check what is said of a build or merge job: texts, all of them."""
    if specification is not None:
        reader = Reader(specification, problems, f"{key}.")
        for name in ("jobParameters", "archiveName", "transPath", "prodSourceLabel"):
            reader.text(name)


def _with_sandbox(text: str, sandbox: str) -> str:
    """Return a text with another sandbox in place of those it names."""

    def exchange(found: re.Match[str]) -> str:
        ending = _ENDING.search(found[0])
        return sandbox + found[0][ending.end() :] if ending else found[0]

    return _SANDBOX.sub(exchange, text)


def _sandboxes(
    parameters: Mapping[str, Any],
    items: tuple[Item, ...],
    build: Mapping[str, Any] | None,
    merge: Mapping[str, Any] | None,
    fixed: str,
) -> Iterator[str]:
    """Find the names of sandboxes that jobs will fetch."""
    if fixed:
        yield fixed
    texts = [] if fixed else [item.value for item in items]
    texts += [as_text(spec.get("jobParameters")) or "" for spec in (build, merge) if spec]
    for text in (*texts, as_text(parameters.get("sourceURL")) or ""):
        yield from (token[: ending.end()] for token in _SANDBOX.findall(text) if (ending := _ENDING.search(token)))
        yield from _ARCHIVE.findall(text)
    if build and (archive := as_text(build.get("archiveName"))):
        yield archive
