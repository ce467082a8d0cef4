"""What JobSpec and FileSpec have in common: attributes of a fixed list that can be set, or not.

PanDA, section 6.5 of its behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

#: What an attribute reads that was not set.
UNSET = "NULL"


class Spec:
    """Attributes that read `NULL`, or 0 where they are numbers, until they are set; None unsets one. Other names are AttributeErrors."""

    _what: ClassVar[str]
    _attributes: ClassVar[tuple[str, ...]]
    _zeroAttrs: ClassVar[tuple[str, ...]]

    _values: dict[str, Any]

    def __init__(self) -> None:
        """Nothing is set."""
        object.__setattr__(self, "_values", {})

    def __getattr__(self, name: str) -> Any:
        if name not in self._attributes:
            raise AttributeError(f"a {self._what} has no attribute {name!r}")
        return self._values.get(name, 0 if name in self._zeroAttrs else UNSET)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._attributes:
            raise AttributeError(f"a {self._what} has no attribute {name!r}")
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = value

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take what a pickle kept."""
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def resetChangedList(self) -> None:
        """Nothing: changes are not kept apart."""

    def values(self) -> tuple[Any, ...]:
        """Return the values of all attributes, in their order."""
        return tuple(getattr(self, name) for name in self._attributes)

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes by name."""
        return {name: getattr(self, name) for name in self._attributes}

    def load_from_dict(self, values: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave; names that there are not are left out."""
        for name in self._attributes:
            if name in values:
                value = self._read(name, values[name])
                setattr(self, name, None if value == UNSET else value)

    def load_from_json_serializable(self, values: Mapping[str, Any]) -> None:
        """Take over what `dump_to_json_serializable` gave."""
        self.load_from_dict(values)

    def _read(self, _name: str, value: Any) -> Any:
        """Return a value as an attribute has it."""
        return value
