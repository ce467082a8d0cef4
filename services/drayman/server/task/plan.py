"""What a task's parameters say, once they are understood: plain values that the rules and the engine share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StreamKind = Literal["input", "output", "log", "pseudo_input", "number", "random_seed", "lib"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A piece of the command line: an item of `jobParameters` (reference §4.2). `stream` names what it declares, if anything."""

    value: str
    stream: str = ""
    hidden: bool = False  # not on the command line
    padding: bool = True  # a blank follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Something that jobs read or make (reference §4.2)."""

    number: int  # from 1, in the order of jobParameters, log last
    name: str  # IN, IN2, OUTPUT0, LOG0, SEQNUMBER, RNDMSEED
    kind: StreamKind
    primary: bool = False
    value: str = ""  # outputs: the template of the name
    datasets: tuple[str, ...] = ()
    container: str = ""
    offset: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # only these
    expand: bool = False
    files_per_job: int = 0  # secondary
    ratio: int = 0  # secondary: files per primary file
    n_files: int = 0  # cut; 0 = all
    reusable: bool = False
    random: bool = False
    num_records: int = 0  # number streams; 0 = as many as there are jobs
    allow_no_output: bool = False
    transient: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How inputs are cut into jobs (reference §4.4). 0 = not said. Sizes in bytes."""

    n_files: int = 0
    n_events: int = 0
    files_per_job: int = 0
    max_files_per_job: int = 200
    bytes_per_job: int = 0
    events_per_job: int = 0
    events_per_file: int = 0
    max_jobs: int = 0  # totNumJobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a job asks of its worker. 0 and empty = nothing."""

    cores: int = 1
    memory_mb: int = 0
    disk_mb: int = 0
    walltime_seconds: int = 0
    platform: str = ""
    sites: frozenset[str] = frozenset()
    excluded_sites: frozenset[str] = frozenset()
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """A task, understood."""

    name: str
    program: str  # transPath
    items: tuple[Item, ...]
    streams: tuple[Stream, ...]
    rule: SplitRule
    requirements: Requirements
    no_input: bool
    listed_files: tuple[str, ...]  # pfnList
    max_attempts: int
    max_failures: int | None
    scouts: int  # 0 = none
    scout_success_rate: float  # 0 to 1
    build: Mapping[str, object] | None  # buildSpec
    merge: Mapping[str, object] | None  # mergeSpec, {} if only mergeOutput
    sandboxes: tuple[str, ...]
    container: str
    goal: float  # per cent
    fail_goal_unreached: bool
    use_exhausted: bool
    allow_empty_input: bool
    allow_partial_finish: bool
    wait_input: bool
    wait_parent: bool
    run_until_closed: bool
    use_secrets: bool
    debug: bool
    no_looping_check: bool
    memory_step_mb: int  # retryRamStep and its like: more memory with each failed attempt; 0 = the same
    memory_max_mb: int
    environment: Mapping[str, str] = field(default_factory=dict)
    respect_split_rule: bool = False  # scouts obey the rule; else one file each where no rule is given
    ignore_missing_inputs: bool = False  # unknown input datasets are left out, as long as one is known
    merge_rule: SplitRule = field(default_factory=SplitRule)  # how outputs are grouped for merge jobs
    source_url: str = ""  # ${SURL}

    @property
    def primary(self) -> Stream | None:
        """The stream that drives the splitting; None where there is no input at all."""
        return next((stream for stream in self.streams if stream.primary), None)


@dataclass(frozen=True, slots=True)
class Unit:
    """A record of the primary input as the splitting sees it: a file, or a window of its events (`first_event` from 0)."""

    number: int
    size: int = 0
    events: int = 0
    first_event: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What the placeholders of one job stand for (reference §4.3)."""

    task_id: int
    serial: int  # from 1; a stream's offset is added
    attempt: int
    inputs: Mapping[str, tuple[str, ...]]  # stream -> names
    outputs: Mapping[str, str]  # stream -> name
    numbers: Mapping[str, int] = field(default_factory=dict)  # SEQNUMBER, RNDMSEED -> value
    first_event: int = 0
    skip_events: int = 0
    max_events: int = -1
    source_url: str = ""
    library: str = ""  # the build job's archive
    datasets: Mapping[str, str] = field(default_factory=dict)  # stream -> dataset, for ${IN/F}
    offset: int = 0  # added to the serial number on the command line: the first output's
