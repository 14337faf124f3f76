"""Figures as plotly.js JSON, built from run records and metrics. One question a chart."""

from .hits import hit_rate, hit_rate_by_capacity, hit_rate_by_turn
from .latency import ecdf, samples, time_split
from .load import busy, preemptions
from .misses import diverged_by_segment, missed_seconds, missed_tokens
from .series import over_time
from .style import Figure, Key, Line, legend, lines
from .timeline import slowest, timelines

__all__ = [
    "Figure",
    "Key",
    "Line",
    "busy",
    "diverged_by_segment",
    "ecdf",
    "hit_rate",
    "hit_rate_by_capacity",
    "hit_rate_by_turn",
    "legend",
    "lines",
    "missed_seconds",
    "missed_tokens",
    "over_time",
    "preemptions",
    "samples",
    "slowest",
    "time_split",
    "timelines",
]
