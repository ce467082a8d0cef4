"""From options to a task's parameters: each is read here by the service's own rules, which must find nothing wrong."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drayman.prun.endings import ConfigurationError
from drayman.prun.options import GROUPS, TABLE, Kind, Options
from drayman.prun.task_parameters import task_parameters
from drayman.server.task.parameters import adopt, examine, missing_at_the_door
from drayman.server.task.plan import TaskPlan

LEAST = {"exec": "prog", "outDS": "user.me.test"}


def made(**given: Any) -> dict[str, Any]:
    return task_parameters(Options(LEAST | given), sandbox="jobO.1.tar.gz", command_line="prun ...")


def planned(**given: Any) -> TaskPlan:
    parameters = made(**given)
    assert missing_at_the_door(parameters) is None
    return examine(adopt(parameters, owner="me", privileged=False), task_id=7, scouts=10)


def refused(**given: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        made(**given)
    assert caught.value.code == 10
    return str(caught.value)


def test_no_input_and_no_counts_make_one_job() -> None:
    plan = planned()
    assert plan.program == "bash"
    assert plan.no_input
    assert (plan.rule.n_events, plan.rule.events_per_job) == (0, 0)
    assert plan.sandboxes == ("jobO.1.tar.gz",)
    assert [(stream.name, stream.datasets) for stream in plan.streams] == [("LOG0", ("user.me.test.log",))]
    assert made()["taskName"] == "user.me.test"
    assert made()["uniqueTaskName"] is True
    assert made()["cliParams"] == "prun ..."


@pytest.mark.parametrize(
    ("given", "events"),
    [
        ({"nJobs": "3"}, (3, 1)),
        ({"nJobs": 3, "nEventsPerJob": 10}, (30, 10)),
        ({"nEvents": 25, "nEventsPerJob": 10}, (25, 10)),
        ({"nEvents": 25, "nEventsPerJob": 10, "nJobs": 2}, (20, 10)),
        ({"nEvents": 25, "nJobs": 2}, (25, 13)),
        ({"nEvents": 25}, (25, 25)),
        ({"nEventsPerJob": 25}, (25, 25)),
    ],
)
def test_jobs_without_input(given: dict[str, Any], events: tuple[int, int]) -> None:
    rule = planned(**given).rule
    assert (rule.n_events, rule.events_per_job) == events


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ({}, (0, 0)),
        ({"nFiles": 7}, (7, 0)),
        ({"nFilesPerJob": 2}, (0, 2)),
        ({"nJobs": 3, "nFilesPerJob": 2}, (6, 2)),
        ({"nJobs": 3, "nFilesPerJob": 2, "nFiles": 5}, (5, 2)),
        ({"nJobs": 3, "nFiles": 7}, (7, 3)),
        ({"nJobs": 3}, (3, 1)),
    ],
)
def test_jobs_over_files(given: dict[str, Any], files: tuple[int, int]) -> None:
    plan = planned(inDS="p/a", **given)
    assert (plan.rule.n_files, plan.rule.files_per_job) == files
    assert plan.primary is not None
    assert plan.primary.datasets == ("p/a",)


def test_other_cuts() -> None:
    rule = planned(inDS="p/a", nGBPerJob="2", maxNFilesPerJob=50).rule
    assert (rule.bytes_per_job, rule.max_files_per_job) == (2 * 2**30, 50)
    assert planned(inDS="p/a", nGBPerJob="MAX").rule.bytes_per_job == 0
    rule = planned(inDS="p/a", nEventsPerJob=10, nEventsPerFile=100, nJobs=4).rule
    assert (rule.events_per_job, rule.events_per_file, rule.n_events) == (10, 100, 40)


def test_inputs(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("# mine\na.root\n\n  b.root \n")
    plan = planned(
        exec="prog %IN %NOISE %IN3",
        inDS=["p/a", "12"],
        match="*.root,x",
        antiMatch="bad",
        inputFileList=str(names),
        secondaryDSs="NOISE:2:dispatch:5:*.n,IN3:1:q/b/v",
    )
    first, noise, third = plan.streams[:3]
    assert first.primary
    assert (first.name, first.datasets, first.include, first.exclude) == (
        "IN",
        ("p/a", "12"),
        ("*.root", "x"),
        ("bad",),
    )
    assert first.files == ("a.root", "b.root")
    assert (noise.name, noise.datasets, noise.files_per_job, noise.include) == ("NOISE", ("dispatch:5",), 2, ("*.n",))
    assert (third.name, third.datasets, third.files_per_job) == ("IN3", ("q/b/v",), 1)
    plan = planned(exec="prog %IN", pfnList=str(names))
    assert plan.no_input
    assert plan.listed_files == ("a.root", "b.root")
    assert plan.rule.n_files == 2
    plan = planned(exec="prog %IN", pfnList=str(names), nJobs=1)
    assert (plan.rule.n_files, plan.rule.files_per_job) == (2, 2)


def test_outputs() -> None:
    plan = planned(outputs="a.root,HIST:sub/h.root,*.txt", allowNoOutput="^h,txt$", exec="prog %OUT")
    outputs = [stream for stream in plan.streams if stream.kind == "output"]
    assert [(each.name, each.datasets[0], each.value, each.allow_no_output) for each in outputs] == [
        ("OUTPUT0", "user.me.test_a.root", "user.me.$JEDITASKID._${SN/P}.a.root", False),
        ("OUTPUT1", "user.me.test_HIST", "user.me.$JEDITASKID._${SN/P}.h.root", True),
        ("OUTPUT2", "user.me.test_XYZ.txt.tgz", "user.me.$JEDITASKID._${SN/P}.XYZ.txt.tgz", True),
    ]
    assert all(item.hidden for item in plan.items[:-1])


@pytest.mark.parametrize(
    ("name", "dataset", "prefix"),
    [
        ("results", "results_out", "results"),
        ("results/", "results_out", "results"),
        ("group.phys.x.y", "group.phys.x.y_out", "group.phys"),
        ("mine/results", "mine/results_out", "results"),
        ("mine/user.me.x/v1", "mine/user.me.x_out/v1", "user.me"),
    ],
)
def test_names_of_outputs(name: str, dataset: str, prefix: str) -> None:
    stream = next(stream for stream in planned(outDS=name, outputs="out").streams if stream.kind == "output")
    assert stream.datasets == (dataset,)
    assert stream.value == f"{prefix}.$JEDITASKID._${{SN/P}}.out"


def test_requirements_and_conditions() -> None:
    plan = planned(
        site="A",
        excludedSite="B,C",
        memory=3000,
        nCore=4,
        maxWalltime=2,
        architecture="x86_64-el9",
        containerImage="docker://x",
        maxAttempt=50,
        useSecrets=True,
        skipScout=True,
        debugMode=True,
        mergeOutput=True,
    )
    wants = plan.requirements
    assert (wants.sites, wants.excluded_sites, wants.cores, wants.memory_mb) == ({"A"}, {"B", "C"}, 4, 12000)
    assert (wants.walltime_seconds, wants.platform) == (7200, "x86_64-el9")
    assert (plan.container, plan.max_attempts, plan.use_secrets, plan.debug) == ("docker://x", 50, True, True)
    assert plan.scouts == 0
    assert plan.merge == {}
    assert planned(site="A,B").requirements.sites == {"A", "B"}
    assert planned(site="AUTO").requirements.sites == frozenset()
    assert planned(disableAutoRetry=True).max_attempts == 1


def test_a_build() -> None:
    plan = planned(bexec="make")
    assert plan.build is not None
    assert plan.sandboxes == ("jobO.1.tar.gz",)
    assert "${LIB}" in plan.items[-1].value
    assert planned().build is None
    assert planned(noBuild=True).build is None


def test_the_organisation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert made()["vo"] == "wlcg"
    monkeypatch.setenv("PANDA_AUTH_VO", "phys:production")
    assert made()["vo"] == "phys"
    assert made(vo="other")["vo"] == "other"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"exec": " "}, "--exec is needed"),
        ({"outDS": ""}, "--outDS is needed"),
        ({"outDS": "x" * 133}, "133 characters: at most 132"),
        ({"outDS": "12"}, "dispatch project"),
        ({"outDS": "a b"}, "expected a name"),
        ({"outDS": "../x"}, "expected a name"),
        ({"outDS": "a/b/c/d"}, "expected a name"),
        ({"exec": "prog %IN"}, "--inDS"),
        ({"exec": "prog %OUT"}, "--outputs"),
        ({"nFiles": 3}, "--nFiles goes with --inDS"),
        ({"match": "x"}, "--match goes with --inDS"),
        ({"inDS": "a", "pfnList": "b"}, "does not go with --pfnList"),
        ({"pfnList": "/nowhere"}, "cannot be read"),
        ({"inDS": "a", "inputFileList": "/dev/null"}, "names no files"),
        ({"inDS": "a", "secondaryDSs": "IN2:x:b"}, "STREAM:FILES_PER_JOB:NAME"),
        ({"inDS": "a", "secondaryDSs": "IN2:1"}, "STREAM:FILES_PER_JOB:NAME"),
        ({"inDS": "a", "secondaryDSs": "IN:1:b"}, "cannot name a stream"),
        ({"inDS": "a", "secondaryDSs": "OUTPUT0:1:b"}, "cannot name a stream"),
        ({"inDS": "a", "secondaryDSs": "IN2:1:b,IN2:1:c"}, "twice"),
        ({"inDS": "a", "nGBPerJob": "much"}, "or MAX"),
        ({"inDS": "a", "nGBPerJob": "2", "nJobs": 2}, "does not go with --nGBPerJob"),
        ({"outputs": "/tmp/x"}, "leads out"),
        ({"outputs": "../x"}, "leads out"),
        ({"outputs": "a b"}, "expected names"),
        ({"outputs": "a/x,b/x"}, "twice"),
        ({"outputs": "S:a,S:b"}, "twice"),
        ({"outputs": ",".join(f"o{number}" for number in range(11))}, "11 outputs"),
        ({"outputs": "a", "allowNoOutput": "("}, "no regular expression"),
        ({"bexec": "make", "noBuild": True}, "exclude each other"),
        ({"workingGroup": "x" * 33}, "at most 32"),
        ({"exec": "p %RNDM:1 %RNDM:2"}, "different numbers"),
    ],
)
def test_what_cannot_be_right_is_told(given: dict[str, Any], problem: str) -> None:
    assert problem in refused(**given)


def test_eleven_outputs_if_allowed() -> None:
    names = ",".join(f"o{number}" for number in range(11))
    assert len(planned(outputs=names, unlimitNumOutputs=True).streams) == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nJobs", "0"),
        ("nJobs", "-1"),
        ("nJobs", "1.5"),
        ("nJobs", "9" * 30),
        ("nJobs", True),
        ("maxAttempt", "51"),
        ("nFilesPerJob", 1001),
        ("exec", ["a"]),
        ("exec", "\udc80"),
        ("inDS", [1.5]),
        ("useSecrets", "perhaps"),
        ("nothing", 1),
    ],
)
def test_values_that_cannot_be_right(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Options({name: value})


def test_options_can_be_recorded_and_read_again() -> None:
    options = Options({"nJobs": "3", "inDS": ["a,b", "c", "a"], "useSecrets": "true", "exec": "x", "site": None})
    assert options.record() == {"nJobs": 3, "inDS": "a,b,c", "useSecrets": True, "exec": "x"}
    assert Options(options.record()).record() == options.record()
    over = Options({"nJobs": 1}).over({"nJobs": 9, "exec": "y"})
    assert over.record() == {"nJobs": 1, "exec": "y"}
    assert len(TABLE) == sum(len(group.options) for group in GROUPS)


_VALUES = {
    Kind.NUMBER: st.integers(1, 50),
    Kind.FLAG: st.booleans(),
    Kind.WORDS: st.lists(st.sampled_from(["a", "b.root", "p/a", "7", "*.x"]), min_size=1, max_size=3),
    Kind.TEXT: st.sampled_from(["x", "y.z", "1"]),
}


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            option.name: _VALUES[option.kind]
            for option in TABLE.values()
            if option.name not in ("pfnList", "inputFileList", "secondaryDSs", "prodSourceLabel")
        },
    )
)
def test_whatever_is_accepted_here_is_accepted_by_the_service(given: dict[str, Any]) -> None:
    try:
        parameters = made(**given)
    except ConfigurationError:
        return
    examine(adopt(parameters, owner="me", privileged=False), task_id=1, scouts=10)
