"""Engines that keep the KV of a request in one piece: Orca, and those with static batches."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ...policies.errors import InputError
from ..explain import PartError
from .other_engine import BATCH, CONTEXT, Context, OtherEngine, Requests, Tokens
from .presets import PRESETS


class OrcaSpec(OtherEngine):
    """How Orca batches (OSDI'22)."""

    preset: Literal["orca"] = Field(description="the engine whose rules hold")
    max_batch_size: Requests = Field(default=256, description=BATCH)
    max_batch_tokens: Tokens = Field(
        default=8192, description="tokens of a step that activations have room for"
    )
    max_model_len: Context | None = Field(default=None, description=CONTEXT)
    reserve: Literal["answer", "context"] = Field(
        default="answer",
        description="KV slots taken at admission: of the longest answer, or of the whole context",
    )

    scheduler_keys: ClassVar[dict[str, str]] = {"reserve": "reserve"}

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return self.max_batch_tokens

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_batch_size

    @property
    def enable_prefix_caching(self) -> bool:
        """It has none."""
        return False


class StaticSpec(OtherEngine):
    """How engines without continuous batching batch."""

    batch: ClassVar[int] = 8

    max_batch_size: Requests | None = Field(
        default=None, description="most requests in a batch; the preset's when left out"
    )
    max_batch_tokens: Tokens = Field(
        default=8192, description="prompt tokens of a batch, padding included"
    )
    max_model_len: Context | None = Field(default=None, description=CONTEXT)
    max_queue_delay_microseconds: int = Field(
        default=0,
        ge=0,
        le=10**10,
        description="wait so long for a full batch; 0 takes whoever waits",
    )

    scheduler_keys: ClassVar[dict[str, str]] = {"max_queue_delay_microseconds": "max_queue_delay_s"}

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""
        return self.max_batch_tokens

    @property
    def max_num_seqs(self) -> int:
        """Most requests in the batch."""
        return self.max_batch_size or self.batch

    @property
    def enable_prefix_caching(self) -> bool:
        """They have none."""
        return False

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy."""
        delay_s = self.max_queue_delay_microseconds / 1e6
        return PRESETS[self._name].parameters | {"max_queue_delay_s": delay_s}


class FasterTransformerSpec(StaticSpec):
    """How FasterTransformer batches, behind a server that collects requests."""

    preset: Literal["fastertransformer"] = Field(description="the engine whose rules hold")


class Ctranslate2Spec(StaticSpec):
    """How CTranslate2 batches."""

    preset: Literal["ctranslate2"] = Field(description="the engine whose rules hold")

    batch: ClassVar[int] = 32


class CandleSpec(StaticSpec):
    """How candle's examples serve: one request at a time."""

    preset: Literal["candle"] = Field(description="the engine whose rules hold")

    batch: ClassVar[int] = 1

    @model_validator(mode="after")
    def _one(self) -> CandleSpec:
        if (self.max_batch_size or 1) > 1:
            error = InputError("candle computes one request at a time", help="more replicas")
            raise PartError(error, "max_batch_size")
        return self


class GenerateSpec(StaticSpec):
    """How a loop around `generate` of Transformers batches."""

    preset: Literal["generate"] = Field(description="the engine whose rules hold")
