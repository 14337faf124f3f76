"""Starting a verb, and saying what went wrong: exit codes, and never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import typer
from typer.main import get_command

from ..policies.errors import InputError, UnknownNameError
from ..scenarios.faults import described
from .app import app
from .codes import BAD_INPUT, BROKEN_PIPE, FAILED, INTERRUPTED, OK, InterruptedByUserError
from .console import complain, note

#: click's error for wrong usage, wherever this version of typer keeps it
UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    code = run(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.flush()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command and return its exit code; every error is said on stderr."""
    try:
        result = _command()(list(arguments), prog_name="infersim", standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # typer caught it
            raise InterruptedByUserError("interrupted")
        return result if isinstance(result, int) else OK
    except UsageError as error:
        _say_usage(error)
        return BAD_INPUT
    except InputError as error:
        complain(error)
        return BAD_INPUT
    except InterruptedByUserError as error:
        complain(error)
        return INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        complain(InterruptedByUserError("interrupted"))
        return INTERRUPTED
    except BrokenPipeError:
        # nobody reads on: the interpreter must not try to flush what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        complain(described(error))
        return FAILED


@cache
def _command() -> Callable[..., object]:
    """The verbs as one command; typer takes a moment to make it."""
    command: Callable[..., object] = get_command(app)
    return command


def _say_usage(error: Exception) -> None:
    message = error.format_message()  # type: ignore[attr-defined]
    context = error.ctx  # type: ignore[attr-defined]
    if message.startswith("Usage:"):  # a verb is missing, and this is the help
        note(message)
    elif context is None:
        complain(InputError(message, help="infersim --help"))
    elif message.startswith("No such command"):
        names = context.command.commands
        complain(UnknownNameError("command", message.split("'")[1], names))
    else:
        complain(InputError(message, help=f"{context.command_path} --help"))
