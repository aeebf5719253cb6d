"""Scores: train n fresh networks on a set, test each once after its last epoch."""

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from accdd import augment, execution, selection, training
from accdd.config import InputError
from accdd.data import Dataset
from accdd.evaluation.protocols import Protocol
from accdd.keys import Key
from accdd.networks import Architecture, Forward, calibrated
from accdd.training import Report, Trained

LOOKS = 100
"""How often a network is tested for its best on test: after every hundredth of the epochs, as IDC does on ImageNet."""


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
    best_on_test: tuple[float, ...] | None = None
    """Percent, one per network: the highest test accuracy at any look during training, for comparison with papers that
    report it. It is chosen on the test images, so it is too high. None where it was not asked for."""
    per_class: tuple[float, ...] | None = None
    """Percent of each class's test images, mean over the networks; of a class without any, 0. None for older scores."""
    bytes: int | None = None
    """Storage of what was trained on, labels included (`metrics.storage`); None where it was not counted."""
    seed: int | None = None
    """Of `network_keys`: scores of one seed, network and n are paired, network by network. None for other keys."""
    beside: str | None = None
    """The set whose number of stored images, network keys and test images this baseline shares; None for a set."""

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
        """As in '67.1 ± 0.4 % (n = 5, protocol idc)'; the best on test after the last epoch's."""
        best = "" if self.best_on_test is None else f"; best on test {_spread(self.best_on_test)} %"
        return f"{_spread(self.accuracies)} % (n = {self.n}, protocol {self.protocol}){best}"

    def to_dict(self) -> dict[str, object]:
        """Fields and statistics, ready for JSON; without fields that do not apply."""
        record = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        record |= {"n": self.n} | _statistics(self.accuracies)
        if self.best_on_test is not None:
            record["best_on_test"] = {"accuracies": self.best_on_test} | _statistics(self.best_on_test)
        return record


def _statistics(values: Sequence[float]) -> dict[str, float | None]:
    std = round(statistics.stdev(values), 2) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 2), "std": std}


def _spread(values: Sequence[float]) -> str:
    """As in '67.1 ± 0.4'."""
    std = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{std}"


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
    keys: Sequence[Key],
    rows: Tensor | None = None,
    epochs: int | None = None,
    best_on_test: bool = False,
    compile: str = "auto",
    precision: str = "auto",
    report: Report = lambda share: None,
) -> Score:
    """Train fresh networks on a set of images and test each on `data`'s test split.

    Networks with BatchNorm are tested with the statistics of their training images, without augmentation and in
    shuffled batches of the recipe's size, so that an accuracy does not depend on how test images are batched.

    Args:
        name: what the set is called in the score.
        images: float in [0, 1] or uint8, (count, c, h, w): what a network sees, so decoded.
        labels: int64 (count,).
        data: classes and test split; also says where to train.
        architecture: the network.
        protocol: recipe and epochs.
        mean, std: normalisation per channel, of training and of test images.
        keys: one per network: initialisation, order and augmentation.
        rows: int64 (networks, m), which images each network is trained on; None is all.
        epochs: instead of the protocol's own.
        best_on_test: also keep each network's highest test accuracy over `LOOKS` looks, the last epoch's among them.
        compile: `auto`, `always` or `never`.
        precision: `auto`, `fp32` or `bf16`, of training; testing is fp32.
        report: told of progress.

    Raises:
        InputError: no keys, so no networks.
    """
    if not keys:
        raise InputError("n = 0: a score of no networks says nothing. Expected at least one network.")
    began = time.perf_counter()
    where, recipe = data.device, protocol.recipe
    labels = labels.to(where)
    images = images if images is data.images else images.to(where)  # the real ones are where they fit
    if rows is None:
        rows = torch.arange(len(images)).expand(len(keys), -1)
    usual = protocol.epochs_for(rows.shape[1])
    total = epochs or usual
    batch = min(recipe.batch, rows.shape[1])
    cost = training.step_cost(architecture, recipe, batch)
    at_once = execution.at_once(len(keys), cost, where)
    calls = total * (rows.shape[1] // batch) * len(keys) / at_once
    resolved = execution.precision(precision, where)
    worth_it = execution.worth_compiling(compile, where, cost.side_by_side(at_once), calls, precision=resolved)
    step = training.make_step(
        architecture, recipe, tuple(mean), tuple(std), where, count=at_once,
        precision=resolved, compiled_for=batch if worth_it else None,
    )  # fmt: skip
    forward = Forward(architecture)

    def tested(trained: Trained, keys: Sequence[Key], rows: Tensor) -> list[Tensor]:
        """Which test images each network gets right as it is now, bool (n,)."""
        found = []
        for key, chosen, parameters in zip(keys, rows, training.networks(trained), strict=True):
            frozen = calibrated(forward, parameters, _batches(images, chosen, batch, key, mean, std, where))
            found.append(training.correct(forward, frozen, data.test_images, data.test_labels, mean=mean, std=std))
        return found

    between = max(1, total // LOOKS)
    accuracies: list[float] = []
    highest: list[float] = []
    truth, classes = data.test_labels.cpu(), data.num_classes
    right = torch.zeros(classes, dtype=torch.int64)
    for first in range(0, len(keys), at_once):
        together, own = keys[first : first + at_once], rows[first : first + at_once]
        trained = training.begin([architecture.initialise(key, where) for key in together])
        looks: list[list[float]] = []
        hits: list[Tensor] = []
        for epoch in range(total):
            at_epoch = [key.at(epoch) for key in together]
            shuffled = [torch.randperm(rows.shape[1], generator=key.generator("order")) for key in at_epoch]
            lr = recipe.lr * protocol.schedule(epoch, total)
            steps = training.train(
                step, trained, images, labels, own.gather(1, torch.stack(shuffled)),
                recipe=recipe, lr=lr, num_classes=data.num_classes, keys=at_epoch,
            )  # fmt: skip
            trained = training.last(steps)
            if epoch + 1 == total or (best_on_test and (epoch + 1) % between == 0):
                hits = tested(trained, together, own)
                looks.append([100 * int(each.sum()) / len(each) for each in hits])
            report((first + len(together) * (epoch + 1) / total) / len(keys))
        accuracies += looks[-1]
        right += sum(truth[each.cpu()].bincount(minlength=classes) for each in hits)
        highest += [max(each) for each in zip(*looks, strict=True)]
    seconds = time.perf_counter() - began
    label = protocol.name if total == usual else f"{protocol.name}, {total} epochs"
    best = tuple(highest) if best_on_test else None
    seed = keys[0].seed if list(keys) == network_keys(Key(keys[0].seed), len(keys)) else None
    share = 100 * right / (len(keys) * truth.bincount(minlength=classes)).clamp(min=1)
    per_class = tuple(round(each, 2) for each in share.tolist())
    return Score(
        name, architecture.name, label, total, tuple(accuracies), round(seconds, 2), best, per_class, seed=seed
    )


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
    compile: str = "auto",
    precision: str = "auto",
    report: Report = lambda share: None,
) -> tuple[Score, Score]:
    """The scores of a distilled set and of as many random real images, drawn again for every network.

    Args:
        images, labels: the decoded set, as for `score`.
        stored: images per class as stored: what random images are given, too.
        seed: the run's.
        seeds: networks per score.
        data, architecture, protocol, epochs, compile, precision, report: as for `score`.
    """

    def run(name: str, images: Tensor, labels: Tensor, keys: list[Key], rows: Tensor | None, report: Report) -> Score:
        return score(
            name, images, labels, data, architecture, protocol, mean=data.mean, std=data.std, keys=keys, rows=rows,
            epochs=epochs, compile=compile, precision=precision, report=report,
        )  # fmt: skip

    keys = network_keys(Key(seed), seeds)
    distilled = run("distilled", images, labels, keys, None, lambda share: report(share / 2))
    draws = [Key(seed).at("random", draw) for draw in range(seeds)]
    chosen = torch.stack([selection.random(data, stored, key).flatten() for key in draws])
    keys = [key for draw in draws for key in network_keys(draw, 1)]
    random = run("random", data.images, data.labels, keys, chosen, lambda share: report((1 + share) / 2))
    return distilled, random


def _batches(
    images: Tensor, rows: Tensor, batch: int, key: Key, mean: Sequence[float], std: Sequence[float],
    where: torch.device,
) -> Iterator[Tensor]:  # fmt: skip
    """A pass over `images[rows]`, normalised, in shuffled batches; a short last one is left out."""
    shift, scale = (torch.tensor(each, device=where) for each in (mean, std))
    shuffled = rows[torch.randperm(len(rows), generator=key.generator("statistics"))]
    for few in shuffled[: len(rows) // batch * batch].split(batch):
        yield augment.normalise(execution.gather(images, few, where), shift, scale)


def network_keys(key: Key, count: int) -> list[Key]:
    """Where the networks of a score begin."""
    return [key.at("score", seed) for seed in range(count)]
