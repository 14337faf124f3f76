"""Numbers from run records: `summarize` for a cell, `intervals` over runs, `dumps` for files."""

from .intervals import intervals
from .stats import MIN_SAMPLES, dumps
from .summary import summarize

__all__ = ["MIN_SAMPLES", "dumps", "intervals", "summarize"]
