"""`drayman project explain`: why a worker gets nothing."""

from __future__ import annotations

import click

from drayman.cli.output import json_option, print_fields, print_json
from drayman.cli.session import calling
from drayman.cli.values import local_time, plain
from drayman.client import DispatchClient
from drayman.client.standstill import Hindrances

_CAUSES = (
    ("ready", "ready"),
    ("at_limit", "ready, at the project's limit"),
    ("at_rse_limit", "ready, at the limit of their RSEs"),
    ("reserved", "reserved"),
    ("no_replica", "no replica"),
    ("replica_unavailable", "no replica can be read now"),
    ("rse_down", "RSE is down"),
    ("rse_disabled", "RSE is disabled"),
    ("retrying", "of those that wait, tried before"),
)


@click.command("explain")
@click.argument("project_id", type=int, metavar="ID")
@click.option("-c", "--site", default="", help="CPU site of the worker; default: DEFAULT.")
@json_option
@calling
async def explain_project(project_id: int, site: str, as_json: bool) -> None:
    """Say what a worker of project ID would get now, and what stands in the way."""
    async with DispatchClient() as dispatch:
        explanation = await dispatch.explain_project(project_id, site)
    found = explanation.hindrances
    if as_json:
        print_json(
            {
                "project_id": project_id,
                "state": explanation.project.state,
                "summary": explanation.summary,
                **plain(found),
            }
        )
        return
    click.echo(explanation.summary)
    print_fields(_rows(found))


def _rows(found: Hindrances) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [(title, getattr(found, name)) for name, title in _CAUSES if getattr(found, name)]
    if found.oldest_since is not None:
        rows.append(("oldest reservation", f"{local_time(found.oldest_since)} by {found.oldest_worker_id}"))
    if found.rses:
        rows.append(("RSEs", ", ".join(found.rses)))
    return rows
