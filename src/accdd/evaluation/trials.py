"""Trials: fresh networks trained on a set, each tested after its last epoch."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import augment, execution, training
from accdd.config import Settings
from accdd.data import Dataset
from accdd.evaluation.kept import Trial
from accdd.evaluation.protocols import Protocol
from accdd.keys import Key
from accdd.networks import Architecture, Forward, calibrated
from accdd.training import Report, Trained

LOOKS = 100
"""How often a network is tested for its best on test: after every hundredth of the epochs, as IDC does on ImageNet.
That is rounded down to whole epochs, so that fewer than 200 are each looked at, and there are at most 199 looks."""


class Way(NamedTuple):
    """How networks are trained and tested, besides what a protocol says."""

    epochs: int | None = None
    """Instead of the protocol's own."""
    best_on_test: bool = False
    """Whether to keep each network's highest test accuracy at some of its epochs (see `LOOKS`), the last among them."""
    compile: str = "auto"
    """`auto`, `always` or `never`."""
    precision: str = "auto"
    """`auto`, `fp32` or `bf16`, of training; testing is fp32."""
    fresh: bool = False
    """Whether to train all of them, whatever the cache holds."""
    handed_out: bool = False
    """Whether workers have trained them all, so that what the cache does not hold is refused."""

    @classmethod
    def of(cls, settings: Settings) -> "Way":
        """A run's."""
        return cls(settings.score.epochs, compile=settings.compile, precision=settings.precision)


USUAL = Way()


def run(
    images: Tensor,
    labels: Tensor,
    data: Dataset,
    architecture: Architecture,
    protocol: Protocol,
    way: Way,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    keys: Sequence[Key],
    rows: Tensor,
    total: int,
    report: Report,
) -> Iterator[Trial]:
    """Train and test a network for each key, as many side by side as is fast.

    Args:
        rows: int64 (networks, m), which images each network is trained on.
        total: epochs.
        images, labels, data, architecture, protocol, way, mean, std, keys, report: as for `score`.
    """
    where, recipe = data.device, protocol.recipe
    labels = labels.to(where)
    images = images if images.dtype == torch.uint8 else images.to(where)  # real ones are where they fit
    batch = min(recipe.batch, rows.shape[1])
    step, at_once = training.planned_step(
        architecture, recipe, tuple(mean), tuple(std), where, networks=len(keys), batch=batch,
        steps=total * (rows.shape[1] // batch), compile=way.compile, precision=way.precision,
    )  # fmt: skip
    forward = Forward(architecture)

    def tested(trained: Trained, keys: Sequence[Key], rows: Tensor) -> list[Tensor]:
        """Which test images each network gets right as it is now, bool (n,)."""
        found = []
        for key, chosen, parameters in zip(keys, rows, training.networks(trained), strict=True):
            frozen = calibrated(forward, parameters, _batches(images, chosen, batch, key, mean, std, where))
            found.append(training.correct(forward, frozen, data.test_images, data.test_labels, mean=mean, std=std))
        return found

    between, truth = max(1, total // LOOKS), data.test_labels.cpu()
    for first in range(0, len(keys), at_once):
        began = time.perf_counter()
        together, own = keys[first : first + at_once], rows[first : first + at_once]
        trained = training.begin([architecture.initialise(key, where) for key in together])
        looks: list[list[float]] = []
        right: list[Tensor] = []
        for epoch in range(total):
            at_epoch = [key.at(epoch) for key in together]
            shuffled = [torch.randperm(rows.shape[1], generator=key.generator("order")) for key in at_epoch]
            lr = recipe.lr * protocol.schedule(epoch, total)
            steps = training.train(
                step, trained, images, labels, own.gather(1, torch.stack(shuffled)),
                recipe=recipe, lr=lr, num_classes=data.num_classes, keys=at_epoch,
            )  # fmt: skip
            trained = training.last(steps)
            if epoch + 1 == total or (way.best_on_test and (epoch + 1) % between == 0):
                right = [each.cpu() for each in tested(trained, together, own)]
                looks.append([100 * int(each.sum()) / len(each) for each in right])
            report((first + len(together) * (epoch + 1) / total) / len(keys))
        seconds = (time.perf_counter() - began) / len(together)
        for each, told, lost in zip(zip(*looks, strict=True), right, _diverged(trained), strict=True):
            by_class = truth[told].bincount(minlength=data.num_classes)
            yield Trial(each[-1], max(each), round(seconds, 3), tuple(by_class.tolist()), lost)


def _diverged(trained: Trained) -> list[bool]:
    """Which networks have a weight that is no number."""
    finite = [torch.stack([value.isfinite().all() for value in each.values()]) for each in training.networks(trained)]
    return [not bool(each.all()) for each in finite]


def _batches(
    images: Tensor, rows: Tensor, batch: int, key: Key, mean: Sequence[float], std: Sequence[float],
    where: torch.device,
) -> Iterator[Tensor]:  # fmt: skip
    """A pass over `images[rows]`, normalised, in shuffled batches; a short last one is left out."""
    shift, scale = (torch.tensor(each, device=where) for each in (mean, std))
    shuffled = rows[torch.randperm(len(rows), generator=key.generator("statistics"))]
    for few in shuffled[: len(rows) // batch * batch].split(batch):
        yield augment.normalise(execution.gather(images, few, where), shift, scale)
