"""Times as PanDA writes them: `YYYY-MM-DD HH:MM:SS` in UTC, or a `datetime` in UTC that does not say so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_FORMAT = "%Y-%m-%d %H:%M:%S"


def written(moment: datetime | None) -> str | None:
    """Write a time; None stays None."""
    return None if moment is None else moment.astimezone(UTC).strftime(_FORMAT)


def plain(moment: datetime | None) -> datetime | None:
    """Return a time in UTC without saying so, as programs have it that compare it with `datetime.utcnow()`."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def read(text: object) -> datetime | None:
    """Read a time; None if it is none."""
    try:
        return datetime.strptime(str(text), _FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def days_ago(days: float) -> datetime:
    """Return when it was so many days ago."""
    return datetime.now(UTC) - timedelta(days=days)
