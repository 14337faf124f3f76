"""Exit codes."""

from ..policies.errors import InfersimError

OK = 0
FAILED = 1  #: a check failed, or the run could not be carried out
BAD_INPUT = 2
SLO_MISSED = 3
INTERRUPTED = 130
BROKEN_PIPE = 141


class InterruptedByUserError(InfersimError):
    """Somebody pressed Ctrl-C; the message says what is kept."""
