"""Images are encoded on replicas of their own: encoder, prefill and decode are split (EPD)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import InputError
from ..registry import disaggregation
from ..types import Picoseconds, Promise, ReplicaId, Request
from .base import Disaggregation, Placement, Pools, Split, Switch, Travel


@disaggregation("encoder-split")
@dataclass(slots=True)
class EncoderSplit(Split):
    """Images are encoded in a pool of their own; the prompt is computed when they are there.

    Flow: vLLM's disaggregated encoder, whose proxy asks the encoders first, one request an image,
    and sends the prompt on when all have answered. That the images of one request are spread over
    encoders is EPD's intra-request parallelism (Singh et al. 2025). Another policy may place the
    prompts; without one they are served where pools have role both, else as static-split does.

    Attributes:
        spread: the images of a request go to different encoders, as far as there are enough; false:
            all of them to one.
        max_local_tokens: a request with up to so many image tokens that nobody holds is encoded
            where its prompt is computed.
        max_encode_waiting: while so many images wait on the chosen encoder, the image is encoded
            where the prompt is computed; 0: however many wait.
        prompts: where prompts and answers are served. It may change roles, and says how KV travels.
    """

    spread: bool = True
    max_local_tokens: int = 0
    max_encode_waiting: int = 0
    prompts: Disaggregation | None = field(default=None, metadata={"family": "disaggregation"})

    promise: ClassVar[Promise] = Promise()
    encodes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        # the zero-argument super() is lost when slots make the class anew
        Split.__post_init__(self)
        if self.max_local_tokens < 0 or self.max_encode_waiting < 0:
            raise InputError(
                "max_local_tokens and max_encode_waiting must not be negative, "
                f"found {self.max_local_tokens} and {self.max_encode_waiting}"
            )
        if self.prompts is None:
            return
        if getattr(self.prompts, "encodes", False):
            raise InputError("prompts: encoder-split places images again, and they have a place")
        if self.travel != Travel():
            raise InputError(
                "with prompts: its policy says how KV travels",
                help="move transfer, overlap and in_flight into prompts",
            )

    @property
    def rebalance(self) -> Callable[[Picoseconds, Pools], Switch | None]:
        """That of `prompts`; where it has none there is none here either (AttributeError)."""
        prompts: Any = self.prompts
        found: Callable[[Picoseconds, Pools], Switch | None] = prompts.rebalance
        return found

    def place(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        """Where the prompt is served, and an encoder for each image that is worth the way."""
        if not pools.encode:
            raise InputError(
                "encoder-split needs a pool with role: encode", where="policies.disaggregation"
            )
        prompt = self._prompt(request, pools, route)
        if not request.items:
            return prompt
        held = pools.prefix_hit_tokens(prompt.prefill, request)
        new = [item.offset + item.tokens > held for item in request.items]
        tokens = sum(item.tokens for item, is_new in zip(request.items, new, strict=True) if is_new)
        if tokens <= self.max_local_tokens:
            return prompt
        return prompt._replace(encode=self._encoders(new, pools, route))

    def _prompt(
        self,
        request: Request,
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> Placement:
        if self.prompts is not None:
            return self.prompts.place(request, pools, route)
        if not pools.mixed:
            return self.pair(pools, route, "encoder-split")
        if pools.prefill or pools.decode:
            raise InputError(
                "encoder-split serves prompts either in pools with role: both or in prefill and "
                "decode pools; found both kinds",
                where="policies.disaggregation",
            )
        if self.travel != Travel():
            raise InputError(
                "transfer, overlap and in_flight say how KV travels, and with role: both none does",
                where="policies.disaggregation",
                help="leave them out, or add a prefill and a decode pool",
            )
        return Placement(route(pools.mixed), None)

    def _encoders(
        self,
        new: Sequence[bool],
        pools: Pools,
        route: Callable[[Sequence[ReplicaId]], ReplicaId],
    ) -> tuple[ReplicaId | None, ...]:
        """An encoder for each image that is *new*; each is chosen once before one is twice."""
        chosen: list[ReplicaId | None] = []
        left: list[ReplicaId] = []
        for is_new in new:
            if not is_new:
                chosen.append(None)
                continue
            if not left:
                left = list(pools.encode)
            encoder = route(left)
            if self.spread:
                left.remove(encoder)
            else:
                left = [encoder]
            full = 0 < self.max_encode_waiting <= pools.load(encoder).waiting
            chosen.append(None if full else encoder)
        return tuple(chosen)
