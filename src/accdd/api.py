"""What Python users call: distill, evaluate, load. The command line calls the same functions."""

import dataclasses
import functools
import itertools
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accdd import artifact, config, data, defaults, engine, evaluation, execution, loop, methods, networks, presets, run
from accdd import augmented_models as models
from accdd.artifact import Distilled
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.evaluation import PROTOCOLS, Protocol, Score
from accdd.execution import Plan
from accdd.formation import decoded_by
from accdd.keys import Key
from accdd.networks import Architecture, find, runs_code, settings_for
from accdd.run import Checkpoint, Quiet, Reporter, RunFolder
from accdd.targets import Bank


@dataclasses.dataclass(frozen=True)
class Result:
    """What a distillation made."""

    distilled: Distilled
    """The learned set."""
    scores: tuple[Score, ...]
    """Of the distilled set and of random real images at the same number of stored images; empty if not scored."""
    seconds: Mapping[str, float]
    """Wall-clock time of each phase: pool, targets (where there are any), distilling, scoring."""
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
        source: a name from `accdd.data.NAMED`, a path, `hf:owner/name`, arrays, or a `datasets.Dataset`; see
            `accdd.data.load`.
        ipc: images per class; short for `settings={"ipc": ...}`.
        out: a new folder for the run; None keeps everything in memory.
        preset: a name from `accdd.presets.PRESETS`.
        settings: dotted keys, as in {"pool.epochs": 5, "loop.budget": 600}; they win over the preset.
        reporter: told of progress; None is silent.

    Raises:
        InputError: something given is wrong; nothing has been written.
        ArithmeticError: a network or the images diverged.
    """
    given = _given(preset, {**(settings or {}), **({} if ipc is None else {"ipc": ipc})})
    wanted = config.override(Settings(), given)
    reporter = reporter or Quiet()
    asked = config.flatten(config.to_dict(wanted))
    told = {key: asked[key] for key in given}
    if out is not None:
        run.refuse_existing(Path(out), told)
    where, _ = _check(wanted)
    reporter.phase("reading data")
    real = data.load(source, wanted.data).to(where)
    reporter.update(1.0)
    resolved = defaults.resolve(wanted, real)
    work = _work(real, resolved, reporter)
    resolved = _afford(work.bank, wanted, resolved, real, reporter)
    plan = engine.choose_plan(work.problem, real, resolved)
    work.bank.check_room(resolved.targets.count or 0)
    folder = None
    if out is not None:
        folder = RunFolder.create(out, _path_of(source), real.fingerprint, told, resolved, where, plan)
    return _carry_out(source, real, resolved, plan, work, folder, reporter)


def resume(
    out: str | Path, source: Any = None, *, network: str | None = None, reporter: Reporter | None = None
) -> Result:
    """Go on with a run that was killed or stopped, from its newest checkpoint, to what it would have become.

    To the same bits on the same processor, in runs that end by steps; where the clock decides, or on a GPU, nearly.

    Args:
        out: the run's folder.
        source: the data, where it was given as arrays and cannot be found again.
        network: the user's own network, if the run is of one: what a folder says is not reason enough to run code.
        reporter: told of progress.

    Raises:
        InputError: there is no such run, it is finished, or its data has changed.
        ArithmeticError: the images diverged.
    """
    reporter = reporter or Quiet()
    folder, record = RunFolder.open(out)
    if (folder.path / "evaluation.json").exists():
        raise InputError(f"'{out}' holds a finished run. Expected an unfinished one.")
    resolved = config.override(Settings(), config.flatten(record.resolved))
    for name in (resolved.network.name, *resolved.score.networks):
        if runs_code(name) and name != network:
            raise InputError(
                f"The run in '{out}' names the network {name!r}, which runs code. "
                f"Expected --network {shlex.quote(name)} beside --resume, if you trust it."
            )
    given = record.source if source is None else source
    if given is None:
        raise InputError(
            f"The data of '{out}' was given as arrays. Expected it again: accdd.resume({str(out)!r}, data)."
        )
    where, _ = _check(resolved)
    reporter.phase("reading data")
    real = data.load(given, resolved.data).to(where)
    reporter.update(1.0)
    if real.fingerprint != record.fingerprint:
        raise InputError(f"The data of '{out}' ({record.source}) has changed since the run began. Expected the same.")
    work = _work(real, resolved, reporter)
    work.bank.check_room(resolved.targets.count or 0)
    since, problems = folder.newest(where)
    here = f"{execution.machine(where)}, torch {torch.__version__}"
    if here != record.machine:
        reporter.note(f"Begun on {record.machine}, going on with {here}: the last bits will differ.")
    for problem in problems:
        reporter.note(f"Not used, because it is damaged: {problem}.")
    reporter.note(f"Going on after sweep {since.state.sweep}." if since else "No whole checkpoint: starting anew.")
    return _carry_out(given, real, resolved, record.plan, work, folder, reporter, since)


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
    compile: str = "auto",
    precision: str = "auto",
    snapshots: bool = False,
    data: Any = None,
    baselines: Sequence[str] = (),
    whole: bool = False,
    best_on_test: bool = False,
    reporter: Reporter | None = None,
) -> list[Score]:
    """Train fresh networks on distilled sets, and on real images beside them, and test them.

    Args:
        sets: distilled sets: folders of runs or of sets, or `Distilled` values.
        test: real data, whose test split is used, or all of it if it has none; None takes the data that each set
            was made from, if it is unchanged.
        networks: names from `accdd.networks.NETWORKS`, or of your own (`module:callable`, `timm:NAME`); None takes the
            network the set was matched with, unless using that would run code that a file names.
        seeds: fresh networks per score.
        protocol: a name from `accdd.evaluation.PROTOCOLS`.
        epochs: instead of the protocol's own number.
        seed: decides initialisation, order and augmentation of the networks.
        device: where to train.
        compile: `auto`, `always` or `never`.
        precision: `auto`, `fp32` or `bf16`.
        snapshots: score the snapshots of the runs instead of their results, for accuracy over time.
        data: real data, whose training images baselines choose from; None is the data that each set was made from.
        baselines: names from `accdd.evaluation.BASELINES`: as many real images as the set stores, by the same protocol
            and with networks that begin alike.
        whole: score the whole training set, too, by its own protocol (`accdd.evaluation.WHOLE`): an upper bound.
        best_on_test: also keep the highest test accuracy during training, for comparison with papers that report it.
        reporter: told of progress; None is silent.

    Returns:
        A score per set (or snapshot) and network, each followed by those of the baselines beside it.

    Raises:
        InputError: something given is wrong.
    """
    reporter = reporter or Quiet()
    listed = [sets] if isinstance(sets, str | Path | Distilled) else list(sets)
    if seeds < 1 or (epochs is not None and epochs < 1):
        raise InputError(f"seeds={seeds}, epochs={epochs}: a score needs at least one network and one epoch.")
    changes = {"device": device, "seed": seed, "compile": compile, "precision": precision, "score.protocol": protocol}
    settings = config.override(Settings(), changes)
    where, rule = _check(settings)
    for name in networks or ():
        find(name)
    for name in baselines:
        config.choose("baseline", name, evaluation.BASELINES)
    # All of them before the first is scored, which may take long.
    opened = [entry if isinstance(entry, Distilled) else load(entry) for entry in listed]
    for distilled in opened if not networks else ():
        _refuse_recorded_code(config.override(settings, evaluation.recorded(distilled, "network")).network.name)
    keys = evaluation.network_keys(Key(seed), seeds)
    options = {"best_on_test": best_on_test, "compile": compile, "precision": precision, "report": reporter.update}
    scores: list[Score] = []
    for entry, label, distilled in zip(listed, _labels(listed), opened, strict=True):
        tested = evaluation.test_data(distilled, test).to(where)
        real = evaluation.training_data(distilled, data).to(where) if baselines or whole else None
        if real:
            tested = evaluation.apart(real, tested)
        if real and baselines:
            evaluation.check_enough(real, distilled.ipc)
        called = evaluation.origin(distilled).get("name")
        suited = _suited(rule, tested, distilled.ipc, distilled.factor, str(called) if called else None)
        made_with = config.override(settings, evaluation.recorded(distilled, "network"))
        names = networks or (made_with.network.name,)
        scored = [_architecture(settings_for(name, made_with.network), tested) for name in names]
        rows: dict[str, Tensor] = {}
        if real:
            rows = _choose(baselines, real, distilled, scored[0], settings, seeds, reporter)
        for architecture in scored:
            name = architecture.name
            for version_label, images, labels in _versions(entry, label, distilled, snapshots):
                reporter.phase(f"{Path(version_label).name} on {name}")
                found = evaluation.score(
                    version_label, images, labels, tested, architecture, suited,
                    mean=distilled.mean, std=distilled.std, keys=keys, epochs=epochs, **options,
                )  # fmt: skip
                stored = evaluation.storage(distilled.images, distilled.labels)
                scores.append(dataclasses.replace(found, bytes=stored))
            if not real:
                continue
            others: list[Score] = []
            for baseline, own in rows.items():
                reporter.phase(f"{baseline} on {name}")
                others.append(
                    evaluation.beside(
                        baseline, real, own, tested, architecture, suited, keys=keys, epochs=epochs, **options
                    )
                )
            if whole:
                reporter.phase(f"the whole set on {name}")
                others.append(evaluation.whole(real, tested, architecture, keys=keys, **options))
                reporter.update(1.0)
            scores += [dataclasses.replace(each, beside=label) for each in others]
    return scores


def import_set(path: str | Path, kind: str, **told: Any) -> Distilled:
    """A distilled set that another program made; see `accdd.artifact.import_set` for what can be told.

    Args:
        path: the file, or the folder of pictures.
        kind: `idc`, `dc`, `mtt` or `folder`.
    """
    return artifact.import_set(path, kind, **told)


def measure_rounding(
    distilled: Distilled, *, test: Any = None, seeds: int = 3, seed: int = 0, reporter: Reporter | None = None
) -> list[Score]:
    """What rounding to 8 bits costs in accuracy: scores of the decoded set as it is and as pictures give it back.

    Both train networks from the same initial weights, in the same order and with the same augmentation.

    Args:
        distilled: the set.
        test, seeds, seed, reporter: as for `evaluate`.

    Returns:
        Two scores, by the quick protocol: before and after.
    """
    both = [artifact.as_decoded(distilled), artifact.rounded(distilled)]
    scores = evaluate(both, test=test, seeds=seeds, seed=seed, protocol="quick", reporter=reporter)
    return [dataclasses.replace(score, set=name) for score, name in zip(scores, ("float", "8 bits"), strict=True)]


def build_pool(
    source: Any,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> models.ModelPool:
    """Train the early-stage models for some data ahead of time, or find them in the cache."""
    reporter = reporter or Quiet()
    wanted = config.override(Settings(), _given(preset, settings))
    where, _ = _check(wanted)
    real = data.load(source, wanted.data).to(where)
    resolved = defaults.resolve(wanted, real)
    architecture = _architecture(resolved.network, real)
    for line in run.describe(real, resolved, architecture)[:1]:
        reporter.note(line)
    resolved = dataclasses.replace(resolved, pool=dataclasses.replace(resolved.pool, use=True))
    built = _pool(real, architecture, resolved, reporter)
    assert built
    return built


def build_targets(
    source: Any,
    count: int | None = None,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> tuple[Bank, int]:
    """Make the target bank for some data ahead of time, or what is missing of it; the bank and how many it is to hold.

    Args:
        source, preset, settings, reporter: as for `distill`; settings of the learned images do not matter.
        count: how many targets; short for `settings={"targets.count": count}`.

    Raises:
        InputError: something given is wrong, or the disk is too small.
        ArithmeticError: a network diverged.
    """
    reporter = reporter or Quiet()
    given = _given(preset, settings)
    if count is not None:
        given["targets.count"] = count
    given.setdefault("targets.count", defaults.TARGETS)
    given |= {
        "loop.inner_steps": 1,
        "loop.train_images": 0,
        "loop.train_epochs": 0,
        "loop.warm_up": 0,
    }  # the only loop that targets are for
    wanted = config.override(Settings(), given)
    if not (count := wanted.targets.count):
        raise InputError(f"--count {count}: that makes no targets. Expected at least 1.")
    where, _ = _check(wanted)
    real = data.load(source, wanted.data).to(where)
    resolved = defaults.resolve(wanted, real)
    architecture = _architecture(resolved.network, real)
    _, _, bank, pool = _work(real, resolved, reporter)
    bank.check_room(count)
    for line in (*run.describe(real, resolved, architecture)[:1], run.describe_bank(bank, count)):
        reporter.note(line)
    if bank.missing(count):
        pool()
    _build(bank, count, reporter)
    return bank, count


# What several of the above need.


def _given(preset: str | None, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The preset's dotted settings with the user's own over them."""
    own = dict(settings or {})
    if preset is None:
        return own
    row = config.choose("preset", preset, presets.PRESETS)
    return row.changes(config.override(Settings(), own).ipc) | own


def _check(settings: Settings) -> tuple[torch.device, Protocol]:
    """What can be found wrong before any data is read."""
    methods.named(settings.method)
    for name in (settings.network.name, *settings.score.networks):
        find(name)
    where, protocol = execution.device(settings.device), config.choose("protocol", settings.score.protocol, PROTOCOLS)
    execution.check(settings.compile, where)
    execution.prepare(where)
    return where, protocol


def _refuse_recorded_code(name: str) -> None:
    """Refuse to import what only a file of results names."""
    if runs_code(name):
        raise InputError(
            f"The set says that it was matched with the network '{name}', which is code to be imported. "
            f"Expected --networks {shlex.quote(name)} (networks=... in Python) if you trust it, or another network."
        )


class _Work(NamedTuple):
    """What a run is made of, before anything long begins."""

    architecture: Architecture
    problem: Problem
    bank: Bank
    pool: Callable[[], models.ModelPool | None]
    """The early-stage models, trained or found when they are first asked for."""


def _work(real: Dataset, settings: Settings, reporter: Reporter) -> _Work:
    architecture = _architecture(settings.network, real)
    problem = methods.problem(settings, real, architecture)

    @functools.cache
    def pool() -> models.ModelPool | None:
        return _pool(real, architecture, settings, reporter)

    @functools.cache
    def source() -> models.Source:
        return models.source(architecture, real.device, settings, pool())

    return _Work(architecture, problem, Bank(real, problem, lambda key: source()(key), settings), pool)


def _carry_out(
    source: Any,
    real: Dataset,
    resolved: Settings,
    plan: Plan,
    work: _Work,
    folder: RunFolder | None,
    reporter: Reporter,
    since: Checkpoint | None = None,
) -> Result:
    """Everything of a run that takes long, from its beginning or from where it was interrupted."""
    protocol = _suited(PROTOCOLS[resolved.score.protocol], real, resolved.ipc, resolved.images.factor or 1)
    scored = [_architecture(settings_for(n, resolved.network), real) for n in resolved.score.networks]
    for line in run.describe(real, resolved, work.architecture):
        reporter.note(line)
    reporter.note(run.describe_plan(plan, real.device))
    saved = folder.path / "distilled" if folder else None
    if saved and saved.exists():  # the run was interrupted while it was scored
        distilled = artifact.load(saved)
    else:
        distilled = _learned(source, real, resolved, plan, work, folder, reporter, since)
        if saved:
            artifact.save(distilled, saved)  # before scoring, which may take longer
    seconds: dict[str, float] = dict(distilled.info["seconds"])

    began, scores = time.perf_counter(), ()
    for network in scored if resolved.score.seeds else ():
        reporter.phase(f"scoring, {network.name}")
        scores += evaluation.beside_random(
            *distilled.decode(), real, network, protocol, stored=resolved.ipc, seeds=resolved.score.seeds,
            seed=resolved.seed, epochs=resolved.score.epochs, compile=resolved.compile, precision=resolved.precision,
            report=reporter.update,
        )  # fmt: skip
    seconds["scoring"] = round(time.perf_counter() - began, 2)

    outcome = {"scores": [score.to_dict() for score in scores], "seconds": seconds}
    distilled = dataclasses.replace(distilled, info=distilled.info | outcome)
    sentence = run.verdict(real, resolved, scores, distilled.info["sweeps"], seconds)
    if folder:
        artifact.annotate(distilled, folder.path / "distilled")
        folder.evaluation({"verdict": sentence, **outcome})
    return Result(distilled, scores, seconds, sentence, folder.path if folder else None)


def _learned(
    source: Any,
    real: Dataset,
    resolved: Settings,
    plan: Plan,
    work: _Work,
    folder: RunFolder | None,
    reporter: Reporter,
    since: Checkpoint | None,
) -> Distilled:
    """The set, with networks, targets and images made or gone on with; `info` says what each took."""
    where, bank, count = real.device, work.bank, resolved.targets.count or 0
    if count:
        reporter.note(run.describe_bank(bank, count))
    # What networks and targets cost is said whether they were made now or found in the cache; a bank that was brought
    # along in a folder of its own needs no networks.
    brought = count and resolved.targets.folder and not resolved.targets.refresh and not bank.missing(count)
    trained = None if brought else work.pool()
    seconds = {"pool": trained.seconds if trained else 0.0}
    if count:
        _build(bank, count, reporter)
        seconds["targets"] = round(bank.seconds(count), 2)
        begin = functools.partial(loop.distill_on_targets, real, work.problem, bank, resolved, plan)
    else:
        next_network = models.source(work.architecture, where, resolved, trained)
        begin = functools.partial(loop.distill, real, work.problem, next_network, resolved, plan)
    images, sweeps, spent = run.learn(begin, where, resolved, reporter, folder, since)
    seconds["distilling"] = round(spent, 2)
    assert resolved.images.factor
    return Distilled(
        images=images.flatten(0, 1).cpu(),
        labels=torch.arange(real.num_classes).repeat_interleave(resolved.ipc),
        class_names=real.class_names, mean=real.mean, std=real.std,
        factor=resolved.images.factor, formation=decoded_by(resolved.images.formation),
        info=_info(real, source, resolved, plan, sweeps) | {"seconds": seconds},
    )  # fmt: skip


def _afford(bank: Bank, wanted: Settings, resolved: Settings, real: Dataset, reporter: Reporter) -> Settings:
    """The resolved settings with as many targets as the budget pays for, where nothing was said of them."""
    count, budget = resolved.targets.count, resolved.loop.budget
    said = wanted.targets.count is not None or wanted.targets.folder or wanted.targets.refresh
    if said or not count or budget is None:
        return resolved
    paid = bank.afford(count, budget)
    if paid < count:
        reporter.note(f"{paid or 'No'} targets instead of {count}: a budget of {budget:g} s pays for no more.")
    return defaults.resolve(config.override(wanted, {"targets.count": paid}), real)


def _pool(real: Dataset, architecture: Architecture, settings: Settings, reporter: Reporter) -> models.ModelPool | None:
    """The early-stage models, trained or found; None where the settings want fresh networks."""
    if not settings.pool.use:
        return None
    reporter.phase("early-stage models")
    built = models.load_or_build(real, architecture, settings, reporter.update)
    reporter.update(1.0)
    return built


def _build(bank: Bank, count: int, reporter: Reporter) -> None:
    reporter.phase("targets")
    bank.build(count, reporter.update)
    reporter.update(1.0)


def _architecture(settings: config.Network, real: Dataset) -> Architecture:
    """The network for this data."""
    return networks.architecture(settings, real.channels, real.size, real.num_classes)


def _suited(protocol: Protocol, real: Dataset, ipc: int, factor: int, name: str | None = None) -> Protocol:
    """The protocol as its source applies it to a set of such images, made of `real` or of the data called `name`."""
    return evaluation.suited(
        protocol, name or real.name, ipc=ipc, factor=factor, size=real.size, num_classes=real.num_classes
    )


def _info(real: Dataset, source: Any, settings: Settings, plan: Plan, sweeps: int) -> dict[str, Any]:
    """What the artefact says about itself."""
    # What is worth training on the set for, however it was scored.
    idc = _suited(PROTOCOLS["idc"], real, settings.ipc, settings.images.factor or 1)
    recipe = {"epochs": idc.epochs, **config.to_dict(idc.recipe)}
    return {
        "method": settings.method,
        "source": {"name": real.name, "path": _path_of(source), "fingerprint": real.fingerprint},
        "settings": config.to_dict(settings),
        "plan": dataclasses.asdict(plan),
        "sweeps": sweeps,
        "recipe": recipe,
        "versions": {"accdd": version("accdd"), "torch": torch.__version__},
        "scores": [],
    }


def _name(source: Any) -> str:
    """How to name the data again: its name, its path (absolute), its hub id, or the kind of object it was."""
    if isinstance(source, str) and (data.is_name(source) or source.startswith("hf:")):
        return source
    if isinstance(source, str | Path):
        return str(Path(source).expanduser().absolute())
    return type(source).__name__


def _path_of(source: Any) -> str | None:
    """Where the data can be loaded from again; None for what was only in memory."""
    return _name(source) if isinstance(source, str | Path) else None


def _choose(
    baselines: Sequence[str], real: Dataset, distilled: Distilled, architecture: Architecture, settings: Settings,
    seeds: int, reporter: Reporter,
) -> dict[str, Tensor]:  # fmt: skip
    """Which real images each baseline trains on, looked at by early-stage models trained as the set's own were.

    They are of the network that the set was matched with, unless that is code which only a file names: then of
    `architecture`.
    """
    recorded = {**evaluation.recorded(distilled, "train"), **evaluation.recorded(distilled, "pool")}
    matched = config.override(settings, evaluation.recorded(distilled, "network")).network
    seen = architecture if runs_code(matched.name) else _architecture(matched, real)
    looking = evaluation.Real(real, seen, config.override(settings, recorded), reporter.update)
    rows: dict[str, Tensor] = {}
    for name in baselines:
        reporter.phase(f"choosing, {name}")
        rows[name] = evaluation.chosen(name, looking, distilled.ipc, Key(settings.seed), seeds)
        reporter.update(1.0)
    return rows


def _labels(entries: Sequence[str | Path | Distilled]) -> list[str]:
    """What sets are called in their scores: their paths; those from memory `distilled`, `distilled-2` and so on."""
    from_memory = itertools.chain(["distilled"], (f"distilled-{number}" for number in itertools.count(2)))
    return [next(from_memory) if isinstance(entry, Distilled) else str(entry) for entry in entries]


def _versions(
    entry: str | Path | Distilled, label: str, distilled: Distilled, snapshots: bool
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, decoded images, labels) of a set, or of each of its run's snapshots."""
    if not snapshots:
        yield (label, *distilled.decode())
        return
    if isinstance(entry, Distilled):
        raise InputError("Snapshots belong to a run folder. Expected its path.")
    for snapshot in run.snapshots(entry):
        version_of = dataclasses.replace(distilled, images=run.read_snapshot(snapshot).flatten(0, 1))
        yield (f"{entry}@{snapshot.sweep}@{snapshot.seconds:.1f}s", *version_of.decode())
