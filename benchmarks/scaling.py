"""What a run divided over processes costs, on paper: the tables of docs/scaling.md.

    python benchmarks/scaling.py [--tflops 100] [--gigabytes 20]

Work is counted from the code, without running it; only the rates are assumed: operations a second of one GPU in bf16,
and bytes a second between two of them.
"""

import argparse

import torch

from accdd import config, defaults, engine, methods, planning, presets, training
from accdd.config import Settings
from accdd.data import build
from accdd.keys import Key
from accdd.networks import architecture

CASES = {
    "ImageNet-100, IPC 10, ResNetAP-10, 224 pixels": ("accdd-imagenet-100", 100, 10, 129_395),
    "ImageNet-1K, IPC 10, ResNetAP-10, 224 pixels": ("accdd-imagenet-100", 1000, 10, 1_281_167),
}
"""Preset, classes, images per class, training images."""
SIZE = 224
RANKS = (1, 8, 64)


def rows(name: str, flops: float, between: float) -> list[str]:
    """Lines of the table for one case."""
    preset, classes, ipc, count = CASES[name]
    # One black image, seen again and again, says all about shapes.
    images = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8).expand(ipc * classes, -1, -1, -1)
    labels = torch.arange(classes).repeat(ipc)
    real = build(name, (images, labels), (images[:classes], labels[:classes])).normalised((0.5,) * 3, (0.2,) * 3)
    settings = defaults.resolve(config.override(Settings(), presets.given(preset, {"ipc": ipc})), real)
    loop, network = settings.loop, architecture(settings.network, 3, SIZE, classes)
    assert loop.steps and loop.train_images
    problem = methods.problem(settings, real, network)
    halves = sum(half.flops for half in planning.half_costs(problem, settings))
    batch = settings.train.batch
    training_between = training.step_cost(network, settings.train, batch).flops * -(-loop.train_images // batch)
    weights = sum(value.numel() for value in network.initialise(Key(0)).values())
    gradients = sum(value.numel() for value in engine.matched(problem).values())
    pixels = ipc * 3 * SIZE**2
    sweeps = loop.steps * loop.inner_steps
    lines = []
    for ranks in RANKS:
        own = -(-classes // ranks)
        matching = own * halves / flops
        trained = training_between / flops  # by every rank alike, so that nothing has to be sent
        saved = 2 * 4 * pixels * classes * (ranks - 1) / ranks  # images and velocity, gathered once in 30 seconds
        targets = 300 * (4 * weights + 2 * gradients * classes)
        memory = (4 * weights * (1 + settings.pool.networks) + 3 * 4 * pixels * own + 2 * 4 * gradients) / 1e9
        hours = sweeps * (matching + trained) / 3600
        lines.append(
            f"| {name} | {ranks} | {own} | {matching:.2f} | {trained:.2f} | {hours:.1f} | {saved / between:.3f} | "
            f"{memory:.2f} | {targets / 1e9:,.0f} |"
        )
    pixels_in_all = count * 3 * SIZE**2 / 1e9
    print(f"{name}: {pixels_in_all:.0f} GB of pixels; {halves / 1e12:.2f} TFLOP a class and sweep; {sweeps:,} sweeps")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=100, help="a second, of one GPU, with what surrounds products")
    parser.add_argument("--gigabytes", type=float, default=20, help="a second, between two GPUs")
    told = parser.parse_args()
    table = [line for name in CASES for line in rows(name, told.tflops * 1e12, told.gigabytes * 1e9)]
    print(
        "| | GPUs | classes each | matching, s a sweep | training, s a sweep | hours | saving, s | GB each | bank, GB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(table))


if __name__ == "__main__":
    main()
