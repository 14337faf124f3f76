"""A profile drawn: measured against fitted, residuals, roofline, coverage. Takes plain data."""

from .page import write_page
from .rows import HEADS, row

__all__ = ["HEADS", "row", "write_page"]
