"""The environment of a job's program."""

from __future__ import annotations

import os
from pathlib import Path

from drayman.client.job_values import JobDescription

#: What is the pilot's own, its token first: nothing that begins so reaches a program.
_PRIVATE = (
    "DRAYMAN_",
    "DATA_DISPATCHER_",
    "PANDA_AUTH",
    "OIDC_AUTH",
    "BEARER_TOKEN",
    "X509_USER_PROXY",
    "X509_USER_KEY",
)


def environment_of(job: JobDescription, folder: Path) -> dict[str, str]:
    """Return the pilot's environment without what is the pilot's own, then what says which job it is, then what the job brings.

    That is what its task set, and its owner's secrets.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
    return {
        **inherited,
        "PandaID": str(job.job_id),
        "PANDAID": str(job.job_id),
        "jediTaskID": str(job.task_id),
        "PANDA_ATTEMPT": str(job.attempt),
        "OMP_NUM_THREADS": str(job.cores),
        "HOME": str(folder),
        "PWD": str(folder),
        "TMPDIR": str(folder),
        **job.environment,
    }
