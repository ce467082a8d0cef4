"""What jobs read: the items of jobParameters that declare streams, and the rules of the splitting (sections 4.2 and 4.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drayman.prun.endings import ConfigurationError
from drayman.prun.options import Options

_STREAM = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Names that stand for something else.
_TAKEN = frozenset(
    {"IN", "OUT", "SN", "SEQNUMBER", "RNDM", "RNDMSEED", "SKIPEVENTS", "MAXEVENTS", "FIRSTEVENT"}
    | {"SURL", "LIB", "ATTEMPTNR", "MIDDLENAME", "JEDITASKID"}
)
_MADE = re.compile(r"(?:OUTPUT|LOG)[0-9]+")
_MOST_FILES_OF_A_JOB = 1000


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was said of inputs: the names of their streams, items for jobParameters, and keys for the task's parameters."""

    streams: tuple[str, ...]
    items: tuple[dict[str, Any], ...]
    keys: dict[str, Any]


def inputs(options: Options) -> Inputs:
    """Read the options. Raises ConfigurationError, also for a file of names that cannot be read."""
    if options.has("pfnList"):
        return _listed(options)
    if options.has("inDS"):
        return _collections(options)
    for name in ("secondaryDSs", "inputFileList", "match", "antiMatch", "nFiles", "nFilesPerJob", "nGBPerJob"):
        if options.has(name):
            raise ConfigurationError(f"--{name} goes with --inDS")
    return Inputs((), (), {"noInput": True, **_counts(options)})


def _counts(options: Options) -> dict[str, int]:
    """Return how much there is to do where nothing is read."""
    jobs, events, each = (options.number(name) for name in ("nJobs", "nEvents", "nEventsPerJob"))
    if events is None and each is None:
        return {"nEvents": jobs, "nEventsPerJob": 1} if jobs is not None else {}
    if each is None:
        assert events is not None
        each = -(-events // (jobs or 1))
    if events is None:
        events = each * (jobs or 1)
    return {"nEvents": events if jobs is None else min(events, each * jobs), "nEventsPerJob": each}


def _listed(options: Options) -> Inputs:
    for name in ("inDS", "secondaryDSs", "inputFileList", "match", "antiMatch", "nGBPerJob"):
        if options.has(name):
            raise ConfigurationError(f"--{name} does not go with --pfnList")
    names = names_in(options.text("pfnList"), "pfnList")
    return Inputs(("IN",), (), {"noInput": True, "pfnList": names, **_cuts(options, len(names))})


def _collections(options: Options) -> Inputs:
    item: dict[str, Any] = {
        "type": "template",
        "param_type": "input",
        "value": "${IN}",
        "dataset": ",".join(options.words("inDS")),
        "hidden": True,
    }
    if patterns := options.words("match"):
        item["include"] = ",".join(patterns)
    if patterns := options.words("antiMatch"):
        item["exclude"] = ",".join(patterns)
    if options.has("inputFileList"):
        item["files"] = names_in(options.text("inputFileList"), "inputFileList")
    items = [item]
    streams = ["IN"]
    for text in options.words("secondaryDSs"):
        stream, secondary = _secondary(text)
        if stream in streams:
            raise ConfigurationError(f"--secondaryDSs has the stream {stream} twice")
        streams.append(stream)
        items.append(secondary)
    return Inputs(tuple(streams), tuple(items), _cuts(options))


def _secondary(text: str) -> tuple[str, dict[str, Any]]:
    """Read STREAM:FILES_PER_JOB:NAME[:PATTERN]; a name may be `dispatch:1`."""
    stream, _, rest = text.partition(":")
    number, _, dataset = rest.partition(":")
    if dataset.startswith("dispatch:"):
        project, _, pattern = dataset.removeprefix("dispatch:").partition(":")
        dataset = f"dispatch:{project}"
    else:
        dataset, _, pattern = dataset.partition(":")
    per_job = int(number) if number.isascii() and number.isdigit() and len(number) < 9 else 0
    if not dataset or not 1 <= per_job <= _MOST_FILES_OF_A_JOB:
        raise ConfigurationError(
            f"--secondaryDSs {text!a}: expected STREAM:FILES_PER_JOB:NAME[:PATTERN], such as IN2:1:noise/v1"
        )
    if not _STREAM.fullmatch(stream) or stream in _TAKEN or _MADE.fullmatch(stream):
        raise ConfigurationError(f"--secondaryDSs {text!a}: {stream!a} cannot name a stream; take IN2, IN3 or a word")
    item: dict[str, Any] = {
        "type": "template",
        "param_type": "input",
        "value": f"${{{stream}}}",
        "dataset": dataset,
        "nFilesPerJob": per_job,
        "hidden": True,
    }
    if pattern:
        item["include"] = pattern
    return stream, item


def _cuts(options: Options, known: int | None = None) -> dict[str, Any]:
    """Return how inputs are cut into jobs; `known` is how many there are, if that is known."""
    keys: dict[str, Any] = {} if known is None else {"nFiles": known}
    for option, key in (
        ("nFiles", "nFiles"),
        ("nFilesPerJob", "nFilesPerJob"),
        ("nEvents", "nEvents"),
        ("nEventsPerJob", "nEventsPerJob"),
        ("nEventsPerFile", "nEventsPerFile"),
        ("maxNFilesPerJob", "nMaxFilesPerJob"),
    ):
        if (number := options.number(option)) is not None:
            keys[key] = min(number, keys.get(key, number))
    size = options.text("nGBPerJob").strip()
    if size and size.upper() != "MAX":
        if not (size.isascii() and size.isdigit() and int(size[:9]) >= 1 and len(size) < 9):
            raise ConfigurationError(f"--nGBPerJob {size!a}: expected a whole number from 1 on, or MAX")
        keys["nGBPerJob"] = int(size)
    jobs = options.number("nJobs")
    if jobs is not None:
        _at_most(keys, jobs)
    return keys


def _at_most(keys: dict[str, Any], jobs: int) -> None:
    """Cut the inputs so that they make at most so many jobs."""
    if "nGBPerJob" in keys:
        raise ConfigurationError(
            "--nJobs does not go with --nGBPerJob: how many files a job has depends on their sizes"
        )
    if "nEventsPerJob" in keys:
        keys["nEvents"] = min(keys.get("nEvents", jobs * keys["nEventsPerJob"]), jobs * keys["nEventsPerJob"])
        return
    if "nFilesPerJob" not in keys:
        keys["nFilesPerJob"] = min(-(-keys.get("nFiles", 1) // jobs), _MOST_FILES_OF_A_JOB)
    keys["nFiles"] = min(keys.get("nFiles", jobs * keys["nFilesPerJob"]), jobs * keys["nFilesPerJob"])


def names_in(path: str, option: str) -> list[str]:
    """Read the names in a file, one a line; lines that begin with # do not count. Raises ConfigurationError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--{option} {path!a} cannot be read: {error}") from error
    names = [name for line in lines if (name := line.strip()) and not name.startswith("#")]
    if not names:
        raise ConfigurationError(f"--{option} {path!a} names no files")
    return names
