"""What prompts say, as token ids: the name of a text decides every token of it.

Answers too: the token at a position of an answer is that of its text, not the one that the
model samples (teacher forcing). So a later prompt that quotes an answer says the same tokens, KV
that the index calls equal is equal, and a mixture of experts sees varied tokens rather than the
loops that random weights fall into. What the model would have said is recorded.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ...policies.errors import InputError
from ...sim.state.content import Contents
from ...sim.state.sequence import Sequence

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


def token_ids(text: int, offset: int, tokens: int, vocab: int) -> NDArray[np.int64]:
    """Tokens *offset* … of a text that is known by 64 bits: [tokens], each in 0 … vocab - 1."""
    at = np.arange(offset, offset + tokens, dtype=np.uint64)
    return (_mixed(at + np.uint64(text)) % np.uint64(vocab)).astype(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: every bit depends on every bit."""
    z = values * _GOLDEN + _GOLDEN
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


class Texts:
    """Token ids of the requests in flight.

    Args:
        vocab: token ids of the model.
        contents: what names the texts: the same names, the same tokens, whatever the timing.
        sees: the model has a vision tower.
    """

    def __init__(self, vocab: int, contents: Contents, *, sees: bool = False) -> None:
        self.vocab, self._contents, self._sees = vocab, contents, sees
        self._known: dict[Sequence, NDArray[np.int64]] = {}

    def of(self, seq: Sequence) -> NDArray[np.int64]:
        """Prompt and answer of *seq*: [last_token].

        The tokens of images are in it as well, and nobody looks at them.

        Raises:
            InputError: it has an adapter, or images that the model cannot see.
        """
        known = self._known.get(seq)
        if known is None:
            request = seq.request
            if request.lora:
                raise InputError(
                    f"request {request.id} has the adapter {request.lora}; the executor has none",
                    where="workload",
                )
            if request.items and not self._sees:
                raise InputError(
                    f"request {request.id} has images, and the model no vision tower; "
                    "none is read from given weights",
                    where="workload",
                    help="a model with one, and its weights drawn: leave --weights out",
                )
            answer = seq.last_token - seq.prompt_tokens
            parts = [(content, at, tokens) for content, at, tokens, _ in request.prompt]
            parts.append((request.output_content, 0, answer))
            known = np.concatenate(
                [token_ids(self.name(one), at, count, self.vocab) for one, at, count in parts]
            )
            self._known[seq] = known
        return known

    def words(self, seq: Sequence, key: int, position: int, count: int) -> NDArray[np.uint32]:
        """[count] random bits, 32 to a word, for a position of the answer and *key*."""
        seed = _mixed(np.array([self.name(seq.request.output_content) ^ key], dtype=np.uint64))
        at = np.arange(position * count, (position + 1) * count, dtype=np.uint64)
        return (_mixed(at + seed) >> _S32).astype(np.uint32)

    def name(self, content: int) -> int:
        """64 bits of what names the text, or the image."""
        name = repr(self._contents.key(content)).encode()
        return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")

    def forget(self, seq: Sequence) -> None:
        """*seq* has ended."""
        self._known.pop(seq, None)
