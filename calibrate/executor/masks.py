"""What grammars allow, in the executor: masks drawn at random, that the kernel really applies.

There is no parser here, and the text of an answer is given (`texts`). So a mask is drawn from the
grammar, the answer and the position in it: half of the tokens, and the one that the text has there.
What is real is the work: words of 32 tokens filled on the host for each row, copied to the device,
and applied to the logits before a token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...sim.state.sequence import Sequence
from .texts import Texts

BITS = 32  #: tokens in a word of a mask, the lowest bit first


class Masks(NamedTuple):
    """Of the rows of a step that have a grammar.

    Attributes:
        words: [masks, ceil(vocabulary / 32)]; a bit of 1 allows its token.
        rows: [masks] the sampled row that each is for.
    """

    words: NDArray[np.int32]
    rows: NDArray[np.int32]


def blank(vocab: int) -> Masks:
    """A mask of the first row that allows every token."""
    return Masks(np.full((1, -(-vocab // BITS)), -1, np.int32), np.zeros(1, np.int32))


def masks_of(sampled: Seq[tuple[Sequence, int]], texts: Texts) -> Masks | None:
    """Masks for sampled rows, each (sequence, position of its token); None: none has a grammar."""
    found = [
        (i, _mask(seq, position, texts))
        for i, (seq, position) in enumerate(sampled)
        if seq.request.grammar is not None
    ]
    if not found:
        return None
    return Masks(np.stack([words for _, words in found]), np.array([i for i, _ in found], np.int32))


def _mask(seq: Sequence, position: int, texts: Texts) -> NDArray[np.int32]:
    grammar, text = seq.request.grammar, texts.of(seq)
    assert grammar is not None
    words = texts.words(seq, grammar.key, position, -(-texts.vocab // BITS))
    if position < len(text):  # behind it nobody looks
        token = int(text[position])
        words[token // BITS] |= np.uint32(1 << token % BITS)
    return words.view(np.int32)
