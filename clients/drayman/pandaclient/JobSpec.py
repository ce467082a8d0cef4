"""A job, as programs have it that were written for PanDA.

PanDA, section 6.5 of its behaviour.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from drayman.pandaclient import moments
from drayman.pandaclient.attributes import Spec
from drayman.pandaclient.FileSpec import FileSpec

_ERRORS = ("pilot", "exe", "sup", "ddm", "brokerage", "jobDispatcher", "taskBuffer")
_TIMES = ("creationTime", "modificationTime", "stateChangeTime", "startTime", "endTime", "prodDBUpdateTime")


class JobSpec(Spec):
    """A job: attributes that read `NULL`, or 0 where they are numbers, until they are set; `Files` are its FileSpecs.

    Times are `datetime` in UTC that do not say so.
    """

    _what = "job"
    _attributes = (
        *("PandaID", "jobDefinitionID", "jobsetID", "jediTaskID", "taskID", "reqID", "parentID", "jobName"),
        *("schedulerID", "pilotID", "batchID", "job_label", "VO", "workingGroup", "countryGroup", "prodUserID"),
        *("prodUserName", "prodSourceLabel", "prodSeriesLabel", "processingType", "workQueue_ID"),
        *("assignedPriority", "currentPriority", "attemptNr", "maxAttempt", "failedAttempt"),
        *("maxCpuCount", "maxCpuUnit", "maxDiskCount", "maxDiskUnit", "minRamCount", "minRamUnit", "ipConnectivity"),
        *("nEvents", "relocationFlag", "jobExecutionID"),
        *("jobStatus", "jobSubStatus", "commandToPilot", "specialHandling", "lockedby"),
        *_TIMES,
        *("computingSite", "computingElement", "creationHost", "modificationHost", "destinationSE", "sourceSite"),
        *("destinationSite", "cloud", "nucleus", "grid", "resource_type", "gshare", "transferType"),
        *("transformation", "AtlasRelease", "homepackage", "cmtConfig", "container_name", "jobParameters"),
        *("coreCount", "actualCoreCount", "maxWalltime", "metadata", "eventService", "cpu_architecture_level"),
        "transExitCode",
        *(f"{part}Error{half}" for part in _ERRORS for half in ("Code", "Diag")),
        *("prodDBlock", "dispatchDBlock", "destinationDBlock", "inputFileType", "inputFileProject", "inputFileBytes"),
        *("nInputFiles", "nInputDataFiles", "outputFileType", "nOutputDataFiles", "outputFileBytes"),
        *("cpuConsumptionTime", "cpuConsumptionUnit", "cpuConversion", "jobMetrics"),
        *(f"{kind}{what}" for kind in ("max", "avg") for what in ("RSS", "VMEM", "SWAP", "PSS")),
        *("hs06", "hs06sec", "totRCHAR", "totWCHAR", "totRBYTES", "totWBYTES"),
        *("rateRCHAR", "rateWCHAR", "rateRBYTES", "rateWBYTES", "diskIO", "memory_leak", "memory_leak_x2"),
        *("pilotTiming", "gco2_regional", "gco2_global"),
    )
    _zeroAttrs = (
        *("assignedPriority", "currentPriority", "attemptNr", "maxAttempt", "maxCpuCount", "maxDiskCount"),
        *("minRamCount", "cpuConsumptionTime", *(f"{part}ErrorCode" for part in _ERRORS)),
        *("nEvents", "relocationFlag", "jobExecutionID", "nOutputDataFiles", "outputFileBytes"),
    )
    #: Characters of texts that the service keeps.
    _limitLength = {  # noqa: RUF012 - programs read it on the class
        "pilotErrorDiag": 500,
        "exeErrorDiag": 500,
        "supErrorDiag": 250,
        "ddmErrorDiag": 500,
        "brokerageErrorDiag": 250,
        "jobDispatcherErrorDiag": 250,
        "taskBufferErrorDiag": 300,
        "jobSubStatus": 80,
        "commandToPilot": 250,
        "inputFileType": 32,
        "outputFileType": 32,
        "grid": 50,
        "sourceSite": 36,
        "destinationSite": 36,
    }

    Files: list[FileSpec]

    def __init__(self) -> None:
        """A job without anything."""
        super().__init__()
        object.__setattr__(self, "Files", [])

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "Files":
            super().__setattr__(name, value)
            return
        object.__setattr__(self, "Files", [])
        for file in value:
            self.addFile(file)

    def __repr__(self) -> str:
        return f"<JobSpec {self.PandaID} {self.jobStatus}>"

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a deep copy keeps."""
        return {"_values": dict(self._values), "Files": self.Files}

    def __copy__(self) -> JobSpec:
        made = JobSpec()
        made._values.update(self._values)
        made.Files = [copy.copy(file) for file in self.Files]
        return made

    def addFile(self, file: FileSpec) -> None:
        """Add a file, which is this job's from now on."""
        file.setOwner(self)
        self.Files.append(file)

    def setOwner(self, owner: str) -> None:
        """Say whose job it is: `prodUserName`. The service takes who submits it, whatever is said here."""
        self.prodUserName = owner

    def print_attributes(self) -> None:
        """Print all attributes."""
        for name, value in self.to_dict().items():
            print(f"{name}: {value}")

    def isCancelled(self) -> bool:
        """Whether the job was cancelled or closed."""
        return self.jobStatus in ("cancelled", "closed")

    @classmethod
    def columnNames(cls) -> str:
        """Return the names of all attributes, parted by commas."""
        return ",".join(cls._attributes)

    @classmethod
    def truncateStringAttr(cls, attr: str, val: str | None) -> str | None:
        """Cut a text to what the service keeps of an attribute."""
        return val if val is None else val[: cls._limitLength.get(attr)]

    def load_from_dict(self, values: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave, and `Files` if they are there; names that a job has not are left out."""
        super().load_from_dict(values)
        files = values.get("Files")
        if files is not None:
            self.Files = [_file(each) for each in files]

    def dump_to_json_serializable(self) -> dict[str, Any]:
        """Return all attributes and `Files`, as JSON can have them: times as texts."""
        found = {
            name: value.strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, datetime) else value
            for name, value in self.to_dict().items()
        }
        return found | {"Files": [file.dump_to_json_serializable() for file in self.Files]}

    def _read(self, name: str, value: Any) -> Any:
        return (moments.plain(moments.read(value)) or value) if name in _TIMES and isinstance(value, str) else value


def _file(values: FileSpec | Mapping[str, Any]) -> FileSpec:
    if isinstance(values, FileSpec):
        return values
    made = FileSpec()
    made.load_from_dict(values)
    return made
