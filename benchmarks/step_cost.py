"""How long a step's price takes to look up, beside the roofline's and a reference loop.

    python benchmarks/step_cost.py PROFILE

PROFILE is a directory of `infersim calibrate`. Prints microseconds of CPU time a
call, the best of five rounds. Decodes have uneven contexts, which cost two look-ups where the
profile says what they add.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from time import process_time
from timeit import repeat

from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepCost, StepShape
from infersim.sim.cost.profile import load
from infersim.sim.cost.roofline import Roofline
from infersim.sim.cost.specs import Parallelism
from infersim.sim.cost.tables import TableCost

CALLS, ROUNDS = 5000, 5


def microseconds(call: Callable[[int], object]) -> float:
    """The time of ``call(i)``, i from 0 to `CALLS`."""
    best = min(
        repeat(lambda: [call(i) for i in range(CALLS)], timer=process_time, number=1, repeat=ROUNDS)
    )
    return best / CALLS * 1e6


def reference(i: int) -> int:
    """A fixed piece of Python to compare with on any machine: 20 additions in a loop."""
    total = i
    for j in range(20):
        total += j
    return total


def chunks(rng: random.Random, count: int) -> tuple[tuple[int, int], ...]:
    """Chunks of prompts, half of them after a prefix."""
    return tuple((rng.randint(2, 700), rng.choice((0, rng.randint(1, 4000)))) for _ in range(count))


def main() -> None:
    """Print a line a kind of step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("profile")
    profile = load(parser.parse_args().profile)
    spec, card, split = model(profile.model), gpu(profile.stamp.gpu), Parallelism(profile.tp)
    rng = random.Random(1)
    decodes = [(rng.randint(1, 128), rng.randint(100, 4000)) for _ in range(CALLS)]
    ends = [(x // 2, 3 * x) for _, x in decodes]  # where contexts matter, they are uneven
    mixed = [
        StepShape(b, b * x, chunks(rng, 1 + i % 3), b + 1, contexts=ends[i])
        for i, (b, x) in enumerate(decodes)
    ]
    costs: dict[str, StepCost] = {
        "profile": TableCost(profile, spec, card, split),
        "roofline": Roofline(spec, card, split),
    }
    print(f"{'reference loop':28} {microseconds(reference):8.2f} us")
    for name, cost in costs.items():
        line, price = cost.decode_line, cost.duration_ps
        pure = microseconds(
            lambda i: line(decodes[i][0], decodes[i][0] * decodes[i][1], ends[i])  # noqa: B023
        )
        full = microseconds(lambda i: price(mixed[i]))  # noqa: B023
        print(f"{name + ', pure decode':28} {pure:8.2f} us")
        print(f"{name + ', 1 to 3 chunks':28} {full:8.2f} us")


if __name__ == "__main__":
    main()
