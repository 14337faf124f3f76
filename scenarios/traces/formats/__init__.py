"""The supported trace formats, one module a format or family."""

from __future__ import annotations

from . import (
    azure,
    bailian,
    burstgpt,
    claude,
    llmservingsim,
    mooncake,
    servegen,
    sharegpt,
    vidur,
)
from .base import Format

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        mooncake.FORMAT,
        claude.FORMAT,
        bailian.BAILIAN,
        bailian.LMCACHE,
        azure.FORMAT,
        burstgpt.FORMAT,
        servegen.TEXT,
        servegen.MULTIMODAL,
        llmservingsim.FORMAT,
        vidur.FORMAT,
        sharegpt.FORMAT,
    )
}

__all__ = ["FORMATS", "Format"]
