"""The studies behind RESULTS.md's first tables, cell by cell.

    python benchmarks/first_results.py parity|digits-lr|digits|combinations|width128 --out RESULTS_FOLDER [--workers 2]

A cell is one `accdd distill` and one `accdd evaluate`, each run as a user would run it, one thread per worker. A
cell whose result is there is skipped, so a study that was stopped goes on where it was. Afterwards the tables
are printed; `combinations` also draws docs/first-results.png.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Cell(NamedTuple):
    """One distillation and its scores."""

    name: str
    distill: Sequence[str]
    evaluate: Sequence[str]
    threads: int = 1


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
    "new draw every sweep": ["--steps=300"],
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
    "new draw every sweep": ["--early-stage", "--perturb", "--inner-steps=1", "--set=loop.train_images=0"],
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
    flags += ["--set=pool.networks=2", "--set=pool.epochs=1"]  # five of two epochs would take five times as long
    flags += ["--inner-steps=10", "--set=loop.snapshots=0", "--set=score.seeds=0"]
    return [Cell("width128/fashion-mnist", [str(DATA / "fashion-mnist"), *flags], ["--seeds=2"])]


STUDIES = {
    "parity": parity,
    "digits-lr": digits_lr,
    "digits": digits,
    "combinations": combinations,
    "width128": width128,
}


def distil(cell: Cell, out: Path) -> None:
    """Make a cell's run unless it is there; what it prints stays beside it."""
    folder = out / cell.name / "run"
    if (folder / "distilled").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # what a stopped study left unfinished
    accdd(["distill", *cell.distill, "--out", str(folder)], cell, out)
    print("distilled", cell.name, flush=True)


def score(cell: Cell, out: Path) -> None:
    """Score a cell's run unless it is scored."""
    result = out / cell.name / "scores.json"
    if result.exists():
        return
    scores = accdd(["evaluate", str(out / cell.name / "run"), *cell.evaluate, "--json"], cell, out)
    result.write_text(scores)
    print("scored", cell.name, flush=True)


def accdd(arguments: Sequence[str], cell: Cell, out: Path) -> str:
    """Run a command as a user would, and return what it printed on standard output."""
    (out / cell.name).mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(cell.threads)}
    command = [sys.executable, "-m", "accdd", *arguments]
    with (out / cell.name / "log.txt").open("a") as log:
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    return done.stdout


def table(cells: Sequence[Cell], out: Path) -> None:
    """Mean, deviation and n: over sets where a cell has seeds (each set by its mean), otherwise over networks."""
    groups: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        result = out / cell.name / "scores.json"
        if not result.exists():
            continue
        parent, _, last = cell.name.rpartition("/")
        name = parent if last.isdigit() else cell.name
        for score in json.loads(result.read_text())["scores"]:
            moment = score["set"].partition("@")[2]
            values = [score["mean"]] if last.isdigit() else score["accuracies"]
            groups[f"{name} {moment.split('@')[0]}".strip()] += values
    for name, values in groups.items():
        deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(f"{name:60} {statistics.fmean(values):5.1f}{deviation} (n = {len(values)})")


def picture(cells: Sequence[Cell], out: Path, file: Path) -> None:
    """Accuracy over seconds of distilling, a panel per data set, a line per combination."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys(cell.name.split("/")[1] for cell in cells))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.4), squeeze=False, layout="constrained")
    for axis, panel in zip(axes[0], panels, strict=True):
        for cell in cells:
            result = out / cell.name / "scores.json"
            if cell.name.split("/")[1] != panel or not result.exists():
                continue
            scores = json.loads(result.read_text())["scores"]
            seconds = [max(float(score["set"].split("@")[2].rstrip("s")), 10.0) for score in scores]
            axis.plot(seconds, [score["mean"] for score in scores], marker="o", ms=3, label=cell.name.split("/")[2])
        axis.set(
            xscale="log", title=panel, xlabel="seconds of distilling (start drawn at 10)", ylabel="test accuracy, %"
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Run the missing cells of a study, then print what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose name holds this")
    parser.add_argument("--no-scores", action="store_true", help="distil only: scores can wait, what is timed cannot")
    arguments = parser.parse_args()
    cells = [cell for cell in STUDIES[arguments.study]() if arguments.only in cell.name]
    with ThreadPoolExecutor(arguments.workers) as pool:
        for stage in (distil,) if arguments.no_scores else (distil, score):
            list(pool.map(lambda cell, stage=stage: stage(cell, arguments.out), cells))
    table(cells, arguments.out)
    if arguments.study == "combinations" and not arguments.no_scores:
        picture(cells, arguments.out, Path(__file__).resolve().parents[1] / "docs" / "first-results.png")


if __name__ == "__main__":
    main()
