"""An exception that nobody expected, in one sentence with its place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from traceback import extract_tb, format_exc

from ..policies.errors import InfersimError, InputError

PACKAGE = Path(__file__).parents[1]


def described(error: Exception) -> InputError:
    """What to print for *error*; with INFERSIM_TRACEBACK set, its traceback goes to stderr too."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, InfersimError):
        return InputError(str(error))
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return InputError(f"{name}{error.strerror or error}")
    if isinstance(error, MemoryError):
        return InputError("out of memory")
    if os.environ.get("INFERSIM_TRACEBACK"):
        sys.stderr.write(format_exc())
    frame = extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(PACKAGE)
    fault = "this is a fault of infersim; " if ours else ""
    return InputError(
        f"{type(error).__name__}: {error}",
        where=f"{frame.filename}:{frame.lineno}  {frame.name}",
        help=f"{fault}INFERSIM_TRACEBACK=1 shows the whole way there",
    )
