"""Numbers from run records: `summarize` for one cell, `dumps` for summary.json."""

from .stats import MIN_SAMPLES, dumps
from .summary import summarize

__all__ = ["MIN_SAMPLES", "dumps", "summarize"]
