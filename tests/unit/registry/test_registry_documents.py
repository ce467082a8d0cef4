import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry import documents
from drayman.server.registry.addresses import FileAddress
from drayman.server.registry.documents import Link, LogEntry, Summary
from drayman.server.registry.entries import Entry
from drayman.server.registry.permissions import Permissions, Uploader
from drayman.server.registry.quota import Quota
from drayman.server.registry.shape import Misshapen

MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")
V1 = FileAddress("p", "a", "v1", "sub/f")
V2 = FileAddress("p", "a", "v2", "g")

# whatever a foreign registry has: documents do not judge
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ADDRESS = st.builds(FileAddress, TEXT, TEXT, TEXT, TEXT)
PATH = st.lists(TEXT.filter(lambda text: text and "/" not in text), min_size=1, max_size=3).map("/".join)
SIZE = st.integers(0, 2**63 - 1)
HASH = st.binary(min_size=16, max_size=16)
ENTRY = st.one_of(
    st.builds(Entry, PATH, SIZE, HASH),
    st.builds(Entry, PATH, st.just(0), st.none()),
    st.builds(Entry, PATH, SIZE, HASH, st.none(), ADDRESS, st.none() | ADDRESS),
)
ENTRIES = st.lists(ENTRY, max_size=6, unique_by=lambda entry: entry.path)
INSTANT = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds the zone


def as_go(value: Any) -> bytes:
    text = json.dumps(value, indent=4, ensure_ascii=False)
    return "".join(f"\\u{ord(one):04x}" if one in "<>&\u2028\u2029" else one for one in text).encode()


def address_json(address: FileAddress) -> dict[str, Any]:
    return {"project": address.project, "asset": address.asset, "version": address.version, "path": address.path}


def link_json(entry: Entry) -> dict[str, Any]:
    assert entry.target is not None
    value = address_json(entry.target)
    if entry.ancestor is not None:
        value["ancestor"] = address_json(entry.ancestor)
    return value


def entry_json(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = {"size": entry.size, "md5sum": "" if entry.md5 is None else entry.md5.hex()}
    if entry.target is not None:
        value["link"] = link_json(entry)
    return value


@contextmanager
def zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def test_a_manifest_byte_for_byte() -> None:
    entries = [
        Entry("sub/empty", 0, None),
        Entry("l", 3, MD5, bytes(32), V2, V1),
        Entry("é<&>", 0, MD5, bytes(32)),
    ]
    assert documents.manifest(entries) == (
        b"{\n"
        b'    "l": {\n'
        b'        "size": 3,\n'
        b'        "md5sum": "d41d8cd98f00b204e9800998ecf8427e",\n'
        b'        "link": {\n'
        b'            "project": "p",\n'
        b'            "asset": "a",\n'
        b'            "version": "v2",\n'
        b'            "path": "g",\n'
        b'            "ancestor": {\n'
        b'                "project": "p",\n'
        b'                "asset": "a",\n'
        b'                "version": "v1",\n'
        b'                "path": "sub/f"\n'
        b"            }\n"
        b"        }\n"
        b"    },\n"
        b'    "sub/empty": {\n'
        b'        "size": 0,\n'
        b'        "md5sum": ""\n'
        b"    },\n"
        b'    "\xc3\xa9\\u003c\\u0026\\u003e": {\n'
        b'        "size": 0,\n'
        b'        "md5sum": "d41d8cd98f00b204e9800998ecf8427e"\n'
        b"    }\n"
        b"}"
    )
    assert documents.manifest([]) == b"{}"


@given(ENTRIES)
def test_a_manifest_is_written_as_go_writes_it_and_read_again(entries: list[Entry]) -> None:
    ordered = sorted(entries, key=lambda entry: entry.path.encode())
    document = documents.manifest(entries)
    assert document == as_go({entry.path: entry_json(entry) for entry in ordered})
    assert documents.read_manifest(document) == ordered


@given(ENTRIES)
def test_each_directory_with_links_has_its_document(entries: list[Entry]) -> None:
    expected: dict[str, dict[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: entry.path):
        if entry.target is not None:
            folder, slash, name = entry.path.rpartition("/")
            expected.setdefault(folder + slash + "..links", {})[name] = link_json(entry)
    found = documents.links(entries)
    assert found == {path: as_go(dict(sorted(value.items()))) for path, value in expected.items()}
    by_path = {entry.path: entry for entry in entries}
    for path, document in found.items():
        for name, link in documents.read_links(document).items():
            entry = by_path[path.removesuffix("..links") + name]
            assert (link.target, link.ancestor) == (entry.target, entry.ancestor)


def test_links_of_two_directories() -> None:
    entries = [Entry("x/y/b", 1, MD5, None, V1), Entry("a", 1, MD5, None, V1, V2), Entry("x/y/a", 1, MD5, None, V1)]
    found = documents.links([*entries, Entry("x/plain", 1, MD5)])
    assert list(found) == ["..links", "x/y/..links"]
    assert documents.read_links(found["x/y/..links"]) == {"a": Link(V1), "b": Link(V1)}
    assert documents.read_links(found["..links"]) == {"a": Link(V1, V2)}


@pytest.mark.parametrize(
    ("name", "start", "finish"),
    [
        ("UTC", "2026-01-31T12:00:00Z", "2026-07-31T12:00:01Z"),
        ("Europe/Berlin", "2026-01-31T13:00:00+01:00", "2026-07-31T14:00:01+02:00"),
        ("America/St_Johns", "2026-01-31T08:30:00-03:30", "2026-07-31T09:30:01-02:30"),
    ],
)
def test_a_summary_byte_for_byte(name: str, start: str, finish: str) -> None:
    value = Summary(
        "ada",
        datetime(2026, 1, 31, 12, 0, 0, 999_999, tzinfo=UTC),
        datetime(2026, 7, 31, 12, 0, 1, tzinfo=UTC),
        on_probation=True,
    )
    with zone(name):
        document = documents.summary(value)
    assert document.decode() == (
        f'{{\n    "upload_user_id": "ada",\n    "upload_start": "{start}",\n'
        f'    "upload_finish": "{finish}",\n    "on_probation": true\n}}'
    )


@given(TEXT.filter(bool), INSTANT, INSTANT, st.booleans())
def test_a_summary_is_read_as_it_was_written(user: str, start: datetime, finish: datetime, on_probation: bool) -> None:
    document = documents.summary(Summary(user, start, finish, on_probation))
    assert (b"on_probation" in document) is on_probation
    seconds = start.replace(microsecond=0), finish.replace(microsecond=0)
    assert documents.read_summary(document) == Summary(user, *seconds, on_probation)


def test_a_summary_made_by_hand() -> None:
    document = (
        b'{"upload_finish":"2024-02-29T23:59:59.5-01:00","upload_start":"2024-02-29T23:59:59Z",'
        b'"upload_user_id":"x","on_probation":null}'
    )
    start = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    assert documents.read_summary(document) == Summary("x", start, start + timedelta(hours=1, milliseconds=500))


def test_the_small_documents_byte_for_byte() -> None:
    assert documents.latest("v&1") == b'{\n    "version": "v\\u00261"\n}'
    assert documents.usage(2**40) == b'{\n    "total": 1099511627776\n}'
    assert documents.quota(Quota(1, 2, 2026)) == b'{\n    "baseline": 1,\n    "growth_rate": 2,\n    "year": 2026\n}'
    assert documents.permissions(Permissions()) == b'{\n    "owners": [],\n    "uploaders": []\n}'
    value = Permissions(("ada",), (Uploader("bob", until="2026-01-01T00:00:00Z", trusted=True),), global_write=True)
    assert documents.permissions(value) == (
        b'{\n    "owners": [\n        "ada"\n    ],\n    "uploaders": [\n        {\n            "id": "bob",\n'
        b'            "until": "2026-01-01T00:00:00Z",\n            "trusted": true\n        }\n    ],\n'
        b'    "global_write": true\n}'
    )


def test_a_log_entry_byte_for_byte() -> None:
    entry = LogEntry("delete-version", "p", "a", "v", latest=False)
    assert documents.log_entry(entry) == (
        b'{\n    "asset": "a",\n    "latest": false,\n    "project": "p",\n    "type": "delete-version",\n    "version": "v"\n}'
    )
    assert (
        documents.log_entry(LogEntry("delete-project", "p"))
        == b'{\n    "project": "p",\n    "type": "delete-project"\n}'
    )


def test_a_log_entrys_name_is_the_same_whenever_it_is_written() -> None:
    at = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
    with zone("Europe/Berlin"):
        assert documents.log_name(at, 7) == "..logs/2026-01-31T13:00:00+01:00_100007"
        assert documents.log_name(at, 900_000 * 5 + 899_999) == "..logs/2026-01-31T13:00:00+01:00_999999"


@given(TEXT, SIZE, SIZE, st.integers(0, 9999))
def test_the_small_documents_are_read_as_they_were_written(text: str, number: int, other: int, year: int) -> None:
    assert documents.read_latest(documents.latest(text)) == text
    assert documents.read_usage(documents.usage(number)) == number
    assert documents.read_quota(documents.quota(Quota(number, other, year))) == Quota(number, other, year)
    entry = LogEntry("add-version", text, text, text, latest=True)
    assert documents.read_log_entry(documents.log_entry(entry)) == entry
    value = Permissions((text,), (Uploader(text, text, text, text, trusted=False),), global_write=False)
    assert documents.permissions(value) == as_go(json.loads(documents.permissions(value)))
    assert documents.read_permissions(documents.permissions(value)) == value


def test_what_gobbler_does_not_write_prettily_is_read() -> None:
    assert documents.read_quota(b'{ "baseline": 1000000000, "growth_rate": 1000000000, "year": 2025 }') == Quota(
        10**9, 10**9, 2025
    )
    assert documents.read_usage(b'{ "total": 0 }') == 0


def test_what_a_global_write_leaves_is_read() -> None:
    document = b'{\n    "owners": [\n        "ada"\n    ],\n    "uploaders": null\n}'
    assert documents.read_permissions(document) == Permissions(owners=("ada",))


def test_null_is_read_as_not_there() -> None:
    assert documents.read_manifest(b"null") == []
    assert documents.read_links(b"null") == {}
    assert documents.read_manifest(b'{"a": {"size": 1, "md5sum": "%s", "link": null}}' % MD5.hex().encode()) == [
        Entry("a", 1, MD5)
    ]
    link = b'{"project": "p", "asset": "a", "version": "v2", "path": "g", "ancestor": null}'
    assert documents.read_links(b'{"x": %s}' % link) == {"x": Link(V2)}


def test_surrogates_that_no_utf_8_can_hold_are_replaced() -> None:
    assert documents.read_latest(b'{"version": "a\\ud800b\\uDFFF"}') == "a\ufffdb\ufffd"
    assert documents.read_latest(b'{"version": "\\ud83d\\ude00"}') == "\N{GRINNING FACE}"
    (entry,) = documents.read_manifest(b'{"\\udc80": {"size": 0, "md5sum": ""}}')
    assert entry.path == "\ufffd"


BROKEN = [b"", b"{", b"[]", b"1", b'"a"', b"\xff", b"[" * 100_000, b'{"a": ' * 100_000, b"{} {}", "{}".encode("utf-16")]


@pytest.mark.parametrize("document", BROKEN)
@pytest.mark.parametrize(
    "read",
    [
        documents.read_manifest,
        documents.read_links,
        documents.read_summary,
        documents.read_latest,
        documents.read_permissions,
        documents.read_usage,
        documents.read_quota,
        documents.read_log_entry,
    ],
)
def test_what_is_no_document_is_refused(read: Any, document: bytes) -> None:
    with pytest.raises(Misshapen):
        read(document)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (documents.read_manifest, {"a": None}),
        (documents.read_manifest, {"a": {"md5sum": ""}}),
        (documents.read_manifest, {"a": {"size": 0}}),
        (documents.read_manifest, {"a": {"size": -1, "md5sum": ""}}),
        (documents.read_manifest, {"a": {"size": 2**63, "md5sum": ""}}),
        (documents.read_manifest, {"a": {"size": True, "md5sum": ""}}),
        (documents.read_manifest, {"a": {"size": 1.0, "md5sum": ""}}),
        (documents.read_manifest, {"a": {"size": float("nan"), "md5sum": ""}}),
        (documents.read_manifest, {"a": {"size": 1, "md5sum": "abc"}}),
        (documents.read_manifest, {"a": {"size": 1, "md5sum": MD5.hex() + "\n"}}),
        (documents.read_manifest, {"a": {"size": 1, "md5sum": MD5.hex(), "link": []}}),
        (documents.read_manifest, {"a": {"size": 1, "md5sum": MD5.hex(), "link": {"project": "p"}}}),
        (documents.read_links, {"a": {"project": "p", "asset": "a", "version": "v", "path": 1}}),
        (documents.read_links, {"a": address_json(V1) | {"ancestor": {}}}),
        (documents.read_links, {"a": None}),
        (documents.read_summary, {"upload_user_id": "", "upload_start": "", "upload_finish": ""}),
        (documents.read_summary, {"upload_user_id": "x", "upload_start": "2026-01-01T00:00:00Z"}),
        (
            documents.read_summary,
            {"upload_user_id": "x", "upload_start": "today", "upload_finish": "2026-01-01T00:00:00Z"},
        ),
        (documents.read_summary, {"upload_user_id": "x", "upload_start": "0001-01-01T00:00:00+01:00"}),
        (documents.read_latest, {"latest": "v"}),
        (documents.read_latest, {"version": None}),
        (documents.read_usage, {"total": -1}),
        (documents.read_usage, {}),
        (documents.read_quota, {"baseline": 1, "growth_rate": 1}),
        (documents.read_log_entry, {"project": "p"}),
        (documents.read_log_entry, {"type": "add-version", "project": "p", "latest": "yes"}),
    ],
)
def test_a_document_of_another_shape_is_refused(read: Any, value: Any) -> None:
    with pytest.raises(Misshapen, match=r"is|expected"):
        read(json.dumps(value).encode())


def test_a_refusal_names_the_path() -> None:
    with pytest.raises(Misshapen, match=r"'d/f': `size` is an integer from 0"):
        documents.read_manifest(b'{"d/f": {"size": -1, "md5sum": ""}}')
    with pytest.raises(Misshapen, match=r"'d/f': `version` is missing"):
        documents.read_manifest(b'{"d/f": {"size": 1, "md5sum": "", "link": {"project": "p", "asset": "a"}}}')
