"""What a run will take, from a few probed steps: time, memory, disk. Nothing is kept of what is computed for it.

Scores, reading data and compiling are not counted; what will be compiled is probed uncompiled, and will be faster.
"""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch

from accdd import augmented_models as models
from accdd import execution, loop, training
from accdd.augmented_models.pool import entry as pool_entry
from accdd.config import Settings
from accdd.data import Dataset
from accdd.execution import Plan
from accdd.keys import Key
from accdd.networks import Architecture
from accdd.run import checkpoints
from accdd.run.course import Work
from accdd.targets import Bank, Target

PROBED = 3
"""Steps, of which the first is not counted where there are more like it: it warms up."""


class Forecast(NamedTuple):
    """What a run is expected to take."""

    seconds: dict[str, float]
    """Of `pool` and `targets`, as far as they are not in the cache, and of `distilling`."""
    memory: int
    """Bytes at the peak: of the device on CUDA, otherwise of this process."""
    disk: int
    """Bytes that are written and kept, in the run folder and in the cache."""


def forecast(work: Work) -> Forecast:
    """Probe the steps that a run is made of; its target bank is only asked what is missing."""
    real, settings, architecture, bank = work.real, work.settings, work.architecture, work.bank
    where, count = real.device, settings.targets.count or 0
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    plan = dataclasses.replace(work.plan, compile_matching=False, compile_training=False)
    fresh = models.source(architecture, where, settings, None)
    seconds, probing = {"pool": 0.0}, dataclasses.replace(settings, loop=dataclasses.replace(settings.loop, warm_up=0))
    pool_bytes = 0
    if settings.pool.use:
        seconds["pool"], pool_bytes = _pool(real, architecture, settings)
    begin: Callable[..., Iterator[loop.State]] = functools.partial(loop.distill, real, bank.problem, fresh, probing)
    missing = bank.missing(count) if count else 0
    if count:
        each, target = _target(real, bank, fresh, settings)
        seconds["targets"] = missing * each
        begin = functools.partial(loop.distill_on_targets, real, bank.problem, cast(Bank, _Always(target)), probing)
    seconds["distilling"] = _distilling(begin, plan, settings, where)
    if settings.loop.warm_up:
        networks = settings.loop.steps or 0
        seconds["distilling"] += networks * settings.loop.warm_up * _epoch(real, architecture, settings, 1)
    if settings.loop.budget is not None:
        seconds["distilling"] = min(seconds["distilling"], settings.loop.budget)
    disk = missing * bank.bytes_per_target + pool_bytes + _run_bytes(real, settings, architecture)
    return Forecast({name: round(each, 3) for name, each in seconds.items()}, _peak(where), disk)


class _Always:
    """A bank of one target, over and over."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def of(self, number: int, classes: slice) -> Target:
        return self._target


def _distilling(begin: Callable[..., Iterator[loop.State]], plan: Plan, settings: Settings, where: Any) -> float:
    inner, steps = settings.loop.inner_steps, settings.loop.steps
    sweeps = PROBED if steps is None else min(PROBED, steps * inner)
    first, *later = _clocked(itertools.islice(begin(plan, lambda sweeps: 0.0, None), sweeps + 1), where)[1:] or [0.0]
    usual = sum(later) / len(later) if later else first
    # With many sweeps a network, the first of each also draws for all of them.
    outer = inner * usual if inner < PROBED else first + (inner - 1) * usual
    return math.inf if steps is None else steps * outer


def _target(real: Dataset, bank: Bank, fresh: models.Source, settings: Settings) -> tuple[float, Target]:
    """Seconds for a target, and one."""
    own, made = Bank(real, bank.problem, fresh, dataclasses.replace(settings, compile="never")), []

    def making() -> Iterator[None]:
        for number in range(2):
            made.append(own.make(number))
            yield

    return _clocked(making(), real.device)[-1], made[0]


def _pool(real: Dataset, architecture: Architecture, settings: Settings) -> tuple[float, int]:
    """Seconds and bytes of what is not in the cache."""
    if pool_entry(real, architecture, settings).exists():
        return 0.0, 0
    pool = settings.pool
    batch = min(settings.train.batch, len(real.images))
    cost = training.step_cost(architecture, settings.train, batch)
    at_once = execution.at_once(pool.networks, cost, real.device)
    rounds = -(-pool.networks // at_once)
    size = sum(4 * value.numel() for value in architecture.initialise(Key(0)).values())
    seconds = rounds * max(pool.epochs) * _epoch(real, architecture, settings, at_once)
    return seconds, pool.networks * len(pool.epochs) * size


def _epoch(real: Dataset, architecture: Architecture, settings: Settings, at_once: int) -> float:
    """Seconds of an epoch on the real data, of some networks side by side."""
    recipe = settings.train
    precision = execution.precision(settings.precision, real.device)
    step = training.make_step(
        architecture, recipe, real.mean, real.std, real.device, count=at_once, precision=precision
    )
    keys = [Key(0).at("probe", number) for number in range(at_once)]
    order = torch.arange(min(len(real.images), PROBED * recipe.batch)).expand(at_once, -1)
    steps = training.train(
        step, training.begin([architecture.initialise(key, real.device) for key in keys]), real.images, real.labels,
        order, recipe=recipe, lr=recipe.lr, num_classes=real.num_classes, keys=keys,
    )  # fmt: skip
    first, *later = _clocked(steps, real.device)
    return -(-len(real.images) // recipe.batch) * (min(later) if later else first)


def _clocked(steps: Iterator[Any], where: torch.device) -> list[float]:
    """Seconds until each of some results is there."""
    seconds = []
    began = time.perf_counter()
    for _ in steps:
        execution.synchronise(where)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return seconds


def _run_bytes(real: Dataset, settings: Settings, architecture: Architecture) -> int:
    """Of the run folder."""
    images = real.num_classes * settings.ipc * real.channels * real.size**2
    network = 0 if settings.targets.count else sum(v.numel() for v in architecture.initialise(Key(0)).values())
    checkpoint = 4 * 2 * (images + network)  # with velocities
    return checkpoints.KEPT * checkpoint + 2 * images * (settings.loop.snapshots + 1) + 4 * images


def _peak(where: torch.device) -> int:
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
