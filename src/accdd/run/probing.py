"""What a run will take, from a few probed steps of each kind: time, memory, disk.

The steps are those of the run itself, compiled where it compiles. Compiling and reading data are not counted: both were
done to know all this, and what was compiled is found again by the run, in the same process at once, later in the
compiler's cache. Nothing else of what is computed is kept.
"""

import dataclasses
import functools
import itertools
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from accdd import augmented_models as models
from accdd import config, execution, formation, loop, planning, training
from accdd.augmented_models import pool
from accdd.config import InputError, Settings, Train
from accdd.data import Dataset
from accdd.evaluation import Protocol
from accdd.keys import Key
from accdd.networks import Architecture, Forward
from accdd.parallel import ALONE, Ranks
from accdd.run import checkpoints, choosing, course
from accdd.run.course import Work
from accdd.run.progress import Reporter
from accdd.targets import BLOCK, Bank, Target

PROBED = 3
"""Steps of each kind that are timed, after a first one that compiles and warms up."""
PATIENCE = 20.0
"""Seconds of timed steps of a kind that are enough, however few steps these are: a sweep may take minutes."""
SHORT = 60.0
"""Seconds below which, by a guess, a run is not worth probing."""
TESTED = 1000
"""Test images that one test is timed on."""
SMALLER = (
    "Expected more, or less work at once: --set train.batch=32, a smaller match.real_batch, match.synthetic_batch or "
    "targets.real_batch, match.classes=1, pool.networks or data.size."
)


class Forecast(NamedTuple):
    """What a run is expected to take."""

    seconds: dict[str, float]
    """Of `pool` and `targets`, as far as they are not in the cache, of `distilling`, `choosing` and `scoring`."""
    memory: int
    """Bytes at the peak: of the device on CUDA, otherwise of this process. Targets and pictures that are mapped from
    files are not counted: the system takes their memory back when it is needed."""
    disk: int
    """Bytes that are written and kept, in the run folder and in the cache."""

    def __str__(self) -> str:
        """As in '12 min (pool 0.5, targets 1.5, distilling 10.0), 1.20 GB of memory, 0.34 GB of disk'."""
        parts = ", ".join(f"{name} {each / 60:.1f}" for name, each in self.seconds.items() if each)
        total = sum(self.seconds.values()) / 60
        return f"{total:.1f} min ({parts}), {self.memory / 1e9:.2f} GB of memory, {self.disk / 1e9:.2f} GB of disk"


def foretell(work: Work, reporter: Reporter, ranks: Ranks = ALONE) -> Forecast | None:
    """What a run that is about to begin will take; None of several ranks, and where finding out takes as long or is not
    worth it.

    Raises:
        InputError: as for `forecast`.
    """
    settings, limit = work.settings, work.settings.max_memory
    of_loop, others = settings.loop, settings.pool.use or settings.targets.count or settings.score.seeds
    as_long = of_loop.steps is not None and of_loop.steps * of_loop.inner_steps <= _probed(of_loop) and not others
    if not ranks.alone or (limit is None and (as_long or _guessed(work) < SHORT)):
        return None
    try:
        return forecast(work, reporter, ranks)
    except torch.OutOfMemoryError:
        return None  # the run may get by with fewer classes, or parts, at once; it is saved before it is scored


def forecast(work: Work, reporter: Reporter, ranks: Ranks = ALONE) -> Forecast:
    """Probe the steps that a run is made of; its target bank is only asked what is missing.

    Args:
        work: the run.
        reporter: told that it is probed.
        ranks: a shard learns its own classes alone.

    Raises:
        InputError: more memory than `max_memory`.
        OutOfMemoryError: more than the GPU has, where there is no such limit.
    """
    limit = work.settings.max_memory
    reporter.phase("probing")
    try:
        expected = _probe(work, ranks)
    except torch.OutOfMemoryError:
        if limit is None:
            raise
        raise InputError(f"This run takes more GPU memory than --max-memory {limit:g}. {SMALLER}") from None
    finally:
        reporter.update(1.0)
    if limit is not None and expected.memory > limit * 1e9:
        raise InputError(
            f"This run takes {expected.memory / 1e9:.2f} GB at its peak, more than --max-memory {limit:g}. {SMALLER}"
        )
    return expected


def _probe(work: Work, ranks: Ranks) -> Forecast:
    real, settings, architecture, bank = work.real, work.settings, work.architecture, work.bank
    where, count = real.device, settings.targets.count or 0
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    fresh = models.source(architecture, where, settings, None)
    # One network after the other for as long as it is asked, each for a few sweeps.
    probing = dataclasses.replace(
        settings, loop=dataclasses.replace(settings.loop, warm_up=0, steps=None, inner_steps=_few(settings.loop))
    )
    seconds, pools, untrained = {"pool": 0.0}, 0, list[int]()
    if settings.pool.use:
        pools = settings.pool.networks * len(pool.kept(settings)) * _bytes(architecture)
        untrained = pool.missing(real, architecture, settings)
        seconds["pool"] = _pool(real, architecture, settings, untrained)
    missing, held = bank.missing(count) if count else 0, pools
    begin: Callable[..., Iterator[loop.State]] = functools.partial(loop.distill, real, bank.problem, fresh, probing)
    if count:
        each, target = _target(real, bank, fresh, settings)
        seconds["targets"] = missing * each
        held += 2 * min(missing, BLOCK) * bank.bytes_per_target  # a block, and its tensors put together to be written
        begin = functools.partial(loop.distill_on_targets, real, bank.problem, cast(Bank, _Always(target)), probing)
    seconds["distilling"] = _distilling(functools.partial(begin, work.plan, ranks=ranks), work)
    if settings.score.choose == "validation":
        seconds["choosing"] = _choosing(work)
    seconds["scoring"] = _scoring(work)
    peak = _peak(where) + held
    if count and where.type == "cuda":  # targets stay on it as far as there is room
        kept = min(count, bank.room) * bank.bytes_per_target
        peak += max(0, min(kept, execution.granted_memory(where) - peak))
    made = missing * bank.bytes_per_target + len(untrained) * len(pool.kept(settings)) * _bytes(architecture)
    rounded = {name: round(each, 3) for name, each in seconds.items()}
    return Forecast(rounded, peak, made + _run_bytes(real, settings, architecture, ranks))


class _Always:
    """A bank of one target, over and over."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def of(self, number: int, classes: slice) -> Target:
        parameters, gradients, siamese = self._target
        return Target(
            parameters, *({name: value[classes] for name, value in kind.items()} for kind in (gradients, siamese))
        )


def _guessed(work: Work) -> float:
    """Seconds, but for scores, by counted work alone: good within a factor of three."""
    real, settings, where = work.real, work.settings, work.real.device
    of_loop, precision = settings.loop, execution.precision(settings.precision, work.real.device)

    def training_on(images: float) -> float:
        step = training.step_cost(work.architecture, settings.train, settings.train.batch)
        return images / settings.train.batch * execution.seconds(step, where, precision)

    real_half, synthetic_half = (
        real.num_classes * execution.seconds(cost, where, precision)
        for cost in planning.half_costs(work.problem, settings)
    )
    count, networks = settings.targets.count or 0, math.inf if of_loop.steps is None else of_loop.steps
    sweep = synthetic_half if count else real_half + synthetic_half + training_on(of_loop.train_images or 0)
    distilling = networks * (of_loop.inner_steps * sweep + training_on(of_loop.warm_up * len(real.images)))
    pools = settings.pool.networks * max(pool.kept(settings)) if settings.pool.use else 0
    made = count * real_half + training_on(pools * len(real.images))
    return made + min(distilling, math.inf if of_loop.budget is None else of_loop.budget)


def _few(of_loop: config.Loop) -> int:
    """Probed sweeps of each network."""
    return min(of_loop.inner_steps, PROBED)


def _probed(of_loop: config.Loop) -> int:
    """Probed sweeps, unless they take long; of a run that ends by the clock only its memory is asked."""
    few = _few(of_loop)
    return min(few, 2) if of_loop.steps is None else few * min(2 if few > 1 else 1 + PROBED, of_loop.steps)


def _distilling(begin: Callable[..., Iterator[loop.State]], work: Work) -> float:
    """Seconds of the loop, probed with a few sweeps to a network."""
    settings, of_loop, plan = work.settings, work.settings.loop, work.plan
    few = _few(of_loop)
    # Not counted: the start, and what compiles, is recorded for a GPU, or comes before a network is trained.
    eager = work.real.device.type == "cpu" and not plan.compile_matching and not plan.compile_training
    warm = min(few, 2) if eager else 1 + few + plan.compile_training
    start, *sweeps = _clocked(itertools.islice(begin(lambda sweeps: 0.0), 1 + _probed(of_loop)), work.real.device, warm)
    if of_loop.steps is None:
        assert of_loop.budget is not None  # resolved
        return of_loop.budget
    if not sweeps:
        return start
    if few == 1:
        network = _typical(sweeps)
    else:  # the first sweep of a network draws for all of them, and those after it are trained for
        first, *later = sweeps[few:] or sweeps[:1]
        rest = statistics.median(later) if later else min(sweeps[1:few], default=first)  # others may compile
        network = first + (of_loop.inner_steps - 1) * rest
    if of_loop.warm_up:
        seen = len(work.real.images)
        step = loop.train_step(work.real, work.problem, settings, settings.train, work.plan, seen)
        warming = _step(step, work.architecture, settings.train, work.real, _whole(work.real), 1)
        network += of_loop.warm_up * warming * (seen / settings.train.batch)
    total = start + of_loop.steps * network
    return total if of_loop.budget is None else min(total, of_loop.budget)


def _target(real: Dataset, bank: Bank, fresh: models.Source, settings: Settings) -> tuple[float, Target]:
    """Seconds for a target, and one."""
    own, made = Bank(real, bank.problem, fresh, settings), []

    def making() -> Iterator[None]:
        for number in range(1 + PROBED):
            made[:] = [own.make(number)]
            yield

    return _typical(_clocked(making(), real.device)), made[0]


def _pool(real: Dataset, architecture: Architecture, settings: Settings, untrained: Sequence[int]) -> float:
    """Seconds of training these early-stage models; networks of other augmentations are taken to be as fast."""
    batch = min(settings.train.batch, len(real.images))
    steps = pool.steps_to(max(pool.kept(settings)), math.ceil(len(real.images) / settings.train.batch))
    seconds, each = 0.0, None
    for recipe, networks in pool.recipes(settings).items():
        own = sum(network in untrained for network in networks)
        if not own or not steps:
            continue
        step, at_once = training.planned_step(
            architecture, recipe, real.mean, real.std, real.device, networks=own, batch=batch,
            steps=steps * len(networks) / own, compile=settings.compile, precision=settings.precision,
        )  # fmt: skip
        each = each or _step(step, architecture, recipe, real, _whole(real), at_once)
        seconds += math.ceil(own / at_once) * steps * each
    return seconds


def _scoring(work: Work) -> float:
    """Seconds of the scores of what is learned and of as many random real images."""
    settings = work.settings
    if not settings.score.seeds or settings.shard:
        return 0.0
    stored = settings.ipc * work.real.num_classes
    return sum(
        _scored(work, work.real, network, protocol, images, settings.score.seeds)
        for _, network, protocol in course.scored(work)
        for images in (_decoded(work), stored)
    )


def _choosing(work: Work) -> float:
    """Seconds of the scores by which a snapshot is chosen."""
    architecture, protocol = work.architecture, course.protocol_for(work, work.architecture)
    each = _scored(work, work.real.validating, architecture, protocol, _decoded(work), choosing.NETWORKS)
    return (work.settings.loop.snapshots + 1) * each


def _decoded(work: Work) -> int:
    """Images that a network is trained on."""
    real, images = work.real, work.settings.images
    stored = (work.settings.ipc * real.num_classes, real.channels, real.size, real.size)
    return formation.count(formation.decoder(images.formation, images.factor or 1), stored)


def _scored(work: Work, real: Dataset, network: Architecture, protocol: Protocol, images: int, networks: int) -> float:
    """Seconds of training some networks on so many images and testing each on the test split of `real`."""
    settings, test = work.settings, min(TESTED, len(real.test_images))
    forward, parameters = Forward(network), network.initialise(Key(0), real.device)
    seen = real.test_images[:test], real.test_labels[:test]
    tests = (training.correct(forward, parameters, *seen, mean=real.mean, std=real.std) for _ in range(2))
    testing = networks * _typical(_clocked(tests, real.device)) * len(real.test_images) / test
    batch, epochs = min(protocol.recipe.batch, images), settings.score.epochs or protocol.epochs_for(images)
    step, at_once = training.planned_step(
        network, protocol.recipe, real.mean, real.std, real.device, networks=networks,
        batch=batch, steps=epochs * (images // batch), compile=settings.compile, precision=settings.precision,
    )  # fmt: skip
    rows = torch.arange(images) % len(real.images)
    each = _step(step, network, protocol.recipe, real, rows, at_once)
    return testing + math.ceil(networks / at_once) * epochs * math.ceil(images / batch) * each


def _step(
    step: training.Step, architecture: Architecture, recipe: Train, real: Dataset, rows: Tensor, at_once: int
) -> float:
    """Seconds of a training step of some networks side by side, in short epochs on real images: as steps come in a run,
    with what is drawn for them."""
    keys = [Key(0).at("probe", number) for number in range(at_once)]
    trained = training.begin([architecture.initialise(key, real.device) for key in keys])
    order = rows[: 2 * recipe.batch].expand(at_once, -1)
    batches = math.ceil(order.shape[1] / recipe.batch)

    def epochs() -> Iterator[training.Trained]:
        for _ in range(1 + PROBED):
            yield training.last(
                training.train(
                    step, trained, real.images, real.labels, order, recipe=recipe, lr=recipe.lr,
                    num_classes=real.num_classes, keys=keys,
                )
            )  # fmt: skip

    return _typical(_clocked(epochs(), real.device)) / batches


def _whole(real: Dataset) -> Tensor:
    return torch.arange(len(real.images))


def _clocked(steps: Iterator[Any], where: torch.device, warm: int = 1) -> list[float]:
    """Seconds until each of some results is there, until those after the first `warm` have taken `PATIENCE`."""
    seconds: list[float] = []
    began = time.perf_counter()
    for _ in steps:
        execution.synchronise(where)
        seconds.append(time.perf_counter() - began)
        if sum(seconds[warm:]) > PATIENCE:
            break
        began = time.perf_counter()
    return seconds


def _typical(seconds: Sequence[float]) -> float:
    """Their median without the first, which warms up, unless there is no other."""
    return statistics.median(seconds[1:] or seconds)


def _bytes(architecture: Architecture) -> int:
    """Of a network's parameters."""
    return sum(4 * value.numel() for value in architecture.initialise(Key(0)).values())


def _run_bytes(real: Dataset, settings: Settings, architecture: Architecture, ranks: Ranks) -> int:
    """Of the run folder."""
    own: Sequence[int] = range(real.num_classes)[ranks.share(real.num_classes)]
    images = len(own) * settings.ipc * real.channels * real.size**2
    network = 0 if settings.targets.count else _bytes(architecture)
    checkpoint = 2 * (4 * images + network)  # with velocities
    return checkpoints.KEPT * checkpoint + 2 * images * (settings.loop.snapshots + 1) + 4 * images


def _peak(where: torch.device) -> int:
    if where.type == "cuda":
        return torch.cuda.max_memory_reserved(where)  # what recorded launches keep is not allocated
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
