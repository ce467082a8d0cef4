import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.task.parameters import (
    ParameterError,
    adopt,
    counts_against_limit,
    duplicate_key,
    examine,
    merge_incremental,
    missing_at_the_door,
)
from drayman.server.task.plan import SplitRule, TaskPlan

MINIMAL: dict[str, Any] = {
    "taskName": "user.jane.test/",
    "userName": "jane",
    "vo": "wlcg",
    "prodSourceLabel": "user",
    "taskType": "anal",
    "processingType": "panda-client-1.5.50-jedi-run",
    "taskPriority": 1000,
    "architecture": "",
    "transUses": "",
    "transHome": "",
    "transPath": "bash",
    "jobParameters": [
        {"type": "constant", "value": "-c run"},
        {"type": "template", "param_type": "input", "value": '-i "${IN/T}"', "dataset": "in"},
    ],
}
OUTPUT = {
    "type": "template",
    "param_type": "output",
    "value": "out.${SN}.root",
    "dataset": "out",
    "offset": 1000,
}
LOG = {"type": "template", "param_type": "log", "value": "log.${SN}.tgz", "dataset": "out.log/"}


def words(text: str) -> list[str]:
    return text.split()


def plan(*, scouts: int = 10, **changes: Any) -> TaskPlan:
    return examine(MINIMAL | changes, task_id=7, scouts=scouts)


def refusal(**changes: Any) -> str:
    with pytest.raises(ParameterError) as refused:
        plan(**changes)
    return str(refused.value)


# ---- at the door


@pytest.mark.parametrize("key", ["taskName", "vo", "prodSourceLabel"])
@pytest.mark.parametrize("value", ["absent", None, "", 5, ["x"], "a\0", "\ud800"])
def test_three_keys_are_needed_to_store_a_task(key: str, value: object) -> None:
    parameters = {name: given for name, given in MINIMAL.items() if name != key}
    if value != "absent":
        parameters[key] = value
    assert (missing_at_the_door(parameters) or "").startswith(key)


def test_nothing_else_is_needed_there() -> None:
    assert missing_at_the_door({"taskName": "t", "vo": "v", "prodSourceLabel": "l"}) is None


def test_what_an_ordinary_user_says_of_himself_is_overwritten() -> None:
    given_parameters = {"userName": "root", "taskType": "prod", "taskPriority": 9999, "taskName": "t", "noise": [1]}
    adopted = adopt(given_parameters, owner="jane", privileged=False)
    assert adopted == given_parameters | {"userName": "jane", "taskType": "anal", "taskPriority": 1000}
    assert given_parameters["userName"] == "root"


def test_what_a_privileged_user_says_stays() -> None:
    given_parameters = {"userName": "group", "taskType": "prod", "taskPriority": "900", "reqID": "12"}
    adopted = adopt(given_parameters, owner="jane", privileged=True)
    assert adopted == {"userName": "group", "taskType": "prod", "taskPriority": 900, "reqID": 12}
    assert adopt({}, owner="jane", privileged=True) == {"userName": "jane", "taskPriority": 100}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"workingGroup": "g" * 33}, "workingGroup"),
        ({"workingGroup": ["g"]}, "workingGroup is a list of 1, not a text"),
        ({"processingType": {}}, "processingType is an object, not a text"),
        ({"processingType": "a\0"}, "processingType"),
        ({"parentTaskName": "a\0"}, "parentTaskName"),
        ({"reqID": "x"}, "reqID is 'x', not a whole number of at least 0"),
        ({"reqID": 2**60}, "reqID"),
        ({"reqID": -1}, "reqID"),
    ],
)
def test_what_could_not_be_stored_is_refused(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError) as refused:
        adopt(parameters, owner="jane", privileged=False)
    assert text in str(refused.value)


def test_a_group_of_32_characters_fits() -> None:
    assert adopt({"workingGroup": "g" * 32}, owner="j", privileged=False)["workingGroup"] == "g" * 32


@pytest.mark.parametrize(
    ("changes", "detected"),
    [
        ({}, False),
        ({"uniqueTaskName": True}, True),
        ({"uniqueTaskName": 1}, False),
        ({"uniqueTaskName": "True"}, False),
        ({"uniqueTaskName": True, "taskType": "prod"}, False),
    ],
)
def test_duplicates_are_looked_for_when_asked(changes: dict[str, Any], *, detected: bool) -> None:
    assert (duplicate_key(MINIMAL | changes) is not None) is detected


def test_the_user_is_part_of_the_key_unless_the_task_is_official() -> None:
    unique = MINIMAL | {"uniqueTaskName": True}
    assert duplicate_key(unique) != duplicate_key(unique | {"userName": "joe"})
    assert duplicate_key(unique | {"official": True}) == duplicate_key(unique | {"official": True, "userName": "joe"})
    for key in ("vo", "prodSourceLabel", "taskName"):
        assert duplicate_key(unique) != duplicate_key(unique | {key: "other"})


def test_users_tasks_count_against_the_limit() -> None:
    assert counts_against_limit(MINIMAL)
    assert not counts_against_limit(MINIMAL | {"taskType": "prod"})


# ---- the plan


def test_the_defaults_of_a_users_task() -> None:
    result = plan()
    assert result.name == "user.jane.test/"
    assert result.program == "bash"
    assert result.rule == SplitRule(max_files_per_job=200)
    assert (result.max_attempts, result.max_failures) == (10, 3)
    assert (result.scouts, result.scout_success_rate) == (10, 0.5)
    assert result.requirements.cores == 1
    assert result.requirements.memory_mb == 2000
    assert result.requirements.disk_mb == 0
    assert result.requirements.walltime_seconds == 0
    assert result.requirements.label == "user"
    assert result.requirements.sites == result.requirements.excluded_sites == frozenset()
    assert (result.build, result.merge, result.sandboxes, result.listed_files) == (None, None, (), ())
    assert result.goal == 100
    assert result.wait_parent
    assert result.primary is not None
    assert result.primary.name == "IN"
    for flag in words(
        "no_input fail_goal_unreached use_exhausted allow_empty_input allow_partial_finish wait_input run_until_closed "
        "use_secrets debug no_looping_check respect_split_rule ignore_missing_inputs"
    ):
        assert getattr(result, flag) is False, flag


def test_the_defaults_of_other_tasks() -> None:
    result = plan(taskType="prod", prodSourceLabel="managed", walltime=100)
    assert (result.max_attempts, result.max_failures, result.scout_success_rate) == (3, None, 0)
    assert (result.requirements.memory_mb, result.requirements.walltime_seconds) == (0, 700)


@pytest.mark.parametrize("three", [3, "3", " 3 ", 3.0, "3.0"])
def test_three_is_three_however_it_is_written(three: object) -> None:
    result = plan(nFiles=three, maxAttempt=three, coreCount=three, nEventsPerJob=three)
    assert (result.rule.n_files, result.max_attempts) == (3, 3)
    assert (result.requirements.cores, result.rule.events_per_job) == (3, 3)


@pytest.mark.parametrize("yes", [True, 1, "True", "true", "yes", "1"])
@pytest.mark.parametrize("no", [False, 0, "False", "no", "0", "", None])
def test_true_is_true_however_it_is_written(yes: object, no: object) -> None:
    result = plan(useSecrets=yes, debugMode=no, noWaitParent=no, noLoopingCheck=yes, waitInput=no)
    assert (result.use_secrets, result.debug, result.wait_parent) == (True, False, True)
    assert (result.no_looping_check, result.wait_input) == (True, False)


@pytest.mark.parametrize("sites", ["A,B", " A , B,", ["A", "B"], ["A,B"]])
def test_a_list_may_be_a_text_with_commas(sites: object) -> None:
    result = plan(includedSite=sites, excludedSite=sites, site="AUTO")
    assert result.requirements.sites == result.requirements.excluded_sites == {"A", "B"}


def test_a_site_is_one_of_those_included() -> None:
    assert plan(site="A", includedSite="B").requirements.sites == {"A", "B"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"nFiles": 5, "nEvents": 7}, SplitRule(n_files=5, n_events=7)),
        ({"nFilesPerJob": 4}, SplitRule(files_per_job=4)),
        ({"nMaxFilesPerJob": 50}, SplitRule(max_files_per_job=50)),
        ({"nMaxFilesPerJob": 5000}, SplitRule(max_files_per_job=1000)),
        ({"nGBPerJob": 2}, SplitRule(bytes_per_job=2 * 1024**3)),
        ({"nGBPerJob": "MAX"}, SplitRule()),
        ({"nEventsPerJob": 10, "nEventsPerFile": 100}, SplitRule(events_per_job=10, events_per_file=100)),
        ({"nEventsPerInputFile": 100}, SplitRule(events_per_file=100)),
        ({"tgtNumEventsPerJob": 250, "nEventsPerFile": 100}, SplitRule(files_per_job=2, events_per_file=100)),
        ({"tgtNumEventsPerJob": 50, "nEventsPerFile": 100}, SplitRule(events_per_job=50, events_per_file=100)),
        ({"tgtNumEventsPerJob": 50, "nFilesPerJob": 1}, SplitRule(files_per_job=1)),
        ({"totNumJobs": 9, "maxNumJobs": 8}, SplitRule(max_jobs=8)),
        ({"totNumJobs": 9}, SplitRule(max_jobs=9)),
    ],
)
def test_the_rule_of_splitting(changes: dict[str, Any], rule: SplitRule) -> None:
    assert plan(**changes).rule == rule


def test_the_primary_stream_may_say_how_it_is_split() -> None:
    item = MINIMAL["jobParameters"][1] | {"nFiles": 20, "nFilesPerJob": 2}
    assert plan(jobParameters=[item]).rule == SplitRule(n_files=20, files_per_job=2)
    assert plan(jobParameters=[item], nFiles=10, nFilesPerJob=3).rule == SplitRule(n_files=10, files_per_job=3)


@pytest.mark.parametrize(
    ("changes", "memory"),
    [
        ({"ramCount": 1000, "coreCount": 4}, 4000),
        ({"ramCount": 1000, "coreCount": 4, "baseRamCount": 500}, 4500),
        ({"ramCount": 1000, "coreCount": 4, "ramUnit": "MBPerCoreFixed"}, 4000),
        ({"ramCount": 1000, "coreCount": 4, "ramUnit": "MB", "baseRamCount": 1}, 1001),
        ({"coreCount": 2}, 4000),
        ({"coreCount": 0}, 2000),
        ({"coreCount": 8, "maxCoreCount": 2}, 4000),
        ({"ramCount": 0}, 0),
        ({"ramCount": 2**31 - 1, "coreCount": 10**6}, 2**31 - 1),
    ],
)
def test_memory(changes: dict[str, Any], memory: int) -> None:
    assert plan(**changes).requirements.memory_mb == memory


def test_memory_grows_per_core_as_well() -> None:
    result = plan(coreCount=2, retryRamStep=500, retryRamMax="4000")
    assert (result.memory_step_mb, result.memory_max_mb) == (1000, 8000)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 0),
        ({"walltime": 0, "baseWalltime": 100}, 0),
        ({"walltime": 100}, 160),
        ({"walltime": 100, "baseWalltime": 5}, 105),
        ({"walltime": "1.5", "baseWalltime": 0}, 2),
        ({"walltime": -500, "baseWalltime": 100}, 500),
        ({"walltime": 100, "maxWalltime": 2}, 7200),
        ({"walltime": 2, "walltimeUnit": "HS06sPerEvent", "nEventsPerJob": 50}, 160),
        ({"walltime": 2, "walltimeUnit": "HS06sPerEvent", "nEventsPerFile": 50, "nFilesPerJob": 2}, 260),
        ({"walltime": 2, "walltimeUnit": "HS06sPerEvent"}, 62),
        ({"walltime": 2, "walltimeUnit": "kSI2kseconds", "nEventsPerJob": 50}, 62),
        ({"walltime": 2**31 - 1}, 2**31 - 1),
    ],
)
def test_the_time_limit(changes: dict[str, Any], seconds: int) -> None:
    assert plan(**changes).requirements.walltime_seconds == seconds


@pytest.mark.parametrize(
    ("changes", "megabytes"),
    [
        ({"outDiskCount": 100, "workDiskCount": 20}, 120),
        ({"outDiskCount": 1, "outDiskUnit": "GB"}, 1024),
        ({"outDiskCount": 1500, "outDiskUnit": "kB"}, 2),
        ({"outDiskCount": 2, "outDiskUnit": "MBPerEvent", "nEventsPerJob": 10}, 20),
        ({"workDiskCount": 3, "workDiskUnit": "MBFixed"}, 3),
    ],
)
def test_disk(changes: dict[str, Any], megabytes: int) -> None:
    assert plan(**changes).requirements.disk_mb == megabytes


@pytest.mark.parametrize(
    ("changes", "scouts"),
    [
        ({}, 10),
        ({"skipScout": True}, 0),
        ({"skipScout": "1"}, 0),
        ({"skipScout": False}, 10),
        ({"taskType": "prod"}, 10),
    ],
)
def test_scouts_are_left_out_on_request(changes: dict[str, Any], scouts: int) -> None:
    assert plan(**changes).scouts == scouts


@pytest.mark.parametrize(
    ("changes", "attempts", "failures"),
    [
        ({"maxAttempt": 4, "maxFailure": 2}, 4, 2),
        ({"disableAutoRetry": True}, 1, 3),
        ({"taskType": "prod", "prodSourceLabel": "managed", "maxFailure": 6}, 3, 6),
    ],
)
def test_attempts(changes: dict[str, Any], attempts: int, failures: int) -> None:
    result = plan(**changes)
    assert (result.max_attempts, result.max_failures) == (attempts, failures)


def test_the_other_keys_have_their_meaning() -> None:
    result = plan(
        architecture="x86_64-el9#4&gpu",
        container_name="docker://image",
        goal="80",
        failGoalUnreached=True,
        useExhausted=False,  # its presence is enough
        allowEmptyInput=True,
        allowPartialFinish=True,
        ignoreMissingInDS=True,
        waitInput=1,
        noWaitParent=True,
        runUntilClosed=True,
        loopingCheck=False,
        respectSplitRule=True,
        scoutSuccessRate=8,
        sourceURL="https://host:25443",
    )
    assert result.requirements.platform == "x86_64-el9#4&gpu"
    assert (result.container, result.goal, result.source_url) == ("docker://image", 80, "https://host:25443")
    assert result.scout_success_rate == 0.8
    assert not result.wait_parent
    for flag in words(
        "fail_goal_unreached use_exhausted allow_empty_input allow_partial_finish ignore_missing_inputs wait_input "
        "run_until_closed no_looping_check respect_split_rule"
    ):
        assert getattr(result, flag) is True, flag


def test_merging() -> None:
    assert plan(mergeOutput=True).merge == {}
    spec = {"jobParameters": "-r . ${TRN_OUTPUT:OUTPUT}"}
    assert plan(mergeOutput=True, mergeSpec=spec).merge == spec
    assert plan(mergeSpec=spec).merge == spec
    assert plan(mergeSpec=spec, mergeOutput=False).merge is None
    rule = plan(mergeOutput=True, nFilesPerMergeJob=5, nGBPerMergeJob=1, nMaxFilesPerMergeJob="30").merge_rule
    assert rule == SplitRule(files_per_job=5, bytes_per_job=1024**3, max_files_per_job=30)


@pytest.mark.parametrize("key", ["preproSpec", "multiStepExec"])
def test_steps_that_there_are_not_are_refused(key: str) -> None:
    with pytest.raises(ParameterError, match=f"{key}: this service has no such steps"):
        plan(**{key: {"jobParameters": "x"}})
    assert plan(**{key: {}})


UUID = "0a1b2c3d-0000-4000-8000-123456789abc"


@pytest.mark.parametrize(
    ("changes", "sandboxes"),
    [
        ({"value": f"-a jobO.{UUID}.tar.gz -r ."}, (f"jobO.{UUID}.tar.gz",)),
        ({"value": f'-a "sources.{UUID}.tar.gz"'}, (f"sources.{UUID}.tar.gz",)),
        ({"value": "-r . -a own.tgz"}, ("own.tgz",)),
        ({"value": "-x own.tgz"}, ()),
        ({"value": "-r .", "buildSpec": {"archiveName": f"sources.{UUID}.tar.gz"}}, (f"sources.{UUID}.tar.gz",)),
        ({"value": "-r .", "mergeSpec": {"jobParameters": "-a jobO.m.tar.gz"}}, ("jobO.m.tar.gz",)),
        ({"value": "-r .", "sourceURL": "https://h/cache/jobO.u.tar.gz"}, ("jobO.u.tar.gz",)),
        ({"value": "-r .", "fixedSandbox": "jobO.fixed.tar.gz"}, ("jobO.fixed.tar.gz",)),
        ({"value": "-a jobO.a.tar.gz -a jobO.b.tar.gz -a jobO.a.tar.gz"}, ("jobO.a.tar.gz", "jobO.b.tar.gz")),
    ],
)
def test_sandboxes(changes: dict[str, Any], sandboxes: tuple[str, ...]) -> None:
    value = changes.pop("value")
    items = [{"type": "constant", "value": value}, MINIMAL["jobParameters"][1]]
    assert plan(jobParameters=items, **changes).sandboxes == sandboxes


def test_a_fixed_sandbox_takes_the_place_of_the_one_that_was_named() -> None:
    items = [{"type": "constant", "value": "-a jobO.old.tar.gz, jobO.no"}, MINIMAL["jobParameters"][1]]
    result = plan(jobParameters=items, fixedSandbox="jobO.new.tar.gz")
    assert result.items[0].value == "-a jobO.new.tar.gz, jobO.no"
    assert result.sandboxes == ("jobO.new.tar.gz",)


def test_datasets_given_for_a_stream_are_added() -> None:
    result = plan(dsForIN="in, more", dsForIN2="nowhere")
    assert result.primary is not None
    assert result.primary.datasets == ("in", "more")


def test_the_smallest_task_without_input() -> None:
    number = {"type": "template", "param_type": "pseudo_input", "value": "${SEQNUMBER}", "dataset": "n", "hidden": True}
    items = [{"type": "constant", "value": '-p "echo ${SEQNUMBER}"'}, number]
    result = plan(jobParameters=items, noInput=True, nEvents=3, nEventsPerJob=1)
    assert result.no_input
    assert result.primary is None
    assert (result.rule.n_events, result.rule.events_per_job) == (3, 1)


def test_the_smallest_task_with_a_list() -> None:
    items = [{"type": "constant", "value": '-i "${IN/T}"'}, OUTPUT]
    result = plan(jobParameters=items, noInput=True, pfnList=["a", "b", "b"], nFiles=3, nFilesPerJob=1, log=LOG)
    assert result.listed_files == ("a", "b", "b")
    assert (result.rule.n_files, result.rule.files_per_job) == (3, 1)
    assert result.primary is not None
    assert (result.primary.kind, result.primary.name) == ("pseudo_input", "IN")
    assert [stream.name for stream in result.streams] == ["IN", "OUTPUT0", "LOG0"]


def test_of_a_list_one_name_is_taken_unless_more_are_asked_for() -> None:
    result = plan(jobParameters=[], pfnList="a,b")
    assert result.no_input
    assert (result.listed_files, result.rule.n_files) == (("a", "b"), 1)


def test_a_pseudo_input_is_no_input() -> None:
    item = {"type": "template", "param_type": "pseudo_input", "value": "${IN}", "dataset": "pseudo"}
    assert plan(jobParameters=[item]).no_input


# ---- what no task can be made of


@pytest.mark.parametrize(
    "key",
    words(
        "taskName vo prodSourceLabel taskType processingType architecture transUses transHome transPath jobParameters"
    ),
)
def test_a_mandatory_key_that_is_missing_is_named(key: str) -> None:
    for parameters in ({name: value for name, value in MINIMAL.items() if name != key}, MINIMAL | {key: None}):
        with pytest.raises(ParameterError, match=f"^{key} is missing"):
            examine(parameters, task_id=7, scouts=10)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nFiles": "many"}, "nFiles is 'many', not a whole number of at least 0"),
        ({"nFiles": -1}, "nFiles is -1, not a whole number of at least 0"),
        ({"nFiles": 1.5}, "nFiles is 1.5, not a whole number"),
        ({"nFiles": True}, "nFiles is true, not a whole number"),
        ({"nFiles": [3]}, "nFiles is a list of 1, not a whole number"),
        ({"nFiles": {}}, "nFiles is an object, not a whole number"),
        ({"nFiles": 2**31}, "nFiles is 2147483648, not a whole number of at least 0 and at most 2147483647"),
        ({"nEvents": 10**400}, "nEvents is a huge number"),
        ({"nFilesPerJob": 1001}, "nFilesPerJob is 1001, not a whole number of at least 0 and at most 1000"),
        ({"maxAttempt": 0}, "maxAttempt is 0, not a whole number of at least 1"),
        ({"nGBPerJob": "max2"}, "nGBPerJob is 'max2'"),
        ({"goal": 101}, "goal is 101, not a number from 0 to 100"),
        ({"goal": float("nan")}, "goal is nan"),
        ({"scoutSuccessRate": 11}, "scoutSuccessRate is 11, not a number from 0 to 10"),
        ({"useSecrets": "perhaps"}, "useSecrets is 'perhaps', not true or false"),
        ({"includedSite": {"a": 1}}, "includedSite is an object, not a list of texts or a text with commas"),
        ({"pfnList": [None]}, "pfnList is a list of 1, not a list of names"),
        ({"ramUnit": "acres"}, "ramUnit is 'acres', not MBPerCore or MB"),
        ({"outDiskUnit": "acres"}, "outDiskUnit is 'acres'"),
        ({"transPath": " "}, "transPath is ' ', not the name or the URL of a program"),
        ({"transUses": ["x"]}, "transUses is a list of 1, not a text"),
        ({"jobParameters": "-c"}, "jobParameters is '-c', not a list of items"),
        ({"jobParameters": []}, "declares no input"),
        ({"jobParameters": [{"type": "constant", "value": "${IN/M[import os]}"}]}, "jobParameters"),
        ({"jobParameters": [*MINIMAL["jobParameters"], OUTPUT | {"value": "a;b"}]}, "OUTPUT0: "),
        ({"log": 5}, "log is 5, not an object"),
        ({"buildSpec": "make"}, "buildSpec is 'make', not an object"),
        ({"mergeSpec": {"jobParameters": ["x"]}}, "mergeSpec.jobParameters is a list of 1, not a text"),
        ({"dsForIN": {"x": 1}}, "dsForIN is an object"),
        ({"dsFor\0\ud800": {"x": 1}}, "dsFor\\x00\\ud800 is an object"),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(changes: dict[str, Any], text: str) -> None:
    assert text in refusal(**changes)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"nEvents": 200_001, "nEventsPerJob": 1}, "nEvents / nEventsPerJob"),
        ({"nFiles": 200_001}, "nFiles"),
        ({"pfnList": [str(number) for number in range(200_001)], "nFiles": 200_001}, "pfnList"),
    ],
)
def test_more_records_than_a_task_may_have(changes: dict[str, Any], key: str) -> None:
    assert f"{key} makes 200001 records, more than 200000" in refusal(jobParameters=[], noInput=True, **changes)
    fewer = {name: value - 1 if value == 200_001 else value for name, value in changes.items()}
    assert plan(jobParameters=[], noInput=True, **fewer).no_input


def test_large_values_are_read_in_no_time() -> None:
    long = "jobO." * 200_000 + "${" * 200_000
    begin = time.process_time()
    plan(jobParameters=[{"type": "constant", "value": long}, MINIMAL["jobParameters"][1]], sourceURL=long)
    refusal(jobParameters=[None] * 1_000_000, log=[{}] * 1_000_000)
    assert time.process_time() - begin < 3


def test_a_cut_of_a_collection_may_be_large() -> None:
    assert plan(nFiles=1_000_000).rule.n_files == 1_000_000


def test_all_that_is_wrong_is_told_as_far_as_there_is_room() -> None:
    text = refusal(nFiles="x", nEvents="y", transPath=None)
    assert "nFiles is 'x'" in text
    assert "nEvents is 'y'" in text
    assert "transPath is missing" in text
    many = refusal(jobParameters=[{"type": "constant"}] * 100)
    assert len(many) <= 510
    assert many.startswith("jobParameters[0] has no value")
    told = many.count(" has no value")
    assert many.endswith(f"; and {101 - told} more")  # and there is no input
    assert len(refusal(transUses=["x"] * 1000, jobParameters="-" * 10_000)) <= 510


def test_one_problem_is_told_once() -> None:
    assert refusal(coreCount="x", ramCount="y").count("coreCount") == 1


def test_nothing_else_matters() -> None:
    assert plan(noise={"a": [1]}, cloud=3, cpuTime="x", reqID=[], nChunksToWait={}) == plan()


# ---- any JSON object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = words("""
taskName userName vo prodSourceLabel taskType processingType taskPriority architecture transUses transHome transPath jobParameters
log noInput pfnList nFiles nEvents nFilesPerJob nMaxFilesPerJob nGBPerJob nEventsPerJob nEventsPerFile nEventsPerInputFile nEventsPerRange
nEventsPerWorker tgtNumEventsPerJob maxAttempt maxFailure disableAutoRetry ramCount ramUnit baseRamCount walltime walltimeUnit baseWalltime
maxWalltime cpuTime cpuTimeUnit cpuEfficiency coreCount maxCoreCount outDiskCount outDiskUnit workDiskCount workDiskUnit cloud site
includedSite excludedSite skipScout scoutSuccessRate respectSplitRule nChunksToWait uniqueTaskName official workingGroup parentTaskName
noWaitParent waitInput allowEmptyInput allowPartialFinish allowIncompleteInDS ignoreMissingInDS runUntilClosed goal failGoalUnreached
useExhausted mergeOutput mergeSpec nFilesPerMergeJob nGBPerMergeJob nMaxFilesPerMergeJob buildSpec preproSpec sourceURL fixedSandbox
container_name multiStepExec noLoopingCheck loopingCheck totNumJobs maxNumJobs useSecrets cliParams reqID campaign ticketID ticketSystemType
requestType avoidVP allowInputLAN allowInputWAN inputPreStaging useLocalIO orderInputBy messageDriven fullChain intermediateTask pushJob
hpoWorkflow retryModuleRules retryRamOffset retryRamStep retryRamMax debugMode dsForIN dsForIN2""")
SENSIBLE = (
    st.integers(0, 10**6) | st.integers(0, 20).map(str) | st.floats(-10, 1e6) | st.booleans() | st.just("MBPerEvent")
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), SENSIBLE | JSON, max_size=12)


def why_not(step: Callable[[], object]) -> str | None:
    try:
        step()
    except ParameterError as error:
        return str(error)
    return None


@given(OBJECTS | st.dictionaries(st.text(), JSON), st.booleans())
def test_any_object_is_understood_or_refused(changes: dict[str, Any], whole: bool) -> None:
    parameters = MINIMAL | changes if whole else changes
    for step in (
        lambda: examine(parameters, task_id=1, scouts=10),
        lambda: adopt(parameters, owner="jane", privileged=True),
        lambda: adopt(parameters, owner="jane", privileged=False),
    ):
        text = why_not(step)
        assert text is None or (text.encode() and len(text) <= 510 and "\0" not in text)
    missing_at_the_door(parameters)
    duplicate_key(parameters)
    counts_against_limit(parameters)


@given(st.dictionaries(st.sampled_from([key for key in KEYS if key not in MINIMAL]), SENSIBLE))
def test_what_a_plan_asks_for_fits_into_the_database(changes: dict[str, Any]) -> None:
    try:
        result = plan(**changes)
    except ParameterError:
        return
    asked = result.requirements
    for number in (asked.cores, asked.memory_mb, asked.disk_mb, asked.walltime_seconds, result.max_attempts):
        assert 0 <= number < 2**31
    assert result.max_failures is None or 0 < result.max_failures < 2**31
    assert asked.cores > 0
    assert 0 < result.rule.max_files_per_job <= 1000


# ---- incremental execution

TAKEN = words(
    "site cloud includedSite excludedSite cliParams nFiles nEvents nFilesPerJob nGBPerJob nMaxFilesPerJob fixedSandbox sourceURL "
    "currentPriority priority ramCount loopingCheck noLoopingCheck avoidVP ignoreMissingInDS forceStaged allowIncompleteInDS "
    "t1Weight nEsConsumers noInputPooling nEventsPerWorker nJumboJobs allowInputLAN useLocalIO maxCoreCount onlyTagsForFC "
    "useZipToPin noAutoPause"
)
MERGEABLE = st.dictionaries(st.sampled_from([*KEYS, *TAKEN]) | st.text(), JSON, max_size=8)
ALTERNATIVES = [{"loopingCheck", "noLoopingCheck"}, {"priority", "currentPriority"}]


@given(MERGEABLE, MERGEABLE)
def test_keys_outside_the_list_never_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    before = json.dumps([old, new])
    merged = merge_incremental(old, new)
    assert json.dumps([old, new]) == before
    for key in old.keys() | new.keys() | merged.keys():
        if key not in TAKEN and not key.startswith("dsFor"):
            assert (key in merged) == (key in old)
            assert merged.get(key) is old.get(key)
        elif key not in new and not any(key in pair and pair & new.keys() for pair in ALTERNATIVES):
            assert merged.get(key) is old.get(key)


@given(MERGEABLE, MERGEABLE)
def test_null_removes_and_everything_else_is_taken_over(old: dict[str, Any], new: dict[str, Any]) -> None:
    merged = merge_incremental(old, new)
    for key in TAKEN:
        if key == "sourceURL" or key not in new:
            continue
        if new[key] is None:
            assert key not in merged or any(key in pair for pair in ALTERNATIVES)
        elif not any(key in pair for pair in ALTERNATIVES):
            assert merged[key] is new[key]


NAMES = st.lists(st.text("abcdef", min_size=1, max_size=2), max_size=5, unique=True)


@given(NAMES, NAMES, st.booleans(), st.booleans())
def test_datasets_are_added_and_keep_their_order(
    old: list[str], new: list[str], old_is_text: bool, new_is_text: bool
) -> None:
    merged = merge_incremental(
        {"dsForIN": ",".join(old) if old_is_text else old}, {"dsForIN": ",".join(new) if new_is_text else new}
    )
    value = merged["dsForIN"]
    found = [name for name in (value if isinstance(value, list) else value.split(",")) if name]
    assert found == old + [name for name in new if name not in old]


def test_null_removes_datasets_as_well() -> None:
    assert merge_incremental({"dsForIN": "a", "x": 1}, {"dsForIN": None}) == {"x": 1}


def test_a_new_source_comes_with_its_sandbox_only() -> None:
    old = {"sourceURL": "a", "fixedSandbox": "b"}
    assert merge_incremental(old, {"sourceURL": "x"}) == old
    new = {"sourceURL": "x", "fixedSandbox": "y"}
    assert merge_incremental(old, new) == new


def test_the_latest_of_two_names_for_one_thing_counts() -> None:
    assert merge_incremental({"noLoopingCheck": True}, {"loopingCheck": True}) == {"loopingCheck": True}
    assert merge_incremental({"priority": 1}, {"currentPriority": 2}) == {"currentPriority": 2}
