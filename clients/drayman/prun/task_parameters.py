"""The parameters of a task, taskParams (section 4.1), made of options. Pure, but for the files of names that options may give."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

from drayman.prun.commands import build_script, for_bash, random_base, run_script, with_placeholders
from drayman.prun.endings import ConfigurationError
from drayman.prun.inputs import inputs
from drayman.prun.options import Options
from drayman.prun.outputs import log_item, output_dataset, output_items, outputs

_PROGRAM = "bash"
_VO = "wlcg"
_PRIORITY = 1000
#: Options that are keys of the task's parameters as they are.
_NUMBERS = {"memory": "ramCount", "nCore": "coreCount", "maxWalltime": "maxWalltime", "maxAttempt": "maxAttempt"}
_TEXTS = {"cloud": "cloud", "containerImage": "container_name", "workingGroup": "workingGroup"}
_FLAGS = ("disableAutoRetry", "skipScout", "useSecrets", "debugMode", "official", "mergeOutput")
_LONGEST_GROUP = 32


def task_parameters(options: Options, *, sandbox: str = "", command_line: str = "") -> dict[str, Any]:
    """Return the parameters. `sandbox` is the name under which the folder is stored, empty for none; `command_line` what was typed.

    Raises ConfigurationError for options that do not go together, and for those that cannot be right.
    """
    command = options.text("exec")
    if not command.strip():
        raise ConfigurationError("--exec is needed: the command that jobs run")
    if options.flag("noBuild") and options.has("bexec"):
        raise ConfigurationError("--bexec and --noBuild exclude each other")
    dataset = output_dataset(options)
    made = outputs(options)
    read = inputs(options)
    seeds = random_base(command)
    script = run_script(
        with_placeholders(command, streams=read.streams, outputs=len(made)),
        [(output.path, output.archive) for output in made],
        library=options.has("bexec"),
    )
    items = [*read.items, *([_seeds(seeds)] if seeds is not None else []), *output_items(dataset, made)]
    return {
        "taskName": dataset,
        "uniqueTaskName": True,
        "vo": _organisation(options),
        "prodSourceLabel": options.text("prodSourceLabel") or "user",
        "taskType": "anal",
        "taskPriority": _PRIORITY,
        "processingType": f"drayman-{metadata.version('drayman')}-run",
        "architecture": options.text("architecture"),
        "transUses": "",
        "transHome": "",
        "transPath": _PROGRAM,
        "cliParams": command_line,
        **read.keys,
        **_places(options),
        **_conditions(options),
        **_sandbox(options, sandbox),
        "jobParameters": [*items, {"type": "constant", "value": for_bash(script)}],
        "log": log_item(dataset),
    }


def _organisation(options: Options) -> str:
    environment = os.environ.get("PANDA_AUTH_VO") or os.environ.get("OIDC_AUTH_VO") or ""
    return options.text("vo") or environment.partition(":")[0] or _VO


def _seeds(base: int) -> dict[str, Any]:
    """Return the stream of random seeds: the first is the base + 1."""
    return {
        "type": "template",
        "param_type": "random_seed",
        "value": "${RNDMSEED}",
        "dataset": "RNDMSEED",
        "offset": base,
        "hidden": True,
    }


def _places(options: Options) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    sites = options.words("site")
    if len(sites) == 1:
        keys["site"] = sites[0]
    elif sites:
        keys["includedSite"] = ",".join(sites)
    if options.has("excludedSite"):
        keys["excludedSite"] = ",".join(options.words("excludedSite"))
    return keys


def _conditions(options: Options) -> dict[str, Any]:
    keys: dict[str, Any] = {key: value for name, key in _NUMBERS.items() if (value := options.number(name)) is not None}
    keys |= {key: options.text(name) for name, key in _TEXTS.items() if options.has(name)}
    keys |= dict.fromkeys((name for name in _FLAGS if options.flag(name)), True)
    if len(keys.get("workingGroup", "")) > _LONGEST_GROUP:
        raise ConfigurationError(f"--workingGroup: at most {_LONGEST_GROUP} characters")
    return keys


def _sandbox(options: Options, sandbox: str) -> dict[str, Any]:
    """Return what says which archive jobs begin with, and how it is built."""
    if not options.has("bexec"):
        return {"fixedSandbox": sandbox} if sandbox else {}
    return {
        "buildSpec": {
            "prodSourceLabel": "panda",
            "transPath": _PROGRAM,
            "archiveName": sandbox,
            "jobParameters": for_bash(build_script(options.text("bexec"))),
        }
    }
