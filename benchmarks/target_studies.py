"""The studies behind RESULTS.md's tables on targets.

    python benchmarks/target_studies.py step|count|headline --out RESULTS_FOLDER [--only TEXT]

`step` and `count` choose settings on 5,000 images held out of the training data of CIFAR-10 (JPEG), never on its test
images; `headline` is scored on those. One cell at a time: their seconds count.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from cells import DATA, Cell, main

from accdd import data

POOL = ["--set=pool.epochs=[1,1.5,2,2.5,3,3.5,4]"]
ALL_CORES = os.cpu_count() or 1


def held_out() -> Path:
    """The training images of CIFAR-10 (JPEG), 500 of each class kept aside as the test split."""
    path = Path(tempfile.gettempdir()) / "accdd-cifar10-jpeg-held-out.npz"
    if not path.exists():
        real = data.load(DATA / "cifar10-jpeg")
        generator = torch.Generator().manual_seed(12345)
        aside = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:500]] for rows in real.class_index])
        kept = torch.ones(len(real.images), dtype=torch.bool)
        kept[aside] = False
        np.savez(
            path, images=real.images[kept].numpy(), labels=real.labels[kept].numpy(),
            test_images=real.images[aside].numpy(), test_labels=real.labels[aside].numpy(),
        )  # fmt: skip
    return path


def screened(name: str, *flags: str) -> Cell:
    """A cell at width 32, one image per class, factor 2, on the held-out images; two networks, a third of `idc`."""
    common = [str(held_out()), "--ipc=1", "--factor=2", "--set=network.width=32", *POOL]
    common += ["--set=loop.snapshots=0", "--set=score.seeds=0", "--compile=always"]
    return Cell(name, [*common, *flags], ["--seeds=2", "--epochs=300"])


STEPS = {
    "gradient, 0.01, constant": ("gradient", 0.01, "constant"),
    "gradient, 0.03, constant": ("gradient", 0.03, "constant"),
    "gradient, 0.03, cosine": ("gradient", 0.03, "cosine"),
    "gradient, 0.1, cosine": ("gradient", 0.1, "cosine"),
    "gradient, 0.3, cosine": ("gradient", 0.3, "cosine"),
    "normalised, 0.005, cosine": ("normalised", 0.005, "cosine"),
    "normalised, 0.01, cosine": ("normalised", 0.01, "cosine"),
    "normalised, 0.025, cosine": ("normalised", 0.025, "cosine"),
}


def step() -> list[Cell]:
    """Kind of step, its size and its schedule: 1,000 sweeps on 300 targets."""
    return [
        screened(f"step/{name}", "--targets=300", "--steps=1000", f"--set=images.step={kind}", f"--set=images.lr={lr}",
                 f"--set=images.schedule={schedule}")
        for name, (kind, lr, schedule) in STEPS.items()
    ]  # fmt: skip


def count() -> list[Cell]:
    """How many targets: 3,000 sweeps."""
    step = ["--set=images.step=gradient", "--set=images.lr=0.1", "--set=images.schedule=cosine"]
    return [screened(f"count/{n}", f"--targets={n}", "--steps=3000", *step) for n in (30, 100, 300, 1000)]


def headline() -> list[Cell]:
    """From pictures to set in less than an hour at the published width, all cores, two seeds."""
    flags = ["--ipc=1", "--factor=2", "--set=network.width=128", *POOL, "--targets=300", "--budget=25m"]
    flags += ["--steps=1000000", "--set=score.seeds=0"]
    return [
        Cell(f"headline/{name}/{seed}", [str(DATA / name), *flags, f"--seed={seed}"], ["--seeds=3"], ALL_CORES)
        for name in ("cifar10-jpeg", "fashion-mnist")
        for seed in range(2)
    ]


if __name__ == "__main__":
    main(__doc__ or "", {"step": step, "count": count, "headline": headline}, pictures={})
