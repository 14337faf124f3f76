"""Texts that many prompts share: system prompts, examples, documents, images."""

from __future__ import annotations

from pydantic import Field

from .distributions import Distribution, fixed
from .popularity import Popularity


class SharedText(Popularity):
    """One of *count* texts; each has its own length, drawn once."""

    tokens: Distribution = Field(default=fixed(1000), description="length of each text, tokens")


class Documents(SharedText):
    """Retrieved documents, placed before the question in the order of retrieval."""

    tokens: Distribution = Field(default=fixed(800), description="length of a document, tokens")
    per_request: Distribution = Field(
        default=fixed(3), description="how many different documents a request retrieves"
    )


class Images(Popularity):
    """Images at the beginning of the prompt; those drawn twice are found in the encoder cache."""

    tokens: Distribution = Field(default=fixed(576), description="placeholder tokens of an image")
    per_request: Distribution = Field(default=fixed(1), description="images in a request")
