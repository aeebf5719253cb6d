"""What saving all that is needed to go on costs: seconds of a checkpoint, and its share of a run.

    python benchmarks/checkpoints.py [--folder WHERE]

Unless told otherwise, the loop saves every 30 seconds, or so rarely that it takes half a percent of the run. Data is
synced to the disk that `--folder` is on, as in a run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from accdd import networks, training
from accdd.config import Network
from accdd.keys import Key
from accdd.loop import State
from accdd.run import Checkpoint, checkpoints
from accdd.run.learning import SAVE_SECONDS, SAVED_SHARE

CASES = {  # classes, images per class, size, network or none (on targets a state holds none)
    "CIFAR-10, IPC 1, targets": (10, 1, 32, None),
    "CIFAR-10, IPC 10, ConvNet-3-128": (10, 10, 32, Network()),
    "CIFAR-10, IPC 50, ConvNet-3-128": (10, 50, 32, Network()),
    "CIFAR-100, IPC 50, ConvNet-3-128": (100, 50, 32, Network()),
    "ImageNet-10, IPC 10, ResNetAP-10": (10, 10, 224, Network(name="resnet_ap10")),
    "ImageNet-100, IPC 20, ResNetAP-10": (100, 20, 224, Network(name="resnet_ap10")),
}
REPEATS = 10


def state(sweep: int, classes: int, ipc: int, size: int, network: Network | None) -> State:
    """One of these shapes."""
    images = torch.rand(classes, ipc, 3, size, size)
    trained = None
    if network:
        architecture = networks.architecture(network, 3, size, classes)
        trained = training.begin([architecture.initialise(Key(0))])
    return State(sweep, images, torch.zeros(classes), torch.zeros_like(images), trained)


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; the system's for temporary files")
    told = parser.parse_args()
    print(f"| state | MB | seconds (n = {REPEATS}) | saved every | share of a run |")
    print("|---|---|---|---|---|")
    for name, shape in CASES.items():
        with tempfile.TemporaryDirectory(dir=told.folder) as folder:
            took = []
            for number in range(1 + REPEATS):
                checkpoint = Checkpoint(state(number, *shape), 0.0, 0)
                began = time.perf_counter()
                checkpoints.save(Path(folder), checkpoint)
                took.append(time.perf_counter() - began)
            newest = checkpoints.listed(Path(folder))[0]
            size = sum(file.stat().st_size for file in newest.iterdir())
        mean, deviation = statistics.fmean(took[1:]), statistics.stdev(took[1:])
        every = max(SAVE_SECONDS, mean / SAVED_SHARE)
        cells = (
            name,
            f"{size / 1e6:.1f}",
            f"{mean:.3f} ± {deviation:.3f}",
            f"{every:.0f} s",
            f"{100 * mean / every:.2f} %",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
