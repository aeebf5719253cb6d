"""The target bank: what real images do to networks, computed once and used in every sweep.

While a network is not trained between sweeps, the real half of a matching step depends on nothing that is learned.
A target is one network, one siamese draw, and the real half of every class for them. Targets are numbered without
end, each decided by its number alone, and made in blocks when they are first wanted: a larger bank begins with the
smaller one, and serves every number of images per class, seed, factor and distance.
"""

import functools
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from accdd import augment, config, defaults, engine, execution, files, methods, planning, selection
from accdd.augment import Draw
from accdd.augmented_models import Source, pool
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.keys import Key
from accdd.networks import Parameters, identity
from accdd.parallel import ALONE, Ranks
from accdd.training import Report

VERSION = 2
"""Raised when targets made from the same settings would differ; old banks are then never used."""

BLOCK = 10
"""Targets in a file, and how many are replaced at once."""

FEWEST = 50
"""Images fit a bank smaller than this one too closely; without a bank, every sweep draws anew."""

ROOM = 0.9
"""The share of what is free on the disk that a bank may take."""

HASHED_UP_TO = 10**9
"""Bytes. Of a file that is larger only the size is verified: whole banks of such take minutes to be read."""

KEPT = 0.5
"""The share of what is free on a GPU, when the first is wanted, that targets may take there."""


class Target(NamedTuple):
    """What a sweep is matched with."""

    parameters: Parameters
    """The network."""
    gradients: Parameters
    """The real half of every class: bfloat16 tensors (classes, ...)."""
    siamese: Draw
    """How the real images were augmented, shapes (classes, 1, ...)."""


class Bank:
    """Targets by number, each made when it is first wanted.

    Args:
        data: the real set, on the device.
        problem: the method's pieces, in fp32.
        source: where networks come from; asked with keys that follow from `pool.seed` and a target's number.
        settings: resolved.

    Raises:
        InputError: `targets.folder` holds a bank of other data or settings, or something else.
    """

    def __init__(self, data: Dataset, problem: Problem, source: Source, settings: Settings) -> None:
        self._data, self.problem, self._source, self._settings = data, problem, source, settings
        self._parts = key_parts(data, settings)
        chosen = settings.targets.folder
        self.folder = Path(chosen) if chosen else files.cache_entry("targets", self._parts)
        self._open: dict[int, Any] = {}
        self._kept: dict[tuple[int, int | None, int | None], Target] = {}
        """Those on the GPU, by number and classes."""
        if chosen and self.folder.exists():
            _refuse_another(self.folder, self._parts)

    @functools.cached_property
    def bytes_per_target(self) -> int:
        """What one takes on the disk."""
        parameters = self.problem.forward.architecture.initialise(Key(0)).values()
        matched = engine.matched(self.problem).values()
        return sum(4 * value.numel() for value in parameters) + sum(
            2 * value.numel() * self._data.num_classes for value in matched
        )

    def missing(self, count: int) -> int:
        """How many of the first `count` are not there yet, in whole blocks."""
        return BLOCK * sum(not self._file(block).exists() for block in _blocks(count))

    def check_room(self, count: int) -> None:
        """Refuse with an `InputError` what the disk cannot hold; with `targets.refresh`, one more block is needed."""
        ahead = BLOCK if self._settings.targets.refresh is not None else 0
        missing = self.missing(count + ahead)
        needed = missing * self.bytes_per_target
        place = next(each for each in (self.folder.absolute(), *self.folder.absolute().parents) if each.exists())
        free = shutil.disk_usage(place).free
        if needed > ROOM * free:
            there = len(_blocks(count + ahead)) * BLOCK - missing
            fit = max(0, there + int(ROOM * free / self.bytes_per_target) // BLOCK * BLOCK - ahead)
            raise InputError(
                f"{count} targets need {needed / 1e9:.1f} GB more in '{place}', where {free / 1e9:.1f} GB are free. "
                f"Expected {fit} or fewer (0 does without, in a run), or --set targets.folder=FOLDER on a larger disk."
            )

    def afford(self, count: int, budget: float) -> int:
        """As many of `count` as can be made in about `budget` seconds; none if those are too few.

        Counted work decides, not a clock, and not what is there already: the same command uses the same targets.
        """
        real, _ = planning.half_costs(self.problem, self._settings)
        precision = execution.precision(self._settings.precision, self._data.device)
        each = self._data.num_classes * execution.seconds(real, self._data.device, precision)
        affordable = min(count, int(budget / each) // BLOCK * BLOCK)
        return affordable if affordable >= min(count, FEWEST) else 0

    def build(self, count: int, report: Report = lambda share: None, ranks: Ranks = ALONE) -> None:
        """Make those of the first `count` that are missing or damaged, with several ranks each its own blocks.

        Raises:
            InputError: they do not fit on the disk.
        """
        self.check_room(count)
        own = _blocks(count) if ranks.alone else _blocks(count)[ranks.rank :: ranks.count]
        for done, block in enumerate(own):
            self.ensure(block, lambda share, done=done: report((done + share) / len(own)))
            report((done + 1) / len(own))
        ranks.together(lambda: None)  # all are there before any is used, but on machines with a cache of their own
        for block in _blocks(count):
            self.ensure(block)

    def blocks(self, count: int) -> dict[int, Path]:
        """Where each block of the first `count` targets is, or will be."""
        return {block: self._file(block) for block in _blocks(count)}

    def seconds(self, count: int) -> float:
        """What it took to make the first `count`, whenever that was."""
        return sum(json.loads((self._file(block).parent / "seconds.json").read_text()) for block in _blocks(count))

    def __getitem__(self, number: int) -> Target:
        """The target, on the data's device."""
        return self.of(number, slice(None))

    def of(self, number: int, classes: slice) -> Target:
        """The target for some classes alone, on the data's device; on a GPU it stays there while there is room."""
        wanted = (number, classes.start, classes.stop)
        if wanted in self._kept:
            return self._kept[wanted]
        block, row = divmod(number, BLOCK)
        self.ensure(block)
        stored = self._open[block]
        kinds: dict[str, dict[str, Tensor]] = {"parameters": {}, "gradients": {}, "siamese": {}}
        for key in stored.keys():
            kind, name = key.split("/", 1)
            value = stored.get_slice(key)
            own = value[row] if kind == "parameters" else value[row, classes]
            kinds[kind][name] = own.to(self._data.device)
        target = Target(**kinds)
        outdated = [each for each in self._kept if each[0] < number - 2 * (self._settings.targets.count or 0)]
        for each in outdated:  # replaced, with `targets.refresh`
            del self._kept[each]
        if len(self._kept) < self.room:
            self._kept[wanted] = target
        return target

    @functools.cached_property
    def room(self) -> int:
        """How many targets a GPU keeps, of what is free on it when this is first asked; none elsewhere."""
        if self._data.device.type != "cuda":
            return 0
        return int(KEPT * execution.free_memory(self._data.device) / self.bytes_per_target)

    def release(self) -> None:
        """Let go of what takes memory of a GPU and can be made again, and keep half as many targets there."""
        self._kept.clear()
        self.room //= 2
        vars(self).pop("_real_half", None)

    def ensure(self, block: int, report: Report = lambda share: None) -> None:
        """Make a block unless it is there and whole, and open it."""
        if block in self._open:
            return

        def write(folder: Path) -> None:
            began, targets = time.perf_counter(), []
            for row in range(BLOCK):
                targets.append(self.make(block * BLOCK + row))
                report((row + 1) / BLOCK)
            kinds = {name: [getattr(target, name) for target in targets] for name in Target._fields}
            tensors = {
                f"{kind}/{name}": torch.stack([each[name] for each in rows]).cpu().contiguous()
                for kind, rows in kinds.items()
                for name in rows[0]
            }
            files.save_tensors(tensors, folder / "targets.safetensors")
            (folder / "seconds.json").write_text(json.dumps(round(time.perf_counter() - began, 2)))

        if not (self.folder / "bank.json").exists():
            files.write_text(self.folder / "bank.json", json.dumps(self._parts, indent=1))
        files.made(self._file(block).parent, write, hashed_up_to=HASHED_UP_TO)
        self._open[block] = safe_open(self._file(block), framework="pt")  # mapped, not read

    def make(self, number: int) -> Target:
        """A target, computed now and not kept."""
        data, settings = self._data, self._settings
        key = Key(settings.pool.seed).at("target", number)
        parameters = engine.freeze(self.problem, self._source(key), data, key)
        generator = key.generator("real batches")
        batch = settings.targets.real_batch
        rows = torch.stack([selection.choose(own, batch, generator) for own in data.class_index])
        shape, siamese_key = (data.num_classes, 1), key.generator("siamese")
        names, one_of = settings.match.augment or (), bool(settings.match.one_of)
        siamese = augment.to(augment.draw(names, shape, data.size, siamese_key, one_of=one_of), data.device)
        gradients = self._real_half(parameters, data.images, rows.to(data.device), siamese)
        return Target(parameters, {name: value.to(torch.bfloat16) for name, value in gradients.items()}, siamese)

    @functools.cached_property
    def _real_half(self) -> Callable[[Parameters, Tensor, Tensor, Draw], Parameters]:
        # As for a usual bank, whatever is missing of this one: a target's bits must not depend on how many are made.
        plan = planning.choose_real_plan(self.problem, self._data, self._settings, defaults.TARGETS)
        return engine.real_sweeper(self.problem, plan)

    def _file(self, block: int) -> Path:
        return self.folder / f"{block:06d}" / "targets.safetensors"


def _blocks(count: int) -> range:
    return range(-(-count // BLOCK))


def key_parts(data: Dataset, settings: Settings) -> dict[str, Any]:
    """Everything that targets depend on."""
    parts = pool.key_parts(data, settings) | {
        "version": VERSION,
        "network": identity(settings.network),
        "perturb": config.to_dict(settings.perturb),
        "method": methods.asked_of_real_images(settings.method),
        "augment": settings.match.augment,
        "one of": settings.match.one_of,
        "real_batch": settings.targets.real_batch,
    }
    parts |= {"draw": settings.pool.draw} if settings.pool.draw else {}
    return json.loads(json.dumps(parts))  # as it will be read back


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In which of `key_parts` two banks differ, dotted; on which machine one was made does not matter in a folder."""
    first, second = config.flatten(one), config.flatten(other)
    return [key for key in {**second, **first} if first.get(key) != second.get(key) and key != "made by"]


def _refuse_another(folder: Path, parts: dict[str, Any]) -> None:
    """Refuse a folder that is not this bank, naming what differs."""
    try:
        found = json.loads((folder / "bank.json").read_text())
    except FileNotFoundError:
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise InputError(f"'{folder}' is no target bank. Expected one, or a new or empty folder.") from None
        return
    except (OSError, ValueError) as error:
        raise InputError(f"'{folder / 'bank.json'}' cannot be read: {error}. Expected another folder.") from None
    there = found if isinstance(found, dict) else {}
    if keys := differing(there, parts):
        had, wanted = config.flatten(there), config.flatten(parts)
        listed = "; ".join(f"{key}: {had.get(key)} there, {wanted.get(key)} wanted" for key in keys[:5])
        raise InputError(
            f"The target bank in '{folder}' was made for something else ({listed}). "
            "Expected the same data, network and settings, or another --set targets.folder."
        )
