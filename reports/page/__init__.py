"""report.html: one file that opens offline and reads without JavaScript."""

from .render import MAX_BYTES, render, write_report

__all__ = ["MAX_BYTES", "render", "write_report"]
