"""The model pool: N networks trained on the real data for a few epochs, kept at given epochs.

In the cache a pool is a folder with a folder for each network, made when it is first wanted: a pool of more networks
begins with those of a smaller one, and what was stopped has the networks that were done.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from accdd import config, execution, files, locks, training
from accdd.config import Train
from accdd.data import Dataset
from accdd.keys import SCHEME, Key
from accdd.networks import Architecture, Parameters, identity
from accdd.training import Report

VERSION = 4
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
    """The pool for this data, network and recipe, from the cache; what it lacks is trained now.

    Nothing is chosen by any accuracy: models are kept by epoch.

    Raises:
        ArithmeticError: a network diverged.
    """
    folder = _folder(data, architecture, settings)
    places = [_place(folder, network) for network in range(settings.pool.networks)]

    def lacking() -> list[int]:
        return [network for network, place in enumerate(places) if not files.usable(place)]

    if lacking():
        _begin(folder, data, architecture, settings)
        with locks.turn(folder):  # one process trains them all, some side by side
            _make(folder, build(data, architecture, settings, report, lacking()))
    found = [_read(place, data) for place in places]
    models = tuple(member for members, _ in found for member in members)
    return ModelPool(models, round(sum(seconds for _, seconds in found), 2), folder)


def missing(data: Dataset, architecture: Architecture, settings: config.Settings) -> list[int]:
    """The networks of the pool that are not in the cache; it is only looked at."""
    folder = _folder(data, architecture, settings)
    return [network for network in range(settings.pool.networks) if not _place(folder, network).exists()]


def build_member(data: Dataset, architecture: Architecture, settings: config.Settings, network: int) -> None:
    """Train one network of a pool by itself, unless the cache has it: what a worker does.

    Raises:
        ArithmeticError: it diverged.
    """

    def write(folder: Path) -> None:
        began = time.perf_counter()
        (trained,) = build(data, architecture, settings, networks=[network])
        _write(folder, trained[network], time.perf_counter() - began)

    folder = _folder(data, architecture, settings)
    _begin(folder, data, architecture, settings)
    files.made(_place(folder, network), write)


def _make(folder: Path, trainings: Iterator[dict[int, list[EarlyStageModel]]]) -> None:
    """Put networks into the pool's folder as they come."""
    began = time.perf_counter()
    for trained in trainings:
        each = (time.perf_counter() - began) / len(trained)
        for network, members in trained.items():
            with files.commit_folder(_place(folder, network), manifest=True, winner_ok=True) as temporary:
                _write(temporary, members, each)
        began = time.perf_counter()


def _folder(data: Dataset, architecture: Architecture, settings: config.Settings) -> Path:
    """Where the cache keeps the pool, however many networks it has, or would."""
    return files.cache_entry("pools", _parts(data, architecture, settings))


def _begin(folder: Path, data: Dataset, architecture: Architecture, settings: config.Settings) -> None:
    """Say in the pool's folder what it is, before anything is trained: a cache that cannot be written is noticed."""
    files.write_text(folder / "pool.json", files.key_text(_parts(data, architecture, settings)))


def _parts(data: Dataset, architecture: Architecture, settings: config.Settings) -> dict[str, Any]:
    parts = key_parts(data, settings) | {"architecture": identity(architecture)}
    del parts["pool"]["networks"], parts["pool"]["use"]
    return parts


def _place(folder: Path, network: int) -> Path:
    return folder / f"{network:06d}"


def _write(folder: Path, members: Sequence[EarlyStageModel], seconds: float) -> None:
    for position, member in enumerate(members):
        values = {name: value.cpu() for name, value in member.parameters.items()}
        files.save_tensors(values, folder / f"{position}.safetensors")
    index = [{"network": m.network, "epoch": m.epoch, "loss": m.loss} for m in members]
    (folder / "network.json").write_text(json.dumps({"seconds": round(seconds, 2), "models": index}, indent=1))


def _read(folder: Path, data: Dataset) -> tuple[list[EarlyStageModel], float]:
    record = json.loads((folder / "network.json").read_text())
    members = [
        EarlyStageModel(**entry, parameters=load_file(folder / f"{position}.safetensors", device=str(data.device)))
        for position, entry in enumerate(record["models"])
    ]
    return members, record["seconds"]


def key_parts(data: Dataset, settings: config.Settings) -> dict[str, Any]:
    """What a pool for any network depends on, and how many networks it has, for what is made from all of them."""
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
) -> Iterator[dict[int, list[EarlyStageModel]]]:
    """Train the networks of a pool (None is all), those of one recipe side by side where that is faster.

    They differ in seed, learning rate and augmentation (`pool.lr_scales`, `pool.augment`).

    Yields:
        The snapshots of each network, in the order of their epochs, of those that were trained together.
    """
    pool, where = settings.pool, data.device
    per_epoch = math.ceil(len(data.images) / settings.train.batch)
    keep: dict[int, list[float]] = {}
    for epoch in kept(settings):
        keep.setdefault(steps_to(epoch, per_epoch), []).append(epoch)
    total = max(keep)
    batch = min(settings.train.batch, len(data.images))
    wanted = range(pool.networks) if networks is None else networks
    done = 0
    for recipe, all_of_it in recipes(settings).items():
        own = [network for network in all_of_it if network in wanted]
        if not own:
            continue
        # Compiled where that pays for all of the recipe: a pool that was stopped goes on as it was planned.
        step, at_once = training.planned_step(
            architecture, recipe, data.mean, data.std, where, networks=len(own), batch=batch,
            steps=total * len(all_of_it) / len(own), compile=settings.compile, precision=settings.precision,
        )  # fmt: skip
        for first in range(0, len(own), at_once):
            together = own[first : first + at_once]

            def report_all(share: float, done: int = done, count: int = len(together)) -> None:
                report((done + share * count) / len(wanted))

            yield _train_together(data, architecture, settings, recipe, step, together, keep, total, report_all)
            done += len(together)


def kept(settings: config.Settings) -> tuple[float, ...]:
    """The epochs at which networks are kept, of resolved settings."""
    assert settings.pool.epochs is not None
    return settings.pool.epochs


def steps_to(epoch: float, per_epoch: int) -> int:
    """Steps of training after which a model is so many epochs old; one at least, unless it is not trained."""
    return max(1, round(epoch * per_epoch)) if epoch else 0


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
) -> dict[int, list[EarlyStageModel]]:
    """The snapshots of some networks of a pool, trained with one recipe for `total` steps.

    `keep` has the epochs at which they are kept, by step.
    """
    pool = settings.pool
    keys = [Key(pool.seed).at("pool", network) for network in networks]
    trained = training.begin([architecture.initialise(key, data.device) for key in keys])
    scales = torch.tensor([pool.lr_scales[network % len(pool.lr_scales)] for network in networks])
    per_epoch, schedule = math.ceil(len(data.images) / recipe.batch), math.ceil(max(kept(settings))) + 1
    losses: list[torch.Tensor] = []
    members: dict[int, list[EarlyStageModel]] = {network: [] for network in networks}

    def keep_now(trained: training.Trained) -> None:
        recent = torch.stack(losses[-per_epoch:]).mean(0).tolist() if losses else [None] * len(networks)
        for network, loss, parameters in zip(networks, recent, training.networks(trained), strict=True):
            if loss is not None and not math.isfinite(loss):
                raise ArithmeticError(f"Early-stage network {network} diverged (loss {loss}). Lower train.lr.")
            for epoch in keep[len(losses)]:
                copy = {name: value.clone() for name, value in parameters.items()}
                members[network].append(EarlyStageModel(network, epoch, loss, copy))

    if 0 in keep:
        keep_now(trained)
    for epoch in range(math.ceil(total / per_epoch)):
        at_epoch = [key.at(epoch) for key in keys]
        orders = [torch.randperm(len(data.images), generator=key.generator("order")) for key in at_epoch]
        rate = training.rate(recipe, epoch, schedule) if pool.schedule == "falling" else recipe.lr
        steps = training.train(
            step, trained, data.images, data.labels, torch.stack(orders),
            recipe=recipe, lr=rate * scales, num_classes=data.num_classes, keys=at_epoch,
        )  # fmt: skip
        for trained, loss in steps:
            losses.append(loss)
            if len(losses) in keep:
                keep_now(trained)
            report(len(losses) / total)
            if len(losses) == total:
                break
    return members
