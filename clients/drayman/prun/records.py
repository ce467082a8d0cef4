"""The files of --dumpTaskParams, --dumpJson and --loadJson."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drayman.cli.json_values import json_object_in
from drayman.prun.endings import ConfigurationError
from drayman.prun.options import Options

#: What a record has besides options.
_OUTCOME = ("returnCode", "returnOut", "jediTaskID")


def with_loaded(options: Options) -> Options:
    """Return options with those of --loadJson behind them. Raises ConfigurationError."""
    if not options.has("loadJson"):
        return options
    path = options.text("loadJson")
    try:
        loaded = json_object_in(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--loadJson {path!a} cannot be read: {error}") from error
    return options.over({name: value for name, value in loaded.items() if name not in _OUTCOME})


def dump_parameters(options: Options, parameters: Mapping[str, Any]) -> None:
    """Write the parameters of the task, if that is asked for. Raises ConfigurationError."""
    if not options.has("dumpTaskParams"):
        return
    text = json.dumps(parameters, indent=2, ensure_ascii=False) + "\n"
    if options.text("dumpTaskParams") == "-":
        sys.stdout.write(text)
    else:
        _write(options.text("dumpTaskParams"), text, "dumpTaskParams")


def dump_outcome(options: Options, code: int, message: str, task_id: int | None) -> None:
    """Write the options and what became of them, if that is asked for. Raises ConfigurationError."""
    if options.has("dumpJson"):
        record = {**options.record(), "returnCode": code, "returnOut": message, "jediTaskID": task_id}
        _write(options.text("dumpJson"), json.dumps(record, indent=2, ensure_ascii=False) + "\n", "dumpJson")


def _write(path: str, text: str, option: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--{option} {path!a} cannot be written: {error}") from error
