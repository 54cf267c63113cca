"""How `bfm` speaks: tables and progress on stdout, errors on stderr, exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final, Literal

from rich.console import Console
from rich.table import Table

from pipelines.errors import EXIT_USER_ERROR, UserError

EXIT_DEFECT: Final = 1
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 128 + signal.SIGTERM

WIDTH_OF_A_FILE: Final = 160

# Values of the company's data are printed as they are: none of them is read as Rich's markup.
out = Console(
    markup=False,
    emoji=False,
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE,
)
err = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


class TerminatedError(BaseException):
    """The process was asked to end (SIGTERM): what is open is closed, as after Ctrl-C."""


def guarded(run: Callable[[], object]) -> int:
    """Run a command and turn what it raises into an exit code and one clear message.

    SIGTERM, which service managers and containers send, ends it as orderly as Ctrl-C does, and
    the process then ends by it, so that they see their request fulfilled rather than a failure.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        run()
    except TerminatedError:
        err.print("Ended on request. What was finished is kept; run the same command to go on.")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
        return EXIT_TERMINATED  # the first process of a container outlives its own signal
    except UserError as error:
        err.print(f"error: {error}", style="red")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        err.print("Interrupted. Finished stages are kept; run the same command to go on.")
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.filename is None:
            return _defect()
        err.print(
            f"error: {error.filename}: {error.strerror}. Give a path that can be used, or "
            "make room or rights for this one.",
            style="red",
        )
        return EXIT_USER_ERROR
    except Exception:
        return _defect()
    return 0


def _defect() -> int:
    traceback.print_exc(file=sys.stderr)
    err.print("This is a defect in bfm, not in your input. The lines above say where.")
    return EXIT_DEFECT


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; numbers stand to the right, what the first column names stays in one line."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for position, name in enumerate(header):
        numeric = all(_is_number(row[position]) for row in rows) and bool(rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=position == 0)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("-", "").replace("+", "").isdigit()
