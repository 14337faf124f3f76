"""A simulation beside measured runs, for the terminal and as a page. Takes plain data."""

from .page import write_page
from .terminal import render

__all__ = ["render", "write_page"]
