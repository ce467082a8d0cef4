"""Jobs that belong to no task: what they were submitted with, by PanDA's names, and what a worker gets of it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drayman.server.task.dataset_names import DatasetNameError, Place, RegistryVersion, output_place, parse
from drayman.server.task.job_rendering import ExpectedOutput, JobInput, Rendered, RenderingError
from drayman.server.task.plan import Requirements

#: Labels that jobs may have (`prodSourceLabel`); the first if none is said.
LABELS = ("user", "panda", "managed", "test", "ptest", "prod_test", "rc_test", "rc_test2", "rc_alrb", "install")
#: Of these one needs the production role.
PRODUCTION_LABEL = "managed"
_USUAL_PRIORITY = 1000

#: What the service says, whatever a submission says of it: a job that was read can be submitted again.
_OURS = frozenset(
    {
        "PandaID",
        "jobDefinitionID",
        "jobsetID",
        "jobStatus",
        "prodUserName",
        "prodUserID",
        "creationTime",
        "modificationTime",
        "stateChangeTime",
        "startTime",
        "endTime",
        "batchID",
        "commandToPilot",
        "attemptNr",
        "parentID",
        "jobDispatcherErrorCode",
        "jobDispatcherErrorDiag",
        "taskBufferErrorCode",
        "taskBufferErrorDiag",
        "pilotErrorCode",
        "pilotErrorDiag",
        "exeErrorCode",
        "exeErrorDiag",
        "transExitCode",
        "Files",
        "jediTaskID",
    }
)
_UNSAFE_NAME = re.compile("[\x00-\x1f\x7f-\x9f/\\\\]")
_MOST = 2**31 - 1


def is_set(value: object) -> bool:
    """Whether a field says anything: unset ones of JobSpec read `NULL`."""
    return value is not None and value not in ("", "NULL")


def without_ours(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what says nothing, and what the service says."""
    return {name: value for name, value in fields.items() if name not in _OURS and is_set(value)}


def label_of(fields: Mapping[str, Any]) -> str:
    """Return a job's label."""
    label = fields.get("prodSourceLabel")
    return str(label) if is_set(label) else LABELS[0]


def priority_of(fields: Mapping[str, Any], *, production: bool) -> int:
    """Return a job's priority; without the production role at most the usual one. Raises RenderingError."""
    name = "currentPriority" if is_set(fields.get("currentPriority")) else "assignedPriority"
    priority = _whole(fields, name, _USUAL_PRIORITY, least=-_MOST)
    return priority if production else min(priority, _USUAL_PRIORITY)


def requirements_of(fields: Mapping[str, Any]) -> Requirements:
    """Return what a job asks of its worker. Raises RenderingError."""
    site = fields.get("computingSite")
    sites = str(site).split(",") if is_set(site) and str(site).upper() not in ("ANY", "AUTO") else []
    platform = fields.get("cmtConfig")
    return Requirements(
        cores=max(_whole(fields, "coreCount"), 1),
        memory_mb=_whole(fields, "minRamCount"),
        disk_mb=_whole(fields, "maxDiskCount"),
        walltime_seconds=_whole(fields, "maxWalltime"),
        platform=str(platform) if is_set(platform) else "",
        sites=frozenset(name.strip() for name in sites if name.strip()),
        label=label_of(fields),
    )


def check(own: Mapping[str, Any], *, outputs: str) -> None:
    """See whether a worker could be told what to do. Raises RenderingError."""
    if not is_set(own.get("transformation")):
        raise RenderingError("transformation is missing: the program to run")
    rendered = render_own(own, 1, outputs=outputs)
    names = [output.name for output in rendered.outputs]
    if len(set(names)) < len(names):
        raise RenderingError("two outputs have the same name")


def render_own(own: Mapping[str, Any] | str, job_id: int, *, outputs: str) -> Rendered:
    """Render a job without a task; `outputs` is the registry's project of datasets that name none. Raises RenderingError."""
    fields: Mapping[str, Any] = json.loads(own) if isinstance(own, str) else own
    inputs: list[JobInput] = []
    made: list[ExpectedOutput] = []
    for file in fields.get("Files", ()):
        if file["type"] in ("output", "log"):
            made.append(_output(file, job_id, outputs))
        else:
            inputs.append(_input(file, outputs))
    parameters = fields.get("jobParameters")
    return Rendered(
        str(fields.get("transformation", "")),
        str(parameters) if is_set(parameters) else "",
        tuple(inputs),
        tuple(made),
        {},
    )


def _input(file: Mapping[str, Any], outputs: str) -> JobInput:
    dataset = next((str(file[name]) for name in ("dataset", "prodDBlock") if is_set(file.get(name))), "")
    place = str(file.get("registry") or "")
    if not place and dataset and not file.get("urls"):
        try:
            found = parse(dataset, outputs)
        except DatasetNameError:
            found = None
        if isinstance(found, RegistryVersion):
            place = f"{found.project}/{found.asset}/{found.version}/{file['lfn']}"
    checksum = next((str(file[name]) for name in ("checksum", "md5sum") if is_set(file.get(name))), "")
    return JobInput(
        str(file["lfn"]),
        "pseudo_input" if file["type"] == "pseudo_input" else "input",
        dataset,
        "IN",
        size=_whole(file, "fsize"),
        checksum=checksum,
        scope=str(file["scope"]) if is_set(file.get("scope")) else "",
        registry=place,
        urls=tuple(str(url) for url in file.get("urls") or ()),
        guid=str(file["GUID"]) if is_set(file.get("GUID")) else "",
    )


def _output(file: Mapping[str, Any], job_id: int, outputs: str) -> ExpectedOutput:
    name = str(file["lfn"])
    if not name or name.startswith("..") or name == "." or _UNSAFE_NAME.search(name):
        raise RenderingError(f"{name[:80]!r} cannot name a file that a job makes")
    said = (file.get(field) for field in ("destinationDBlock", "dataset"))
    dataset = next((str(value) for value in said if is_set(value)), f"job.{job_id}")
    try:
        place = output_place(dataset, outputs=outputs, task_id=job_id, serial=0)
    except DatasetNameError as error:
        raise RenderingError(str(error)) from error
    # what a job makes is a version of its own
    version = place.assembled if place.assembled == str(job_id) else f"{place.assembled}.{job_id}"
    where: Place = replace(place, version=version, assembled=version)
    return ExpectedOutput(name, str(file.get("stream") or file["type"].upper()), file["type"], dataset, where, False)


def _whole(fields: Mapping[str, Any], name: str, default: int = 0, *, least: int = 0) -> int:
    value = fields.get(name)
    if not is_set(value):
        return default
    try:
        number = int(str(value))
    except ValueError:
        raise RenderingError(f"{name} {str(value)[:80]!r} is no whole number") from None
    if not least <= number <= (2**62 if name == "fsize" else _MOST):
        raise RenderingError(f"{name} {number} is out of range")
    return number
