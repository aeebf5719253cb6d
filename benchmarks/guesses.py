"""How good are the guesses that decide what is compiled? Each half of a class's matching step, as a plan may have it.

    python benchmarks/guesses.py [--threads N] [WORDS]

A guess is to be right within a factor of two or three, and above all on the right side of what compiling saves.
"""

import argparse
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from setting import Case, Matching

from accdd import augment, engine, execution
from accdd.execution import Cost, Plan

REPEATS = 5
CASES = {
    "real, 64 of 32 pixels": (Case(ipc=1), 64),
    "real, 256 of 32 pixels": (Case(ipc=1), 256),
    "real, 256 of 28 pixels": (Case(ipc=1, size=28, per_class=256), 256),
    "synthetic, IPC 1": (Case(ipc=1), 0),
    "synthetic, IPC 10": (Case(ipc=10), 0),
}
"""What is looked at, with the real images of a class; none is the synthetic half."""


@dataclasses.dataclass(frozen=True)
class Half:
    """A half of a matching step on one class, counted and ready to be called as a plan has it."""

    cost: Cost
    call: Callable[[Plan], Callable[[], Any]]


def half(case: Case, batch: int) -> Half:
    case = dataclasses.replace(case, per_class=max(case.per_class, batch))
    given = Matching.of(case)
    label, drawn = torch.zeros(1, dtype=torch.int64), augment.at(given.drawn.siamese, slice(0, 1))
    rows = torch.arange(batch or 64) * case.classes  # class 0
    images = given.real.images[rows]
    target = engine.real_half(given.problem, given.parameters, images, label[0], augment.at(drawn, 0))
    chunk: tuple[Any, ...] = (images[None], label, drawn)
    plain: Callable[..., Any] = engine.real_half
    if not batch:
        target = {name: value[None] for name, value in target.items()}
        chunk = (target, given.stored[:1], label, drawn, given.drawn.subset[:1])
        plain = engine.synthetic_half
    one = torch.utils._pytree.tree_map(lambda value: value[0], chunk)
    cost, _ = execution.count(functools.partial(plain, given.problem), given.parameters, *one)

    def call(plan: Plan) -> Callable[[], Any]:
        halves = engine.halves(given.problem, plan)
        return functools.partial(halves.real if batch else halves.synthetic, given.parameters, *chunk)

    return Half(cost, call)


def clocked(work: Callable[[], Any]) -> float:
    """Median seconds of some calls after a first."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="?", default="", help="rows whose name holds this")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    where = execution.device("cpu")
    execution.prepare(where)
    print(f"{execution.machine(where)}, {torch.get_num_threads()} threads")
    print("half                            precision  GFLOP     MB  ops   eager, ms (guess)   compiled, ms (guess)")
    for (name, (case, batch)), width in itertools.product(CASES.items(), (32, 128)):
        found = half(dataclasses.replace(case, width=width), batch)
        for precision in ("fp32", "bf16"):
            row = f"{name}, width {width}"
            if arguments.words not in f"{row} {precision}":
                continue
            cost = found.cost
            guessed = execution.guessed(cost, where, precision)
            plans = (Plan(precision=precision, compile_matching=compiled) for compiled in (False, True))
            eager, compiled = (clocked(found.call(plan)) for plan in plans)
            print(
                f"{row:32} {precision:9} {cost.flops / 1e9:6.2f} {cost.bytes / 1e6:6.0f} {cost.operations:4} "
                f"{1e3 * eager:9.1f} ({1e3 * guessed[0]:6.1f}) {1e3 * compiled:10.1f} ({1e3 * guessed[1]:6.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
