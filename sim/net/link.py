"""Links between the parts of a cluster."""

from __future__ import annotations

from ..state.link import FifoLink as FifoLink
