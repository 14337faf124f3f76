"""Which images a step encodes, and where in it their embeddings stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...policies.errors import InfersimError
from ...policies.types import MultiModalItem
from ...sim.state.encoder import EncoderCache
from ...sim.state.plan import StepPlan
from .texts import Texts

if TYPE_CHECKING:
    from .batch import Row


class Picture(NamedTuple):
    """An image to encode.

    Attributes:
        identifier: equal for equal content.
        name: 64 bits that decide every pixel.
        tokens: of its embedding.
    """

    identifier: int
    name: int
    tokens: int


class Place(NamedTuple):
    """Where a part of an image stands in a step.

    Attributes:
        row: the first of the step's tokens that it takes.
        offset: its first token in the embedding.
    """

    row: int
    identifier: int
    offset: int
    tokens: int


class Pictures(NamedTuple):
    """What a step does with images, in this order.

    Attributes:
        drop: identifiers whose embeddings are kept no longer.
        encode: images whose embeddings are computed and kept.
        places: where embeddings take the place of tokens.
    """

    drop: tuple[int, ...] = ()
    encode: tuple[Picture, ...] = ()
    places: tuple[Place, ...] = ()


NO_PICTURES = Pictures()


def picture_of(item: MultiModalItem, texts: Texts) -> Picture:
    """The image of *item*."""
    return Picture(item.identifier, texts.name(item.identifier), item.tokens)


class Sight:
    """Keeps the embeddings of a device what an `EncoderCache` says they are.

    Args:
        cache: of the replica.
        texts: names of the images.
    """

    def __init__(self, cache: EncoderCache, texts: Texts) -> None:
        self._cache, self._texts = cache, texts
        self._there: set[int] = set()  # on the device, when all that was sent to it is done
        self._drop: list[int] = []
        self._encode: dict[int, Picture] = {}

    def planned(self, plan: StepPlan) -> None:
        """Note what *plan* did to the cache, whether or not there is anything to launch."""
        for identifier in plan.encoder_evicted:
            self._encode.pop(identifier, None)
            if identifier in self._there:
                self._there.remove(identifier)
                self._drop.append(identifier)
        for seq, indices in plan.encoder:
            for index in indices:
                self._owe(seq.request.items[index])
        for seq in plan.preempted:
            # what a victim was to encode in this step stays in the cache of the scheduler, as in
            # vLLM, and nobody encodes it again: so it is encoded here
            for item in seq.request.items:
                if self._cache.has(item.identifier) and item.identifier not in self._there:
                    self._owe(item)

    def _owe(self, item: MultiModalItem) -> None:
        picture = picture_of(item, self._texts)
        self._encode[picture.identifier] = picture

    def arrived(self, identifier: int) -> None:
        """An embedding came from an encoder."""
        self._there.add(identifier)
        if identifier in self._drop:
            self._drop.remove(identifier)

    def of(self, rows: list[Row]) -> Pictures:
        """What the step that computes *rows* does.

        Raises:
            InfersimError: a scheduler computes an image's tokens without its embedding.
        """
        drop, encode = tuple(self._drop), tuple(self._encode.values())
        self._drop, self._encode = [], {}
        self._there.update(picture.identifier for picture in encode)
        places, first = [], 0
        for seq, start, tokens, _ in rows:
            for item in seq.request.items:
                low = max(start, item.offset)
                count = min(start + tokens, item.offset + item.tokens) - low
                if count <= 0:
                    continue
                if item.identifier not in self._there:
                    raise InfersimError(
                        f"request {seq.request.id} computes tokens of an image whose embedding is "
                        "not there: its scheduler did not ask for it"
                    )
                at = first + low - start
                places.append(Place(at, item.identifier, low - item.offset, count))
            first += tokens
        return Pictures(drop, encode, tuple(places)) if drop or encode or places else NO_PICTURES
