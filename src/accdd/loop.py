"""The algorithm of the paper on one screen."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import augment, engine, methods, selection, synthetic, targets, training
from accdd.augmented_models import Source, perturb
from accdd.config import Settings, Train
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.execution import PLAIN, Plan
from accdd.keys import Key
from accdd.parallel import ALONE, Ranks
from accdd.targets import Bank
from accdd.training import Trained


class State(NamedTuple):
    """Where a run stands after a sweep, and all that it needs to go on: randomness is keyed, so it holds none."""

    sweep: int
    """Sweeps done, over all outer steps."""
    images: Tensor
    """float32 (classes, ipc, c, h, w); clamp to [0, 1] before use elsewhere. Of the rank's own classes, as is all that
    begins with classes here, while a run is divided among several."""
    losses: Tensor
    """(classes,) of this sweep; empty before the first."""
    velocity: Tensor
    """Of the images' SGD, of their shape."""
    network: Trained | None = None
    """The network of this sweep, before it is trained for the next one; None on targets."""
    oldest: int = 0
    """Number of the first target in use."""
    overfit: float | None = None
    """The loss on targets that were never used over that on some of the bank; after a pass, where it is looked at."""
    halvings: int = 0
    """How often the images' step size was halved, after numbers that were not finite."""


Progress = Callable[[int], float]
"""The share of the run, 0 to 1, that is over after a number of sweeps."""


def distill(
    data: Dataset, problem: Problem, source: Source, settings: Settings, plan: Plan = PLAIN,
    progress: Progress = lambda sweeps: 0.0, since: State | None = None, ranks: Ranks = ALONE,
) -> Iterator[State]:  # fmt: skip
    """Learn synthetic images by matching; yields the start and then the state after every sweep.

    Args:
        data: the real set, on the device.
        problem: the host method's pieces (see `methods`).
        source: where networks come from; `Perturbed(EarlyStage(pool), ...)` is AccDD, `Fresh(...)` its host.
        settings: resolved, nothing None that the loop reads.
        plan: how sweeps and training are executed.
        progress: where the run stands, for a step size that falls.
        since: a state that was yielded before, after which to go on; of all classes or of the rank's own.
        ranks: who this process is among those that share the classes; all walk the same network.
    """
    loop, root, halvings = settings.loop, Key(settings.seed), since.halvings if since else 0
    images, velocity, step_down, kept = begin(data, problem, settings, since, ranks)
    sweep = engine.sweeper(problem, plan)
    warm_up = warming(data, problem, settings, plan, ranks)
    train_between = training_between(data, problem, settings, plan, ranks)
    if since is None:
        yield State(0, images, images.new_zeros(0), velocity)

    done, trained = (since.sweep, since.network) if since else (0, None)
    first, skipped = divmod(done, loop.inner_steps)
    for step in itertools.count(first) if loop.steps is None else range(first, loop.steps):
        key = root.at("step", step)
        drawn = draw(data, problem, settings, key, ranks)
        for inner in range(skipped, loop.inner_steps):
            if inner == 0:
                trained = warm_up(training.begin([source(key)]), key)  # early-stage or warm, perturbed
                images = kept(images)
            else:
                assert trained is not None
                trained = train_between(trained, images, key.at(inner - 1))
            (parameters,) = training.networks(trained)
            parameters = engine.freeze(problem, parameters, data, key.at("frozen", inner))
            losses, slopes = sweep(parameters, data.images, images, drawn[inner])
            images, velocity = step_down(images, velocity, slopes, progress(done))
            done += 1
            trained = training.contiguous(trained)
            yield State(done, images, losses, velocity, trained, halvings=halvings)
        skipped = 0


def distill_on_targets(
    data: Dataset, problem: Problem, bank: Bank, settings: Settings, plan: Plan = PLAIN,
    progress: Progress = lambda sweeps: 0.0, since: State | None = None, ranks: Ranks = ALONE,
) -> Iterator[State]:  # fmt: skip
    """`distill` with the real half of every sweep taken from a bank, in a new order at every pass through it.

    With `targets.refresh`, the loss on the next block of targets, which no image has seen, is compared after each pass
    with that on a block of the bank; where it is larger by that share, those take the place of the oldest.

    Args:
        data, problem, settings, plan, progress, since, ranks: as for `distill`; `plan` is for the synthetic half.
        bank: with `targets.count` targets or more.
    """
    count, root = settings.targets.count, Key(settings.seed)
    assert count  # resolved
    images, velocity, step_down, kept = begin(data, problem, settings, since, ranks)
    sweep, share = engine.synthetic_sweeper(problem, plan), ranks.share(data.num_classes)
    labels = torch.arange(data.num_classes, device=data.device)[share]

    def matched(number: int, images: Tensor, subset: Tensor) -> tuple[Tensor, Tensor]:
        target = bank.of(number, share)
        return sweep(target.parameters, target.gradients, images, labels, target.siamese, subset[share])

    def loss_on(number: int, images: Tensor, subset: Tensor) -> Tensor:
        return ranks.whole(matched(number, images, subset)[0]).sum()

    if since is None:
        yield State(0, images, images.new_zeros(0), velocity)
    done, oldest, halvings = (since.sweep, since.oldest, since.halvings) if since else (0, 0, 0)
    first, skipped = divmod(done, count)
    for number in itertools.count(first):
        key = root.at("pass", number)
        order = oldest + torch.randperm(count, generator=key.generator("targets"))
        subsets = draw_subsets(data, problem, settings, key, count)
        for position in range(skipped, count):
            if done == settings.loop.steps:
                return
            images, subset = kept(images), subsets[position]
            losses, slopes = matched(int(order[position]), images, subset)
            images, velocity = step_down(images, velocity, slopes, progress(done))
            done += 1
            overfit = None
            if settings.targets.refresh and position + 1 == count:
                ahead = range(oldest + count, oldest + count + targets.BLOCK)
                fresh, used = (
                    torch.stack([loss_on(each, kept(images), subset) for each in indices]).mean()
                    for indices in (ahead, order[: targets.BLOCK].tolist())
                )
                overfit = (fresh / used).item()
                oldest += targets.BLOCK if overfit > 1 + settings.targets.refresh else 0
            yield State(done, images, losses, velocity, oldest=oldest, overfit=overfit, halvings=halvings)
        skipped = 0


Descent = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(images, velocity, gradient, share of the run that is over) -> (images, velocity)"""


def begin(
    data: Dataset, problem: Problem, settings: Settings, since: State | None = None, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor, Descent, Callable[[Tensor], Tensor]]:
    """The rank's first images, their velocity, how they go on from there, and how they are kept in range (if so)."""
    given, method, share = settings.images, methods.named(settings.method), ranks.share(data.num_classes)
    assert given.factor and given.start and given.lr and given.step and given.schedule  # resolved
    if since:
        own = share if len(since.images) == data.num_classes else slice(None)
        images, velocity = since.images[own], since.velocity[own]
    else:
        images = synthetic.start(
            data, given.start, ipc=settings.ipc, factor=given.factor, shrink=given.shrink, key=Key(settings.seed),
            classes=share,
        )  # fmt: skip
        velocity = torch.zeros_like(images)
    schedule, lr, momentum = given.schedule, given.lr, given.momentum
    by_gradient = given.step == "gradient"
    if by_gradient:
        lr, momentum = method.step(given.lr, momentum, data, settings.ipc, given.base_size)
    lr *= 0.5 ** (since.halvings if since else 0)

    def step_down(images: Tensor, velocity: Tensor, slopes: Tensor, share: float) -> tuple[Tensor, Tensor]:
        slopes = slopes if by_gradient else synthetic.normalised(slopes)
        return synthetic.descend(images, velocity, slopes, lr * synthetic.scheduled(schedule, share), momentum)

    def kept(images: Tensor) -> Tensor:
        return images.clamp(0, 1) if method.clamped or not by_gradient else images

    return images, velocity, step_down, kept


Training = Callable[[Trained, Key], Trained]
TrainingBetween = Callable[[Trained, Tensor, Key], Trained]
"""(network, images (classes, ipc, c, h, w), key) -> the network after training"""


def warming(data: Dataset, problem: Problem, settings: Settings, plan: Plan, ranks: Ranks = ALONE) -> Training:
    """What `loop.warm_up` epochs on the real data make of a network that was just drawn; it is perturbed then."""
    recipe, epochs = settings.train, settings.loop.warm_up
    if not epochs:
        return lambda trained, key: trained
    step = train_step(data, problem, settings, recipe, plan, len(data.images), ranks)

    def warm_up(trained: Trained, key: Key) -> Trained:
        for epoch in range(math.ceil(epochs)):
            own = key.at("warm up", epoch)
            count = max(1, round(min(1.0, epochs - epoch) * len(data.images)))
            order = torch.randperm(len(data.images), generator=own.generator("order"))[:count]
            trained = _train(step, trained, data.images, data.labels, order, data, recipe, own)
        if not settings.perturb.use:
            return trained
        (parameters,) = training.networks(trained)
        moved = perturb(parameters, settings.perturb, key.generator("perturbation"))
        return trained._replace(parameters={name: value[None] for name, value in moved.items()})

    return warm_up


def training_between(
    data: Dataset, problem: Problem, settings: Settings, plan: Plan, ranks: Ranks = ALONE
) -> TrainingBetween:
    """How a network is trained between two sweeps: on real data (IDC), on the synthetic set (DC), or not (DM)."""
    loop = settings.loop

    def on_real(trained: Trained, images: Tensor, key: Key) -> Trained:
        order = train_order(data, settings, key)
        return _train(step, trained, data.images, data.labels, order, data, recipe, key)

    def on_synthetic(trained: Trained, images: Tensor, key: Key) -> Trained:
        decoded = [problem.decode(own) for own in ranks.whole(images)]
        labels = torch.arange(len(decoded), device=data.device).repeat_interleave(len(decoded[0]))
        for epoch in range(loop.train_epochs or 0):
            order = torch.randperm(len(labels), generator=key.at(epoch).generator("order"))
            trained = _train(step, trained, torch.cat(decoded), labels, order, data, recipe, key.at(epoch))
        return trained

    if loop.train_images:
        recipe, seen = settings.train, len(data.images)
    elif loop.train_epochs:
        recipe = dataclasses.replace(problem.recipe, augment=augment.suited(problem.recipe.augment, data.name))
        seen = data.num_classes * engine.decoded(problem, settings.ipc)
    else:
        return lambda trained, images, key: trained
    step = train_step(data, problem, settings, recipe, plan, seen, ranks)
    return on_real if loop.train_images else on_synthetic


def train_step(
    data: Dataset, problem: Problem, settings: Settings, recipe: Train, plan: Plan, seen: int, ranks: Ranks = ALONE
) -> training.Step:
    """The training step of one network that sees `seen` images an epoch."""
    return training.make_step(
        problem.forward.architecture, recipe, data.mean, data.std, data.device,
        precision=plan.precision, compiled_for=min(recipe.batch, seen) if plan.compile_training else None,
        ranks=ranks if settings.loop.split_training else ALONE,
    )  # fmt: skip


def _train(
    step: training.Step, trained: Trained, images: Tensor, labels: Tensor, order: Tensor, data: Dataset, recipe: Train,
    key: Key,
) -> Trained:  # fmt: skip
    """One network trained on `images[order]`."""
    steps = training.train(
        step, trained, images, labels, order[None],
        recipe=recipe, lr=recipe.lr, num_classes=data.num_classes, keys=[key],
    )  # fmt: skip
    return training.last(steps)


def draw(data: Dataset, problem: Problem, settings: Settings, key: Key, ranks: Ranks = ALONE) -> list[engine.Sweep]:
    """Everything random in the sweeps of one outer step, drawn at once on the CPU; of all classes, then shared out."""
    inner, classes, match = settings.loop.inner_steps, data.num_classes, settings.match
    assert match.real_batch  # resolved
    generator = key.generator("real batches")
    real = torch.stack(
        [
            torch.stack([selection.choose(rows, match.real_batch, generator) for rows in data.class_index])
            for _ in range(inner)
        ]
    ).to(data.device)  # (inner, classes, real_batch)
    names, shape, one_of = match.augment or (), (inner, classes, 1), bool(match.one_of)
    siamese = augment.draw(names, shape, data.size, key.generator("siamese"), one_of=one_of)
    siamese = augment.to(siamese, data.device)
    subset = draw_subsets(data, problem, settings, key, inner)
    own = ranks.share(classes)
    labels = torch.arange(classes, device=data.device)[own]
    return [engine.Sweep(labels, real[i, own], augment.at(siamese, i, own), subset[i, own]) for i in range(inner)]


def draw_subsets(data: Dataset, problem: Problem, settings: Settings, key: Key, sweeps: int) -> Tensor:
    """int64 (sweeps, classes, m): which decoded images of each class take part."""
    decoded = engine.decoded(problem, settings.ipc)
    ranks = torch.rand(sweeps, data.num_classes, decoded, generator=key.generator("subset"))
    return ranks.argsort(-1)[..., : settings.match.synthetic_batch].to(data.device)


def train_order(data: Dataset, settings: Settings, key: Key) -> Tensor:
    """int64 indices of the real images that the network is trained on after a sweep: whole batches, no repeats."""
    batch = settings.train.batch
    whole = -(-(settings.loop.train_images or 0) // batch) * batch
    return torch.randperm(len(data.images), generator=key.generator("order"))[:whole]
