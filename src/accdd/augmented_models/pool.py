"""The model pool: N networks trained on the real data for a few epochs, kept at given epochs."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from accdd import config, files, training
from accdd.data import Dataset
from accdd.keys import SCHEME, Key
from accdd.networks import Architecture, Forward, Parameters

VERSION = 2
"""Raised when pools made from the same settings would differ; old cache entries are then never found."""

Report = Callable[[float], None]
"""Called with the share of the work done, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class EarlyStageModel:
    """One entry of a pool."""

    network: int
    """Which of the N networks."""
    epoch: float
    """Epochs of training behind it."""
    loss: float | None
    """Mean training loss over the last epoch (or part of one); None before any step."""
    parameters: Parameters
    """Weights, not to be changed."""


@dataclasses.dataclass(frozen=True)
class ModelPool:
    """The early-stage models to draw from."""

    models: tuple[EarlyStageModel, ...]
    """Ordered by network, then epoch."""
    seconds: float
    """Wall-clock time it took to train them, whenever that was."""
    folder: Path
    """Where they are in the cache."""


def load_or_build(
    data: Dataset,
    architecture: Architecture,
    settings: config.Settings,
    report: Report = lambda share: None,
) -> ModelPool:
    """The pool for this data, network and recipe, from the cache or trained now.

    Nothing is chosen by any accuracy: models are kept by epoch.

    Raises:
        ArithmeticError: a network diverged.
    """
    pool = dataclasses.replace(settings.pool, use=True)
    parts = {
        "version": VERSION,
        "scheme": SCHEME,
        "data": data.fingerprint,
        "mean": data.mean,
        "std": data.std,
        "architecture": dataclasses.asdict(architecture),
        "train": config.to_dict(settings.train),
        "pool": config.to_dict(pool),
        "seed": settings.seed,
        "trained by": [torch.__version__, data.device.type],
    }

    def write(folder: Path) -> None:
        began = time.perf_counter()
        members = build(data, architecture, settings, report)
        for position, member in enumerate(members):
            save_file({k: v.cpu() for k, v in member.parameters.items()}, folder / f"{position}.safetensors")
        index = [{"network": m.network, "epoch": m.epoch, "loss": m.loss} for m in members]
        record = {"seconds": round(time.perf_counter() - began, 2), "models": index}
        (folder / "pool.json").write_text(json.dumps(record, indent=1))

    folder = files.cached("pools", parts, write)
    record = json.loads((folder / "pool.json").read_text())
    models = tuple(
        EarlyStageModel(**entry, parameters=load_file(folder / f"{position}.safetensors", device=str(data.device)))
        for position, entry in enumerate(record["models"])
    )
    return ModelPool(models, record["seconds"], folder)


def build(
    data: Dataset,
    architecture: Architecture,
    settings: config.Settings,
    report: Report = lambda share: None,
) -> tuple[EarlyStageModel, ...]:
    """Train the networks of a pool, one after the other.

    They differ in seed, learning rate and augmentation (`pool.lr_scales`, `pool.augment`). The learning rate
    falls at 2/3 and 5/6 of (epochs + 1), so not within two epochs.
    """
    forward = Forward(architecture)
    pool = settings.pool
    per_epoch = math.ceil(len(data.images) / settings.train.batch)
    keep: dict[int, list[float]] = {}
    for epoch in pool.epochs:
        keep.setdefault(round(epoch * per_epoch), []).append(epoch)
    total = max(keep)
    members: list[EarlyStageModel] = []
    for network in range(pool.networks):
        key = Key(settings.seed).at("pool", network)
        recipe = dataclasses.replace(
            settings.train,
            lr=settings.train.lr * pool.lr_scales[network % len(pool.lr_scales)],
            augment=pool.augment[network % len(pool.augment)],
        )
        parameters = architecture.initialise(key, data.device)
        sgd = training.optimiser(parameters, recipe)
        losses: list[torch.Tensor] = []

        def snapshot(
            step: int,
            network: int = network,
            parameters: Parameters = parameters,
            losses: list[torch.Tensor] = losses,
        ) -> None:
            loss = torch.stack(losses[-per_epoch:]).mean().item() if losses else None
            if loss is not None and not math.isfinite(loss):
                raise ArithmeticError(f"Early-stage network {network} diverged (loss {loss}). Lower train.lr.")
            for epoch in keep[step]:
                copy = {name: value.detach().clone() for name, value in parameters.items()}
                members.append(EarlyStageModel(network, epoch, loss, copy))

        if 0 in keep:
            snapshot(0)
        for epoch in range(math.ceil(total / per_epoch)):
            training.decay(sgd, recipe, epoch, math.ceil(max(pool.epochs)) + 1)
            order = torch.randperm(len(data.images), generator=key.at(epoch).generator("order"))
            steps = training.train(
                forward, parameters, sgd, data.images, data.labels, order,
                recipe=recipe, mean=data.mean, std=data.std, num_classes=data.num_classes, key=key.at(epoch),
            )  # fmt: skip
            for loss in steps:
                losses.append(loss)
                if len(losses) in keep:
                    snapshot(len(losses))
                report((network + len(losses) / total) / pool.networks)
                if len(losses) == total:
                    break
    return tuple(members)
