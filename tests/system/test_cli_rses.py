"""`drayman rse`: the real command against real services."""

import json
from uuid import uuid4

import pytest

from drayman.testing import LocalStack
from system.cli_runner import Cli


@pytest.fixture(scope="module")
def admin(stack: LocalStack) -> Cli:
    return Cli.of(stack, stack.admin[0])


def test_an_rses_life(stack: LocalStack, admin: Cli) -> None:
    name = f"RSE_{uuid4().hex[:10]}"
    options = (
        "--description",
        "[bold]tape",
        "--tape",
        "--pin-url",
        "http://pin",
        "--preference",
        "-3",
        "--type",
        "wlcg",
    )
    made = admin.ok("rse", "create", name, *options, "--json").json
    assert (made["is_tape"], made["is_available"], made["is_enabled"]) == (True, True, True)
    assert (made["pin_url"], made["poll_url"], made["preference"], made["type"]) == ("http://pin", None, -3, "wlcg")
    assert "(RSE_EXISTS)" in admin.refused("rse", "create", name)
    assert made in admin.ok("rse", "list", "--json").json
    row = next(line for line in admin.ok("rse", "list").out.splitlines() if line.startswith(name))
    assert row.split() == [name, "up", "yes", "yes", "[bold]tape"]

    assert admin.ok("rse", "down", name).out == f"RSE {name} is down\n"
    assert admin.ok("rse", "up", name, "--json").json["is_available"] is True
    assert admin.ok("rse", "update", name, "--disk", "--disable", "--json").json["is_enabled"] is False
    assert "nothing to change" in admin.refused("rse", "update", name, code=2)
    assert "tape" in admin.ok("rse", "show", name).out

    anybody = f"u{uuid4().hex[:12]}"
    stack.add_user(anybody)
    assert "(ADMIN_ONLY)" in Cli.of(stack, anybody).refused("rse", "up", name)
    assert admin.ok("rse", "delete", name, "--json").json == {"deleted": name, "replicas_deleted": 0}
    assert "(RSE_NOT_FOUND)" in admin.refused("rse", "show", name)


def test_replicas_come_as_csv_and_json_lines(admin: Cli) -> None:
    rse, space = f"RSE_{uuid4().hex[:10]}", f"ns{uuid4().hex[:10]}"
    admin.ok("rse", "create", rse)
    table = (
        "namespace,name,rse,url,path,available,preference\r\n"
        f'{space},"with ""quotes"", and\nlines",{rse},file:///a,,no,\r\n'
        f"{space},plain,{rse},file:///b,/b,,5\r\n"
    )
    assert admin.ok("rse", "add-replicas", "-", stdin=table).out == "2 replicas added or changed\n"
    many = "".join(
        json.dumps({"namespace": space, "name": str(number), "rse": rse, "urls": ["file:///1", "file:///2"]}) + "\n"
        for number in range(10_001)
    )
    assert admin.ok("rse", "add-replicas", "-", "--json", stdin=many).json == {"replicas": 10_001}

    dids = "".join(
        json.dumps({"namespace": space, "name": name}) + "\n" for name in ('with "quotes", and\nlines', "plain", "7")
    )
    project = admin.ok("project", "create", "-", stdin=dids).out.strip()
    replicas = [each["replicas"] for each in admin.ok("project", "files", project, "--replicas", "--json").json]
    assert [[each["urls"] for each in group] for group in replicas] == [
        [["file:///a"]],
        [["file:///b"]],
        [["file:///1", "file:///2"]],
    ]
    assert [group[0]["available"] for group in replicas] == [False, True, True]
    assert (replicas[1][0]["path"], replicas[1][0]["preference"]) == ("/b", 5)
    assert f"    {rse}: not available file:///a" in admin.ok("project", "files", project, "--replicas").out.splitlines()

    add = ("rse", "add-replicas", "-")
    bad = admin.refused(*add, stdin=many + "{")
    assert "line 10002: not JSON" in bad
    assert "10000 replicas before are in" in bad
    assert "the field rse is missing" in admin.refused(*add, stdin="namespace,name\n")
    assert "line 2: 2 columns" in admin.refused(*add, stdin="namespace,name,rse\na,b\n")
    assert "quote" in admin.refused(*add, stdin='namespace,name,rse\na,"b,c\n')
    assert "(RSE_NOT_FOUND)" in admin.refused(*add, stdin="namespace,name,rse\na,b,no-such-rse\n")
    assert "with 10003 replicas" in admin.ok("rse", "delete", rse).out


def test_the_proximity_map(admin: Cli) -> None:
    site = f"site{uuid4().hex[:10]}"
    admin.ok("rse", "proximity", "set", site, "NEAR", "5")
    admin.ok("rse", "proximity", "set", site, "DEFAULT", "-7", "--json")
    near = {"cpu_site": site, "rse": "NEAR", "proximity": 5}
    entries = admin.ok("rse", "proximity", "list", site, "--json").json
    assert entries == [{"cpu_site": site, "rse": "DEFAULT", "proximity": -7}, near]
    assert near in admin.ok("rse", "proximity", "--json").json
    assert admin.ok("rse", "proximity", "remove", site, "NEAR").out == f"{site} to NEAR: removed\n"
    assert "NEAR" not in admin.ok("rse", "proximity", "list", site).out
