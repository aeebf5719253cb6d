"""The model pool: N networks trained on the real data for a few epochs, kept at given epochs."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from accdd import config, execution, files, training
from accdd.config import Train
from accdd.data import Dataset
from accdd.keys import SCHEME, Key
from accdd.networks import Architecture, Parameters, identity
from accdd.training import Report

VERSION = 3
"""Raised when pools made from the same settings would differ; old cache entries are then never found."""


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
    settings = dataclasses.replace(settings, pool=dataclasses.replace(settings.pool, use=True))
    ahead = [member_entry(data, architecture, settings, network) for network in range(settings.pool.networks)]

    def write(folder: Path) -> None:
        began = time.perf_counter()
        found = {
            n: _read(path, data) for n, path in enumerate(ahead) if path.exists() and not files.verify_folder(path)
        }
        missing = [network for network in range(settings.pool.networks) if network not in found]
        trained = build(data, architecture, settings, report, missing)
        members = sorted([*trained, *(member for each in found.values() for member in each.models)], key=_place)
        apart = sum(each.seconds for each in found.values())
        _write(folder, members, time.perf_counter() - began + apart)

    folder = files.cached("pools", _parts(data, architecture, settings), write)
    for path in ahead:  # also where another process has put the pool together
        shutil.rmtree(path, ignore_errors=True)
    return _read(folder, data)


def build_member(data: Dataset, architecture: Architecture, settings: config.Settings, network: int) -> Path:
    """Train one network of a pool by itself; `load_or_build` finds it where this returns it, and then needs it no more.

    Raises:
        ArithmeticError: it diverged.
    """

    def write(folder: Path) -> None:
        began = time.perf_counter()
        members = build(data, architecture, settings, networks=[network])
        _write(folder, members, time.perf_counter() - began)

    return files.cached("pool-members", _parts(data, architecture, settings) | {"network": network}, write)


def member_entry(data: Dataset, architecture: Architecture, settings: config.Settings, network: int) -> Path:
    """Where the cache keeps one network of a pool that is not put together yet, or would."""
    return files.cache_entry("pool-members", _parts(data, architecture, settings) | {"network": network})


def _write(folder: Path, members: Sequence[EarlyStageModel], seconds: float) -> None:
    for position, member in enumerate(members):
        values = {name: value.cpu() for name, value in member.parameters.items()}
        files.save_tensors(values, folder / f"{position}.safetensors")
    index = [{"network": m.network, "epoch": m.epoch, "loss": m.loss} for m in members]
    record = {"seconds": round(seconds, 2), "models": index}
    (folder / "pool.json").write_text(json.dumps(record, indent=1))


def _read(folder: Path, data: Dataset) -> ModelPool:
    record = json.loads((folder / "pool.json").read_text())
    models = tuple(
        EarlyStageModel(**entry, parameters=load_file(folder / f"{position}.safetensors", device=str(data.device)))
        for position, entry in enumerate(record["models"])
    )
    return ModelPool(models, record["seconds"], folder)


def entry(data: Dataset, architecture: Architecture, settings: config.Settings) -> Path:
    """Where the cache keeps the pool, or would."""
    return files.cache_entry("pools", _parts(data, architecture, settings))


def _parts(data: Dataset, architecture: Architecture, settings: config.Settings) -> dict[str, Any]:
    settings = dataclasses.replace(settings, pool=dataclasses.replace(settings.pool, use=True))
    return key_parts(data, settings) | {"architecture": identity(architecture)}


def key_parts(data: Dataset, settings: config.Settings) -> dict[str, Any]:
    """What a pool for any network depends on, and with it whatever is made from all of one."""
    return {
        "pool version": VERSION,
        "scheme": SCHEME,
        "data": data.fingerprint,
        "mean": data.mean,
        "std": data.std,
        "train": config.to_dict(settings.train),
        # What is drawn from a pool does not change it.
        "pool": {name: value for name, value in config.to_dict(settings.pool).items() if name != "draw"},
        "made by": [
            torch.__version__,
            data.device.type,
            execution.precision(settings.precision, data.device),
            settings.compile == "never",  # compiled models are the same up to rounding, never are they bit for bit
        ],
    }


def build(
    data: Dataset,
    architecture: Architecture,
    settings: config.Settings,
    report: Report = lambda share: None,
    networks: Sequence[int] | None = None,
) -> tuple[EarlyStageModel, ...]:
    """Train the networks of a pool (None is all), those of one recipe side by side where that is faster.

    They differ in seed, learning rate and augmentation (`pool.lr_scales`, `pool.augment`). The learning rate
    falls at 2/3 and 5/6 of (epochs + 1), so not within two epochs.
    """
    pool, where = settings.pool, data.device
    per_epoch = math.ceil(len(data.images) / settings.train.batch)
    keep: dict[int, list[float]] = {}
    for epoch in pool.epochs:
        keep.setdefault(round(epoch * per_epoch), []).append(epoch)
    total = max(keep)
    batch = min(settings.train.batch, len(data.images))
    members: list[EarlyStageModel] = []
    wanted = range(pool.networks) if networks is None else networks
    for recipe, all_of_it in recipes(settings).items():
        own = [network for network in all_of_it if network in wanted]
        if not own:
            continue
        step, at_once = training.planned_step(
            architecture, recipe, data.mean, data.std, where, networks=len(own), batch=batch, steps=total,
            compile=settings.compile, precision=settings.precision,
        )  # fmt: skip
        for first in range(0, len(own), at_once):
            together = own[first : first + at_once]

            def report_all(share: float, done: int = len(members), count: int = len(together)) -> None:
                report((done / len(pool.epochs) + share * count) / len(wanted))

            members += _train_together(data, architecture, settings, recipe, step, together, keep, total, report_all)
    return tuple(sorted(members, key=_place))


def _place(member: EarlyStageModel) -> tuple[int, float]:
    """Where it stands in a pool."""
    return member.network, member.epoch


def recipes(settings: config.Settings) -> dict[Train, list[int]]:
    """How the networks of a pool are trained, and which of them each way."""
    found: dict[Train, list[int]] = {}
    for network in range(settings.pool.networks):
        augment = settings.pool.augment[network % len(settings.pool.augment)]
        found.setdefault(dataclasses.replace(settings.train, augment=augment), []).append(network)
    return found


def _train_together(
    data: Dataset,
    architecture: Architecture,
    settings: config.Settings,
    recipe: Train,
    step: training.Step,
    networks: list[int],
    keep: dict[int, list[float]],
    total: int,
    report: Report,
) -> list[EarlyStageModel]:
    """The snapshots of some networks of a pool, trained with one recipe for `total` steps.

    `keep` has the epochs at which they are kept, by step.
    """
    pool = settings.pool
    keys = [Key(pool.seed).at("pool", network) for network in networks]
    trained = training.begin([architecture.initialise(key, data.device) for key in keys])
    scales = torch.tensor([pool.lr_scales[network % len(pool.lr_scales)] for network in networks])
    per_epoch = math.ceil(len(data.images) / recipe.batch)
    losses: list[torch.Tensor] = []

    def snapshots(trained: training.Trained) -> list[EarlyStageModel]:
        recent = torch.stack(losses[-per_epoch:]).mean(0).tolist() if losses else [None] * len(networks)
        kept = []
        for network, loss, parameters in zip(networks, recent, training.networks(trained), strict=True):
            if loss is not None and not math.isfinite(loss):
                raise ArithmeticError(f"Early-stage network {network} diverged (loss {loss}). Lower train.lr.")
            for epoch in keep.get(len(losses), []):
                copy = {name: value.clone() for name, value in parameters.items()}
                kept.append(EarlyStageModel(network, epoch, loss, copy))
        return kept

    members = snapshots(trained) if 0 in keep else []
    for epoch in range(math.ceil(total / per_epoch)):
        at_epoch = [key.at(epoch) for key in keys]
        orders = [torch.randperm(len(data.images), generator=key.generator("order")) for key in at_epoch]
        lr = training.rate(recipe, epoch, math.ceil(max(pool.epochs)) + 1) * scales
        steps = training.train(
            step, trained, data.images, data.labels, torch.stack(orders),
            recipe=recipe, lr=lr, num_classes=data.num_classes, keys=at_epoch,
        )  # fmt: skip
        for trained, loss in steps:
            losses.append(loss)
            if len(losses) in keep:
                members += snapshots(trained)
            report(len(losses) / total)
            if len(losses) == total:
                break
    return members
