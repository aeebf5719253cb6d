"""What it costs a set of DC, DSA or DM that accdd keeps pixels in [0, 1], which those methods do not.

    python benchmarks/clamping.py FILE DATA [--seeds 3] [--protocol dc]

FILE is a res_*.pt of CIFAR-10 images. Networks before and after begin alike: differences are of the images.
"""

import argparse
from pathlib import Path

import accdd
from accdd import config, data, defaults, evaluation
from accdd.artifact.foreign import Told
from accdd.artifact.imports import KINDS
from accdd.data import NAMED
from accdd.keys import Key
from accdd.networks import architecture


def main() -> None:
    """Score the set as it was saved and as it is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocol", default="dc")
    told = parser.parse_args()
    facts, (read, _) = NAMED["cifar10"], KINDS["dc"]
    imported = accdd.import_set(told.file, "dc", mean=facts.mean, std=facts.std)
    print(*imported.info["notes"], sep="\n")
    real = data.load(told.data)
    settings = defaults.resolve(config.Settings(), real)
    network = architecture(settings.network, real.channels, real.size, real.num_classes)
    found = {}
    for name, images in (
        ("as saved", read(told.file, Told(mean=facts.mean, std=facts.std)).images), ("clamped", imported.images)
    ):  # fmt: skip
        found[name] = evaluation.score(
            name, images, imported.labels, real, network, evaluation.PROTOCOLS[told.protocol], mean=facts.mean,
            std=facts.std, keys=evaluation.network_keys(Key(0), told.seeds),
        )  # fmt: skip
        print(name, found[name], flush=True)
    pairs = zip(found["clamped"].accuracies, found["as saved"].accuracies, strict=True)
    print("differences, network by network:", [round(after - before, 2) for after, before in pairs])


if __name__ == "__main__":
    main()
