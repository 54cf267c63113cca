"""The error tree. Every message says what came, what is allowed and what to do next.

`UserError` is the user's input, configuration or machine: the command ends with exit code 2 and
prints the message alone. Anything else that escapes is a defect and ends with exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

EXIT_USER_ERROR: Final = 2


class BfmError(Exception):
    """Root of all errors raised on purpose by this project."""


class UserError(BfmError):
    """The user's input, configuration or machine needs a change (exit code 2)."""


class CompanyConfigError(UserError):
    """`company.yaml` cannot be read as a description of a company."""


class SourceError(UserError):
    """A source table is missing, empty, or lacks what the description names."""


class TooLittleDataError(UserError):
    """There are too few users or events to learn something from; it can be left out."""


class QualityError(UserError):
    """A promise about a whole table is broken; the line stops."""


class VocabularyMismatchError(UserError):
    """Tables, checkpoint or bundle were made with another vocabulary."""


class BundleError(UserError):
    """A bundle is incomplete or was changed after it was written."""


class SchemaVersionError(BundleError):
    """A part of a bundle is of a version that this code does not read; waiting mends nothing."""


class EnvironmentProblemError(UserError):
    """This machine lacks something: Java, jars, a free port."""


class WorkspaceError(UserError):
    """The workspace lacks a table or a file that an earlier stage makes, or is in use."""


class UnknownNameError(UserError):
    """A name that is not registered; the message lists what is and guesses what was meant.

    Args:
        kind: What it would be the name of.
        name: What came.
        known: What is registered, or some of it.
        is_all: Whether nothing else is known.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, is_all: bool = True) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        more = [] if is_all else ["..."]
        listed = ", ".join([*names, *more]) or "none"
        super().__init__(f"Unknown {kind} '{name}'. Known: {listed}.{guess}")
