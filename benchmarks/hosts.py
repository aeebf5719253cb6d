"""The paper's "applied to other methods": every host with and without each augmentation.

    python benchmarks/hosts.py STUDY --out FOLDER [--workers 2] [--records FILE]

Every host keeps its own loop: how many sweeps a network takes part in, and what it is trained on in between; but in
`on-targets` and `distances`, where networks are used once. All stop by the clock, so their seconds count; early-stage
models and targets are made before it starts, once for a data set.
"""

import itertools

from cells import DATA, Cell, main
from target_studies import held_out

AUGMENTATIONS = {
    "plain": ["--no-early-stage", "--no-perturb"],
    "perturbed": ["--no-early-stage", "--perturb"],
    "early-stage": ["--early-stage", "--no-perturb"],
    "both": ["--early-stage", "--perturb"],
}
COMMON = ["--targets=0", "--set=images.step=gradient", "--set=loop.snapshots=0", "--set=score.seeds=0"]

EARLY = ["--early-stage", "--set=pool.epochs=[0.1,0.3,1]", "--set=pool.draw=1"]
"""Models of one epoch, from the pool of `early`."""


def loop(host: str, ipc: int) -> list[str]:
    """The released loops: IDC's 100 sweeps a network, DC's and DSA's by images per class, DM's one."""
    if host.startswith("idc"):
        return ["--inner-steps=100", "--set=loop.train_images=500"]
    return [f"--inner-steps={ipc if host in ('dc', 'dsa') else 1}"]


def timed(data: str, hosts: tuple[str, ...], seeds: int, budget: str, ipc: int = 1) -> list[Cell]:
    """Hosts by the four augmentations; the first host's plain images are scored beside random ones."""
    cells = []
    for seed, host, (name, flags) in itertools.product(range(seeds), hosts, AUGMENTATIONS.items()):
        path = data if data == "digits" else str(DATA / data)
        options = [path, f"--ipc={ipc}", f"--method={host}", *COMMON, *loop(host, ipc), *flags]
        options += ["--set=network.width=32", f"--seed={seed}"]
        options += [f"--budget={budget}", "--steps=1000000", *(["--factor=2"] if host == "idc" else [])]
        beside = ["--baselines=random"] if host == hosts[0] and name == "plain" else []
        evaluate = ["--seeds=1", "--epochs=300", f"--seed={seed}", *beside]
        cells.append(Cell(f"{data}, IPC {ipc}/{host}, {name}/{seed}", options, evaluate))
    return cells


def digits() -> list[Cell]:
    """All five hosts, half a minute a cell, five seeds."""
    return [cell for ipc in (1, 5) for cell in timed("digits", ("idc", "idc-i", "dsa", "dc", "dm"), 5, "30s", ipc)]


def fashion_mnist() -> list[Cell]:
    """Two minutes a cell, three seeds."""
    return timed("fashion-mnist", ("idc", "dsa", "dc", "dm"), 3, "2m")


def cifar10() -> list[Cell]:
    """Four minutes a cell, two seeds."""
    return timed("cifar10-jpeg", ("idc", "dsa"), 2, "4m")


def ipc10() -> list[Cell]:
    """IDC with ten images per class, plain and with both, twenty minutes; one set each, so three networks."""
    found = []
    for cell in timed("cifar10-jpeg", ("idc",), 1, "20m", ipc=10):
        beside = ["--baselines=random"] if ", plain/" in cell.name else []
        if beside or ", both/" in cell.name:
            found.append(cell._replace(evaluate=["--seeds=3", "--epochs=300", *beside]))
    return found


def early() -> list[Cell]:
    """How early DSA wants its models, two minutes each, on images held out of Fashion-MNIST's training images."""
    common = [str(held_out("fashion-mnist")), "--ipc=1", "--method=dsa", *COMMON, "--inner-steps=1", "--no-perturb"]
    common += ["--set=network.width=32", "--budget=2m", "--steps=1000000", "--set=pool.epochs=[0.1,0.3,1]"]
    ages = {"fresh": ["--no-early-stage"]} | {
        f"after {age} epochs": ["--early-stage", f"--set=pool.draw={age}"] for age in (0.1, 0.3, 1)
    }
    return [
        Cell(f"dsa, early/{name}", [*common, *flags], ["--seeds=2", "--epochs=300"]) for name, flags in ages.items()
    ]


def on_targets(hosts: tuple[str, ...] = ("dsa", "dc", "dm"), distance: str = "") -> list[Cell]:
    """Fresh networks or early-stage ones behind the targets, perturbed, on the data of `early`."""
    common = [str(held_out("fashion-mnist")), "--ipc=1", "--targets=300", "--set=loop.snapshots=0"]
    common += ["--set=score.seeds=0", "--set=network.width=32", "--budget=2m", "--steps=1000000"]
    common += [f"--set=match.distance={distance}"] if distance else []
    models = {"fresh": ["--no-early-stage"], "early-stage": EARLY}
    return [
        Cell(f"on targets/{host}, {distance + ', ' if distance else ''}{name}", [*common, f"--method={host}", *flags],
             ["--seeds=2", "--epochs=300"])
        for host, (name, flags) in itertools.product(hosts, models.items())
    ]  # fmt: skip


def distances() -> list[Cell]:
    """Whether it is the angle that does not go with early-stage models: DSA without it, IDC without and with it."""
    return [*on_targets(("dsa",), "mse"), *on_targets(("idc",), "mse"), *on_targets(("idc",), "cosine")]


if __name__ == "__main__":
    studies = {
        "digits": digits, "fashion-mnist": fashion_mnist, "cifar10": cifar10, "ipc10": ipc10, "early": early,
        "on-targets": on_targets, "distances": distances,
    }  # fmt: skip
    main(__doc__ or "", studies, pictures={})
