"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Sizes of one run of the benchmarks. Spans in seconds."""

    rounds: int
    workers: int = 32  # tasks in each client process
    files: int  # in one run of one contender for the throughput
    session_files: int  # the same for sessions
    warm_up: int  # files that are worked on before anything is measured
    small: int  # files of the small project; as many are taken from the big one at a time
    big: int
    slices: int  # pairs of a small project and a slice of the big one, in a round
    skip: int  # files of the big one that are finished before "late"
    wakes: int  # in all rounds together
    create: int  # files of a created project
    artifact_files: int  # small files of an uploaded version
    artifact_bytes: int  # size of each big one
    artifact_uploads: int  # small uploads, in a round
    door_rounds: int  # rounds of what is compared to see a few parts in a hundred
    parked: int  # streams
    parked_clients: int
    crowd: int  # sessions that wait
    rush: int  # workers that ask for a file at the same moment; the project has as many
    settle: float  # until what the opening of the streams left to do is done
    rest: float  # how long the parked streams are watched
    huge: int  # files of the project that is made, listed, copied and deleted
    huge_worked: int  # files of it that are worked on
    task_jobs: int  # jobs of a big task
    many_jobs: int  # jobs that are there when a job's cost is measured

    def __post_init__(self) -> None:
        slices = 2 * (self.rounds * self.slices + 1)  # early and late, with a warm-up each
        if slices * self.small + self.skip > self.big:
            raise ValueError(f"{self.rounds} rounds need more files than the big project's {self.big:,}")


FULL = Scale(
    rounds=5,
    files=20_000,
    session_files=100_000,
    warm_up=2_000,
    small=1_000,
    big=1_000_000,
    slices=10,
    skip=500_000,
    wakes=200,
    create=200_000,
    artifact_files=2_000,
    artifact_bytes=64 << 20,
    artifact_uploads=100,
    door_rounds=20,
    parked=5_000,
    parked_clients=4,
    crowd=2_000,
    rush=10_000,
    settle=2.0,
    rest=10.0,
    huge=10_000_000,
    huge_worked=100_000,
    task_jobs=100_000,
    many_jobs=1_000_000,
)

#: Shows that everything runs, and nothing else.
QUICK = Scale(
    rounds=2,
    files=1_000,
    session_files=5_000,
    warm_up=200,
    small=200,
    big=20_000,
    slices=2,
    skip=10_000,
    wakes=20,
    create=20_000,
    artifact_files=100,
    artifact_bytes=1 << 20,
    artifact_uploads=5,
    door_rounds=2,
    parked=200,
    parked_clients=2,
    crowd=100,
    rush=400,
    settle=0.5,
    rest=2.0,
    huge=50_000,
    huge_worked=5_000,
    task_jobs=2_000,
    many_jobs=5_000,
)
