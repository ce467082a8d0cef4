"""Logs: structlog, one JSON object a line on standard error, the same keys everywhere.

What libraries tell the logging module goes the same way. What is secret is taken out by the name under which it comes, and out of the
finished line by what it looks like.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

#: Keys whose values never reach a log, whatever event they come with.
_SECRET = ("token", "password", "authorization", "ha1", "response", "secret", "nonce")

_MASK = "***"
#: What has to be in a line before anything in it can match, and what is taken out. A traceback is one line with `\n` written in it,
#: or, on a console, several.
_SHAPES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    # tokens: JWTs, refresh tokens, whatever else stands in the header
    ("eyJ", re.compile(r"eyJ[\w-]+\.[\w-]+(\.[\w-]*)*"), _MASK),
    ("drr_", re.compile(r"drr_[\w+/=-]+"), _MASK),
    ("earer ", re.compile(r"([Bb]earer) +[\w.~+/=-]{8,}"), rf"\1 {_MASK}"),
    (
        "PRIVATE KEY-----",
        re.compile(r"""(-----BEGIN [A-Z ]*PRIVATE KEY-----)((?!-----END)([^"\\]|\\[nr]))*"""),
        rf"\1{_MASK}",
    ),
    # the password of a database's URL
    ("://", re.compile(r"""(://[^\s/:@"]*):[^\s/@"]+@"""), rf"\1:{_MASK}@"),
)
#: PostgreSQL tells what it refuses to store, column by column.
_ROW = re.compile(r"(Failing row contains ).*")


def configure_logging(level: str, form: str) -> None:
    """Set up structlog for the process. `form` is `json` or `console`. Of libraries only warnings are let through, and what is worse."""
    lowest = getattr(logging, level.upper())
    structlog.configure(
        processors=chain(form),
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *chain(form)],
        )
    )
    root = logging.getLogger()
    for other in [each for each in root.handlers if isinstance(each.formatter, structlog.stdlib.ProcessorFormatter)]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(max(lowest, logging.WARNING))


def chain(form: str) -> list[structlog.typing.Processor]:
    """Return what makes a line of an event."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_secrets,
        structlog.processors.format_exc_info,
        _mask_rows,
        renderer,
        _mask_shapes,
    ]


def _mask_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in _SECRET:
        if key in event:
            event[key] = _MASK
    return event


def _mask_rows(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if "exception" in event:
        event["exception"] = _ROW.sub(rf"\1{_MASK}", event["exception"])
    return event


def _mask_shapes(_logger: object, _method: str, line: Any) -> str:
    """Of what the renderer made of the event."""
    for sign, shape, mask in _SHAPES:
        if sign in line:
            line = shape.sub(mask, line)
    return str(line)
