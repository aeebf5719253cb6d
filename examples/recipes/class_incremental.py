"""Class-incremental learning: what to remember of classes whose pictures are gone.

    python class_incremental.py DATA --out FOLDER [--steps 5] [--ipc 10] [--seeds 3] [--set key=value ...]

DATA as for `accdd distill`. Classes come in equal steps. Of each step a memory of --ipc stored images per class is
kept: distilled from this step's pictures alone, chosen of them by herding, or drawn at random. After every step a
network is trained from scratch on the memories so far, and tested on all classes so far.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import accdd
from accdd import data
from accdd.cli.shell import settings_from
from accdd.data import Dataset


def of(real: Dataset, classes: range) -> tuple[Any, ...]:
    """The training and test images of some classes, numbered from 0, as `accdd.distill` takes arrays."""
    splits = ((real.images, real.labels), (real.test_images, real.test_labels))
    chosen = ((images, labels, (labels >= classes.start) & (labels < classes.stop)) for images, labels in splits)
    return tuple(each.numpy() for images, labels, own in chosen for each in (images[own], labels[own] - classes.start))


def joined(memories: list[accdd.Distilled]) -> accdd.Distilled:
    """The memories of several steps as one set; normalised as the first, whose pictures are all that was known then."""
    first, images, labels, classes = memories[0], [], [], 0
    for memory in memories:
        images.append(memory.images)
        labels.append(memory.labels + classes)
        classes += memory.num_classes
    return accdd.Distilled(
        images=torch.cat(images), labels=torch.cat(labels), class_names=tuple(map(str, range(classes))),
        mean=first.mean, std=first.std, factor=first.factor, formation=first.formation, info=first.info,
    )  # fmt: skip


def main() -> None:
    """Go through the steps, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="networks trained after each step")
    parser.add_argument("--epochs", type=int, help="of those networks, instead of the protocol's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of accdd distill")
    told = parser.parse_args()

    real = data.load(told.data)
    settings = {"data.name": real.name, "score.seeds": 0}  # without the name, digits would be mirrored
    settings |= settings_from(None, told.set, {})
    if not 1 <= told.steps <= real.num_classes:
        parser.error(f"--steps {told.steps}: expected 1 to {real.num_classes}, the number of classes")
    share = real.num_classes // told.steps
    memories, rows = [], []
    for step in range(told.steps):
        last = real.num_classes if step + 1 == told.steps else share * (step + 1)
        own, seen = of(real, range(share * step, last)), of(real, range(last))
        made = accdd.distill(own, told.ipc, out=told.out / f"step-{step + 1}", settings=settings)
        memories.append(made.distilled)
        # Herding looks at the pictures of all steps, which the distilled memories never did.
        scores = accdd.evaluate(
            joined(memories), test=seen, data=seen, networks=["convnet"], baselines=["random", "herding"],
            seeds=told.seeds, epochs=told.epochs, protocol="quick",
        )  # fmt: skip
        rows.append({score.set: {"mean": score.mean, "std": score.std, "n": score.n} for score in scores})
        told_now = ", ".join(f"{score.set} {score}" for score in scores)
        print(f"{last} classes, {told.ipc} stored images each: {told_now}", flush=True)
    for name in rows[0]:
        print(f"{name}: {sum(row[name]['mean'] for row in rows) / len(rows):.1f} % on average over the steps")
    (told.out / "steps.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
