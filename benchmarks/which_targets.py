"""Which targets to keep: the first, those with the largest or smallest gradients, or perturbations in opposite pairs.

    python benchmarks/which_targets.py [--json]

As `target_studies.py step`: CIFAR-10 (JPEG), ConvNet-3 of width 32, IPC 1, factor 2, 300 targets, 1,000 sweeps, scored
on 5,000 images held out of the training data, two networks of 300 epochs.
"""

import argparse
import collections
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from typing import Any, cast

import torch
from target_studies import held_out

from accdd import data, defaults, evaluation, loop, networks, planning
from accdd.augmented_models import EarlyStage, load_or_build
from accdd.augmented_models.perturb import perturb
from accdd.config import Settings, override
from accdd.keys import Key
from accdd.methods import problem as problem_of
from accdd.networks import Parameters
from accdd.targets import Bank, Target

COUNT, AVAILABLE, SWEEPS = 300, 1000, 1000
CHANGES = {
    "network.width": 32, "images.factor": 2, "pool.epochs": [1, 1.5, 2, 2.5, 3, 3.5, 4], "targets.count": COUNT,
    "pool.schedule": "falling", "loop.steps": SWEEPS, "loop.budget": None, "compile": "always",
}  # fmt: skip


class Chosen:
    """Some targets of a bank, in the place of its first ones."""

    def __init__(self, bank: Bank, numbers: Sequence[int]) -> None:
        self._bank, self._numbers = bank, numbers

    def of(self, place: int, classes: slice) -> Target:
        return self._bank.of(self._numbers[place], classes)


def strength(target: Target) -> float:
    """The norm of a target's gradients, of all classes and matched tensors."""
    return sum(value.float().square().sum() for value in target.gradients.values()) ** 0.5  # pyright: ignore


def measure() -> list[dict[str, Any]]:
    """A row per choice: the accuracies of two networks."""
    real = data.load(held_out())
    settings = defaults.resolve(override(Settings(), CHANGES), real)
    architecture = networks.architecture(settings.network, real.channels, real.size, real.num_classes)
    problem = problem_of(settings, real, architecture)
    pool = load_or_build(real, architecture, settings)
    drawn = EarlyStage(pool.models)

    def moved(key: Key) -> Parameters:
        return perturb(drawn(key), settings.perturb, key.generator("perturbation"))

    numbers = {Key(settings.pool.seed).at("target", number): number for number in range(AVAILABLE)}

    def in_pairs(key: Key) -> Parameters:
        """theta + a d for even numbers, theta - a d for the odd ones that follow."""
        number = numbers[key]
        even = Key(settings.pool.seed).at("target", number // 2 * 2)
        centre, there = drawn(even), moved(even)
        return there if number % 2 == 0 else {name: 2 * value - there[name] for name, value in centre.items()}

    plan = planning.choose_plan(problem, real, settings)
    rule = evaluation.PROTOCOLS["idc"]

    def row(name: str, bank: Bank | Chosen) -> dict[str, Any]:
        run = loop.distill_on_targets(
            real, problem, cast(Bank, bank), settings, plan, progress=lambda sweeps: sweeps / SWEEPS
        )
        (state,) = collections.deque(run, maxlen=1)
        decoded = torch.cat([problem.decode(own.clamp(0, 1)) for own in state.images])
        labels = torch.arange(real.num_classes).repeat_interleave(len(decoded) // real.num_classes)
        score = evaluation.score(
            name, decoded, labels, real, architecture, rule, evaluation.Way(300), mean=real.mean, std=real.std,
            keys=evaluation.network_keys(Key(0), 2),
        )  # fmt: skip
        return {"targets": name, "accuracies": score.accuracies}

    bank = Bank(real, problem, moved, settings)
    bank.build(AVAILABLE)
    order = sorted(range(AVAILABLE), key=lambda number: strength(bank[number]))
    rows = [
        row("the first", bank),
        row("largest gradients", Chosen(bank, order[-COUNT:])),
        row("smallest gradients", Chosen(bank, order[:COUNT])),
    ]
    with tempfile.TemporaryDirectory() as folder:
        own = dataclasses.replace(settings.targets, folder=folder)
        pairs = Bank(real, problem, in_pairs, dataclasses.replace(settings, targets=own))
        rows.append(row("opposite pairs", pairs))
    return rows


def main() -> None:
    """Measure, and print a table or a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for row in measure():
        print(json.dumps(row) if arguments.json else f"{row['targets']:20} {row['accuracies']}", flush=True)


if __name__ == "__main__":
    main()
