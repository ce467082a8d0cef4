"""What the jobs of a task ask of a worker (reference §4.1): cores, memory, disk, time, and where.

* The time limit is `maxWalltime`, in hours, if given. Else `walltime` in seconds plus `baseWalltime`; with a `walltimeUnit` that ends in
  PerEvent, `walltime` times the events of a job where the parameters tell how many these are. A negative `walltime` is a limit as it is, in
  seconds. Without any of these there is no limit.
* Memory is `ramCount` per core (`ramUnit` MBPerCore, MBPerCoreFixed) or per job (MB), plus `baseRamCount` per job; what it grows by when a
  job is tried again (`retryRamStep`, up to `retryRamMax`) likewise, without the base. `retryRamOffset` and `retryModuleRules` have no
  effect.
* `coreCount` 0 is one core: what is free on a site is not for the task to say. `maxCoreCount` bounds it.
* Disk is `outDiskCount` plus `workDiskCount`, in MB unless the unit begins otherwise (B, kB, MB, GB), rounded up; units ending in PerEvent
  as above.
* `site` and `includedSite` are one list; AUTO and ANY in it are no restriction. There are no regions: `cloud` has no effect, and neither
  have `cpuTime`, `cpuTimeUnit` and `cpuEfficiency`, as nobody measures the speed of workers.
"""

from __future__ import annotations

import math

from drayman.server.task.parameter_values import Reader
from drayman.server.task.plan import Requirements, SplitRule

#: MB in a unit of size.
_UNITS = {"b": 1 / 1024**2, "kb": 1 / 1024, "mb": 1.0, "gb": 1024.0}
#: More than any worker has, in MB or seconds, and as much as the database keeps.
_MOST = 2**31 - 1


def requirements(reader: Reader, rule: SplitRule, *, user: bool) -> Requirements:
    """Read the requirements; `user` says whose defaults count."""
    sites = frozenset(
        site for site in (*reader.words("site"), *reader.words("includedSite")) if site.upper() not in ("AUTO", "ANY")
    )
    return Requirements(
        cores=_cores(reader),
        memory_mb=min(memory(reader, "ramCount", 2000 if user else 0) + reader.whole("baseRamCount"), _MOST),
        disk_mb=_disk(reader, "outDisk", rule) + _disk(reader, "workDisk", rule),
        walltime_seconds=_walltime(reader, rule, user=user),
        platform=reader.text("architecture").strip(),
        sites=sites,
        excluded_sites=frozenset(reader.words("excludedSite")),
        label=reader.text("prodSourceLabel"),
    )


def _cores(reader: Reader) -> int:
    cores = reader.whole("coreCount", 1, most=10**6) or 1
    return min(cores, reader.whole("maxCoreCount", most=10**6) or cores)


def memory(reader: Reader, key: str, default: int = 0) -> int:
    """Read an amount of memory that may be per core, in MB per job."""
    unit = reader.text("ramUnit", "MBPerCore").strip().lower()
    if unit not in ("mbpercore", "mbpercorefixed", "mb", ""):
        reader.wrong("ramUnit", "MBPerCore or MB")
    return min(reader.whole(key, default) * (1 if unit == "mb" else _cores(reader)), _MOST)


def _events(rule: SplitRule) -> int:
    """Return how many events a job has, as far as the parameters tell; 1 if they do not."""
    return rule.events_per_job or rule.events_per_file * (rule.files_per_job or 1) or 1


def _disk(reader: Reader, what: str, rule: SplitRule) -> int:
    count = reader.number(f"{what}Count")
    unit = reader.text(f"{what}Unit", "MB").strip().lower()
    size = _UNITS.get(unit.removesuffix("fixed").removesuffix("perevent") or "mb")
    if size is None:
        reader.wrong(f"{what}Unit", "B, kB, MB or GB, with PerEvent after it or not")
        return 0
    return min(math.ceil(count * size * (_events(rule) if "perevent" in unit else 1)), _MOST)


def _walltime(reader: Reader, rule: SplitRule, *, user: bool) -> int:
    hours = reader.whole("maxWalltime", most=10**6)
    base = reader.whole("baseWalltime", 60 if user else 600)
    each = reader.number("walltime", least=-(2**31))
    if hours:
        return hours * 3600
    if each <= 0:
        return math.ceil(-each)
    per_event = "perevent" in reader.text("walltimeUnit").strip().lower()
    return min(math.ceil(each * (_events(rule) if per_event else 1)) + base, _MOST)
