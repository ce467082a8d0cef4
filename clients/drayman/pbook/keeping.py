"""Verbs for what is kept: metadata of jobs, outputs that were lost, secrets, the login (section 12.1)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drayman.pbook.arguments import Kind, Parameter
from drayman.pbook.desk import Desk, say
from drayman.pbook.endings import Outcome, Refusal
from drayman.pbook.finding import tasks_of

if TYPE_CHECKING:
    from drayman.client.device_flow import DeviceCode

METADATA = (Parameter("taskID", Kind.NUMBER, needed=True), Parameter("output_filename", Kind.TEXT, needed=True))
RECOVER = (Parameter("taskID", Kind.NUMBER, needed=True), Parameter("test_mode", Kind.FLAG, False))
SET_SECRET = (
    Parameter("key", Kind.TEXT, needed=True),
    Parameter("value", Kind.TEXT, needed=True),
    Parameter("is_file", Kind.FLAG, False),
)
LIST_SECRETS = (Parameter("full", Kind.FLAG, False),)
DELETE_SECRET = (Parameter("key", Kind.TEXT, needed=True),)

#: A file is stored as base64 under its name behind this (section 8.1).
_FILE = "___file___:"
_LONGEST_VALUE = 1000 * 1024
_SHOWN = 50


async def get_metadata(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Write what finished jobs left in userJobMetadata.json into a file, by PandaID."""
    task_id = await _task_id(desk, given["taskID"])
    found = {str(job_id): value async for job_id, value in desk.tasks.metadata(task_id)}
    try:
        Path(given["output_filename"]).write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise Refusal(f"{given['output_filename']!a} cannot be written: {error}") from error
    say(f"metadata of {len(found)} jobs in {given['output_filename']}")
    return Outcome()


async def recover(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Run again what made outputs that are lost; in `test_mode` only tell which are."""
    task_id = await _task_id(desk, given["taskID"])
    answer = await desk.tasks.recover(task_id, dry_run=given["test_mode"])
    say(f"JediTaskID={task_id}: {answer.message}")
    for name in answer.lost:
        say(f"  {name}")
    return Outcome(good=answer.accepted)


async def set_secret(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Store a secret; with `is_file` the value names a file, which jobs find under the key."""
    key, value = given["key"], given["value"]
    if not key:
        raise Refusal("the key is empty")
    if given["is_file"]:
        try:
            value = base64.b64encode(Path(value).read_bytes()).decode()
        except OSError as error:
            raise Refusal(f"{given['value']!a} cannot be read: {error}") from error
    if len(value) > _LONGEST_VALUE:
        raise Refusal(f"the value has {len(value)} characters: at most {_LONGEST_VALUE}")
    await desk.secrets.set(f"{_FILE}{key}" if given["is_file"] else key, value)
    say("OK")
    return Outcome()


async def list_secrets(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """List secrets, with values cut to 50 characters; whole with `full`."""
    found = await desk.secrets.get()
    if not found:
        say("there are no secrets")
    width = max((len(key.removeprefix(_FILE)) for key in found), default=0)
    for key, value in sorted(found.items()):
        cut = value if given["full"] or len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        say(f"{key.removeprefix(_FILE):<{width}}  {'file' if key.startswith(_FILE) else 'text'}  {cut}")
    return Outcome()


async def delete_secret(desk: Desk, given: Mapping[str, Any], _: Mapping[str, Any]) -> Outcome:
    """Delete a secret, text or file. One that is not there is no error."""
    if not given["key"]:
        raise Refusal("the key is empty: delete_all_secrets deletes all")
    for key in (given["key"], _FILE + given["key"]):
        await desk.secrets.delete(key)
    say("OK")
    return Outcome()


async def delete_all_secrets(desk: Desk, _: Mapping[str, Any], __: Mapping[str, Any]) -> Outcome:
    """Delete all secrets."""
    say(f"{await desk.secrets.delete_all()} secrets deleted")
    return Outcome()


async def generate_credential(desk: Desk, _: Mapping[str, Any], __: Mapping[str, Any]) -> Outcome:
    """Log in anew on an issuer's web page, and keep the login."""
    session = await desk.auth.login_oidc(_show_code, "")
    try:
        desk.auth.credentials.keep()
    except OSError as error:
        raise Refusal(f"logged in, but the token cannot be kept: {error}") from error
    say(f"logged in as {session.username}")
    return Outcome()


def _show_code(code: DeviceCode) -> None:
    say(f"open {code.verification_uri} and enter {code.user_code}; waiting ...")


async def _task_id(desk: Desk, number: int) -> int:
    """Return the one task that a number stands for. Raises Refusal."""
    found = await tasks_of(desk, number)
    if len(found) != 1:
        ids = ", ".join(str(task.task_id) for task in found)
        raise Refusal(f"reqID {number} has the tasks {ids}: name one" if found else f"there is no task {number}")
    return found[0].task_id
