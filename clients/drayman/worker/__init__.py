"""Workers: programs that take files from a project, or jobs, and run something on each."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drayman.worker.job_client import JobClient, PilotJob, UpdateReply

__all__ = ["JobClient", "PilotJob", "UpdateReply"]


def __getattr__(name: str) -> Any:
    # `drayman worker run` needs none of it, and starts sooner without
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from drayman.worker import job_client  # noqa: PLC0415 - see above

    return getattr(job_client, name)
