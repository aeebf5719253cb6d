"""Larger pictures and more classes than CIFAR's, on all cores.

    python benchmarks/larger.py imagenette|resnet|tiny-imagenet --out RESULTS_FOLDER [--records FILE]

`imagenette`: 64 pixels, ConvNet-4, some twenty minutes with early-stage models and targets, beside random images and
k-means, scores of 100 epochs. `resnet`: two inner iterations of IDC at 128 pixels, for their seconds and memory alone.
`tiny-imagenet`: 200 classes at 32 pixels, some half an hour with early-stage models and targets. What a command took
is at the end of its log.txt.
"""

import os

from cells import DATA, Cell, main

ALL_CORES = os.cpu_count() or 1
FAST = ["--ipc=1", "--set=score.seeds=0", "--steps=1000000", "--early-stage", "--perturb"]
FAST += ["--set=pool.networks=3", "--set=pool.epochs=[1]"]
"""Targets are so few that models, targets and sweeps share the time on two slow cores: a quarter, a third, the rest."""


def imagenette() -> list[Cell]:
    """Photographs at half their size."""
    flags = ["--set=data.size=64", "--factor=3", "--targets=50", "--budget=7m"]
    scores = ["--baselines=random,kmeans", "--seeds=3", "--epochs=100"]
    return [Cell("imagenette, 64 pixels", [str(DATA / "imagenette-128"), *FAST, *flags], scores, ALL_CORES)]


def resnet() -> list[Cell]:
    """What one network of IDC's for photographs costs; nothing is learned in two iterations."""
    flags = ["--network=resnet_ap10", "--no-early-stage", "--no-perturb", "--targets=0", "--steps=1", "--inner-steps=2"]
    flags += ["--ipc=10", "--factor=3", "--set=loop.train_images=500", "--set=score.seeds=0"]
    return [Cell("resnet_ap10, 128 pixels", [str(DATA / "imagenette-128"), *flags], (), ALL_CORES)]


def tiny_imagenet() -> list[Cell]:
    """Two hundred classes."""
    flags = ["--targets=60", "--set=targets.real_batch=64", "--budget=11m"]
    scores = ["--baselines=random", "--seeds=2", "--epochs=300"]
    return [Cell("tiny-imagenet-32", [str(DATA / "tiny-imagenet-32"), *FAST, *flags], scores, ALL_CORES)]


if __name__ == "__main__":
    studies = {"imagenette": imagenette, "resnet": resnet, "tiny-imagenet": tiny_imagenet}
    main(__doc__ or "", studies, pictures={})
