"""Short or mostly cached prompts stay where they decode; the others are split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..registry import disaggregation
from ..types import Promise, ReplicaId, Request
from .base import Placement, Pools, Split, need_both


@disaggregation("conditional")
@dataclass(slots=True)
class Conditional(Split):
    """A prompt with few new tokens is computed by the decode replica that answers it.

    New tokens are those that the chosen decode replica does not hold in its prefix cache. The rule
    is that of NVIDIA Dynamo's disaggregated router (max_local_prefill_length and
    max_prefill_queue_size) and of llm-d's prefill profile (a threshold on the uncached suffix).

    Attributes:
        max_local_tokens: a prompt with up to so many new tokens stays.
        max_local_share: one whose new tokens are up to this share of it stays as well; 0: none.
        max_prefill_waiting: while so many requests wait on the chosen prefill replica everything
            stays; 0: however many wait.
    """

    max_local_tokens: int = 512
    max_local_share: float = 0.0
    max_prefill_waiting: int = 0

    promise: ClassVar[Promise] = Promise()

    def __post_init__(self) -> None:
        # the zero-argument super() is lost when slots make the class anew
        Split.__post_init__(self)
        if self.max_local_tokens < 0 or self.max_prefill_waiting < 0:
            raise InputError(
                "max_local_tokens and max_prefill_waiting must not be negative, "
                f"found {self.max_local_tokens} and {self.max_prefill_waiting}"
            )
        if not 0 <= self.max_local_share <= 1:
            raise InputError(f"max_local_share is a share, 0 to 1, found {self.max_local_share}")

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """A decode replica, and one for the prefill where that is worth the way."""
        need_both(pools, "conditional")
        decode = route(pools.decode)
        new = request.prompt_tokens - pools.prefix_hit_tokens(decode, request)
        if new <= max(self.max_local_tokens, self.max_local_share * request.prompt_tokens):
            return Placement(decode, None)
        prefill = route(pools.prefill)
        if 0 < self.max_prefill_waiting <= pools.load(prefill).waiting:
            return Placement(decode, None)
        return Placement(prefill, decode, self.travel)
