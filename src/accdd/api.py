"""What Python users call: distill, evaluate, load. The command line calls the same functions."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accdd import artifact, config, data, evaluation, execution, loop, methods, networks, presets, run
from accdd import augmented_models as models
from accdd.artifact import Distilled
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.evaluation import PROTOCOLS, Protocol, Score
from accdd.keys import Key
from accdd.methods import METHODS
from accdd.networks import NETWORKS, Architecture
from accdd.run import Quiet, Reporter, RunFolder


@dataclasses.dataclass(frozen=True)
class Result:
    """What a distillation made."""

    distilled: Distilled
    """The learned set."""
    scores: tuple[Score, ...]
    """Of the distilled set and of random real images at the same number of stored images; empty if not scored."""
    seconds: Mapping[str, float]
    """Wall-clock time of each phase: pool, distilling, scoring."""
    verdict: str
    """One sentence."""
    out: Path | None
    """The run folder, if one was asked for."""


def load(path: str | Path) -> Distilled:
    """A distilled set from its folder or from the folder of the run that made it. Never runs code from a file."""
    return artifact.load(path)


def distill(
    source: Any,
    ipc: int | None = None,
    *,
    out: str | Path | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Learn a few images per class that train a network nearly as well as all of them.

    Args:
        source: `digits`, a path, `hf:owner/name`, arrays, or a `datasets.Dataset`; see `accdd.data.load`.
        ipc: images per class; short for `settings={"ipc": ...}`.
        out: a new folder for the run; None keeps everything in memory.
        preset: a name from `accdd.presets.PRESETS`.
        settings: dotted keys, as in {"pool.epochs": 5, "loop.budget": 600}; they win over the preset.
        reporter: told of progress; None is silent.

    Raises:
        InputError: something given is wrong; nothing has been written.
    """
    reporter = reporter or Quiet()
    given = {**(config.choose("preset", preset, presets.PRESETS)() if preset else {}), **(settings or {})}
    if ipc is not None:
        given["ipc"] = ipc
    wanted = config.override(Settings(), given)
    if out is not None:
        run.refuse_existing(Path(out))
    where, protocol = check(wanted)

    real = data.load(source, wanted.data).to(where)
    resolved = presets.resolve(wanted, real)
    protocol = evaluation.suited(protocol, real.name)
    architecture = architecture_of(resolved.network, real)
    scored = [architecture_of(dataclasses.replace(resolved.network, name=n), real) for n in resolved.score.networks]
    for line in describe(real, resolved, architecture):
        reporter.note(line)
    folder = RunFolder.create(out, name_of(source), given, resolved, where) if out is not None else None

    seconds: dict[str, float] = {}
    with _timed(seconds, "pool"):
        reporter.phase("early-stage models" if resolved.pool.use else "fresh networks")
        network_source = models.source(real, architecture, resolved, reporter.update)
        reporter.update(1.0)
    with _timed(seconds, "distilling"):
        problem = methods.problem(resolved, real, architecture)
        images, sweeps = learn(real, problem, network_source, resolved, reporter, folder)

    distilled = Distilled(
        images=images.flatten(0, 1).cpu(),
        labels=torch.arange(real.num_classes).repeat_interleave(resolved.ipc),
        class_names=real.class_names, mean=real.mean, std=real.std, factor=problem.factor,
        info=info(real, source, resolved, protocol, sweeps),
    )  # fmt: skip
    if folder:
        artifact.save(distilled, folder.path / "distilled")  # before scoring, which may take longer

    scores: tuple[Score, ...] = ()
    with _timed(seconds, "scoring"):
        for network in scored if resolved.score.seeds else ():
            reporter.phase(f"scoring, {network.name}")
            scores += evaluation.beside_random(
                *distilled.decode(), real, network, protocol, stored=resolved.ipc, seeds=resolved.score.seeds,
                seed=resolved.seed, epochs=resolved.score.epochs, report=reporter.update,
            )  # fmt: skip

    outcome = {"scores": [score.to_dict() for score in scores], "seconds": seconds}
    distilled = dataclasses.replace(distilled, info=distilled.info | outcome)
    sentence = verdict(real, resolved, scores, seconds)
    if folder:
        artifact.annotate(distilled, folder.path / "distilled")
        folder.evaluation({"verdict": sentence, **outcome})
    return Result(distilled, scores, seconds, sentence, folder.path if folder else None)


def evaluate(
    sets: str | Path | Distilled | Sequence[str | Path | Distilled],
    *,
    test: Any = None,
    networks: Sequence[str] | None = None,
    seeds: int = 3,
    protocol: str = "idc",
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    snapshots: bool = False,
    reporter: Reporter | None = None,
) -> list[Score]:
    """Train fresh networks on distilled sets and test them.

    Args:
        sets: distilled sets: folders of runs or of sets, or `Distilled` values.
        test: the real data (its test split is used); None takes the path recorded in each set.
        networks: names from `accdd.networks.NETWORKS`; None takes the network the set was matched with.
        seeds: fresh networks per score.
        protocol: a name from `accdd.evaluation.PROTOCOLS`.
        epochs: instead of the protocol's own number.
        seed: decides initialisation, order and augmentation of the networks.
        device: where to train.
        snapshots: score the snapshots of the runs instead of their results, for accuracy over time.
        reporter: told of progress; None is silent.

    Returns:
        A score per set (or snapshot) and network.

    Raises:
        InputError: something given is wrong.
    """
    reporter = reporter or Quiet()
    listed = [sets] if isinstance(sets, str | Path | Distilled) else list(sets)
    settings = config.override(Settings(), {"device": device, "seed": seed})
    where, rule = execution.device(device), config.choose("protocol", protocol, PROTOCOLS)
    for name in networks or ():
        config.choose("network", name, NETWORKS)
    # All of them before the first is scored, which may take long.
    opened = [entry if isinstance(entry, Distilled) else load(entry) for entry in listed]
    loaded: dict[str, Dataset] = {}
    scores = []
    for entry, distilled in zip(listed, opened, strict=True):
        real = _test_data(distilled, test, where, loaded)
        made_with = config.override(settings, {f"network.{k}": v for k, v in _recorded(distilled, "network").items()})
        names = networks or (made_with.network.name,)
        for name in names:
            architecture = architecture_of(dataclasses.replace(made_with.network, name=name), real)
            for label, images, labels in _versions(entry, distilled, snapshots):
                reporter.phase(f"{Path(label).name} on {name}")
                scores.append(
                    evaluation.score(
                        label, images, labels, real, architecture, evaluation.suited(rule, real.name),
                        mean=distilled.mean, std=distilled.std, seeds=seeds, key=Key(seed), epochs=epochs,
                        report=reporter.update,
                    )
                )  # fmt: skip
    return scores


def build_pool(
    source: Any, *, settings: Mapping[str, Any] | None = None, reporter: Reporter | None = None
) -> tuple[tuple[models.EarlyStageModel, ...], Path]:
    """Train the early-stage models for some data ahead of time, or find them in the cache; and their folder."""
    reporter = reporter or Quiet()
    wanted = config.override(Settings(), settings or {})
    where, _ = check(wanted)
    real = data.load(source, wanted.data).to(where)
    resolved = presets.resolve(wanted, real)
    architecture = architecture_of(resolved.network, real)
    for line in describe(real, resolved, architecture)[:1]:
        reporter.note(line)
    reporter.phase("early-stage models")
    return models.load_or_build(real, architecture, resolved, reporter.update)


# The steps of `distill`, in its order.


def check(settings: Settings) -> tuple[torch.device, Protocol]:
    """What can be found wrong before any data is read."""
    config.choose("method", settings.method, METHODS)
    for name in (settings.network.name, *settings.score.networks):
        config.choose("network", name, NETWORKS)
    return execution.device(settings.device), config.choose("protocol", settings.score.protocol, PROTOCOLS)


def architecture_of(settings: config.Network, real: Dataset) -> Architecture:
    """The network for this data."""
    return networks.architecture(settings, real.channels, real.size, real.num_classes)


def learn(
    real: Dataset,
    problem: Problem,
    source: models.Source,
    settings: Settings,
    reporter: Reporter,
    folder: RunFolder | None,
) -> tuple[Tensor, int]:
    """Run the loop until its steps or its budget are used up; the images, clamped to [0, 1], and the sweeps done."""
    steps, budget = settings.loop.steps, settings.loop.budget
    total = None if steps is None else steps * settings.loop.inner_steps
    marks = _marks(settings.loop.snapshots)
    reporter.phase("distilling")
    spent, state = 0.0, None  # seconds of the loop alone: keeping snapshots is not charged to the budget
    resumed = time.perf_counter()
    for state in loop.distill(real, problem, source, settings):
        of_budget = (spent + time.perf_counter() - resumed) / budget if budget else 0.0
        share = max(of_budget, state.sweep / total if total else float(total == 0))
        over = share >= 1
        due = folder is not None and (state.sweep == 0 or over or bool(marks and share >= marks[0]))
        if real.device.type == "cuda" and (due or budget):
            torch.cuda.synchronize(real.device)
        spent += time.perf_counter() - resumed
        marks = [mark for mark in marks if mark > share]
        if folder and due and settings.loop.snapshots:
            folder.snapshot(state.sweep, spent, state.images)
        if folder and state.sweep:
            folder.log(state.sweep, spent, state.losses, every=0 if over else 1)
        reporter.update(min(share, 1.0), f"sweep {state.sweep}" + (f"/{total}" if total and not budget else ""))
        if over:
            break
        resumed = time.perf_counter()
    assert state is not None
    return state.images.detach().clamp(0, 1), state.sweep


def describe(real: Dataset, settings: Settings, architecture: Architecture) -> list[str]:
    """What was understood, before anything long begins."""
    about = (
        f"{real.name}: {real.num_classes} classes, {len(real.images):,} training and {len(real.test_images):,} test "
        f"images of {real.channels} x {real.size} x {real.size}"
    )
    pool = f"{settings.pool.networks} early-stage models" if settings.pool.use else "fresh networks"
    factor, loop_ = settings.images.factor, settings.loop
    limits = [f"{loop_.steps} networks"] if loop_.steps is not None else []
    limits += [f"{loop_.budget:g} s"] if loop_.budget is not None else []
    ends = " or ".join(limits)
    plan = (
        f"{settings.method}, {pool}{', perturbed' if settings.perturb.use else ''}: {architecture.name} of depth "
        f"{architecture.depth} and width {architecture.width}, factor {factor}; "
        f"ends after {ends}, {loop_.inner_steps} sweeps with each network."
    )
    return ["; ".join([about, *real.notes]) + ".", plan]


def verdict(real: Dataset, settings: Settings, scores: Sequence[Score], seconds: Mapping[str, float]) -> str:
    """The outcome in one sentence."""
    count = f"{settings.ipc * real.num_classes} images ({settings.ipc} per class)"
    time_taken = f"{seconds['distilling']:.0f} s of distilling after {seconds['pool']:.0f} s for the networks"
    if not scores:
        return f"{count} of {real.name} learned in {time_taken}; not scored."
    own, random = scores[0], scores[1]
    comparison = (
        f"{count} reach {own.mean:.1f} ± {own.std:.1f} % on {real.name} (n = {own.n}, protocol {own.protocol}), "
        f"random real images {random.mean:.1f} ± {random.std:.1f} %; {time_taken}."
    )
    return comparison if own.mean > random.mean else f"NO BETTER THAN RANDOM IMAGES: {comparison}"


def info(real: Dataset, source: Any, settings: Settings, protocol: Protocol, sweeps: int) -> dict[str, Any]:
    """What the artefact says about itself."""
    decoded = settings.ipc * real.num_classes * (settings.images.factor or 1) ** 2
    recipe = {"epochs": protocol.epochs_for(decoded), **config.to_dict(protocol.recipe)}
    return {
        "method": settings.method,
        "source": {"name": real.name, "path": _path_of(source), "fingerprint": real.fingerprint},
        "settings": config.to_dict(settings),
        "sweeps": sweeps,
        "recipe": recipe,
        "versions": {"accdd": version("accdd"), "torch": torch.__version__},
        "scores": [],
    }


def name_of(source: Any) -> str:
    """How to name the data again: its path (absolute), its hub id, or the kind of object it was."""
    if isinstance(source, Path) or (isinstance(source, str) and source != "digits" and not source.startswith("hf:")):
        return str(Path(source).expanduser().absolute())
    return source if isinstance(source, str) else type(source).__name__


def _path_of(source: Any) -> str | None:
    """Where the data can be loaded from again; None for what was only in memory."""
    return name_of(source) if isinstance(source, str | Path) else None


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Note the wall-clock seconds of a block under a name."""
    began = time.perf_counter()
    yield
    seconds[phase] = round(time.perf_counter() - began, 2)


def _marks(count: int) -> list[float]:
    """Shares of the run at which snapshots are kept: each twice the one before, the last at the end."""
    return [2.0**-halvings for halvings in range(count - 1, -1, -1)]


def _recorded(distilled: Distilled, group: str) -> dict[str, Any]:
    """A group of the settings the set was made with; empty for sets of another origin."""
    settings = distilled.info.get("settings")
    recorded = settings.get(group) if isinstance(settings, Mapping) else None
    return dict(recorded) if isinstance(recorded, Mapping) else {}


def _test_data(distilled: Distilled, test: Any, where: torch.device, loaded: dict[str, Dataset]) -> Dataset:
    source = distilled.info.get("source")
    recorded = source if isinstance(source, Mapping) else {}
    if test is None and not recorded.get("path"):
        raise InputError("The set does not say where its data is. Expected --test DATA (test=... in Python).")
    chosen = recorded["path"] if test is None else test
    key = chosen if isinstance(chosen, str) else str(id(chosen))
    if key not in loaded:
        made_with = config.override(Settings(), {f"data.{k}": v for k, v in _recorded(distilled, "data").items()})
        size = dataclasses.replace(made_with.data, size=distilled.images.shape[-1])
        loaded[key] = data.load(chosen, size).to(where)
    real = loaded[key]
    if (real.channels, real.size, real.num_classes) != (*distilled.images.shape[1:3], distilled.num_classes):
        raise InputError(
            f"The test data has {real.num_classes} classes of {real.channels} x {real.size} x {real.size}, the set "
            f"{distilled.num_classes} of {' x '.join(map(str, distilled.images.shape[1:]))}. Expected the same."
        )
    return real


def _versions(entry: str | Path | Distilled, distilled: Distilled, snapshots: bool) -> list[tuple[str, Tensor, Tensor]]:
    """(name, decoded images, labels) of a set, or of each of its run's snapshots."""
    if not snapshots:
        return [(str(entry) if isinstance(entry, str | Path) else "distilled", *distilled.decode())]
    if isinstance(entry, Distilled):
        raise InputError("Snapshots belong to a run folder. Expected its path.")
    versions = []
    for snapshot in run.snapshots(entry):
        images = run.read_snapshot(snapshot).flatten(0, 1)
        version_of = dataclasses.replace(distilled, images=images)
        versions.append((f"{entry}@{snapshot.sweep}@{snapshot.seconds:.1f}s", *version_of.decode()))
    return versions
