"""Opens the half of the task service that is about jobs: hand-out, reports, orders, kills, submissions, the farm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg

from drayman.server.platform.calls import Service
from drayman.server.platform.lifecycle import Part
from drayman.server.platform.settings import Settings
from drayman.server.task import access
from drayman.server.task.describing import Describing, PlanSource, SecretSource
from drayman.server.task.farm import Farm
from drayman.server.task.farm_servicer import FarmServicer
from drayman.server.task.farm_store import FarmStore
from drayman.server.task.hand_out import HandOut
from drayman.server.task.job_kills import JobKills
from drayman.server.task.job_reports import JobReports
from drayman.server.task.job_servicer import JobServicer
from drayman.server.task.job_store import JobStore, Limits
from drayman.server.task.job_sweeping import JobLeaseSweeper, LongWaits
from drayman.server.task.orders import Orders
from drayman.server.task.outputs import Outputs
from drayman.server.task.pilot_servicer import PilotServicer
from drayman.server.task.submitting_jobs import JobSubmission
from drayman.task.v1 import farm_service_pb2, job_service_pb2, pilot_service_pb2


@dataclass(frozen=True)
class JobsRoom:
    """What is about jobs, opened. `hear` and `missed` are for the bus."""

    services: Sequence[Service]
    parts: Sequence[Part]
    hand_out: HandOut
    orders: Orders

    def hear(self, word: str) -> None:
        """Another replica announced something."""
        self.hand_out.hear(word)
        self.orders.hear(word)

    def missed(self) -> None:
        """Announcements may have been lost."""
        self.hand_out.missed()
        self.orders.missed()


class _Watchers(Part):
    """Streams that only watch end when the service drains."""

    def __init__(self, servicer: JobServicer) -> None:
        self._servicer = servicer

    async def drain(self) -> None:
        self._servicer.drain()


def open_jobs(
    pool: asyncpg.Pool,
    hot: asyncpg.Pool,
    settings: Settings,
    *,
    announce: Callable[[str], None],
    plans: PlanSource,
    outputs: Outputs,
    secrets: SecretSource,
    engine_kick: Callable[[int], None],
) -> JobsRoom:
    """Build everything; `hot` are connections whose plans are pinned."""
    limits = Limits(
        settings.task_sent_timeout,
        settings.task_heartbeat_timeout,
        settings.task_holding_timeout,
        settings.task_transferring_timeout,
    )
    store = JobStore(hot, limits)
    farm_store = FarmStore(pool)
    hand_out = HandOut(store, announce, settings.fallback_seconds)
    orders = Orders(store, announce)
    describing = Describing(
        store,
        plans,
        outputs,
        secrets,
        project=settings.task_outputs,
        warrant_seconds=settings.task_running_days * 86400,
    )
    reports = JobReports(store, hand_out, describing, engine_kick)
    kills = JobKills(store, orders, engine_kick)
    submission = JobSubmission(pool, outputs, hand_out, settings.task_outputs)
    farm = Farm(farm_store)
    jobs = JobServicer(store, describing, kills, submission, orders)
    services = [
        Service(
            pilot_service_pb2.DESCRIPTOR.services_by_name["PilotService"],
            PilotServicer(store, hand_out, reports, describing, orders, farm),
            access.PILOT_SERVICE,
        ),
        Service(job_service_pb2.DESCRIPTOR.services_by_name["JobService"], jobs, access.JOB_SERVICE),
        Service(
            farm_service_pb2.DESCRIPTOR.services_by_name["FarmService"],
            FarmServicer(farm_store),
            access.FARM_SERVICE,
        ),
    ]
    parts = [
        hand_out,
        reports,
        orders,
        farm,
        _Watchers(jobs),
        JobLeaseSweeper(store, reports),
        LongWaits(store, kills, activated_days=settings.task_activated_days, running_days=settings.task_running_days),
    ]
    return JobsRoom(services, parts, hand_out, orders)
