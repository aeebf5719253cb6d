"""How much faster is a sweep over the classes than the plain loop?

python benchmarks/matching.py [WORDS] [--precision fp32] [--json]
"""

import functools

from harness import Row, Work, main
from setting import Case, Matching, ReferenceMatching

from accdd import engine, execution, planning


def sweep(case: Case) -> Work:
    """Real and synthetic half of all classes, as a run does it."""
    execution.prepare(execution.device("auto"))
    given = Matching.of(case)
    sweeper = engine.sweeper(given.problem, given.plan)
    return lambda: sweeper(given.parameters, given.real.images, given.stored, given.drawn)


def synthetic(case: Case) -> Work:
    """The synthetic half of all classes alone, for targets that are at hand."""
    execution.prepare(execution.device("auto"))
    given = Matching.of(case)
    on_targets = case.settings(
        compile="always", **{"targets.count": 300, "loop.inner_steps": 1, "loop.train_images": 0}
    )
    plan = planning.choose_plan(given.problem, given.real, on_targets)
    parameters, drawn = given.parameters, given.drawn
    target = engine.real_sweeper(given.problem, plan)(parameters, given.real.images, drawn.real, drawn.siamese)
    sweep = engine.synthetic_sweeper(given.problem, plan)
    return lambda: sweep(parameters, target, given.stored, drawn.labels, drawn.siamese, drawn.subset)


def flops(case: Case, *, whole: bool = True) -> int:
    """Of all classes, counted on the plain step."""
    given = Matching.of(case)
    real, own = planning.half_costs(given.problem, given.settings)
    return case.classes * (real + own if whole else own).flops


def rows(precision: str) -> list[Row]:
    listed = []
    for ipc in (1, 10, 50):
        case = Case(ipc=ipc, precision=precision)
        listed.append(
            Row(f"sweep, IPC {ipc}", functools.partial(sweep, case), functools.partial(ReferenceMatching, case),
                functools.partial(flops, case))
        )  # fmt: skip
        listed.append(
            Row(f"synthetic half, IPC {ipc}", functools.partial(synthetic, case),
                functools.partial(ReferenceMatching, case, synthetic_only=True),
                functools.partial(flops, case, whole=False))
        )  # fmt: skip
    return listed


if __name__ == "__main__":
    main("How much faster is a sweep over 10 classes (ConvNet-3-128, factor 2) than the plain loop?", rows)
