"""What the methods take: documented arguments checked and turned into the services' messages.

Data Dispatcher, section 2 of its behaviour.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex, TypeAlias, TypeVar

from google.protobuf.duration_pb2 import Duration

from drayman.data_dispatcher.shapes import HANDLE_STATES, PROJECT_STATES
from drayman.dispatch.v1 import project_pb2, project_service_pb2

#: A project id: an int, or its digits.
ProjectId: TypeAlias = "int | str"
#: A file: `namespace:name`, or a dict with `namespace` and `name`, such as a handle dict.
FileName: TypeAlias = "str | Mapping[str, Any]"
#: A span: seconds, `"300"`, `"5m"`, `"2h"`, `"1d"`, or a word for none.
Span: TypeAlias = "float | str | None"

_Part = TypeVar("_Part", project_service_pb2.CreateProjectRequest, project_service_pb2.AddFilesRequest)

_FILES_A_MESSAGE = 1_000
_BYTES_A_MESSAGE = 1 << 20
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NO_SPAN = ("none", "no timeout")
_SPAN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([smhd]?)\s*", re.ASCII)

_PROJECT_STATES = {name: value for value, name in PROJECT_STATES.items()}
_HANDLE_STATES = {name: value for value, name in HANDLE_STATES.items()}


def project_id(given: ProjectId | SupportsIndex | None) -> int:
    """Return a project id. Raises ValueError if it is none."""
    if given is None or given == "" or isinstance(given, bool):
        raise ValueError("no project id")
    try:
        number = int(given)
    except (TypeError, ValueError):
        raise ValueError(f"project id {given!r} is not a number") from None
    # what does not fit names no project, as little as 0 does
    return number if 0 < number < 1 << 63 else 0


def did(given: FileName) -> project_pb2.Did:
    """Return a file's name, text split at the first colon. Raises ValueError if it is neither text with a colon nor a proper dict."""
    if isinstance(given, str):
        namespace, colon, name = given.partition(":")
        if not colon:
            raise ValueError(f"{given!r}: expected namespace:name")
        return project_pb2.Did(namespace=namespace, name=name)
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r}: expected a namespace:name string or a dict")  # noqa: TRY004 - the documented class
    parts = [given.get("namespace"), given.get("name")]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{given!r}: namespace and name are needed, as text")
    return project_pb2.Did(namespace=parts[0], name=parts[1])


def other_readings(given: FileName) -> Iterator[project_pb2.Did]:
    """Yield what text with several colons could mean as well: a namespace may have colons too."""
    if isinstance(given, str):
        parts = given.split(":")
        for count in range(2, len(parts)):
            yield project_pb2.Did(namespace=":".join(parts[:count]), name=":".join(parts[count:]))


def json_object(attributes: Mapping[str, Any] | None) -> str:
    """Return attributes as JSON: integers of any size, text as it is, keys in their order. Raises ValueError or TypeError."""
    return json.dumps(dict(attributes or {}), ensure_ascii=False, allow_nan=False)


def file_parts(files: Iterable[FileName], common: Mapping[str, Any], kind: type[_Part]) -> list[_Part]:
    """Return the messages of one kind that carry a file list, its end included. Raises ValueError as `did` and `json_object` do."""
    parts: list[_Part] = []
    batch: list[project_pb2.File] = []
    size = count = 0
    shared = json_object(common) if common else ""
    for item in files:
        own = item.get("attributes") if isinstance(item, Mapping) else None
        text = json_object({**common, **own}) if own else shared
        file = project_pb2.File(did=did(item), attributes_json=text)
        size += file.ByteSize()
        if batch and (len(batch) == _FILES_A_MESSAGE or size > _BYTES_A_MESSAGE):
            parts.append(kind(files=project_service_pb2.FileBatch(files=batch)))
            batch, size = [], file.ByteSize()
        batch.append(file)
        count += 1
    if batch:
        parts.append(kind(files=project_service_pb2.FileBatch(files=batch)))
    parts.append(kind(end=project_service_pb2.EndOfFiles(file_count=count)))
    return parts


def span(given: Span) -> Duration | None:
    """Return a span; None = none. Numbers of zero or less mean none as well. Raises ValueError on other text, TypeError on other types."""
    if given is None:
        return None
    if isinstance(given, str):
        if given.strip().lower() in _NO_SPAN:
            return None
        match = _SPAN.fullmatch(given)
        if match is None:
            raise ValueError(f"{given!r} is no span: expected seconds, or a number with s, m, h or d, or none")
        given = float(match[1]) * _UNITS[match[2]]
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{given!r} is no span in seconds")
    if given <= 0:
        return None
    return exact_span(given)


def exact_span(seconds: float) -> Duration:
    """Return a span of so many seconds, 0 included."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def span_change(given: Span) -> project_service_pb2.TimeoutChange | None:
    """Return what a copy's time-out becomes; None = as in the original, which is what None and `"default"` mean."""
    if given is None or given == "default":
        return None
    return project_service_pb2.TimeoutChange(value=span(given))


def project_state(name: str | None) -> project_pb2.ProjectState | None:
    """Return a filter by project state: UNSPECIFIED for None and `"all"`, None for a state that does not exist."""
    if name is None or name == "all":
        return project_pb2.PROJECT_STATE_UNSPECIFIED
    return _PROJECT_STATES.get(name)


def handle_state(name: str | None) -> project_pb2.HandleState | None:
    """Return a filter by handle state: UNSPECIFIED for None and `"all"`, None for a state that does not exist."""
    if name is None or name == "all":
        return project_pb2.HANDLE_STATE_UNSPECIFIED
    return _HANDLE_STATES.get(name)


def replica(given: Mapping[str, Any]) -> project_pb2.Replica:
    """Return a replica from a dict. Raises ValueError without namespace, name and rse."""
    rse = given.get("rse")
    if not isinstance(rse, str) or not rse:
        raise ValueError(f"{given!r}: an rse is needed")
    url = given.get("url")
    urls = given.get("urls") or ([url] if url else [])
    return project_pb2.Replica(
        did=did(given),
        rse=rse,
        path=given.get("path"),
        urls=urls,
        preference=given.get("preference") or 0,
        available=given.get("available", True),
    )
