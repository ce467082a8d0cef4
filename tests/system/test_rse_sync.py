"""`drayman rse sync`: a catalogue's listing against real services."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Cli:
    return Cli.of(stack, stack.admin[0])


@pytest.fixture
def rse(admin: Cli) -> Iterator[str]:
    name = f"RSE_{uuid4().hex[:10]}"
    admin.ok("rse", "create", name)
    yield name
    admin.ok("rse", "delete", name)


def replicas(admin: Cli, *dids: str) -> list[list[dict[str, object]]]:
    project = admin.ok("project", "create", "-", stdin="\n".join(dids)).out.strip()
    return [each["replicas"] for each in admin.ok("file", "list", project, "--replicas", "--json").json]


def test_a_csv_listing_of_one_rse(admin: Cli, rse: str, tmp_path: Path) -> None:
    space = f"ns{uuid4().hex[:10]}"
    listing = tmp_path / "listing.csv"
    listing.write_text(f"did,urls,available,preference\n{space}:a,root://1 root://2,yes,\n{space}:b:c,root://3,no,7\n")
    sync = ("rse", "sync", "--rse", rse)
    assert admin.ok(*sync, "--dry-run", str(listing)).out == "2 replicas would be added or changed\n"
    assert replicas(admin, f"{space}:a") == [[]]
    assert admin.ok(*sync, str(listing)).out == "2 replicas added or changed\n"
    (first,), (second,) = replicas(admin, f"{space}:a", f"{space}:b:c")
    assert (first["rse"], first["urls"], first["available"]) == (rse, ["root://1", "root://2"], True)
    assert (second["urls"], second["available"], second["preference"]) == (["root://3"], False, 7)

    # a listing is what is so now: what it names is overwritten, what it does not name stays
    again = json.dumps({"namespace": space, "name": "a", "rse": rse, "url": "root://4"})
    counts = admin.ok(*sync, "--format", "jsonl", "-", "--json", stdin=again).json
    assert counts == {"replicas": 1, "bad_lines": 0, "dry_run": False}
    (first,), (second,) = replicas(admin, f"{space}:a", f"{space}:b:c")
    assert (first["urls"], second["urls"]) == (["root://4"], ["root://3"])


def test_bad_lines_are_named(admin: Cli, rse: str, tmp_path: Path) -> None:
    space = f"ns{uuid4().hex[:10]}"
    listing = tmp_path / "listing.csv"
    rows = [
        "did,rse,preference",
        f"{space}:1,{rse},",
        f"{space}:2,{rse},much",
        f"{space}:3,nowhere,",
        f"no-colon,{rse},",
        f"{space}:5,{rse}",
        f"{space}:6,{rse},1",
    ]
    listing.write_text("\n".join(rows) + "\n")
    stopped = admin.refused("rse", "sync", str(listing))
    assert f"{listing}:3: the preference 'much' is no number; 1 replicas before are in" in stopped
    assert [len(group) for group in replicas(admin, f"{space}:1", f"{space}:6")] == [1, 0]
    assert "1 replicas before are right" in admin.refused("rse", "sync", "--dry-run", str(listing))

    outcome = admin.run("rse", "sync", "--skip-bad", str(listing))
    assert (outcome.code, outcome.out) == (1, "2 replicas added or changed, 4 bad lines\n")
    assert outcome.err.splitlines() == [
        f"drayman: {listing}:3: the preference 'much' is no number",
        f"drayman: {listing}:4: there is no RSE 'nowhere'",
        f"drayman: {listing}:5: 'no-colon': expected namespace:name",
        f"drayman: {listing}:6: 2 columns, the header has 3",
    ]
    assert [len(group) for group in replicas(admin, f"{space}:1", f"{space}:6")] == [1, 1]


def test_a_listing_that_cannot_be_read(admin: Cli, rse: str) -> None:
    sync = ("rse", "sync", "--skip-bad", "--rse", rse)
    assert "<stdin>: line 1: unknown field 'size'" in admin.refused(*sync, stdin="did,size\n")
    assert "the field did is missing" not in admin.ok(*sync, stdin="").out
    assert "a quote is not closed; 1 replicas before are in" in admin.refused(*sync, stdin='did\nn:a\n"n:b\n')
    assert "line 2: not UTF-8" in admin.refused(*sync, stdin=b"did\nn:\xff\n")
    other = admin.run(*sync, stdin='{"did": "n:a", "rse": "other"}\n{"did": "n:", "url": "x"}\n[1]\n')
    assert [line.partition(": ")[2] for line in other.err.splitlines()] == [
        f"<stdin>:1: RSE 'other': expected '{rse}', whose list this is",
        "<stdin>:2: the name is empty",
        "<stdin>:3: expected a JSON object, got [1]",
    ]
    assert "there is no RSE nowhere" in admin.refused("rse", "sync", "--rse", "nowhere", stdin="did\n")


def test_a_long_listing_streams(admin: Cli, rse: str) -> None:
    lines = "".join(
        json.dumps({"did": f"n{rse}:{number}", "url": f"root://{number}"}) + "\n" for number in range(25_000)
    )
    assert admin.ok("rse", "sync", "--rse", rse, "--json", stdin=lines).json["replicas"] == 25_000
    stopped = admin.refused("rse", "sync", "--rse", rse, stdin=lines + "{}\n")
    assert "<stdin>:25001: the field namespace is missing; 25000 replicas before are in" in stopped
