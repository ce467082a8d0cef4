"""JobSpec and FileSpec from what the service says, and the other way round.

PanDA, sections 6.4 and 6.5 of its behaviour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from drayman.client.job_values import Job, JobFile, job_of
from drayman.client.task_values import Task
from drayman.pandaclient import moments
from drayman.pandaclient.attributes import UNSET
from drayman.pandaclient.FileSpec import FileSpec
from drayman.pandaclient.identifiers import whole
from drayman.pandaclient.JobSpec import JobSpec
from drayman.task.v1 import job_pb2, job_service_pb2

_TIMES = ("creationTime", "modificationTime", "stateChangeTime", "startTime", "endTime")
_MADE = ("output", "log")
_MD5 = re.compile(r"(?:md5:)?([0-9a-f]{32})", re.IGNORECASE)
_LARGEST = 2**63 - 1
#: `specialHandling` of a job whose worker sends the tail of its output.
_DEBUG = "debug"
#: What was found out when a job ran: no matter of the one that is submitted anew.
_OF_A_RUN = frozenset(
    {
        *("jobSubStatus", "modificationHost", "lockedby", "actualCoreCount", "prodDBUpdateTime", "pilotTiming"),
        *("cpuConsumptionTime", "cpuConsumptionUnit", "hs06", "hs06sec", "diskIO", "memory_leak", "memory_leak_x2"),
        *(f"{kind}{what}" for kind in ("max", "avg") for what in ("RSS", "VMEM", "SWAP", "PSS")),
        *(f"{kind}{what}" for kind in ("tot", "rate") for what in ("RCHAR", "WCHAR", "RBYTES", "WBYTES")),
        *(f"{part}Error{half}" for part in ("sup", "ddm", "brokerage") for half in ("Code", "Diag")),
        *("gco2_regional", "gco2_global", "nInputFiles", "nInputDataFiles", "inputFileBytes", "outputFileBytes"),
    }
)


def job_spec(message: job_pb2.Job) -> JobSpec | None:
    """Return what the service says of a job; None where there is none."""
    job = job_of(message)
    if job is None:
        return None
    spec = JobSpec()
    values = job.fields | _said(job)
    spec.load_from_dict({name: value for name, value in values.items() if value not in (None, "")})
    for name, moment in zip(
        _TIMES, (job.create_time, job.update_time, job.state_time, job.start_time, job.end_time), strict=True
    ):
        setattr(spec, name, moments.plain(moment))
    for file in job.files:
        spec.addFile(_file_spec(file, job.task_id))
    if job.files:
        _count(spec)
    return spec


def add_task(spec: JobSpec, task: Task) -> None:
    """Add to a job what its task says."""
    said = task.attributes
    values = {
        "reqID": task.request_id,
        "VO": task.vo,
        "workingGroup": task.working_group,
        "processingType": task.processing_type,
        "AtlasRelease": said.get("transUses"),
        "homepackage": said.get("transHome"),
        "cmtConfig": said.get("architecture"),
        "container_name": said.get("container_name"),
        "coreCount": said.get("coreCount"),
        "minRamCount": said.get("ramCount"),
        "cloud": said.get("cloud"),
    }
    for name, value in values.items():
        if value not in (None, "") and getattr(spec, name) in (UNSET, 0):
            setattr(spec, name, value)


def submission(spec: JobSpec, host: str) -> job_service_pb2.JobSubmission:
    """Return a job to submit from a host. Raises ValueError for what cannot be sent."""
    said = {name: value for name, value in spec.to_dict().items() if name not in _OF_A_RUN and value not in (UNSET, 0)}
    if spec.jediTaskID != UNSET:
        said.pop("taskID", None)  # the task that it was read from
    if spec.specialHandling == _DEBUG:
        said.pop("specialHandling")
    fields = {name: _sendable(value, name) for name, value in said.items()}
    fields["creationHost"] = host
    return job_service_pb2.JobSubmission(fields_json=json.dumps(fields), files=[_job_file(file) for file in spec.Files])


def _said(job: Job) -> dict[str, Any]:
    """Return what counts, whatever a worker or a submission said of it."""
    return {
        "PandaID": job.job_id,
        "jobDefinitionID": job.definition_id or None,
        "jobsetID": job.definition_id or None,
        "jediTaskID": job.task_id or None,
        "taskID": job.task_id or None,
        "parentID": job.parent_job_id or None,
        "jobName": job.name,
        "jobStatus": job.state,
        "jobSubStatus": job.substate,
        "commandToPilot": job.order,
        "specialHandling": _DEBUG if job.debug else None,
        "attemptNr": job.attempt,
        "maxAttempt": job.attempt,
        "currentPriority": job.priority,
        "assignedPriority": job.fields.get("assignedPriority", job.priority),
        "prodUserID": job.owner,
        "prodUserName": job.owner,
        "prodSourceLabel": job.label,
        "transformation": job.program,
        "jobParameters": job.parameters,
        "computingSite": job.site or job.fields.get("computingSite"),
        "batchID": job.worker_id,
        "modificationHost": job.node,
    }


def _file_spec(file: JobFile, task_id: int) -> FileSpec:
    spec = FileSpec()
    md5 = _MD5.fullmatch(file.checksum)
    values = {
        "rowID": file.number or None,
        "GUID": file.guid,
        "lfn": file.name,
        "type": file.type,
        "dataset": file.dataset,
        "status": file.status,
        "destinationDBlock" if file.type in _MADE else "prodDBlock": file.dataset,
        "fsize": file.size or None,
        "checksum": file.checksum,
        "md5sum": md5[1] if md5 else None,
        "scope": file.scope,
        "jediTaskID": task_id or None,
        "registry": file.registry,
        "urls": list(file.urls) or None,
    }
    spec.load_from_dict(file.fields)
    spec.load_from_dict({name: value for name, value in values.items() if value})
    return spec


def _count(spec: JobSpec) -> None:
    read = [file for file in spec.Files if file.type == "input"]
    made = [file for file in spec.Files if file.type == "output"]
    spec.nInputFiles = spec.nInputDataFiles = len(read)
    spec.inputFileBytes = sum(file.fsize for file in read)
    spec.nOutputDataFiles = len(made)
    spec.outputFileBytes = sum(file.fsize for file in made)
    for name, files in (("prodDBlock", read), ("destinationDBlock", made)):
        if getattr(spec, name) == UNSET and files:
            setattr(spec, name, ",".join(dict.fromkeys(file.dataset for file in files)))


def _job_file(spec: FileSpec) -> job_pb2.JobFile:
    made = spec.type in _MADE
    blocks = ("destinationDBlock", "dataset") if made else ("dataset", "prodDBlock")
    checksum = _text(spec.checksum) or _text(spec.md5sum)
    md5 = _MD5.fullmatch(checksum)
    size = whole(spec.fsize) or 0
    named = ("lfn", "type", "fsize", "checksum", "md5sum", "scope", "GUID", "dataset", "registry", "urls", "PandaID")
    rest = {name: value for name, value in spec.to_dict().items() if name not in named and value != UNSET}
    return job_pb2.JobFile(
        name=_text(spec.lfn),
        type=_text(spec.type),
        dataset=next((found for name in blocks if (found := _text(getattr(spec, name)))), ""),
        size=size if 0 < size <= _LARGEST else 0,
        checksum=f"md5:{md5[1]}" if md5 else checksum,
        scope=_text(spec.scope),
        guid=_text(spec.GUID),
        registry="" if made else _text(spec.registry),
        urls=[] if made or spec.urls == UNSET else _texts(spec.urls),
        fields_json=json.dumps({name: _sendable(value, name) for name, value in rest.items()}),
    )


def _text(value: Any) -> str:
    return "" if value in (None, UNSET) else str(value)


def _texts(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, Iterable) and not isinstance(value, str) else [str(value)]


def _sendable(value: Any, name: str) -> Any:
    """Return a value as JSON can have it."""
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return value
    return JobSpec.truncateStringAttr(name, str(value))
