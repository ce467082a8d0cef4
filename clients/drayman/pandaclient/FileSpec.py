"""A file of a job, as programs have it that were written for PanDA.

PanDA, section 6.5 of its behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What an attribute reads that was not set.
UNSET = "NULL"


class FileSpec:
    """A file of a job: attributes that read `NULL` (`fsize`: 0) until they are set. `PandaID` is the job's that has it.

    `registry` (`project/asset/version/path`) and `urls` say where an input is; those of a job that was read can be submitted again.
    """

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
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_owner", None)

    def __getattr__(self, name: str) -> Any:
        if name not in self._attributes:
            raise AttributeError(f"a file has no attribute {name!r}")
        if name == "PandaID" and self._owner is not None:
            return self._owner.PandaID
        return self._values.get(name, 0 if name in self._zeroAttrs else UNSET)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._attributes:
            raise AttributeError(f"a file has no attribute {name!r}")
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value

    def __repr__(self) -> str:
        return f"<FileSpec {self.type} {self.lfn}>"

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle or a copy keeps."""
        return {"_values": dict(self._values), "_owner": self._owner}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take what a pickle kept."""
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def __copy__(self) -> FileSpec:
        made = FileSpec()
        made._values.update(self._values)
        return made

    def setOwner(self, owner: Any) -> None:
        """Say which job has the file: `PandaID` is then that job's."""
        object.__setattr__(self, "_owner", owner)

    def resetChangedList(self) -> None:
        """Nothing: changes are not kept apart."""

    def values(self) -> tuple[Any, ...]:
        """Return the values of all attributes, in their order."""
        return tuple(getattr(self, name) for name in self._attributes)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes by name."""
        return {name: getattr(self, name) for name in self._attributes}

    def load_from_dict(self, values: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave; names that a file has not are left out."""
        for name in self._attributes:
            if name in values:
                value = values[name]
                setattr(self, name, None if value == UNSET else value)

    def dump_to_json_serializable(self) -> dict[str, Any]:
        """Return all attributes, as JSON can have them."""
        return self.to_dict()

    def load_from_json_serializable(self, values: Mapping[str, Any]) -> None:
        """Take over what `dump_to_json_serializable` gave."""
        self.load_from_dict(values)
