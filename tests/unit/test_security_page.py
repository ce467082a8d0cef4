"""The page that names the tests behind each promise names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_promise_is_held_by_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "held by" not in line]
    promised = [(row.split("|")[1].strip(), re.findall(r"`(test_\w+)`", row)) for row in rows]
    assert len(promised) > 20
    assert [promise for promise, tests in promised if not tests] == []
    there = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert {name for _, tests in promised for name in tests} - there == set()
