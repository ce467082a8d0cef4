"""Reads along with every log that is written during a run of tests, and looks for what must never be in one.

`WATCH` hears of each service process when it starts, of each password when somebody computes a hash of it, and of what the services are
started with. Whatever a test's own process logs through structlog is taken as the service would have written it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import structlog

from drayman.client import digest
from drayman.server.platform.logging import chain
from drayman.server.platform.settings import Settings
from drayman.testing.service_process import ServiceProcess

#: What looks like a secret, whosever it is.
SHAPES: Mapping[str, re.Pattern[str]] = {
    "a JWT": re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a refresh token": re.compile(r"drr_[\w+/=-]{8,}"),
    "a bearer token": re.compile(r"[Bb]earer +[\w.~+/=-]{8,}"),
    "a private key": re.compile(r"PRIVATE KEY-----(\s|\\n|\\r)*[A-Za-z0-9+/]"),
    "a row with its values": re.compile(r"Failing row contains \("),
}
#: Settings that are secret as they are; a URL only has one in it.
_SECRET_SETTINGS = {
    f"DRAYMAN_{each.name.upper()}"
    for each in fields(Settings)
    if each.metadata["secret"] and each.name != "database_url"
}
_KEY_FILES = ("secrets-key", "secrets-keys")
_SHORTEST = 8


def is_telling(secret: str) -> bool:
    """Whether a secret would stand in a log only because it is one. `secret` and `password` stand in many."""
    plain = set(secret) <= set(string.ascii_letters + " ")
    return len(secret) >= (2 * _SHORTEST if plain else _SHORTEST)


@dataclass
class _Log:
    """A log file, and how far it has been read."""

    path: Path
    keys: Sequence[Path] = ()
    read: int = 0
    lines: int = 0


@dataclass
class LogWatch:
    """What was seen so far. `findings` say where something was found, without repeating it."""

    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    findings: list[str] = field(default_factory=list)
    lines: int = 0
    processes: int = 0
    _logs: dict[Path, _Log] = field(default_factory=dict)

    # --- what to look for, and where ---------------------------------------------------------------------------------

    def register(self, secret: str, what: str) -> None:
        """Look for this from now on, and again in logs that are still there."""
        if is_telling(secret) and secret not in self.secrets:
            self.secrets[secret] = what
            for log in self._logs.values():
                log.read = 0

    def register_password(self, username: str, realm: str, password: str) -> None:
        """Look for a password, and for what a service stores of it."""
        self.register(password, "a password")
        for algorithm in ("sha256", "md5"):
            ha1 = hashlib.new(algorithm, f"{username}:{realm}:{password}".encode(), usedforsecurity=False)
            self.register(ha1.hexdigest(), f"an HA1 ({algorithm})")

    def register_environment(self, environment: Mapping[str, str]) -> None:
        """Look for the secrets that a process is started with."""
        for name in _SECRET_SETTINGS & environment.keys():
            self.register(environment[name], f"the value of {name}")

    def follow(self, path: Path, key_files: Iterable[Path] = ()) -> None:
        """Read this log from now on; `key_files` have the sealing keys of its process."""
        self._logs.setdefault(path, _Log(path)).keys = tuple(key_files)
        self.processes += 1

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Read what was written since the last look."""
        for path in list(self._logs):
            self.look_into(path)

    def look_into(self, path: Path) -> None:
        """Read what was written into one log since the last look; one that is gone has been read when its process ended."""
        log = self._logs[path]
        for file in log.keys:
            if file.exists():
                self._register_keys(file.read_text())
        if not path.exists():
            return
        with path.open("rb") as file:
            again = log.read == 0
            file.seek(log.read)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        log.read += len(whole)
        text = whole.decode(errors="replace")
        lines = text.splitlines()
        counted = len(lines) if not again else max(len(lines) - log.lines, 0)
        self.lines += counted
        log.lines += counted
        if any(self._found_in(text)):
            for line in lines:
                self.scan(line, path.name)

    def scan(self, line: str, where: str) -> None:
        """Look at one line."""
        for what in sorted(set(self._found_in(line))):
            finding = f"{what} in {where}: {self._without_secrets(line)[:300]}"
            if finding not in self.findings:
                self.findings.append(finding)

    def _found_in(self, text: str) -> Iterator[str]:
        yield from (what for secret, what in self.secrets.items() if secret in text)
        yield from (what for what, shape in SHAPES.items() if shape.search(text))

    def _without_secrets(self, line: str) -> str:
        for secret in self.secrets:
            line = line.replace(secret, "<HERE>")
        for shape in SHAPES.values():
            line = shape.sub("<HERE>", line)
        return line

    def _register_keys(self, text: str) -> None:
        """Sealing keys, as they are in their file and as somebody might print them."""
        for line in text.splitlines():
            encoded = line.rpartition(" ")[2]
            try:
                key = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                continue
            if len(key) == 32:
                for shown in (encoded, key.hex(), repr(key)[2:-1]):
                    self.register(shown, "a sealing key")

    # --- in the process of the tests ---------------------------------------------------------------------------------

    def see_event(self, logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """A processor of structlog: looks at the line that a service would write, and leaves the event as it is."""
        line: Any = dict(event)
        for processor in chain("json"):
            line = processor(logger, method, line)
        self.lines += 1
        self.scan(str(line), "the process of the tests")
        return event


WATCH = LogWatch()


def install() -> Iterator[None]:
    """Let `WATCH` hear of everything until the next step of the iterator."""
    start, close, ha1 = ServiceProcess.__init__, ServiceProcess._close, digest.ha1
    configuration = structlog.get_config()

    @functools.wraps(start)
    def started(process: ServiceProcess, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        WATCH.register_environment(environment)
        WATCH.follow(log, _key_files(arguments, environment))
        start(process, arguments, environment, log)

    @functools.wraps(close)
    def closed(process: ServiceProcess) -> None:
        close(process)
        WATCH.look_into(process._log)

    @functools.wraps(ha1)
    def computed(username: str, realm: str, password: str, algorithm: str = "SHA-256") -> str:
        WATCH.register_password(username, realm, password)
        return ha1(username, realm, password, algorithm)

    _set(ServiceProcess, "__init__", started)
    _set(ServiceProcess, "_close", closed)
    _set(digest, "ha1", computed)
    # structlog's own way of showing exceptions colours the source around them: of a test that provokes many that is most of the time
    shown = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[WATCH.see_event, *configuration["processors"][:-1], shown])
    yield
    structlog.configure(**configuration)
    _set(digest, "ha1", ha1)
    _set(ServiceProcess, "_close", close)
    _set(ServiceProcess, "__init__", start)


def _set(owner: Any, name: str, value: Callable[..., Any]) -> None:
    setattr(owner, name, value)


def _key_files(arguments: Sequence[str], environment: Mapping[str, str]) -> list[Path]:
    """Where the sealing keys of a process are."""
    files = [Path(environment["DRAYMAN_SECRETS_KEY_FILE"])] if "DRAYMAN_SECRETS_KEY_FILE" in environment else []
    for option, value in itertools.pairwise(arguments):
        if option == "--data-dir":
            files += [Path(value) / name for name in _KEY_FILES]
    return files
