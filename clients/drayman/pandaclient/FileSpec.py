"""A file of a job, as programs have it that were written for PanDA.

PanDA, section 6.5 of its behaviour.
"""

from __future__ import annotations

from typing import Any

from drayman.pandaclient.attributes import Spec


class FileSpec(Spec):
    """A file of a job: attributes that read `NULL` (`fsize`: 0) until they are set. `PandaID` is the job's that has it.

    `registry` (`project/asset/version/path`) and `urls` say where an input is; those of a job that was read can be submitted again.
    """

    _what = "file"
    _attributes = (
        "rowID",
        "PandaID",
        "GUID",
        "lfn",
        "type",
        "dataset",
        "status",
        "prodDBlock",
        "prodDBlockToken",
        "dispatchDBlock",
        "dispatchDBlockToken",
        "destinationDBlock",
        "destinationDBlockToken",
        "destinationSE",
        "fsize",
        "md5sum",
        "checksum",
        "scope",
        "jediTaskID",
        "registry",
        "urls",
    )
    _zeroAttrs = ("fsize",)

    def __init__(self) -> None:
        """A file without anything."""
        super().__init__()
        object.__setattr__(self, "_owner", None)

    def __getattr__(self, name: str) -> Any:
        if name == "PandaID" and self._owner is not None:
            return self._owner.PandaID
        return super().__getattr__(name)

    def __repr__(self) -> str:
        return f"<FileSpec {self.type} {self.lfn}>"

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy keeps."""
        return {"_values": dict(self._values), "_owner": self._owner}

    def __copy__(self) -> FileSpec:
        made = FileSpec()
        made._values.update(self._values)
        return made

    def setOwner(self, owner: Any) -> None:
        """Say which job has the file: `PandaID` is then that job's."""
        object.__setattr__(self, "_owner", owner)

    def dump_to_json_serializable(self) -> dict[str, Any]:
        """Return all attributes, as JSON can have them."""
        return self.to_dict()
