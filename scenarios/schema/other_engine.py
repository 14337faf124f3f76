"""The ``engine:`` of a pool for presets other than vllm-v1 and sglang, each in its own words.

A spec has the user's knobs as fields and, as properties, what every engine is told under vLLM's
names. What a preset fixes is its row in `presets.PRESETS`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .base import Spec
from .presets import PRESETS

Tokens = Annotated[int, Field(ge=1, le=1 << 24)]
Requests = Annotated[int, Field(ge=1, le=1 << 20)]
Context = Annotated[int, Field(ge=2, le=1 << 24)]
CONTEXT = "context limit in tokens; what the model allows when left out"
BATCH = "most requests in the batch"


class OtherEngine(Spec):
    """What these engines have in common.

    Attributes:
        context_key: the field that limits the context.
        scheduler_keys: fields that are parameters of the scheduling policy: field -> parameter.
    """

    context_key: ClassVar[str] = "max_model_len"
    scheduler_keys: ClassVar[dict[str, str]] = {}

    @property
    def max_loras(self) -> int:
        """Adapters in one batch; 0 for no limit."""
        return 0

    @property
    def encoder_budget(self) -> int:
        """Image tokens encoded per step; 0 for no limit."""
        return 0

    @property
    def encoder_cache_size(self) -> int:
        """Image tokens whose encoder output is kept; 0 for no limit."""
        return 0

    @property
    def profiled_seqs(self) -> int:
        """Requests of a step that activations must have room for."""
        most: int = getattr(self, "max_num_seqs")  # noqa: B009  every spec has its own
        return most

    @property
    def async_scheduling(self) -> bool:
        """Whether a step is planned while the one before it runs."""
        return False

    @property
    def prefix_index(self) -> Literal["hash-chain", "radix"]:
        """How equal prefixes are found."""
        return "hash-chain"

    @property
    def scheduling(self) -> str:
        """The scheduling policy."""
        return PRESETS[self._name].policies["scheduling"]

    @property
    def _name(self) -> str:
        name: str = getattr(self, "preset")  # noqa: B009  every spec has its own
        return name

    def scheduler(self) -> dict[str, Any]:
        """The parameters of the scheduling policy: what the preset fixes, and the user's."""
        own = {name: getattr(self, key) for key, name in self.scheduler_keys.items()}
        return PRESETS[self._name].parameters | own
