"""How a run ends other than well; the codes are PanDA's (section 12.2)."""

from __future__ import annotations


class Failure(Exception):
    """Something does not work: one line on standard error."""

    code = 1


class ConfigurationError(Failure):
    """Options that cannot be right, or files they name that cannot be read."""

    code = 10


class UploadError(Failure):
    """The sandbox cannot be stored."""

    code = 50


class ArchiveError(Failure):
    """The sandbox cannot be packed."""

    code = 60


class SubmissionError(Failure):
    """The task was not accepted, or nobody answered."""

    code = 90
