"""How much faster are networks trained: on 2,000 images between sweeps, for scores, for a pool?

python benchmarks/networks.py [WORDS] [--precision fp32] [--json]
"""

import dataclasses
import functools

import torch
from harness import Row, Work, main
from setting import Case, Matching, ReferenceMatching, ReferenceTraining

from accdd import engine, evaluation, execution, planning, training
from accdd.augmented_models import pool
from accdd.config import Train
from accdd.evaluation import PROTOCOLS
from accdd.keys import Key

BETWEEN_SWEEPS = Train()
SCORING = PROTOCOLS["idc"].recipe
NETWORKS = 5


def between_sweeps(case: Case) -> Work:
    """32 steps of 64 images, as after a sweep."""
    where = execution.device("auto")
    execution.prepare(where)
    real, shape = case.data(), case.architecture()
    precision = execution.precision(case.precision, where)
    step = training.make_step(
        shape, BETWEEN_SWEEPS, real.mean, real.std, where, precision=precision, compiled_for=BETWEEN_SWEEPS.batch
    )
    trained = training.begin([shape.initialise(Key(0), where)])
    order = torch.arange(len(real.images))[None, : 32 * BETWEEN_SWEEPS.batch]

    def work() -> None:
        steps = training.train(
            step, trained, real.images, real.labels, order,
            recipe=BETWEEN_SWEEPS, lr=BETWEEN_SWEEPS.lr, num_classes=case.classes, keys=[Key(0)],
        )  # fmt: skip
        training.last(steps)

    return work


def iteration(case: Case) -> Work:
    """An inner iteration of the paper's loop: a sweep, then 32 training steps."""
    train = between_sweeps(case)
    given = Matching.of(case)
    sweep = engine.sweeper(given.problem, given.plan)

    def work() -> None:
        sweep(given.parameters, given.real.images, given.stored, given.drawn)
        train()

    return work


def reference_iteration(case: Case) -> Work:
    match = ReferenceMatching(case)
    train = ReferenceTraining(case, BETWEEN_SWEEPS, images=2048, steps=32)

    def work() -> None:
        match()
        train()

    return work


def scores(case: Case, epochs: int) -> Work:
    """Five networks on the decoded set, for some of the protocol's epochs."""
    execution.prepare(execution.device("auto"))
    real, images = case.data(), case.classes * case.ipc * case.factor**2

    def work() -> None:
        evaluation.score(
            "random pixels", real.images[:images], real.labels[:images], real, case.architecture(), PROTOCOLS["idc"],
            evaluation.Way(epochs, compile="always", precision=case.precision), mean=real.mean, std=real.std,
            keys=evaluation.network_keys(Key(0), NETWORKS),
        )  # fmt: skip

    return work


def reference_scores(case: Case, epochs: int) -> Work:
    images = case.classes * case.ipc * case.factor**2
    steps = epochs * -(-images // SCORING.batch)
    return ReferenceTraining(case, SCORING, images=images, steps=steps, networks=NETWORKS)


def models(case: Case, steps: int) -> Work:
    """Five early-stage models of one recipe, for the first steps."""
    execution.prepare(execution.device("auto"))
    real = case.data()
    epochs = steps / (len(real.images) / BETWEEN_SWEEPS.batch)
    given = case.settings(compile="always", **{"pool.epochs": epochs, "pool.augment": [BETWEEN_SWEEPS.augment]})

    def work() -> None:
        for _ in pool.build(real, case.architecture(), given):
            pass

    return work


def reference_models(case: Case, steps: int) -> Work:
    return ReferenceTraining(case, BETWEEN_SWEEPS, images=2000, steps=steps, networks=NETWORKS)


def step_flops(case: Case, batch: int) -> int:
    return training.step_cost(case.architecture(), BETWEEN_SWEEPS, batch).flops


def iteration_flops(case: Case) -> int:
    given = Matching.of(case)
    real, synthetic = planning.half_costs(given.problem, given.settings)
    return case.classes * (real + synthetic).flops + 32 * step_flops(case, BETWEEN_SWEEPS.batch)


def score_flops(case: Case, epochs: int) -> int:
    return NETWORKS * epochs * step_flops(case, case.classes * case.ipc * case.factor**2)


def rows(precision: str) -> list[Row]:
    case = Case(per_class=205, precision=precision)
    few = dataclasses.replace(case, ipc=1)
    small = Case(ipc=1, width=32, size=8, factor=1, precision=precision)
    return [
        Row("training, 2,000 images", functools.partial(between_sweeps, case),
            functools.partial(ReferenceTraining, case, BETWEEN_SWEEPS, images=2048, steps=32),
            lambda: 32 * step_flops(case, BETWEEN_SWEEPS.batch), repeats=3),
        Row("inner iteration, IPC 10", functools.partial(iteration, case), functools.partial(reference_iteration, case),
            functools.partial(iteration_flops, case), repeats=3),
        Row("5 networks, IPC 1, 40 epochs", functools.partial(scores, few, 40),
            functools.partial(reference_scores, few, 40), functools.partial(score_flops, few, 40), repeats=3),
        Row("5 networks, IPC 10, 2 epochs", functools.partial(scores, case, 2),
            functools.partial(reference_scores, case, 2), functools.partial(score_flops, case, 2), repeats=3),
        Row("5 networks, 8 px, IPC 1, 100 epochs", functools.partial(scores, small, 100),
            functools.partial(reference_scores, small, 100), functools.partial(score_flops, small, 100)),
        Row("pool of 5, 8 steps each", functools.partial(models, case, 8), functools.partial(reference_models, case, 8),
            lambda: NETWORKS * 8 * step_flops(case, BETWEEN_SWEEPS.batch), repeats=3),
    ]  # fmt: skip


if __name__ == "__main__":
    main("How much faster are networks trained (ConvNet-3-128 unless said)?", rows)
