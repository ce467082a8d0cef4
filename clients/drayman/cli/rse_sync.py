"""`drayman rse sync`: what a storage catalogue says is taken over."""

from __future__ import annotations

import sys

import click

from drayman.cli.output import Failure, json_option, print_json, printable
from drayman.cli.replica_list import BadLine, Format, numbered_replicas
from drayman.cli.session import calling
from drayman.client import DispatchClient, DraymanError, Replica

#: Replicas that are sent in one call.
_BATCH = 10_000
#: Bad lines that are shown; the others are counted.
_MOST_SHOWN = 100


@click.command()
@click.argument("source", default="-", metavar="[FILE|-]")
@click.option("--rse", metavar="NAME", help="Whose list it is: its lines need not say, and must name no other.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="Default: its first character tells.")
@click.option("--skip-bad", is_flag=True, help="Go on after bad lines, and exit with 1 at the end.")
@click.option("--dry-run", is_flag=True, help="Check the list and change nothing.")
@json_option
@calling
async def sync(source: str, rse: str | None, form: Format | None, skip_bad: bool, dry_run: bool, as_json: bool) -> None:
    """Take over the listing of a storage catalogue out of FILE or standard input, of any length: replicas are added or changed.

    Either CSV with a header or a JSON object a line. Fields: did, or namespace and name; rse; path; url or urls (JSON: a list, CSV:
    separated by blanks), best first; preference; available. Replicas that the listing does not name stay as they are. Without
    --skip-bad the first bad line ends it; what is before that line is applied.
    """
    name = "<stdin>" if source == "-" else printable(source)
    async with DispatchClient() as dispatch:
        listing = _Listing(dispatch, name, {each.name for each in await dispatch.rses()}, skip_bad, dry_run)
        if rse is not None and rse not in listing.rses:
            raise Failure(f"there is no RSE {printable(rse)}: `drayman rse create` makes one")
        try:
            async for number, found in numbered_replicas(source, form=form, rse=rse):
                await listing.take(number, found)
            await listing.flush()
        except DraymanError as error:
            error.message += listing.so_far
            raise
        except Failure as error:
            await listing.flush()
            raise Failure(f"{name}: {error.message}{listing.so_far}") from error
        except _FirstBadLine as bad:
            await listing.flush()
            raise Failure(f"{bad}{listing.so_far}") from bad
    if as_json:
        print_json({"replicas": listing.applied, "bad_lines": listing.bad, "dry_run": dry_run})
    else:
        done = "would be added or changed" if dry_run else "added or changed"
        click.echo(f"{listing.applied} replicas {done}" + (f", {listing.bad} bad lines" if listing.bad else ""))
    if listing.bad:
        sys.exit(1)


class _FirstBadLine(Exception):
    """The text names the line and what is wrong with it."""


class _Listing:
    """A listing while it is applied, some thousand replicas at a time."""

    def __init__(self, dispatch: DispatchClient, name: str, rses: set[str], skip_bad: bool, dry_run: bool) -> None:
        self._dispatch = dispatch
        self._name = name
        self._skip_bad = skip_bad
        self._dry_run = dry_run
        self._batch: list[Replica] = []
        self.rses = rses
        self.applied = 0
        self.bad = 0

    @property
    def so_far(self) -> str:
        """What was done before an error."""
        if self._dry_run:
            return f"; {self.applied} replicas before are right"
        return f"; {self.applied} replicas before are in"

    async def take(self, number: int, found: Replica | BadLine) -> None:
        """Apply a line, sooner or later."""
        if isinstance(found, Replica) and found.rse not in self.rses:
            found = BadLine(number, f"there is no RSE {printable(found.rse)!r}")
        if isinstance(found, BadLine):
            self._refuse(f"{self._name}:{number}: {found.problem}")
            return
        self._batch.append(found)
        if len(self._batch) >= _BATCH:
            await self.flush()

    async def flush(self) -> None:
        """Apply what is waiting."""
        batch, self._batch = self._batch, []
        if batch and not self._dry_run:
            await self._dispatch.update_replicas(batch)
        self.applied += len(batch)

    def _refuse(self, text: str) -> None:
        if not self._skip_bad:
            raise _FirstBadLine(text)
        self.bad += 1
        if self.bad <= _MOST_SHOWN:
            click.echo(f"drayman: {text}", err=True)
        elif self.bad == _MOST_SHOWN + 1:
            click.echo("drayman: more bad lines are counted and not shown", err=True)
