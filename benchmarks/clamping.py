"""What it costs a set of DC, DSA or DM that accdd keeps pixels in [0, 1], which those methods do not.

    python benchmarks/clamping.py FILE DATA [--seeds 3] [--protocol dc]

FILE is a res_*.pt of CIFAR-10 images. Networks before and after begin alike: differences are of the images.
"""

import argparse
import dataclasses
from pathlib import Path

import accdd
from accdd.artifact.foreign import Told
from accdd.artifact.imports import KINDS
from accdd.data import NAMED


def main() -> None:
    """Score the set as it was saved and as it is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocol", default="dc")
    told = parser.parse_args()
    facts = NAMED["cifar10"]
    read, _ = KINDS["dc"]
    saved = read(told.file, Told(mean=facts.mean, std=facts.std)).images
    imported = accdd.import_set(told.file, "dc", mean=facts.mean, std=facts.std)
    print(*imported.info["notes"], sep="\n")
    sets = [imported, dataclasses.replace(imported, images=saved)]
    after, before = accdd.evaluate(sets, test=told.data, seeds=told.seeds, protocol=told.protocol)
    apart = [one - other for one, other in zip(after.accuracies, before.accuracies, strict=True)]
    print(f"as saved {before}\nclamped  {after}\ndifferences, network by network: {[round(each, 2) for each in apart]}")


if __name__ == "__main__":
    main()
