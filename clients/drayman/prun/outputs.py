"""What jobs make: names of files, and of the collections they go to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from drayman.prun.endings import ConfigurationError
from drayman.prun.options import Options

_MOST_OUTPUTS = 10
_LONGEST_NAME = 132
_LONGEST_SUFFIX = 80
_NAME = re.compile(r"[A-Za-z0-9_.+@*?-]+")
_SUFFIX = re.compile(r"[A-Za-z0-9_.+-]+")
_DATASET = re.compile(r"[A-Za-z0-9_.+@-]+(?:/[A-Za-z0-9_.+@-]+){0,2}/?")


@dataclass(frozen=True, slots=True)
class Output:
    """A file that each job makes: its path there, or a pattern for an `archive` of files; and what its names end with."""

    path: str
    archive: bool
    suffix: str
    ending: str
    may_be_missing: bool


def output_dataset(options: Options) -> str:
    """Return the name in --outDS, without a slash at its end. Raises ConfigurationError."""
    name = options.text("outDS").strip()
    if not name:
        raise ConfigurationError("--outDS is needed: the name of the task, such as user.me.test1")
    if len(name) > _LONGEST_NAME:
        raise ConfigurationError(f"--outDS has {len(name)} characters: at most {_LONGEST_NAME}")
    plain = name.removesuffix("/")
    parts = plain.split("/")
    if not _DATASET.fullmatch(name) or any(part.startswith("..") or part == "." for part in parts):
        raise ConfigurationError(
            f"--outDS {name!a}: expected a name, project/asset or project/asset/version, of letters, digits and . _ - + @"
        )
    if plain.isdigit():
        raise ConfigurationError(f"--outDS {name!r}: a number is a dispatch project, and outputs do not go there")
    return plain


def outputs(options: Options) -> tuple[Output, ...]:
    """Read --outputs. Raises ConfigurationError."""
    patterns = [_pattern(text) for text in options.words("allowNoOutput")]
    found = [_output(text, patterns) for text in options.words("outputs")]
    if len(found) > _MOST_OUTPUTS and not options.flag("unlimitNumOutputs"):
        raise ConfigurationError(f"{len(found)} outputs: at most {_MOST_OUTPUTS} unless --unlimitNumOutputs is given")
    for what in ("suffix", "ending"):
        names = [getattr(output, what) for output in found]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigurationError(f"--outputs has {twice} twice: give one a suffix of its own, SUFFIX:NAME")
    return tuple(found)


def output_items(dataset: str, made: tuple[Output, ...]) -> list[dict[str, Any]]:
    """Return the items of jobParameters that declare outputs (section 4.2), hidden: the command names them where it wants."""
    return [
        {
            "type": "template",
            "param_type": "output",
            "value": f"{_prefix(dataset)}.$JEDITASKID._${{SN/P}}.{output.ending}",
            "dataset": _extended(dataset, f"_{output.suffix}"),
            "container": _extended(dataset, f"_{output.suffix}") + "/",
            "hidden": True,
            **({"allowNoOutput": True} if output.may_be_missing else {}),
        }
        for output in made
    ]


def log_item(dataset: str) -> dict[str, Any]:
    """Return what declares the log."""
    return {
        "type": "template",
        "param_type": "log",
        "value": f"{_prefix(dataset)}.$JEDITASKID._${{SN/P}}.log.tgz",
        "dataset": _extended(dataset, ".log"),
        "container": _extended(dataset, ".log") + "/",
    }


def _output(text: str, patterns: list[re.Pattern[str]]) -> Output:
    suffix, colon, path = text.rpartition(":")
    name = PurePosixPath(path).name
    archive = any(sign in path for sign in "*?")
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ConfigurationError(f"--outputs {text!a}: {path!a} leads out of the job's folder")
    if not all(_NAME.fullmatch(part) for part in path.split("/")) or name in ("", "."):
        raise ConfigurationError(
            f"--outputs {text!a}: expected names of letters, digits and . _ - + @, with * and ? for several"
        )
    ending = f"{name.replace('*', 'XYZ').replace('?', 'X')}.tgz" if archive else name
    if (colon and not _SUFFIX.fullmatch(suffix)) or len(suffix or ending) > _LONGEST_SUFFIX:
        raise ConfigurationError(
            f"--outputs {text!a}: expected a suffix of letters, digits and . _ - +, of at most {_LONGEST_SUFFIX} characters"
        )
    return Output(path, archive, suffix or ending, ending, any(pattern.search(name) for pattern in patterns))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigurationError(f"--allowNoOutput {text!a} is no regular expression: {error}") from error


def _extended(dataset: str, suffix: str) -> str:
    """Return a name with a suffix: that of the asset, if the version is named too."""
    parts = dataset.split("/")
    parts[min(len(parts), 2) - 1] += suffix
    return "/".join(parts)


def _prefix(dataset: str) -> str:
    """Return what names of files begin with: `user.me` of `user.me.test1`, else the whole name."""
    parts = dataset.split("/")
    name = parts[min(len(parts), 2) - 1]
    fields = name.split(".")
    return ".".join(fields[:2]) if fields[0] in ("user", "group") and len(fields) > 1 and fields[1] else name
