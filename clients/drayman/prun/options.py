"""The options: one table, of which `prun` and `drayman run` make what their users see; and the values that were given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from drayman.prun.endings import ConfigurationError

_MOST = 2**53


class Kind(Enum):
    """What an option takes."""

    TEXT = auto()
    WORDS = auto()  # a text with commas; may be repeated
    NUMBER = auto()
    FLAG = auto()


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its name without dashes, what it is for, what it takes and what that is called."""

    name: str
    about: str
    kind: Kind = Kind.TEXT
    value: str = "TEXT"
    least: int = 1
    most: int = _MOST


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """Options that belong together."""

    title: str
    options: tuple[Option, ...]


def _number(name: str, about: str, *, value: str = "N", least: int = 1, most: int = _MOST) -> Option:
    return Option(name, about, Kind.NUMBER, value, least, most)


def _words(name: str, about: str, value: str) -> Option:
    return Option(name, about, Kind.WORDS, value)


def _flag(name: str, about: str) -> Option:
    return Option(name, about, Kind.FLAG, "")


GROUPS = (
    OptionGroup(
        "What runs",
        (
            Option(
                "exec",
                "the command, for bash; %%IN, %%OUT, %%RNDM:n, %%SKIPEVENTS, %%MAXEVENTS and ${...} in it are replaced",
                value="COMMAND",
            ),
            Option(
                "bexec", "a command for a job that goes before the others: what it leaves, they find", value="COMMAND"
            ),
            _flag("noBuild", "no such job; this is so anyway unless --bexec is given"),
        ),
    ),
    OptionGroup(
        "Inputs",
        (
            _words(
                "inDS", "collections: dispatch projects, project/asset[/version], outputs of other tasks", "NAME,..."
            ),
            _words(
                "secondaryDSs",
                "further collections, each STREAM:FILES_PER_JOB:NAME[:PATTERN]; %%STREAM in --exec is their files",
                "STREAM:N:NAME,...",
            ),
            Option("inputFileList", "only the files named in this file, one a line", value="FILE"),
            Option("pfnList", "the names in this file, one a line, are the inputs: no collection", value="FILE"),
            _words("match", "only files whose names match", "PATTERN,..."),
            _words("antiMatch", "no files whose names match", "PATTERN,..."),
        ),
    ),
    OptionGroup(
        "Splitting",
        (
            _number("nJobs", "so many jobs; with inputs at most so many, of one file each unless more is said"),
            _number("nFiles", "at most so many input files in all"),
            _number("nFilesPerJob", "input files for each job", most=1000),
            Option("nGBPerJob", "input for each job, in whole GB; MAX = as by default", value="N|MAX"),
            _number("nEvents", "at most so many events in all"),
            _number("nEventsPerJob", "events for each job"),
            _number("nEventsPerFile", "events in each input file, where the collection does not say"),
            _number("maxNFilesPerJob", "at most so many files for a job that is cut by size; default 200", most=1000),
        ),
    ),
    OptionGroup(
        "Outputs",
        (
            Option("outDS", "the name of the task, and what the names of its outputs begin with", value="NAME"),
            _words("outputs", "files that each job makes: [SUFFIX:]NAME; with * or ? an archive of them", "NAME,..."),
            _words("allowNoOutput", "outputs that may be missing: regular expressions", "REGEX,..."),
            _flag("mergeOutput", "write outputs one after the other into larger files, in jobs of their own"),
            _flag("unlimitNumOutputs", "allow more than 10 outputs"),
        ),
    ),
    OptionGroup(
        "Where jobs run",
        (
            _words("site", "only there; AUTO = anywhere", "NAME,..."),
            _words("excludedSite", "not there", "NAME,..."),
            Option("cloud", "a region; kept with the task, and without effect", value="NAME"),
            _number("memory", "memory for each core, in MB", value="MB"),
            _number("nCore", "cores for each job", most=10**6),
            _number("maxWalltime", "the most time for each job, in hours", value="HOURS", most=10**6),
            Option("architecture", "the platform of the worker, such as x86_64-el9", value="NAME"),
            Option("containerImage", "the image that jobs run in, for workers that do containers", value="IMAGE"),
        ),
    ),
    OptionGroup(
        "Sandbox",
        (
            Option("workDir", "the folder that jobs find the content of; default: this one", value="FOLDER"),
            _words("extFile", "files that go along although they are large", "PATTERN,..."),
            _words("excludeFile", "files and folders that stay here", "PATTERN,..."),
            _number("maxFileSize", "larger files stay here; in MB, default 1", value="MB", most=10**6),
            Option("inTarBall", "an archive to use instead of packing one", value="FILE"),
            Option("outTarBall", "keep the archive", value="FILE"),
        ),
    ),
    OptionGroup(
        "How it is run",
        (
            _number("maxAttempt", "attempts at each input; default 10", most=50),
            _flag("disableAutoRetry", "one attempt only"),
            _flag("skipScout", "make all jobs at once, rather than to wait for the first ones"),
            _flag("useSecrets", "jobs get your secrets"),
            _flag("debugMode", "send what jobs write while they run"),
            _number("parentTaskID", "begin when this task is over", value="ID"),
        ),
    ),
    OptionGroup(
        "The task itself",
        (
            Option("vo", "the organisation; default PANDA_AUTH_VO, else wlcg", value="NAME"),
            Option("prodSourceLabel", "the label; default user", value="LABEL"),
            Option("workingGroup", "the group; at most 32 characters", value="NAME"),
            _flag("official", "a task of a group: its name is its own among all users'"),
        ),
    ),
    OptionGroup(
        "Records and trials",
        (
            _flag("noSubmit", "do everything but the upload and the submission"),
            Option("dumpTaskParams", "write the task's parameters; - is standard output", value="FILE|-"),
            Option("dumpJson", "write the options, and what became of the task", value="FILE"),
            Option("loadJson", "read options from such a file; those on the command line go before", value="FILE"),
            _flag("verbose", "tell what is done"),
        ),
    ),
)

TABLE: Mapping[str, Option] = {option.name: option for group in GROUPS for option in group.options}

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0", "")


class Options:
    """What was given. A name that is not in the table is a mistake of the program: KeyError."""

    def __init__(self, given: Mapping[str, object]) -> None:
        """Take values as the command line or JSON has them; None = not given. Raises ConfigurationError."""
        self._given: dict[str, str | int | bool | tuple[str, ...]] = {}
        for name, value in given.items():
            if name not in TABLE:
                raise ConfigurationError(f"there is no option {name!r}")
            if value is not None:
                self._given[name] = _read(TABLE[name], value)

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        return str(self._value(name, default))

    def number(self, name: str) -> int | None:
        """Return a number; None = not given."""
        value = self._value(name, None)
        assert value is None or isinstance(value, int), name
        return value

    def flag(self, name: str) -> bool:
        """Return whether a flag is set."""
        return bool(self._value(name, None))

    def words(self, name: str) -> tuple[str, ...]:
        """Return a list."""
        value = self._value(name, ())
        assert isinstance(value, tuple), name
        return value

    def has(self, name: str) -> bool:
        """Whether something was given, other than nothing."""
        return self._value(name, None) not in (None, "", (), False)

    def record(self) -> dict[str, object]:
        """Return what was given, for JSON."""
        return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in self._given.items()}

    def over(self, others: Mapping[str, object]) -> Options:
        """Return these with others for what is not given. Raises ConfigurationError."""
        return Options({**others, **{name: value for name, value in self._given.items() if name != "loadJson"}})

    def _value(self, name: str, default: object) -> object:
        assert name in TABLE, name
        return self._given.get(name, default)


def _read(option: Option, value: object) -> str | int | bool | tuple[str, ...]:
    if option.kind is Kind.FLAG:
        return _truth(option, value)
    if option.kind is Kind.WORDS:
        return _split(option, value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigurationError(f"--{option.name} {value!r}: expected {option.value}")
    if option.kind is Kind.NUMBER:
        return _whole(option, str(value))
    text = str(value)
    if "\0" in text or not _is_utf8(text):
        raise ConfigurationError(f"--{option.name} {text!a}: expected UTF-8 text")
    return text


def _truth(option: Option, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise ConfigurationError(f"--{option.name} {value!r}: expected true or false")
    return word in _TRUE


def _whole(option: Option, text: str) -> int:
    digits = text.strip()
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else -1
    if not option.least <= number <= option.most:
        limit = f"a whole number from {option.least}" + (f" to {option.most}" if option.most < _MOST else " on")
        raise ConfigurationError(f"--{option.name} {text!r}: expected {limit}")
    return number


def _split(option: Option, value: object) -> tuple[str, ...]:
    texts: Iterable[object] = value if isinstance(value, (list, tuple)) else (value,)
    words: dict[str, None] = {}
    for text in texts:
        if not isinstance(text, (str, int)) or isinstance(text, bool) or not _is_utf8(str(text)):
            raise ConfigurationError(f"--{option.name} {text!a}: expected {option.value}")
        words |= dict.fromkeys(word for part in str(text).split(",") if (word := part.strip()))
    return tuple(words)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
