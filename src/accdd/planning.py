"""Which plan a run has, from counted work and the device: what is compiled, how many classes at once, in what parts.

Nothing is timed: the same command on the same kind of machine has the same plan.
"""

import dataclasses
import functools
import math

import torch

from accdd import augment, execution, training
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.engine import Problem, decoded, real_half, synthetic_half
from accdd.execution import Cost, Plan
from accdd.keys import Key
from accdd.matching import averages
from accdd.networks import calibrated, runs_code


def suits(plan: Plan, asked: str, where: torch.device) -> bool:
    """Whether a plan of another machine serves here, too: in bf16 only where that is fast, or was `asked` for."""
    return plan.precision in (asked, execution.precision("auto", where), "fp32")


def choose_plan(problem: Problem, data: Dataset, settings: Settings) -> Plan:
    """The plan for a run, from counted work and the kind of device.

    Args:
        problem: the fixed pieces, in fp32.
        data: the real set, where it will be.
        settings: resolved.
    """
    where, loop, mode = data.device, settings.loop, settings.compile
    assert loop.train_images is not None and loop.train_epochs is not None  # resolved
    outer = math.inf if loop.steps is None else loop.steps
    real, synthetic = half_costs(problem, settings)
    matching = (synthetic,) if settings.targets.count else (real, synthetic)
    plan = _matching_plan(matching, outer * loop.inner_steps, data, settings, loop.budget)
    # Compiled, it holds far less of what it writes: 5 GB of 59 (RESULTS.md).
    parts = 1 if plan.compile_matching else min(execution.parts(synthetic, where), most_parts(problem, settings))
    on_real = bool(loop.train_images) or not loop.train_epochs
    recipe = settings.train if on_real else problem.recipe
    seen = len(data.images) if on_real else decoded(problem, settings.ipc) * data.num_classes
    batch = min(recipe.batch, seen)
    step = training.step_cost(problem.forward.architecture, recipe, batch)
    between = -(-loop.train_images // batch) if on_real else loop.train_epochs * (seen // batch)
    warm_up = loop.warm_up * (len(data.images) // settings.train.batch)
    trained = (loop.inner_steps - 1) * between + warm_up  # not after the last sweep
    train = trained > 0 and execution.worth_compiling(
        mode, where, step, outer * trained, loop.budget, precision=plan.precision
    )
    return dataclasses.replace(plan, compile_training=train, parts=parts)


def most_parts(problem: Problem, settings: Settings) -> int:
    """How many parts the synthetic images of a class can be matched in: one by one at most, and only together where the
    summary is no mean over images, BatchNorm takes the statistics of them all, or a network of the user's may."""
    mixed = runs_code(problem.forward.architecture.name) or (problem.forward.batch_norms and not problem.frozen)
    together = mixed or not averages(problem.summary)
    return 1 if together else min(settings.match.synthetic_batch, decoded(problem, settings.ipc))


def choose_real_plan(problem: Problem, data: Dataset, settings: Settings, sweeps: int) -> Plan:
    """The plan for the real half of some sweeps; arguments as for `choose_plan`."""
    real, _ = half_costs(problem, settings)
    return _matching_plan((real,), sweeps, data, settings, None)


def _matching_plan(
    costs: tuple[Cost, ...], sweeps: float, data: Dataset, settings: Settings, budget: float | None
) -> Plan:
    """How to match in `sweeps` sweeps, where each of the functions that cost `costs` a class is compiled by itself."""
    where, classes, cost = data.device, data.num_classes, functools.reduce(Cost.__add__, costs)
    chunk = execution.chunk(classes, settings.match.classes or execution.at_once(classes, cost, where))
    precision = execution.precision(settings.precision, where)
    return Plan(
        precision=precision,
        compile_matching=execution.worth_compiling(
            settings.compile, where, cost.side_by_side(chunk), sweeps * -(-classes // chunk), budget,
            precision=precision, functions=len(costs),
        ),
        classes=chunk,
        overlapping=execution.overlapping(-(-classes // chunk), cost.side_by_side(chunk), where),
    )  # fmt: skip


@functools.lru_cache(maxsize=4)  # asked several times of every run
def half_costs(problem: Problem, settings: Settings) -> tuple[Cost, Cost]:
    """What the real and the synthetic half of one class cost, uncompiled; `settings` are resolved."""
    shape, match = problem.forward.architecture, settings.match
    assert match.real_batch  # resolved
    problem = problem._replace(mean=problem.mean.to("meta"), std=problem.std.to("meta"))
    parameters, label = shape.initialise(Key(0), "meta"), torch.tensor(0)
    if problem.frozen:  # as it is matched: one image alone has no statistics
        few = torch.empty(2, shape.channels, shape.size, shape.size, device="meta")
        parameters = calibrated(problem.forward, parameters, [few])
    drawn = augment.draw(match.augment or (), (1,), shape.size, torch.Generator(), one_of=bool(match.one_of))
    batch = settings.targets.real_batch if settings.targets.count else match.real_batch
    images = torch.empty(batch, shape.channels, shape.size, shape.size)
    stored = torch.empty(settings.ipc, shape.channels, shape.size, shape.size)
    subset = torch.arange(min(match.synthetic_batch, decoded(problem, settings.ipc)))
    try:
        real, target = execution.count(functools.partial(real_half, problem), parameters, images, label, drawn)
        synthetic, _ = execution.count(
            functools.partial(synthetic_half, problem), parameters, target, stored, label, drawn, subset
        )
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"The BatchNorm of the network '{shape.name}' sees a single value of a channel ({error}). Expected more "
            "images of a class at once (--ipc, --factor, match.real_batch), or a network without BatchNorm there."
        ) from None
    return real, synthetic
