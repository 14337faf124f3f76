"""How long a step's price takes to look up, beside the roofline's and a reference loop.

    python benchmarks/step_cost.py PROFILE ...

PROFILE is a directory of `infersim calibrate`. Prints microseconds of CPU time a call, and how many
times that of the reference loop it is: the machine may be slower at one time than at another. All
cases take turns, many short rounds of them, and the best of each counts: tables are in the
processor's cache then. Decodes have uneven contexts, which cost a second look-up where the profile
says what they add.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from time import process_time

from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepCost, StepShape
from infersim.sim.cost.profile import load
from infersim.sim.cost.roofline import Roofline
from infersim.sim.cost.specs import Parallelism
from infersim.sim.cost.tables import TableCost

CALLS, ROUNDS, REPEATS = 400, 40, 3

Case = tuple[Callable[..., object], list[tuple[object, ...]]]  #: what is called, with what


def microseconds(cases: dict[str, Case]) -> dict[str, float]:
    """The time of a call of each case, over all that it is called with."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, (call, asked) in cases.items():
            for _ in range(REPEATS):
                begun = process_time()
                for arguments in asked:
                    call(*arguments)
                best[name] = min(best[name], process_time() - begun)
    return {name: best[name] / len(asked) * 1e6 for name, (_, asked) in cases.items()}


def reference(i: int) -> int:
    """A fixed piece of Python to compare with on any machine: 20 additions in a loop."""
    total = i
    for j in range(20):
        total += j
    return total


def chunks(rng: random.Random, count: int) -> tuple[tuple[int, int], ...]:
    """Chunks of prompts, half of them after a prefix."""
    return tuple((rng.randint(2, 700), rng.choice((0, rng.randint(1, 4000)))) for _ in range(count))


def cases(path: str) -> dict[str, Case]:
    """Pure decode and mixed batches, in a profile and in the roofline of its model."""
    profile = load(path)
    spec, card, split = model(profile.model), gpu(profile.stamp.gpu), Parallelism(profile.tp)
    rng = random.Random(1)
    decodes = [(rng.randint(1, 128), rng.randint(100, 4000)) for _ in range(CALLS)]
    ends = [(x // 2, 3 * x) for _, x in decodes]  # where contexts matter, they are uneven
    pure: list[tuple[object, ...]] = [
        (b, b * x, end) for (b, x), end in zip(decodes, ends, strict=True)
    ]
    mixed: list[tuple[object, ...]] = [
        (StepShape(b, b * x, chunks(rng, 1 + i % 3), b + 1, contexts=ends[i]),)
        for i, (b, x) in enumerate(decodes)
    ]
    costs: dict[str, StepCost] = {
        "profile": TableCost(profile, spec, card, split),
        "roofline": Roofline(spec, card, split),
    }
    found: dict[str, Case] = {"reference loop": (reference, [(i,) for i in range(CALLS)])}
    for name, cost in costs.items():
        found[f"{name}, pure decode"] = cost.decode_line, pure
        found[f"{name}, 1 to 3 chunks"] = cost.duration_ps, mixed
    return found


def main() -> None:
    """Print a line a kind of step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("profiles", nargs="+", metavar="PROFILE")
    for path in parser.parse_args().profiles:
        print(path)
        found = microseconds(cases(path))
        for name, us in found.items():
            print(f"  {name:26} {us:8.2f} us {us / found['reference loop']:8.2f} x")


if __name__ == "__main__":
    main()
