"""The studies behind RESULTS.md's first tables.

    python benchmarks/first_results.py parity|digits-lr|digits|combinations|width128 --out RESULTS_FOLDER [--workers 2]

`combinations` also draws docs/first-results.png.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np
from cells import DATA, Cell, main, over_time


def parity() -> list[Cell]:
    """The first 100 inner iterations of IDC; the released code scored 23.8 before and 30.8 after them."""
    return [
        Cell(
            f"parity/{seed}",
            [str(DATA / "cifar10-jpeg"), "--ipc=1", "--preset=idc-cifar10", "--steps=1", f"--seed={seed}",
             "--set=network.width=32", "--set=loop.snapshots=1", "--set=score.seeds=0"],
            ["--snapshots", "--seeds=2", f"--seed={seed}"],
        )
        for seed in range(3)
    ]  # fmt: skip


DIGITS = {
    "random": ["--no-early-stage", "--steps=0", "--set=images.start=random", "--factor=1"],
    "IDC": ["--no-early-stage", "--no-perturb", "--steps=3", "--inner-steps=100", "--set=loop.train_images=500"],
    "AccDD": ["--steps=3", "--inner-steps=100", "--set=loop.train_images=500"],
    "new draw every sweep": ["--steps=300", "--targets=0"],
}


def digits() -> list[Cell]:
    """300 sweeps by each method, and none; five seeds of everything."""
    cells = []
    for factor, seed, ipc in itertools.product((1, 2), range(5), (1, 5)):  # stopped early, all rows have as many seeds
        for method, flags in DIGITS.items():
            if method == "random" and factor == 2:
                continue
            own = flags if method == "random" else [*flags, f"--factor={factor}"]
            options = ["digits", f"--ipc={ipc}", f"--seed={seed}", "--set=loop.snapshots=0", "--set=score.seeds=0"]
            name = f"digits/ipc {ipc}, factor {factor}/{method}/{seed}"
            cells.append(Cell(name, [*options, *own], ["--seeds=1", f"--seed={seed}"]))
    return cells


def digits_lr() -> list[Cell]:
    """Which image step size for small images: chosen on a fifth of the training digits, never on test images."""
    cells = []
    for lr, seed in itertools.product((1e-2, 3e-2, 1e-1), range(3)):
        options = [str(training_digits()), "--ipc=1", f"--seed={seed}", "--steps=300", f"--set=images.lr={lr}"]
        options += ["--set=loop.snapshots=0", "--set=score.seeds=0"]
        cells.append(Cell(f"digits-lr/{lr:g}/{seed}", options, ["--seeds=1", f"--seed={seed}"]))
    return cells


def training_digits() -> Path:
    """The training split of the digits alone, as an .npz that accdd splits again."""
    from accdd import data

    path = Path(tempfile.gettempdir()) / "accdd-training-digits.npz"
    digits = data.load("digits")
    np.savez(path, images=digits.images.numpy(), labels=digits.labels.numpy())
    return path


COMBINATIONS = {
    "IDC": ["--no-early-stage", "--no-perturb"],
    "perturbation only": ["--no-early-stage", "--perturb"],
    "early-stage only": ["--early-stage", "--no-perturb"],
    "AccDD": ["--early-stage", "--perturb"],
    "new draw every sweep": [
        "--early-stage",
        "--perturb",
        "--inner-steps=1",
        "--set=loop.train_images=0",
        "--targets=0",
    ],
}


def combinations() -> list[Cell]:
    """Ten minutes of distilling on one thread; ten sweeps with each network, but for the last row."""
    sets = {"fashion-mnist": ("idc-fashion-mnist", 500), "cifar10-jpeg": ("idc-cifar10", 1000)}
    return [
        Cell(
            f"combinations/{data}/{combination}",
            [str(DATA / data), "--ipc=1", f"--preset={preset}", "--budget=10m", "--steps=1000000", "--inner-steps=10",
             f"--set=loop.train_images={images}", "--set=network.width=32", "--set=loop.snapshots=6",
             "--set=score.seeds=0", *flags],
            ["--snapshots", "--seeds=2", "--epochs=300"],  # a third of the protocol: seventy points are to be scored
        )
        for data, (preset, images) in sets.items()
        for combination, flags in COMBINATIONS.items()
    ]  # fmt: skip


def width128() -> list[Cell]:
    """Fashion-MNIST at the published width, twenty minutes on one thread: IDC's row with the paper's augmentation."""
    flags = ["--ipc=1", "--preset=idc-fashion-mnist", "--early-stage", "--perturb", "--budget=20m", "--steps=1000000"]
    flags += ["--inner-steps=10", "--set=loop.snapshots=0", "--set=score.seeds=0"]
    return [Cell("width128/fashion-mnist", [str(DATA / "fashion-mnist"), *flags], ["--seeds=2"])]


STUDIES = {
    "parity": parity,
    "digits-lr": digits_lr,
    "digits": digits,
    "combinations": combinations,
    "width128": width128,
}


if __name__ == "__main__":
    main(__doc__ or "", STUDIES, pictures={"combinations": (over_time, "first-results.png")})
