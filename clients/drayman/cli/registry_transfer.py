"""`drayman registry upload` and `download`."""

from __future__ import annotations

from pathlib import Path

import click

from drayman.cli import registry_address as address
from drayman.cli.output import Failure, json_option, print_json, printable
from drayman.cli.progress import Bar, late_bar
from drayman.cli.session import Misuse, calling
from drayman.cli.values import plain
from drayman.client.registry import RegistryClient
from drayman.client.registry_progress import Progress, ProgressCallback
from drayman.client.registry_tree import TreeError


@click.command()
@click.argument("version_name", metavar=address.VERSION)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--probation", is_flag=True, help="It shall wait for approval.")
@click.option("--ignore-dot", is_flag=True, help="Leave out what begins with a dot.")
@click.option("--staged", is_flag=True, help="FOLDER lies directly in the service's staging folder: upload it by name.")
@click.option("--consume", is_flag=True, help="With --staged: its files may be moved; FOLDER is gone afterwards.")
@click.option("--follow-outside", is_flag=True, help="Upload files that links lead to, out of FOLDER.")
@click.option("--upload-id", metavar="UUID", default="", help="Go on with an upload that was broken off with this id.")
@click.option("--spoof", metavar="USER", default="", help="Act as this user, if the deployment lets you.")
@json_option
@calling
async def upload(
    version_name: str,
    folder: Path,
    probation: bool,
    ignore_dot: bool,
    staged: bool,
    consume: bool,
    follow_outside: bool,
    upload_id: str,
    spoof: str,
    as_json: bool,
) -> None:
    """Upload what FOLDER holds as a new version: all of it, or nothing.

    Only what the asset's latest version does not have travels; the rest becomes links to it.
    """
    where = address.version(version_name)
    if consume and not staged:
        raise Misuse("--consume goes with --staged")
    async with RegistryClient() as client, late_bar(f"uploading {version_name}", "bytes") as bar:
        if staged:
            done = await client.upload_staged(
                *where,
                folder.absolute().name,
                on_probation=probation,
                consume=consume,
                ignore_dot=ignore_dot,
                spoof=spoof,
            )
        else:
            info = await client.info()
            try:
                done = await client.upload(
                    *where,
                    folder,
                    on_probation=probation,
                    ignore_dot=ignore_dot,
                    registry=info.registry if Path(info.registry).is_dir() else None,
                    follow_outside=follow_outside,
                    spoof=spoof,
                    upload_id=upload_id,
                    progress=_told(bar, version_name),
                )
            except TreeError as error:
                raise Failure(f"{printable(str(folder))}: {printable(str(error))}") from error
    if as_json:
        print_json(plain(done))
        return
    version = done.version
    click.echo(
        f"{printable(version_name)}: {version.entries} files, {version.usage} bytes, {done.deduplicated} files were there"
        f"{'; it waits for approval' if version.on_probation else ''}"
    )


def _told(bar: Bar, name: str) -> ProgressCallback:
    def tell(progress: Progress) -> None:
        bar.tell(progress.bytes, progress.bytes_total or None, f"{progress.stage} {name}")

    return tell


@click.command()
@click.argument("file", metavar=address.FILE)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("-n", "concurrent", type=click.IntRange(1, 64), default=1, show_default=True, help="Streams at a time.")
@json_option
@calling
async def download(file: str, folder: Path, concurrent: int, as_json: bool) -> None:
    """Download a version into FOLDER, or of it one directory (PATH with a `/` at the end), or one file.

    Links arrive as files. What FOLDER has already, and has whole, is not fetched again: a download that was broken off goes on when it is
    repeated.
    """
    project, asset, version, path = address.file(file)
    async with RegistryClient() as client, late_bar(f"downloading {file}", "bytes") as bar:
        done = await client.download(
            project, asset, version, folder, path=path, concurrent=concurrent, progress=_told(bar, file)
        )
    if as_json:
        print_json(plain(done))
    else:
        click.echo(f"{done.files} files, of which {done.files_received} were fetched, {done.bytes_received} bytes")
