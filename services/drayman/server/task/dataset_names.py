"""What the name of a dataset means: a dispatch project, or something in the registry. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

_DISPATCH = "dispatch:"
_DIGITS = re.compile("[0-9]{1,18}")
_PART = re.compile(r"(.+)\.[0-9]{6,10}", re.DOTALL)
_AGAIN = re.compile(r"(.+)-([0-9]{1,9})", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST_NAME = 255
#: Bytes that ".<serial>" may take of a version's name.
_SERIAL = 11


class DatasetNameError(ValueError):
    """A name that means nothing; the text says what would."""


@dataclass(frozen=True, slots=True)
class DispatchProject:
    """The files of a project of the dispatch service."""

    project_id: int


@dataclass(frozen=True, slots=True)
class RegistryVersion:
    """The files of one version."""

    project: str
    asset: str
    version: str


@dataclass(frozen=True, slots=True)
class RegistryLatest:
    """The files of an asset's latest version."""

    project: str
    asset: str


@dataclass(frozen=True, slots=True)
class RegistryAsset:
    """The files of all versions of an asset."""

    project: str
    asset: str


Dataset = DispatchProject | RegistryVersion | RegistryLatest | RegistryAsset


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job's outputs go in the registry, and the version that all of them make in the end."""

    project: str
    asset: str
    version: str
    assembled: str


def parse(name: str, outputs: str) -> Dataset:
    """Tell what a dataset's name means; `outputs` is the registry's project of those that are named without one.

    `123` and `dispatch:123` are dispatch projects, `p/a/v` is a version, `p/a` an asset's latest version, `p/a/` all its versions, and
    `D` or `D/` all versions of the asset `D` of `outputs`. Raises DatasetNameError.
    """
    text = name.strip()
    digits = text.removeprefix(_DISPATCH)
    if _DIGITS.fullmatch(digits) and int(digits):
        return DispatchProject(int(digits))
    if digits != text or (digits.isascii() and digits.isdigit()):
        raise DatasetNameError(f"{_shown(name)} is no dispatch project: they have whole numbers from 1 on")
    container = text.endswith("/")
    parts = _parts(name, text.removesuffix("/"))
    match parts:
        case [asset]:
            return RegistryAsset(outputs, asset)
        case [project, asset]:
            return RegistryAsset(project, asset) if container else RegistryLatest(project, asset)
        case [project, asset, version]:
            return RegistryVersion(project, asset, version)
    raise DatasetNameError(
        f"{_shown(name)} names no dataset: give a dispatch project (123), project/asset/version, project/asset,"
        " project/asset/ or the name of an output dataset"
    )


def output_place(dataset: str, *, outputs: str, task_id: int, serial: int) -> Place:
    """Return where the outputs of a task's job go that belong to a dataset: `D`, `p/a` or `p/a/v`, `/` at the end or not.

    Raises DatasetNameError, for names of dispatch projects too: those keep no bytes.
    """
    text = dataset.strip()
    digits = text.removeprefix(_DISPATCH)
    if digits != text or (digits.isascii() and digits.isdigit()):
        raise DatasetNameError(
            f"{_shown(dataset)} is a dispatch project, and outputs go to the registry: give a name or project/asset"
        )
    parts = _parts(dataset, text.removesuffix("/"))
    match parts:
        case [asset]:
            project, version = outputs, str(task_id)
        case [project, asset]:
            version = str(task_id)
        case [project, asset, version]:
            pass
        case _:
            raise DatasetNameError(
                f"{_shown(dataset)} is no place for outputs: give a name, project/asset or project/asset/version"
            )
    if len(version.encode()) > _LONGEST_NAME - _SERIAL:
        raise DatasetNameError(
            f"the version of {_shown(dataset)} is too long for parts of it: at most {_LONGEST_NAME - _SERIAL} bytes"
        )
    return Place(project, asset, f"{version}.{serial:06d}", version)


def assembled_in(version: str, attempt: int) -> str:
    """Return the version that all outputs of a task make in the end, begun for the n-th time: what is published stays as it is."""
    return version if attempt == 1 else f"{version}-{attempt}"


def whole(versions: Mapping[str, datetime]) -> list[str]:
    """Leave out versions whose files another one in the list has: each with the time of its publication. The order stays.

    `7.000001` is a part of `7`, or of `7-2` after a retry, if it was there before that was put together; of `7` and `7-2` the later one has
    all that the other has.
    """
    made: dict[str, tuple[int, str]] = {}  # of each version that has parts: the one put together last
    parts = {name: part[1] for name in versions if (part := _PART.fullmatch(name))}
    for name in versions:
        begun = _AGAIN.fullmatch(name)
        version, attempt = (begun[1], int(begun[2])) if begun else (name, 1)
        for of, number in {(name, 1), (version, attempt)}:
            if of in parts.values() and number >= made.get(of, (0, ""))[0]:
                made[of] = (number, name)

    def is_elsewhere(name: str) -> bool:
        of = parts.get(name)
        if of is not None and of in made:
            return versions[name] <= versions[made[of][1]]
        return any(
            name != last and (name == of or ((begun := _AGAIN.fullmatch(name)) is not None and begun[1] == of))
            for of, (_, last) in made.items()
        )

    return [name for name in versions if not is_elsewhere(name)]


def _parts(name: str, text: str) -> list[str]:
    """Split at slashes what may be names of the registry."""
    parts = text.split("/")
    for part in parts:
        if not part:
            raise DatasetNameError(f"{_shown(name)} names no dataset: there is an empty part")
        if part == "." or part.startswith(".."):
            raise DatasetNameError(f"{_shown(name)} names no dataset: no part may be '.' or begin with '..'")
        if "\\" in part or _CONTROL.search(part):
            raise DatasetNameError(f"{_shown(name)} names no dataset: no backslashes and no control characters")
        if len(part.encode()) > _LONGEST_NAME:
            raise DatasetNameError(f"{_shown(name)} names no dataset: a part has at most {_LONGEST_NAME} bytes")
    return parts


def _shown(text: str) -> str:
    return ascii(text[:64]) + ("..." if len(text) > 64 else "")
