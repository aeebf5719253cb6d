"""The paper's "applied to other methods": every host with and without each augmentation.

    python benchmarks/hosts.py digits|fashion-mnist|cifar10|ipc10 --out RESULTS_FOLDER [--workers 2] [--only TEXT]

Every host keeps its own loop: how many sweeps a network takes part in, and what it is trained on in between. `digits`
stops after 300 sweeps, the others by the clock, so there seconds count.
"""

import itertools

from cells import DATA, Cell, main

AUGMENTATIONS = {
    "plain": ["--no-early-stage", "--no-perturb"],
    "perturbed": ["--no-early-stage", "--perturb"],
    "early-stage": ["--early-stage", "--no-perturb"],
    "both": ["--early-stage", "--perturb"],
}
COMMON = ["--targets=0", "--set=images.step=gradient", "--set=loop.snapshots=0", "--set=score.seeds=0"]
SWEEPS = 300


def loop(host: str, ipc: int) -> list[str]:
    """The released loops: IDC's 100 sweeps a network, DC's and DSA's by images per class, DM's one."""
    if host.startswith("idc"):
        return ["--inner-steps=100", "--set=loop.train_images=500"]
    sweeps = {1: 1, 5: 5, 10: 10}[ipc] if host in ("dc", "dsa") else 1
    return [f"--inner-steps={sweeps}"]


def digits() -> list[Cell]:
    """All five hosts, 300 sweeps, five seeds; images stand for themselves (factor 1)."""
    cells = []
    for seed, ipc, host, (name, flags) in itertools.product(
        range(5), (1, 5), ("idc", "idc-i", "dsa", "dc", "dm"), AUGMENTATIONS.items()
    ):
        own = loop(host, ipc)
        inner = int(own[0].partition("=")[2])
        factor = ["--factor=2"] if host == "idc" else []
        options = ["digits", f"--ipc={ipc}", f"--method={host}", *COMMON, *own, *flags, *factor, f"--seed={seed}"]
        options += [f"--steps={SWEEPS // inner}", f"--set=pool.seed={seed}"]
        cells.append(Cell(f"digits, IPC {ipc}/{host}, {name}/{seed}", options, ["--seeds=1", f"--seed={seed}"]))
    return cells


def timed(data: str, hosts: tuple[str, ...], seeds: int, budget: str, ipc: int = 1) -> list[Cell]:
    """Hosts by the four augmentations, width 32, stopped by the clock."""
    return [
        Cell(
            f"{data}, IPC {ipc}/{host}, {name}/{seed}",
            [str(DATA / data), f"--ipc={ipc}", f"--method={host}", *COMMON, *loop(host, ipc), *flags,
             "--set=network.width=32", f"--seed={seed}", f"--budget={budget}", "--steps=1000000"],
            ["--seeds=1", "--epochs=300", f"--seed={seed}"],
        )
        for seed, host, (name, flags) in itertools.product(range(seeds), hosts, AUGMENTATIONS.items())
    ]  # fmt: skip


def fashion_mnist() -> list[Cell]:
    """Two minutes a cell, three seeds."""
    return timed("fashion-mnist", ("idc", "dsa", "dc", "dm"), 3, "2m")


def cifar10() -> list[Cell]:
    """Four minutes a cell, two seeds."""
    return timed("cifar10-jpeg", ("idc", "dsa"), 2, "4m")


def ipc10() -> list[Cell]:
    """IDC with ten images per class, plain and with both, twenty minutes."""
    cells = timed("cifar10-jpeg", ("idc",), 1, "20m", ipc=10)
    return [cell for cell in cells if "plain" in cell.name or "both" in cell.name]


if __name__ == "__main__":
    studies = {"digits": digits, "fashion-mnist": fashion_mnist, "cifar10": cifar10, "ipc10": ipc10}
    main(__doc__ or "", studies, pictures={})
