"""`drayman project search`: the real command against real services."""

from pathlib import Path
from uuid import uuid4

from drayman.testing import LocalStack
from system.cli_runner import Cli


def test_search(stack: LocalStack, tmp_path: Path) -> None:
    name = f"u{uuid4().hex[:12]}"
    stack.add_user(name)
    cli = Cli.of(stack, name)
    attributes = ('{"run": 1, "v": "-5"}', '{"run": 2}')
    one, two = (
        cli.ok("project", "create", "--file", "a:b", "--virtual", "--attributes", each).out.strip()
        for each in attributes
    )
    cli.ok("project", "cancel", two)

    anybody = Cli(stack.url, None)
    table = anybody.ok("project", "search", "-u", name, "run in 1:2").out.splitlines()
    assert table[0].split() == ["id", "state", "done", "failed", "reserved", "total", "created", "owner"]
    assert [line.split()[:2] for line in table[1:]] == [[one, "active"], [two, "cancelled"]]

    def found(*arguments: str, stdin: str | None = None) -> list[str]:
        records = anybody.ok("project", "search", "-j", "--owner", name, *arguments, stdin=stdin).json
        return [str(record["project_id"]) for record in records]

    assert found("run", "=", "1", "or", "run", "in", "(2,", "3)") == [one, two]
    assert found("-s", "cancelled", "run") == [two]
    assert found("--state", "all", "run > 1") == [two]
    assert found("v", "=", "-5") == []
    assert found("v", "=", "'-5'") == [one]
    query = tmp_path / "query"
    query.write_text("run\n=\n1\n")
    assert found("-q", str(query)) == [one]
    assert found("--query-file", "-", stdin="run = 2") == [two]
    assert found("run = 3") == []

    refused = anybody.refused("project", "search", "run", "=")
    assert "line 1, column 6: found the end of the query, expected a value" in refused
    assert "one of the two" in anybody.refused("project", "search", code=2)
    assert "one of the two" in anybody.refused("project", "search", "-q", str(query), "run", code=2)
    anybody.refused("project", "search", "-q", str(tmp_path / "missing"), code=2)
