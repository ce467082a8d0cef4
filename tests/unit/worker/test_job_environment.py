"""What the program of a job finds in its environment, and what it does not."""

from pathlib import Path

import pytest

from drayman.client.job_values import description_of
from drayman.task.v1 import pilot_service_pb2 as pb
from drayman.worker.job_environment import environment_of


def test_who_says_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DRAYMAN_TOKEN", "DRAYMAN_URL", "BEARER_TOKEN_FILE", "PANDA_AUTH_ID_TOKEN", "X509_USER_PROXY"):
        monkeypatch.setenv(name, "the pilot's")
    monkeypatch.setenv("SITE", "here")
    monkeypatch.setenv("WORD", "the pilot's")
    message = pb.JobDescription(job_id=7, task_id=3, attempt=2, cores=4, environment={"WORD": "the job's"})
    found = environment_of(description_of(message), tmp_path)
    assert "the pilot's" not in found.values()
    assert found["SITE"] == "here"
    assert found["WORD"] == "the job's"
    assert (found["PandaID"], found["jediTaskID"], found["PANDA_ATTEMPT"]) == ("7", "3", "2")
    assert found["OMP_NUM_THREADS"] == "4"
    assert found["HOME"] == found["TMPDIR"] == str(tmp_path)
