"""Merging where the task names no program for it."""

from pathlib import Path

import pytest

from drayman.client.job_values import JobFile, JobOutput
from drayman.worker.job_error import PAYLOAD_FAILED, JobError
from drayman.worker.merging import merge


def output(name: str, stream: str, type_: str = "output") -> JobOutput:
    return JobOutput(name, type_, stream, "d", "p", "a", "v", "", False)


def test_one_behind_the_other_stream_by_stream(tmp_path: Path) -> None:
    files = [JobFile(name, stream=f"TRN_{stream}") for name, stream in (("2", "A"), ("x", "B"), ("1", "A"))]
    for file in files:
        (tmp_path / file.name).write_text(f"{file.name}\n")
    merge(files, [output("a", "A"), output("b", "B"), output("log", "LOG0", "log")], tmp_path)
    assert (tmp_path / "a").read_text() == "2\n1\n"
    assert (tmp_path / "b").read_text() == "x\n"
    assert not (tmp_path / "log").exists()


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="nothing to merge into a") as raised:
        merge([], [output("a", "A")], tmp_path)
    assert raised.value.fields["pilotErrorCode"] == PAYLOAD_FAILED
