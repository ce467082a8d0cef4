"""How a command ends other than well."""

from __future__ import annotations


class Answer(Exception):
    """A documented answer, such as `timeout` or `Project 7 not found`: one line on standard output, exit code 1."""


class Refusal(Exception):
    """Something does not work: one line on standard error, exit code 1."""

    code = 1


class Misuse(Refusal):
    """A command line that cannot be right: one line on standard error, exit code 2."""

    code = 2
