"""`userJobMetadata.json`: sent if it can be, left out if not."""

import json
from pathlib import Path

import pytest

from drayman.server.task.job_fields import LARGEST_METADATA, read_json
from drayman.worker.job_metadata import MetadataError, read_metadata

NAME = "userJobMetadata.json"


@pytest.mark.parametrize("content", [b"{}", b'{"a": [1, 2.5, null]}', b'"\xc3\xa9"', b"[]", b'\xef\xbb\xbf{"bom": 1}'])
def test_what_is_good_is_taken_by_the_service(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    text = read_metadata(tmp_path)
    assert read_json(text, LARGEST_METADATA) == json.loads(content.decode("utf-8-sig"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"NaN", b'{"a": Infinity}', b"\xff\xfe", b"[" * 200_000, b"{'a': 1}"],
    ids=lambda content: repr(content[:10]),
)
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(MetadataError, match="is no JSON"):
        read_metadata(tmp_path)


def test_the_largest(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps("x" * (LARGEST_METADATA - 2)))
    assert len(read_json(read_metadata(tmp_path), LARGEST_METADATA)) == LARGEST_METADATA - 2
    (tmp_path / NAME).write_text(json.dumps("x" * (LARGEST_METADATA - 1)))
    with pytest.raises(MetadataError, match="more than 1,000,000 bytes"):
        read_metadata(tmp_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == ""
    (tmp_path / NAME).mkdir()
    with pytest.raises(MetadataError, match="cannot be read"):
        read_metadata(tmp_path)
    (tmp_path / NAME).rmdir()
    (tmp_path / NAME).symlink_to("nowhere")
    assert read_metadata(tmp_path) == ""
