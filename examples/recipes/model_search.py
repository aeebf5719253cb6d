"""Model search on a distilled set: does it rank networks as the whole data does, and what does that save?

    python model_search.py DATA --out FOLDER [--ipc 10] [--images 10000] [--seeds 3] [--set key=value ...]

DATA as for `accdd distill`. Twelve small convnets are trained on the distilled set, on as many random real images, and
on all training images; the two rankings by test accuracy are compared with the last by Kendall's tau. The same command
goes on with a search that was stopped.
"""

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path

import torch
from scipy.stats import kendalltau

import accdd
from accdd import data
from accdd.cli.shell import settings_from

NETWORKS = [
    f"convnet/width={width}/depth={depth}/norm={norm}"
    for width, depth, norm in itertools.product((4, 16, 64), (1, 2), ("instance", "none"))
]


def main() -> None:
    """Distil, score, rank, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True, help="folder: new, or that of a search to go on with")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--images", type=int, help="of the training images, so many drawn at random (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind trained on each set")
    parser.add_argument("--epochs", type=int, help="on the small sets, instead of the protocol's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of accdd distill")
    told = parser.parse_args()

    real = data.load(told.data)
    drawn = torch.randperm(len(real.images), generator=torch.Generator().manual_seed(0))[: told.images]
    known = real.images[drawn].numpy(), real.labels[drawn].numpy()
    arrays = (*known, real.test_images.numpy(), real.test_labels.numpy())
    settings = {"data.name": real.name, "score.seeds": 0}  # without the name, digits would be mirrored
    settings |= settings_from(None, told.set, {})
    if not (told.out / "config.yaml").exists():
        accdd.distill(arrays, told.ipc, out=told.out, settings=settings)
    elif not (told.out / "distilled").exists():
        accdd.resume(told.out, arrays)
    distilled = accdd.load(told.out)
    if (distilled.info["source"]["fingerprint"], distilled.ipc) != (data.load(arrays).fingerprint, told.ipc):
        parser.error(f"{told.out} holds another search. Expected a new --out.")
    scores = accdd.evaluate(
        distilled, test=arrays, data=arrays, networks=NETWORKS, baselines=["random"], whole=True,
        seeds=told.seeds, epochs=told.epochs, protocol="quick",
    )  # fmt: skip

    accuracy, seconds = defaultdict(dict), defaultdict(float)
    for score in scores:
        accuracy[score.set][score.network] = score.mean
        seconds[score.set] += score.seconds
    whole = [accuracy["whole"][name] for name in NETWORKS]
    print(f"{'network':40}" + "".join(f"{name:>11}" for name in accuracy))
    for name in NETWORKS:
        print(f"{name:40}" + "".join(f"{column[name]:11.1f}" for column in accuracy.values()))
    spent = sum(distilled.info["seconds"].values())
    print(f"distilling: {spent:.0f} s")
    found = {}
    for name, column in accuracy.items():
        tau, p = kendalltau([column[each] for each in NETWORKS], whole)
        best = max(NETWORKS, key=column.__getitem__)
        lost = max(whole) - accuracy["whole"][best]
        found[name] = {"tau": tau, "p": p, "seconds": seconds[name], "best": best, "lost": lost}
        print(
            f"{name}: Kendall's tau {tau:.2f} (p = {p:.3f}); training all networks took {seconds[name]:.0f} s; "
            f"its best one is {lost:.1f} points below the best of all on the whole data"
        )
    kept = {"accuracy": accuracy, "distilling": spent, "found": found}
    (told.out / "search.json").write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
