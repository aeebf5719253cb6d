"""What the paper rests on: how much early-stage models have to say, and for how long.

    python benchmarks/early_stages.py [--json]

For networks after 0 to 10 epochs (CIFAR-10 (JPEG), ConvNet-3 of width 32, three networks): the norm of a class's
gradient in the convolutions, on 256 real images; its cosine with that of 256 other real images of the class; and with
that of the four images that one learned image starts from. Also draws docs/early-stages.png.
"""

import argparse
import functools
import json
import statistics
from pathlib import Path

import torch
from cells import DATA, ROOT
from torch import Tensor

from accdd import data, defaults, engine, methods, networks, selection, synthetic
from accdd.augmented_models import load_or_build
from accdd.config import Settings, override
from accdd.keys import Key
from accdd.networks import Parameters

EPOCHS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
CHANGES = {"network.width": 32, "pool.networks": 3, "pool.epochs": list(EPOCHS), "pool.schedule": "falling", "ipc": 1}


def flat(gradients: Parameters) -> Tensor:
    return torch.cat([value.flatten() for value in gradients.values()])


def measure() -> list[dict[str, float]]:
    """A row per epoch: means over networks and classes, and the deviation of the norm over networks."""
    real = data.load(DATA / "cifar10-jpeg")
    settings = defaults.resolve(override(Settings(), CHANGES), real)
    architecture = networks.architecture(settings.network, real.channels, real.size, real.num_classes)
    problem = methods.problem(settings, real, architecture)
    pool = load_or_build(real, architecture, settings)
    key = Key(0)
    batches = [selection.random(real, 256, key.at("batch", number)) for number in range(2)]
    start = synthetic.start(real, "mixed", ipc=1, factor=settings.images.factor or 1, shrink="area", key=key)
    rows = []
    for epoch in EPOCHS:
        norms, others, starts = [], [], []
        for model in (each for each in pool.models if each.epoch == epoch):
            half = functools.partial(engine.real_half, problem, model.parameters)
            own_norms = []
            for label in range(real.num_classes):
                truth = torch.tensor(label)
                first, second = (flat(half(real.images[rows[label]], truth, {})) for rows in batches)
                decoded = problem.decode(start[label])
                learned = flat(half(decoded, truth, {}))
                own_norms.append(first.norm().item())
                others.append(torch.cosine_similarity(first, second, 0).item())
                starts.append(torch.cosine_similarity(first, learned, 0).item())
            norms.append(statistics.fmean(own_norms))
        rows.append(
            {
                "epochs": epoch, "norm": statistics.fmean(norms), "deviation": statistics.stdev(norms),
                "cosine, other real images": statistics.fmean(others),
                "cosine, images at the start": statistics.fmean(starts),
            }
        )  # fmt: skip
    return rows


def picture(rows: list[dict[str, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    epochs = [row["epochs"] for row in rows]
    norms, deviations = ([row[name] for row in rows] for name in ("norm", "deviation"))
    left.errorbar(epochs, norms, yerr=deviations, marker="o", ms=4)
    left.set(xlabel="epochs of training", ylabel="norm of a class's gradient", ylim=(0, None))
    for name in ("cosine, other real images", "cosine, images at the start"):
        right.plot(epochs, [row[name] for row in rows], marker="o", ms=4, label=name.removeprefix("cosine, "))
    right.set(xlabel="epochs of training", ylabel="cosine with a class's real gradient", ylim=(0, 1))
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    found = measure()
    picture(found, ROOT / "docs" / "early-stages.png")
    if parser.parse_args().json:
        print(json.dumps(found))
    else:
        print("epochs   norm            cosine: other real images, images at the start")
        for row in found:
            cosines = [row["cosine, other real images"], row["cosine, images at the start"]]
            print(f"{row['epochs']:6g}   {row['norm']:.3f} ± {row['deviation']:.3f}   "
                  f"{cosines[0]:.3f}   {cosines[1]:.3f}")  # fmt: skip
