"""Scores: train n fresh networks on a set, test each once after its last epoch."""

import dataclasses
import re
import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from accdd import config, execution, executor
from accdd.config import InputError, Notice
from accdd.data import Dataset
from accdd.evaluation import trials
from accdd.evaluation.kept import KeptTrials, Trial
from accdd.evaluation.protocols import Protocol, rule_of
from accdd.evaluation.trials import USUAL, Way
from accdd.keys import SCHEME, Key
from accdd.networks import Architecture, identity
from accdd.training import Report

FROM_DATA = ("name", "channels", "size", "num_classes")
"""Of an architecture: its name, and what data decide."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Test accuracies of n networks trained on one set."""

    set: str
    """What was trained on: `distilled`, `random`, or a path."""
    network: str
    """Name of the network trained."""
    protocol: str
    """Name of the protocol, with the number of epochs where it is not the protocol's own, and `held out` where it was
    tested on training images that were held out to choose settings by."""
    epochs: int
    """Passes over the decoded set."""
    accuracies: tuple[float, ...]
    """Percent, one per network, after the last epoch."""
    seconds: float
    """Wall-clock time of training and testing all n networks, whenever that was."""
    best_on_test: tuple[float, ...] | None = None
    """Percent, one per network: the highest test accuracy at any look during training, for comparison with papers that
    report it. It is chosen on the test images, so it is too high. None where it was not asked for."""
    per_class: tuple[float | None, ...] | None = None
    """Percent of each class's test images, mean over the networks; None of a class without any, and in older scores."""
    bytes: int | None = None
    """Storage of what was trained on, labels included (`metrics.storage`); None where it was not counted."""
    seed: int | None = None
    """Of `network_keys`: scores of one seed, network and n are paired, network by network. None for other keys."""
    beside: str | None = None
    """The set whose number of stored images, network keys and test images this baseline shares; None for a set."""
    tested: str | None = None
    """The test images' `Dataset.test_fingerprint`: scores on others do not compare. None where `content` was."""
    precision: str | None = None
    """In which the networks were trained, `bf16` or `fp32` (they are tested in fp32); None in older scores."""
    shape: str | None = None
    """What is special about the network, as in 'depth=3/width=128': those of unlike shapes are not paired. None in
    older scores."""
    diverged: int | None = None
    """How many of the n networks ended with a weight that is no number, and guess; None where none did."""
    found: int | None = dataclasses.field(default=None, compare=False)
    """How many of the n networks were found in the cache; None where all were trained now."""

    @property
    def of(self) -> str:
        """The set itself, where this is a score of one of its snapshots (`OUT@sweep@seconds`)."""
        return re.sub(r"@\d+@[\d.]+s$", "", self.set)

    @property
    def rule(self) -> str:
        """The protocol as it was asked for: its name without what was suited to the data, and the epochs."""
        return rule_of(self.protocol)

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
        lost = f", {self.diverged} diverged" if self.diverged else ""
        return f"{_spread(self.accuracies)} % (n = {self.n}{lost}, protocol {self.protocol}){best}"

    def to_dict(self) -> dict[str, object]:
        """Fields and statistics, ready for JSON; without fields that do not apply."""
        record = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        record |= {"n": self.n} | _statistics(self.accuracies)
        if self.best_on_test is not None:
            record["best_on_test"] = {"accuracies": self.best_on_test} | _statistics(self.best_on_test)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Score":
        """What `to_dict` has written.

        Raises:
            ValueError: it is something else.
        """
        fields = {field.name: record[field.name] for field in dataclasses.fields(cls) if field.name in record}
        if best := fields.get("best_on_test"):
            fields["best_on_test"] = best["accuracies"]
        return TypeAdapter(cls).validate_python(fields)


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
    way: Way = USUAL,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    keys: Sequence[Key],
    rows: Tensor | None = None,
    content: str | None = None,
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
        way: epochs, if not the protocol's, and what is asked for besides; see `Way`.
        mean, std: normalisation per channel, of training and of test images.
        keys: one per network: initialisation, order and augmentation.
        rows: int64 (networks, m), which images each network is trained on; None is all.
        content: names images and labels in the cache (`keys.digest`): networks that were trained on them before are
            found there, and each is kept when it is tested; None keeps and finds nothing.
        report: told of progress.

    Raises:
        InputError: no keys, so no networks; or workers were to train them and trained others.
    """
    if not keys:
        raise InputError("n = 0: a score of no networks says nothing. Expected at least one network.")
    where, recipe, resolved = data.device, protocol.recipe, execution.precision(way.precision, data.device)
    every = torch.arange(len(images)).expand(len(keys), -1) if rows is None else rows
    usual = protocol.epochs_for(every.shape[1])
    total = way.epochs or usual
    kept = tested_on = None
    if content is not None:
        tested_on = data.test_fingerprint
        parts = {
            "scheme": SCHEME,
            "set": content,
            "test": tested_on,
            "classes": data.num_classes,
            "mean": list(mean),
            "std": list(std),
            "architecture": identity(architecture),
            "protocol": [protocol.schedule.__name__, config.to_dict(recipe)],
            "epochs": total,
            "looks": trials.LOOKS if way.best_on_test else 1,
            "made by": [torch.__version__, where.type, resolved, way.compile == "never"],
        }
        kept = KeptTrials(parts)
    chosen = [None if rows is None else own for own in every]
    done: dict[int, Trial] = {}
    if kept and not way.fresh:
        there = [kept.find(*each) for each in zip(keys, chosen, strict=True)]
        done = {position: trial for position, trial in enumerate(there) if trial}
    found, missing = len(done), [position for position in range(len(keys)) if position not in done]
    if missing and way.handed_out:
        raise executor.made_elsewhere(where, resolved)
    if missing:
        trained = trials.run(
            images, labels, data, architecture, protocol, way, mean=mean, std=std,
            keys=[keys[position] for position in missing], rows=every[missing], total=total, report=report,
        )  # fmt: skip
        for position, trial in zip(missing, trained, strict=True):
            done[position] = trial
            if kept:
                kept.keep(keys[position], chosen[position], trial)
    else:
        report(1.0)
    accuracies, highest, seconds, right, diverged = zip(*(done[position] for position in range(len(keys))), strict=True)
    if lost := sum(diverged):
        warnings.warn(
            f"{lost} of {len(keys)} networks ({architecture}) diverged while they were trained on '{name}' by "
            f"{protocol.name}. Their accuracies, those of guessing, are among the scores.",
            Notice,
            stacklevel=2,
        )
    label = protocol.name if total == usual else f"{protocol.name}, {total} epochs"
    label += ", held out" if data.tests_on_held_out else ""
    seed = keys[0].seed if list(keys) == network_keys(Key(keys[0].seed), len(keys)) else None
    tested = data.test_labels.cpu().bincount(minlength=data.num_classes)
    share = 100 * torch.tensor(right).sum(0) / (len(keys) * tested.clamp(min=1))
    per_class = (round(each, 2) if count else None for each, count in zip(share.tolist(), tested.tolist(), strict=True))
    return Score(
        name, architecture.name, label, total, accuracies, round(sum(seconds), 2),
        highest if way.best_on_test else None, tuple(per_class), seed=seed, tested=tested_on, precision=resolved,
        shape=_shape(architecture), diverged=lost or None, found=found or None,
    )  # fmt: skip


def _shape(architecture: Architecture) -> str:
    """All options of a network that do not follow from the data."""
    named = {name: value for name, value in identity(architecture).items() if name not in FROM_DATA}
    return "/".join(f"{name}={value}" for name, value in sorted(named.items()) if value is not None)


def network_keys(key: Key, count: int) -> list[Key]:
    """Where the networks of a score begin."""
    return [key.at("score", seed) for seed in range(count)]
