"""The algorithm of the paper on one screen."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import augment, engine, selection, synthetic, training
from accdd.augmented_models import Source
from accdd.config import Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.execution import PLAIN, Plan
from accdd.keys import Key


class State(NamedTuple):
    """Where a run stands after a sweep."""

    sweep: int
    """Sweeps done, over all outer steps."""
    images: Tensor
    """float32 (classes, ipc, c, h, w); clamp to [0, 1] before use, as is done at every outer step."""
    losses: Tensor
    """(classes,) of this sweep; empty before the first."""


def distill(data: Dataset, problem: Problem, source: Source, settings: Settings, plan: Plan = PLAIN) -> Iterator[State]:
    """Learn synthetic images by matching; yields the start and then the state after every sweep.

    Args:
        data: the real set, on the device.
        problem: the host method's pieces (see `methods`).
        source: where networks come from; `Perturbed(EarlyStage(pool), ...)` is AccDD, `Fresh(...)` its host.
        settings: resolved, nothing None that the loop reads.
        plan: how sweeps and training are executed.
    """
    loop, root = settings.loop, Key(settings.seed)
    assert settings.images.start and settings.images.lr  # resolved
    images = synthetic.start(
        data, settings.images.start, ipc=settings.ipc, factor=problem.factor, shrink=settings.images.shrink, key=root
    )
    velocity = torch.zeros_like(images)
    base_size = settings.images.base_size
    lr = synthetic.effective_lr(settings.images.lr, ipc=settings.ipc, size=data.size, base_size=base_size)
    lr, momentum = synthetic.per_sweep(lr, settings.images.momentum, data.num_classes)
    sweep = engine.sweeper(problem, plan)
    train_step = training.make_step(
        problem.forward.architecture, settings.train, data.mean, data.std, data.device,
        precision=plan.precision, compiled_for=settings.train.batch if plan.compile_training else None,
    )  # fmt: skip
    yield State(0, images, images.new_zeros(0))

    for step in itertools.count() if loop.steps is None else range(loop.steps):
        key = root.at("step", step)
        parameters = source(key)  # early-stage, perturbed
        trained = training.begin([parameters])
        drawn = draw(data, problem, settings, key)
        images = images.clamp(0, 1)
        for inner in range(loop.inner_steps):
            losses, slopes = sweep(parameters, data.images, images, drawn[inner])
            images, velocity = synthetic.descend(images, velocity, slopes, lr, momentum)
            yield State(step * loop.inner_steps + inner + 1, images, losses)
            if loop.train_images and inner + 1 < loop.inner_steps:
                order = train_order(data, settings, key.at(inner))
                steps = training.train(
                    train_step, trained, data.images, data.labels, order[None],
                    recipe=settings.train, lr=settings.train.lr, num_classes=data.num_classes, keys=[key.at(inner)],
                )  # fmt: skip
                trained = training.last(steps)
                (parameters,) = training.networks(trained)


def draw(data: Dataset, problem: Problem, settings: Settings, key: Key) -> list[engine.Sweep]:
    """Everything random in the sweeps of one outer step, drawn at once on the CPU."""
    inner, classes, match = settings.loop.inner_steps, data.num_classes, settings.match
    generator = key.generator("real batches")
    real = torch.stack(
        [
            torch.stack([selection.choose(rows, match.real_batch, generator) for rows in data.class_index])
            for _ in range(inner)
        ]
    ).to(data.device)  # (inner, classes, real_batch)
    siamese = augment.draw(match.augment or (), (inner, classes, 1), data.size, key.generator("siamese"))
    siamese = augment.to(siamese, data.device)
    decoded = settings.ipc * problem.factor**2
    subset = torch.rand(inner, classes, decoded, generator=key.generator("subset")).argsort(-1)
    subset = subset[..., : match.synthetic_batch].to(data.device)
    return [engine.Sweep(real[i], augment.at(siamese, i), subset[i]) for i in range(inner)]


def train_order(data: Dataset, settings: Settings, key: Key) -> Tensor:
    """int64 indices of the real images that the network is trained on after a sweep: whole batches, no repeats."""
    batch = settings.train.batch
    whole = -(-settings.loop.train_images // batch) * batch
    return torch.randperm(len(data.images), generator=key.generator("order"))[:whole]
