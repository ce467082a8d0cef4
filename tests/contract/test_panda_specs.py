"""The PanDA mirror as such: signatures of its functions, and its classes of jobs and files."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from datetime import UTC, datetime

import pytest

from drayman.pandaclient import Client
from drayman.pandaclient.FileSpec import FileSpec
from drayman.pandaclient.JobSpec import JobSpec

#: Section 3 of the description of behaviour: names, order, and defaults where they matter.
SIGNATURES = {
    # 3.1
    "insertTaskParams": "taskParams, verbose=False, properErrorCode=False, parent_tid=None",
    "killTask": "jediTaskID, verbose=False",
    "finishTask": "jediTaskID, soft=False, verbose=False",
    "retryTask": "jediTaskID, verbose=False, properErrorCode=False, newParams=None",
    "reload_input": "task_id, verbose=False",
    "pauseTask": "jediTaskID, verbose=False",
    "resumeTask": "jediTaskID, verbose=False",
    "reactivateTask": "jediTaskID, verbose=False",
    "increase_attempt_nr": "task_id, increase=3, verbose=False",
    "getTaskStatus": "jediTaskID, verbose=False",
    "getTaskParamsMap": "jediTaskID",
    "getPandaIDsWithTaskID": "jediTaskID, verbose=False",
    "getJediTaskDetails": "taskDict, fullFlag, withTaskInfo, verbose=False",
    "getJobIDsJediTasksInTimeRange": "timeRange, dn=None, minTaskID=None, verbose=False, task_type='user'",
    "send_file_recovery_request": "task_id, dry_run=False, verbose=False",
    "getUserJobMetadata": "task_id, verbose=False",
    # 3.2
    "getJobStatus": "ids, verbose=False",
    "getFullJobStatus": "ids, verbose=False",
    "killJobs": "ids, verbose=False",
    "submitJobs": "jobs, verbose=False",
    "setDebugMode": "pandaID, modeOn, verbose",
    # 3.3
    "putFile": "file, verbose=False, useCacheSrv=False, reuseSandbox=False",
    "getFile": "filename, output_path=None, verbose=False",
    "setCacheServer": "host_name",
    "set_user_secert": "key, value, verbose=False",
    "get_user_secerts": "verbose=False",
    "set_user_secret": "key, value, verbose=False",
    "get_user_secrets": "verbose=False",
    # 3.4
    "hello": "verbose=False",
    "get_cert_attributes": "verbose=False",
    "get_new_token": "",
    "get_token_string": "tmp_log=None, verbose=False",
    "get_user_name_from_token": "",
    "use_oidc": "",
    "use_x509_no_grid": "",
    "getDN": "origString",
    "is_https": "url",
    "str_decode": "data",
    "hide_sensitive_info": "com",
    "dump_log": "func_name, exception_obj, output",
    "setGlobalTmpDir": "tmpDir",
    "useDevServer": "",
    "useIntrServer": "",
    "getPandaClientVer": "verbose=False",
    "getCachePrefixes": "verbose=False",
    "getCmtConfigList": "athenaVer, verbose=False",
    "registerProxyKey": "credname, origin, myproxy, verbose=False",
    "getProxyKey": "verbose=False",
    # added since
    "get_files_in_datasets": "task_id, dataset_types='input,pseudo_input', verbose=False",
    "get_task_details_json": "task_id, verbose=False",
    "get_tasks_detailed_info_since": "since=None, filters=None, n_tasks=500, verbose=False",
    "get_job_descriptions": "task_id, unsuccessful_only=False, verbose=False",
    "get_parent_detailed_info": "task_id, verbose=False",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    function = getattr(Client, name)
    parameters = inspect.signature(function).parameters.values()
    assert {parameter.kind for parameter in parameters} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    empty = inspect.Parameter.empty
    shown = [each.name if each.default is empty else f"{each.name}={each.default!r}" for each in parameters]
    assert ", ".join(shown) == SIGNATURES[name]
    assert function.__doc__


def test_there_are_no_others() -> None:
    assert set(Client.__all__) == set(SIGNATURES)


# --- words of the past -------------------------------------------------------------------------------------------------


def test_dump_log(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018 - an exception with a traceback
    assert Client.dump_log("here", caught.value, "the output") == "here failed : division by zero"
    shown = capsys.readouterr().out
    assert "Traceback" in shown
    assert "the output" in shown
    assert Client.dump_log("here", "no exception", 'Authorization: Bearer hunter2" x') == "here failed : no exception"
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    assert "x" in shown


# --- jobs and files --------------------------------------------------------------------------------------------------


def filled() -> JobSpec:
    job = JobSpec()
    job.PandaID = 17
    job.jobName = "mine"
    job.creationTime = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - as the mirror has times
    for name, kind in (("in.txt", "input"), ("out.txt", "output")):
        file = FileSpec()
        file.lfn, file.type, file.fsize = name, kind, 100
        job.addFile(file)
    return job


ZERO = (
    *("assignedPriority", "currentPriority", "attemptNr", "maxAttempt", "maxCpuCount", "maxDiskCount", "minRamCount"),
    *("cpuConsumptionTime", "pilotErrorCode", "exeErrorCode", "supErrorCode", "ddmErrorCode", "brokerageErrorCode"),
    *("jobDispatcherErrorCode", "taskBufferErrorCode", "nEvents", "relocationFlag", "jobExecutionID"),
    *("nOutputDataFiles", "outputFileBytes"),
)
NULL = (
    *("PandaID", "jobDefinitionID", "jobsetID", "jediTaskID", "taskID", "reqID", "parentID", "jobName", "schedulerID"),
    *("pilotID", "batchID", "job_label", "VO", "workingGroup", "countryGroup", "prodUserID", "prodUserName"),
    *(
        "prodSourceLabel",
        "processingType",
        "jobStatus",
        "jobSubStatus",
        "commandToPilot",
        "specialHandling",
        "lockedby",
    ),
    *("creationTime", "modificationTime", "stateChangeTime", "startTime", "endTime", "prodDBUpdateTime"),
    *("computingSite", "computingElement", "creationHost", "modificationHost", "destinationSE", "sourceSite"),
    *("destinationSite", "cloud", "nucleus", "grid", "resource_type", "gshare", "transformation", "AtlasRelease"),
    *("homepackage", "cmtConfig", "container_name", "jobParameters", "coreCount", "actualCoreCount", "maxWalltime"),
    *("metadata", "eventService", "transExitCode", "pilotErrorDiag", "exeErrorDiag", "supErrorDiag", "ddmErrorDiag"),
    *("brokerageErrorDiag", "jobDispatcherErrorDiag", "taskBufferErrorDiag", "prodDBlock", "dispatchDBlock"),
    *("destinationDBlock", "inputFileType", "inputFileProject", "inputFileBytes", "nInputFiles", "nInputDataFiles"),
    *("outputFileType", "cpuConsumptionUnit", "jobMetrics", "maxRSS", "maxVMEM", "maxSWAP", "maxPSS", "avgRSS"),
    *("avgVMEM", "avgSWAP", "avgPSS", "hs06", "hs06sec", "totRCHAR", "totWCHAR", "totRBYTES", "totWBYTES"),
    *("rateRCHAR", "rateWCHAR", "rateRBYTES", "rateWBYTES", "diskIO", "memory_leak", "memory_leak_x2", "pilotTiming"),
    *("gco2_regional", "gco2_global"),
)
FILE = (
    *("rowID", "PandaID", "GUID", "lfn", "type", "dataset", "status", "prodDBlock", "prodDBlockToken"),
    *("dispatchDBlock", "dispatchDBlockToken", "destinationDBlock", "destinationDBlockToken", "destinationSE"),
    *("md5sum", "checksum", "scope"),
)


def test_what_is_unset() -> None:
    job, file = JobSpec(), FileSpec()
    assert {name: getattr(job, name) for name in ZERO} == dict.fromkeys(ZERO, 0)
    assert {name: getattr(job, name) for name in NULL} == dict.fromkeys(NULL, "NULL")
    assert {name: getattr(file, name) for name in FILE} == dict.fromkeys(FILE, "NULL")
    assert file.fsize == 0
    assert job.Files == []
    job.jobName = "x"
    job.jobName = None
    job.attemptNr = None
    assert (job.jobName, job.attemptNr) == ("NULL", 0)


@pytest.mark.parametrize("kind", [JobSpec, FileSpec])
def test_there_are_no_other_attributes(kind: type[JobSpec | FileSpec]) -> None:
    spec = kind()
    with pytest.raises(AttributeError, match="jobname"):
        spec.jobname = "x"
    with pytest.raises(AttributeError, match="jobname"):
        spec.jobname  # noqa: B018 - reading is the test
    assert not hasattr(spec, "jobname")


def test_files_follow_their_job() -> None:
    job = filled()
    assert [file.PandaID for file in job.Files] == [17, 17]
    job.PandaID = 18
    assert [file.PandaID for file in job.Files] == [18, 18]
    file = FileSpec()
    file.PandaID = 3
    assert file.PandaID == 3
    file.setOwner(job)
    assert file.PandaID == 18
    job.setOwner("ann")
    assert job.prodUserName == "ann"


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy"])
def test_copies(way: str) -> None:
    job = filled()
    twin = {
        "pickle": lambda: pickle.loads(pickle.dumps(job)),
        "deepcopy": lambda: copy.deepcopy(job),
        "copy": lambda: copy.copy(job),
    }[way]()
    assert twin is not job
    assert twin.to_dict() == job.to_dict()
    assert [file.lfn for file in twin.Files] == ["in.txt", "out.txt"]
    twin.PandaID = 99
    twin.Files[0].lfn = "other"
    twin.addFile(FileSpec())
    assert [file.PandaID for file in twin.Files] == [99] * 3
    assert (job.PandaID, [file.PandaID for file in job.Files], job.Files[0].lfn) == (17, [17, 17], "in.txt")
    assert pickle.loads(pickle.dumps(job.Files[0])).PandaID == 17


def test_dictionaries() -> None:
    job = filled()
    found = job.dump_to_json_serializable()
    again = JobSpec()
    again.load_from_json_serializable(json.loads(json.dumps(found)))
    assert again.to_dict() == job.to_dict()
    assert [file.to_dict() for file in again.Files] == [file.to_dict() for file in job.Files]
    assert found["creationTime"] == "2026-01-02 03:04:05"
    assert found["pilotErrorCode"] == 0
    assert found["endTime"] == "NULL"
    loaded = JobSpec()
    loaded.load_from_dict({"jobName": "x", "no such": 1, "attemptNr": None, "Files": job.Files})
    assert (loaded.jobName, loaded.attemptNr, len(loaded.Files)) == ("x", 0, 2)
    assert len(job.values()) == len(job.columnNames().split(","))
    assert job.values()[job.columnNames().split(",").index("PandaID")] == 17
    assert datetime.now(UTC)


def test_small_questions(capsys: pytest.CaptureFixture[str]) -> None:
    job = filled()
    assert not job.isCancelled()
    job.jobStatus = "closed"
    assert job.isCancelled()
    assert JobSpec.truncateStringAttr("grid", "g" * 51) == "g" * 50
    assert JobSpec.truncateStringAttr("jobName", "g" * 51) == "g" * 51
    assert JobSpec.truncateStringAttr("grid", None) is None
    job.print_attributes()
    assert "PandaID: 17" in capsys.readouterr().out
    assert "17" in repr(job)
    assert "in.txt" in repr(job.Files[0])
