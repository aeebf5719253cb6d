"""Scores: train n fresh networks on a set, test each once after its last epoch."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from accdd import selection, training
from accdd.data import Dataset
from accdd.evaluation.protocols import Protocol
from accdd.keys import Key
from accdd.networks import Architecture, Forward

Report = Callable[[float], None]
"""Called with the share of the work done, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Test accuracies of n networks trained on one set."""

    set: str
    """What was trained on: `distilled`, `random`, or a path."""
    network: str
    """Name of the network trained."""
    protocol: str
    """Name of the protocol, with the number of epochs where it is not the protocol's own."""
    epochs: int
    """Passes over the decoded set."""
    accuracies: tuple[float, ...]
    """Percent, one per network, after the last epoch."""
    seconds: float
    """Wall-clock time of training and testing all n networks."""

    @property
    def n(self) -> int:
        return len(self.accuracies)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); None for one network."""
        return statistics.stdev(self.accuracies) if self.n > 1 else None

    def __str__(self) -> str:
        """As in '67.1 ± 0.4 % (n = 5, protocol idc)'."""
        spread = "" if self.std is None else f" ± {self.std:.1f}"
        return f"{self.mean:.1f}{spread} % (n = {self.n}, protocol {self.protocol})"

    def to_dict(self) -> dict[str, object]:
        """Fields and statistics, ready for JSON."""
        std = None if self.std is None else round(self.std, 2)
        return dataclasses.asdict(self) | {"n": self.n, "mean": round(self.mean, 2), "std": std}


def score(
    name: str,
    images: Tensor,
    labels: Tensor,
    data: Dataset,
    architecture: Architecture,
    protocol: Protocol,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seeds: int,
    key: Key,
    epochs: int | None = None,
    report: Report = lambda share: None,
) -> Score:
    """Train `seeds` fresh networks on a set of images and test each on `data`'s test split.

    Args:
        name: what the set is called in the score.
        images: float in [0, 1] or uint8, (n, c, h, w): what a network sees, so decoded.
        labels: int64 (n,).
        data: classes and test split; also says where to train.
        architecture: the network.
        protocol: recipe and epochs.
        mean, std: normalisation per channel, of training and of test images.
        seeds: networks; each differs in initialisation, order and augmentation.
        key: where they begin.
        epochs: instead of the protocol's own.
        report: told of progress.
    """
    began = time.perf_counter()
    forward = Forward(architecture)
    images, labels = images.to(data.device), labels.to(data.device)
    usual = protocol.epochs_for(len(images))
    total = epochs or usual
    accuracies = []
    for seed in range(seeds):
        own = key.at("score", seed)
        parameters = architecture.initialise(own, data.device)
        sgd = training.optimiser(parameters, protocol.recipe)
        for epoch in range(total):
            training.decay(sgd, protocol.recipe, epoch, total)
            order = torch.randperm(len(images), generator=own.at(epoch).generator("order"))
            for _ in training.train(
                forward, parameters, sgd, images, labels, order,
                recipe=protocol.recipe, mean=mean, std=std, num_classes=data.num_classes, key=own.at(epoch),
            ):  # fmt: skip
                pass
            report((seed + (epoch + 1) / total) / seeds)
        accuracies.append(
            training.accuracy(forward, parameters, data.test_images, data.test_labels, mean=mean, std=std)
        )
    seconds = time.perf_counter() - began
    label = protocol.name if total == usual else f"{protocol.name}, {total} epochs"
    return Score(name, architecture.name, label, total, tuple(accuracies), round(seconds, 2))


def merge(scores: Sequence[Score]) -> Score:
    """One score of what was trained on several sets of the same kind."""
    accuracies = tuple(accuracy for each in scores for accuracy in each.accuracies)
    seconds = round(sum(each.seconds for each in scores), 2)
    return dataclasses.replace(scores[0], accuracies=accuracies, seconds=seconds)


def beside_random(
    images: Tensor,
    labels: Tensor,
    data: Dataset,
    architecture: Architecture,
    protocol: Protocol,
    *,
    stored: int,
    seeds: int,
    seed: int,
    epochs: int | None = None,
    report: Report = lambda share: None,
) -> tuple[Score, Score]:
    """The scores of a distilled set and of as many random real images, drawn again for every network.

    Args:
        images, labels: the decoded set, as for `score`.
        stored: images per class as stored: what random images are given, too.
        seed: the run's.
        data, architecture, protocol, seeds, epochs, report: as for `score`.
    """

    def run(name: str, images: Tensor, labels: Tensor, seeds: int, key: Key, report: Report) -> Score:
        return score(
            name, images, labels, data, architecture, protocol,
            mean=data.mean, std=data.std, seeds=seeds, key=key, epochs=epochs, report=report,
        )  # fmt: skip

    distilled = run("distilled", images, labels, seeds, Key(seed), lambda share: report(share / 2))
    draws = []
    for draw in range(seeds):
        key = Key(seed).at("random", draw)
        chosen = selection.random(data.class_index, stored, key).flatten()
        done = (1 + draw / seeds) / 2
        draws.append(
            run("random", data.images[chosen], data.labels[chosen], 1, key,
                lambda share, done=done: report(done + share / seeds / 2))
        )  # fmt: skip
    return distilled, merge(draws)
