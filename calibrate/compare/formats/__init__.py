"""One file a format of measured runs, and which one a path holds (`load`)."""

from .detect import load

__all__ = ["load"]
