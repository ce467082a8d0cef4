"""Logs: structlog, one JSON object a line on standard error, the same keys everywhere."""

from __future__ import annotations

import logging
import sys

import structlog

#: Keys whose values never reach a log, whatever event they come with.
_SECRET = ("token", "password", "authorization", "ha1", "response", "secret", "nonce")


def configure_logging(level: str, form: str) -> None:
    """Set up structlog for the process. `form` is `json` or `console`."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _mask_secrets,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _mask_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for key in _SECRET:
        if key in event:
            event[key] = "***"
    return event
