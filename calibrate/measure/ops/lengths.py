"""Uneven batches: decodes of skewed lengths, and several chunks in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

Mix = Sequence[tuple[int, int]]  #: (new tokens, tokens before them) of each chunk

_LOGNORMAL_SIGMA = 1.0
_LONG_SHARE, _LONG_TIMES = 0.25, 3.0  # bimodal: a quarter of the sequences is nine times as long
_SHORT_TIMES = 1 / 3


def skewed(decodes: int, mean: int, variant: str, longest: int) -> list[int]:
    """Lengths of *decodes* sequences whose mean is about *mean*; all alike for variant "".

    Always the same for the same arguments.
    """
    if not variant:
        return [mean] * decodes
    random = Random(f"{variant} {decodes} {mean}")
    if variant == "lognormal":
        raw = [random.lognormvariate(0.0, _LOGNORMAL_SIGMA) for _ in range(decodes)]
    else:
        long = max(1, round(_LONG_SHARE * decodes))
        raw = [_LONG_TIMES if i < long else _SHORT_TIMES for i in range(decodes)]
    scale = mean * decodes / sum(raw)
    return [max(1, min(longest, round(one * scale))) for one in raw]


def chunk_mixes(
    count: int, budget: int, longest: int, fewest: int = 2
) -> list[list[tuple[int, int]]]:
    """*count* batches of *fewest* to 8 chunks that fill at most *budget*; always the same."""
    random = Random("chunk mixes")
    found = []
    for _ in range(count):
        chunks = random.randint(fewest, 8)
        share = budget // chunks
        news = [random.randint(max(2, share // 8), max(2, share)) for _ in range(chunks)]
        befores = [random.choice((0, 0, random.randint(0, longest // 4))) for _ in news]
        found.append([(n, min(b, longest - n)) for n, b in zip(news, befores, strict=True)])
    return found


def mix_of(mix: Mix) -> str:
    """A mix as a variant: "128@0 64@512"."""
    return " ".join(f"{new}@{before}" for new, before in mix)


def parse_mix(variant: str) -> list[tuple[int, int]]:
    """The mix that `mix_of` wrote."""
    pairs = (chunk.split("@") for chunk in variant.split())
    return [(int(new), int(before)) for new, before in pairs]
