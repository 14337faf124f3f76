"""``infersim conform``: our decisions against recorded ones."""

from __future__ import annotations
