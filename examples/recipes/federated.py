"""One-shot federated learning: every client sends a few images once, and the server trains on them.

    python federated.py DATA --out FOLDER [--clients 10] [--alpha 0.5] [--ipc 2] [--seeds 3] [--set key=value ...]

DATA as for `accdd distill`. Its training images are dealt to clients class by class in shares drawn from a Dirichlet
distribution; the smaller alpha, the more a client has of few classes. A client sends --ipc stored images of each class
of which it has 20 pictures or more: learned from its own pictures alone, or drawn from them at random. Learned images
are no guarantee of anybody's privacy.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import accdd
from accdd import data
from accdd.cli.shell import settings_from

FEWEST = 20
"""Pictures of a class that a client needs to say something of it."""


def dealt(labels: Tensor, clients: int, alpha: float, seed: int) -> list[Tensor]:
    """Which pictures each client has: rows, int64."""
    random = np.random.default_rng(seed)
    shares: list[list[Tensor]] = [[] for _ in range(clients)]
    for label in labels.unique().tolist():
        rows = torch.from_numpy(random.permutation((labels == label).nonzero().flatten().numpy()))
        ends = (random.dirichlet([alpha] * clients).cumsum()[:-1] * len(rows)).round().astype(int).tolist()
        for own, part in zip(shares, rows.tensor_split(ends), strict=True):
            own.append(part)
    return [torch.cat(own) for own in shares]


def main() -> None:
    """Deal, distil at every client, train at the server, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--ipc", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="decides who has which pictures")
    parser.add_argument("--seeds", type=int, default=3, help="networks that the server trains")
    parser.add_argument("--epochs", type=int, help="of those networks, instead of the protocol's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of accdd distill")
    told = parser.parse_args()

    real = data.load(told.data)
    settings = {"data.name": real.name, "score.seeds": 0}  # without the name, digits would be mirrored
    settings |= settings_from(None, told.set, {})
    learned, drawn, labels, stored_as = [], [], [], None
    for client, rows in enumerate(dealt(real.labels, told.clients, told.alpha, told.seed)):
        counts = real.labels[rows].bincount(minlength=real.num_classes)
        classes = (counts >= FEWEST).nonzero().flatten()
        if len(classes) < 2:
            print(f"client {client}: fewer than two classes of {FEWEST} pictures; it sends nothing", flush=True)
            continue
        own = rows[torch.isin(real.labels[rows], classes)]
        images, local = real.images[own], torch.searchsorted(classes, real.labels[own])
        out = told.out / f"client-{client}"
        made = accdd.distill(
            (images.numpy(), local.numpy()), told.ipc, out=out, settings=settings
        )  # fmt: skip
        stored_as = made.distilled
        learned.append(made.distilled.images)
        labels.append(classes[made.distilled.labels])
        of_class = [(local == label).nonzero().flatten()[: told.ipc] for label in range(len(classes))]  # dealt shuffled
        drawn.append(images[torch.cat(of_class)].float() / 255)
        print(f"client {client}: {len(own)} pictures of {len(classes)} classes", flush=True)
    if not stored_as:
        parser.error("no client has two classes; expected fewer clients or a larger --alpha")

    def received(images: list[Tensor], factor: int, formation: str) -> accdd.Distilled:
        return accdd.Distilled(
            images=torch.cat(images), labels=torch.cat(labels), class_names=real.class_names, mean=real.mean,
            std=real.std, factor=factor, formation=formation, info=stored_as.info,
        )  # fmt: skip

    sets = {
        "learned": received(learned, stored_as.factor, stored_as.formation),
        "random": received(drawn, 1, "uniform"),
    }
    found = {}
    for name, each in sets.items():
        score, *others = accdd.evaluate(
            each, test=(real.images.numpy(), real.labels.numpy(), real.test_images.numpy(), real.test_labels.numpy()),
            data=told.data, networks=["convnet"], seeds=told.seeds, epochs=told.epochs, protocol="quick",
            whole=name == "learned",
        )  # fmt: skip
        found[name] = score.to_dict()
        print(f"{len(each.labels)} {name} images: {score}")
        for other in others:
            found[other.set] = other.to_dict()
            print(f"all {len(real.images)} pictures in one place: {other}")
    (told.out / "federated.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
