"""Which jobs a worker can run. Pure, and cheap: a batch of wishes is matched against all lots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from drayman.server.task.plan import Requirements


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker offers. Equal offers fit the same jobs, and can be keys. Sizes in MB, 0 = no limit."""

    site: str = ""  # empty: only jobs that ask for no site
    cores: int = 1  # 0: 1
    memory_mb: int = 0
    disk_mb: int = 0
    walltime_seconds: int = 0
    platform: str = ""
    label: str = ""  # empty: any
    task_id: int = 0  # 0: any
    software: tuple[str, ...] = ()
    user: str = ""
    anybody: bool = False  # gets the jobs of others too


def fits(requirements: Requirements, owner: str, task_id: int | None, offer: Offer) -> bool:
    """Whether a worker with this offer may have a job, and can run it."""
    # in the order of what tells most often
    if not offer.anybody and owner != offer.user:
        return False
    if offer.task_id and offer.task_id != task_id:
        return False
    if offer.label and offer.label != requirements.label:
        return False
    return (
        requirements.cores <= (offer.cores or 1)
        and not 0 < offer.memory_mb < requirements.memory_mb
        and not 0 < offer.disk_mb < requirements.disk_mb
        and not 0 < offer.walltime_seconds < requirements.walltime_seconds
        and (not requirements.sites or offer.site in requirements.sites)
        and offer.site not in requirements.excluded_sites
        and (not requirements.platform or platform_fits(requirements.platform, offer.platform))
    )


def hindrance(requirements: Requirements, owner: str, task_id: int | None, offer: Offer) -> str:
    """Say what keeps a worker from a job, empty if nothing does. Agrees with `fits`.

    What others' jobs ask for is nobody's business: of them it says only whose they are not.
    """
    return next((text for hinders, text in _hindrances(requirements, owner, task_id, offer) if hinders), "")


def _hindrances(asked: Requirements, owner: str, task_id: int | None, offer: Offer) -> Iterator[tuple[bool, str]]:
    yield not offer.anybody and owner != offer.user, "it is somebody else's"
    yield bool(offer.task_id) and offer.task_id != task_id, f"it is not of task {offer.task_id}"
    yield (
        bool(offer.label) and offer.label != asked.label,
        f"its label is {asked.label or 'none'}, wanted is {offer.label}",
    )
    cores = offer.cores or 1
    yield asked.cores > cores, f"it asks for {asked.cores} cores, offered are {cores}"
    for what, needs, offered, unit in (
        ("memory", asked.memory_mb, offer.memory_mb, "MB"),
        ("scratch space", asked.disk_mb, offer.disk_mb, "MB"),
        ("time", asked.walltime_seconds, offer.walltime_seconds, "s"),
    ):
        yield 0 < offered < needs, f"it asks for {needs:,} {unit} of {what}, offered are {offered:,}"
    yield (
        bool(asked.sites) and offer.site not in asked.sites,
        f"it asks for site {' or '.join(sorted(asked.sites))}, the worker is at {offer.site or 'none'}",
    )
    yield offer.site in asked.excluded_sites, f"it must not run at {offer.site}"
    yield (
        bool(asked.platform) and not platform_fits(asked.platform, offer.platform),
        f"it asks for platform {asked.platform}, offered is {offer.platform or 'none'}",
    )


@lru_cache(maxsize=4096)
def platform_fits(asked: str, offered: str) -> bool:
    """Whether a platform is what a job asks for.

    Both have the form `software@base#cpu&gpu`, where each part may be missing. Each part that is asked for has to be offered.
    Within a part, fields between dashes are compared from the left: `x86_64` is satisfied by `x86_64-el9`, and a field `*` by any.
    """
    if asked == offered:
        return True
    return all(_part_fits(want, have) for want, have in zip(_platform(asked), _platform(offered), strict=True) if want)


def _platform(text: str) -> tuple[str, str, str, str]:
    rest, _, gpu = text.partition("&")
    rest, _, cpu = rest.partition("#")
    software, _, base = rest.partition("@")
    return software, base, cpu, gpu


def _part_fits(want: str, have: str) -> bool:
    asked, offered = want.split("-"), have.split("-")
    return (
        bool(have) and len(asked) <= len(offered) and all(a in ("*", b) for a, b in zip(asked, offered, strict=False))
    )
