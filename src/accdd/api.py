"""What Python users call: distill, evaluate, load. The command line calls the same functions."""

import contextlib
import dataclasses
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from accdd import (
    artifact,
    config,
    data,
    defaults,
    evaluation,
    execution,
    methods,
    parallel,
    presets,
    report,
    run,
)  # fmt: skip
from accdd import augmented_models as models
from accdd.artifact import Distilled
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.evaluation import PROTOCOLS, Protocol, Score
from accdd.keys import Key
from accdd.networks import Architecture, find, runs_code, settings_for
from accdd.parallel import Everywhere, Ranks
from accdd.run import Quiet, Record, Reporter, Result, RunFolder, course, tracking
from accdd.targets import Bank


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
    track: str | None = None,
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
        track: a name from `accdd.run.TRACKERS`, told of losses, images and scores; it goes with `out`.
        reporter: told of progress; None is silent.

    Raises:
        InputError: something given is wrong; nothing has been written.
        ArithmeticError: a network or the images diverged.
    """
    reporter = reporter or Quiet()

    def asked() -> tuple[Settings, dict[str, Any]]:
        given = presets.given(preset, {**(settings or {}), **({} if ipc is None else {"ipc": ipc})})
        wanted = config.override(Settings(), given)
        tracking.check(track)
        if wanted.score.choose == "validation" and (out is None or not wanted.loop.snapshots):
            raise InputError(
                "score.choose = 'validation' chooses among the snapshots of a run folder. "
                "Expected --out FOLDER (out=... in Python) and loop.snapshots above 0."
            )
        became = config.flatten(config.to_dict(wanted))
        return wanted, {key: became[key] for key in given}

    if out is not None and parallel.restarted() and (Path(out) / "config.yaml").exists():
        wanted, _ = asked()
        own = (wanted.network.name, *wanted.score.networks)
        return resume(out, source, network=own, track=track, reporter=reporter)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(parallel.joined())
        reporter = reporter if ranks.leads else Quiet()
        wanted, told = ranks.together(asked)
        ranks.leader(lambda: run.refuse_existing(Path(out), told) if out is not None else None)
        real, resolved = ranks.together(lambda: _read(source, wanted, reporter))
        ranks = _shard(ranks, resolved)
        work = ranks.together(lambda: course.prepare(source, real, resolved, reporter, wanted=wanted))
        work = work._replace(plan=ranks.leader(lambda: work.plan))  # that of another machine may be another
        _agree(ranks, work)
        ranks.together(lambda: work.bank.check_room(work.settings.targets.count or 0))

        def created() -> RunFolder | None:
            if out is None or not ranks.leads:
                return None
            return RunFolder.create(out, work.path, real.fingerprint, told, work.settings, real.device, work.plan)

        folder = ranks.together(created)
        ranks.together(lambda: stack.enter_context(folder.claimed()) if folder else None)
        with run.tracked(folder, track, reporter) if folder else contextlib.nullcontext():
            result = course.carry_out(work, folder, reporter, ranks=ranks)
        if folder:
            report.finish(result.distilled, real, folder.path, reporter)
        return result


def forecast(
    source: Any,
    ipc: int | None = None,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> run.Forecast:
    """What `distill` would take with the same arguments: time, memory and disk, from a few probed steps.

    Raises:
        InputError: something given is wrong, as for `distill`.
    """
    given = presets.given(preset, {**(settings or {}), **({} if ipc is None else {"ipc": ipc})})
    wanted = config.override(Settings(), given)
    reporter = reporter or Quiet()
    real, resolved = _read(source, wanted, reporter)
    work = course.prepare(source, real, resolved, reporter, wanted=wanted)
    work.bank.check_room(work.settings.targets.count or 0)
    reporter.phase("probing")
    return run.forecast(work)


def resume(
    out: str | Path,
    source: Any = None,
    *,
    network: str | Sequence[str] | None = None,
    track: str | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Go on with a run that was killed or stopped, from its newest checkpoint, to what it would have become.

    To the same bits on the same processor, in runs that end by steps; where the clock decides, or on a GPU, nearly.

    Args:
        out: the run's folder.
        source: the data, where it was given as arrays and cannot be found again.
        network: the user's own networks, matched or scored, if the run has any: what a folder says is not reason
            enough to run code.
        track: as for `distill`.
        reporter: told of progress.

    Raises:
        InputError: there is no such run, it is finished, or its data has changed.
        ArithmeticError: the images diverged.
    """
    reporter = reporter or Quiet()
    allowed = {network} if isinstance(network, str) else {*(network or ())}
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(parallel.joined())
        reporter = reporter if ranks.leads else Quiet()
        ranks.together(lambda: tracking.check(track))
        folder, record, resolved = ranks.leader(lambda: _unfinished(out, allowed))
        given = record.source if source is None else source

        def read() -> tuple[Dataset, Settings]:
            if given is None:
                raise InputError(
                    f"The data of '{out}' was given as arrays. Expected it again: accdd.resume({str(out)!r}, data)."
                )
            found = _read(given, resolved, reporter)
            if found[0].fingerprint != record.fingerprint:
                raise InputError(
                    f"The data of '{out}' ({record.source}) has changed since the run began. Expected the same."
                )
            return found

        real, resolved = ranks.together(read)
        where = real.device
        ranks = _shard(ranks, resolved)
        work = ranks.together(lambda: course.prepare(given, real, resolved, reporter, plan=record.plan))
        _agree(ranks, work)
        ranks.together(lambda: work.bank.check_room(resolved.targets.count or 0))
        writes = folder if ranks.leads else None
        ranks.together(lambda: stack.enter_context(writes.claimed()) if writes else None)
        since, problems = ranks.leader(lambda: folder.rewind(torch.device("cpu")))
        since = tree_map_only(Tensor, lambda tensor: tensor.to(where), since)
        here = f"{execution.machine(where)}, torch {torch.__version__}"
        if here != record.machine:
            reporter.note(f"Begun on {record.machine}, going on with {here}: the last bits will differ.")
        for problem in problems:
            reporter.note(f"Not used, because it is damaged: {problem}.")
        reporter.note(f"Going on after sweep {since.state.sweep}." if since else "No whole checkpoint: starting anew.")
        begun = since.state.sweep + 1 if since else 0
        with run.tracked(writes, track, reporter, begun) if writes else contextlib.nullcontext():
            result = course.carry_out(work, writes, reporter, since, ranks)
        if writes:
            report.finish(result.distilled, real, writes.path, reporter)
        return result


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
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> list[Score]:
    """Train fresh networks on distilled sets, and on real images beside them, and test them.

    Every network that was trained is kept in the cache, so that an evaluation that was stopped goes on where it was.

    Args:
        sets: distilled sets: folders of runs or of sets, or `Distilled` values.
        test: real data, whose test split is used, or all of it if it has none; None takes the data that each set
            was made from, if it is unchanged.
        networks: names from `accdd.networks.NETWORKS`, with what is to be special about them, as in
            `convnet/width=32/depth=4`; or of your own (`module:callable`, `timm:NAME`). None takes the network the
            set was matched with, unless using that would run code that a file names.
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
        fresh: train all networks, whatever is found in the cache.
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
        settings_for(name, settings.network)
    for name in baselines:
        config.choose("baseline", name, evaluation.BASELINES)
    # All of them before the first is scored, which may take long.
    opened = [entry if isinstance(entry, Distilled) else load(entry) for entry in listed]
    for distilled in opened if not networks else ():
        _refuse_recorded_code(
            config.override(settings, evaluation.recorded(distilled, "network")).network.name, "--networks"
        )
    keys = evaluation.network_keys(Key(seed), seeds)
    options = {
        "best_on_test": best_on_test, "compile": compile, "precision": precision, "fresh": fresh,
        "report": reporter.update,
    }  # fmt: skip
    scores: list[Score] = []
    for entry, label, distilled in zip(listed, _labels(listed), opened, strict=True):
        tested = evaluation.test_data(distilled, test).to(where)
        real = evaluation.training_data(distilled, data).to(where) if baselines or whole else None
        if real:
            tested = evaluation.apart(real, tested)
        if real and baselines:
            evaluation.check_enough(real, distilled.ipc)
        called = evaluation.origin(distilled).get("name")
        name = str(called) if called else tested.name
        case = evaluation.Case(name, distilled.ipc, distilled.factor, tested.size, tested.num_classes)
        made_with = config.override(settings, evaluation.recorded(distilled, "network"))
        names = networks or (made_with.network.name,)
        scored = {name: course.architecture_for(settings_for(name, made_with.network), tested) for name in names}
        rows: dict[str, Tensor] = {}
        if real:
            rows = _choose(baselines, real, distilled, scored[names[0]], settings, seeds, reporter)
        for name, architecture in scored.items():
            suited = evaluation.suited(rule, case._replace(network=architecture.name))
            for version_label, images, labels in _versions(entry, label, distilled, snapshots):
                reporter.phase(f"{Path(version_label).name} on {name}")
                found = evaluation.score(
                    version_label, images, labels, tested, architecture, suited,
                    mean=distilled.mean, std=distilled.std, keys=keys, epochs=epochs,
                    content=evaluation.digest(images, labels), **options,
                )  # fmt: skip
                stored = evaluation.storage(distilled.images, distilled.labels)
                scores.append(dataclasses.replace(found, network=name, bytes=stored))
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
            scores += [dataclasses.replace(each, network=name, beside=label) for each in others]
    if found := sum(score.found or 0 for score in scores):
        reporter.note(
            f"{found} of {sum(score.n for score in scores)} networks were trained before; --fresh trains anew."
        )
    return scores


def merge(shards: Sequence[str | Path | Distilled]) -> Distilled:
    """The set of all classes, of those that runs with `shard` have learned; see `accdd.artifact.merge`.

    Args:
        shards: folders of runs or of sets, or `Distilled` values, in any order.
    """
    opened = [entry if isinstance(entry, Distilled) else load(entry) for entry in shards]
    return artifact.merge(dict(zip(_labels(shards), opened, strict=True)))


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
    wanted = config.override(Settings(), presets.given(preset, settings or {}))
    real, resolved = _read(source, wanted, reporter)
    architecture = course.architecture_for(resolved.network, real)
    for line in run.describe(real, resolved, architecture)[:1]:
        reporter.note(line)
    resolved = dataclasses.replace(resolved, pool=dataclasses.replace(resolved.pool, use=True))
    built = course.early_stage_models(real, architecture, resolved, reporter)
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
    given = presets.given(preset, settings or {})
    if count is not None:
        given["targets.count"] = count
    given.setdefault("targets.count", defaults.TARGETS)
    # The only loop that targets are for.
    given |= {"loop.inner_steps": 1, "loop.train_images": 0, "loop.train_epochs": 0, "loop.warm_up": 0}
    wanted = config.override(Settings(), given)
    if not (count := wanted.targets.count):
        raise InputError(f"--count {count}: that makes no targets. Expected at least 1.")
    real, resolved = _read(source, wanted, reporter)
    work = course.prepare(source, real, resolved, reporter)
    work.bank.check_room(count)
    for line in (*run.describe(real, resolved, work.architecture)[:1], run.describe_bank(work.bank, count)):
        reporter.note(line)
    if work.bank.missing(count):
        work.pool()
    course.build_bank(work.bank, count, reporter)
    return work.bank, count


# What several of the above need.


def _shard(ranks: Ranks, settings: Settings) -> Ranks:
    """Who this is where a shard is wanted."""
    if settings.shard is None:
        return ranks
    if not ranks.alone:
        raise Everywhere("--shard with torchrun: each divides the classes by itself. Expected one of the two.")
    part, parts = settings.shard
    return Ranks(part - 1, parts, apart=True)


def _agree(ranks: Ranks, work: course.Work) -> None:
    """Refuse ranks that would not make one set together."""
    real = work.real
    if ranks.alone:
        return
    if ranks.count > real.num_classes:
        raise Everywhere(
            f"{ranks.count} processes for {real.num_classes} classes: some would have none. "
            f"Expected --nproc-per-node {real.num_classes} or fewer."
        )
    if work.settings.loop.split_training and work.problem.forward.batch_norms:
        raise Everywhere(
            f"loop.split_training: {work.architecture.name} normalises by whole batches, which no process would see. "
            "Expected --set loop.split_training=false, or a network with another norm."
        )
    ranks.agree({
        "the data": real.fingerprint, **config.flatten(config.to_dict(work.settings)), "torch": torch.__version__,
    })  # fmt: skip


def _unfinished(out: str | Path, allowed: set[str]) -> tuple[RunFolder, Record, Settings]:
    """The folder of a run to go on with, what it says of itself, and its settings; `allowed` networks may run code."""
    folder, record = RunFolder.open(out)
    if (folder.path / "evaluation.json").exists():
        raise InputError(f"'{out}' holds a finished run. Expected an unfinished one; 'accdd report' writes its page.")
    resolved = config.override(Settings(), config.flatten(record.resolved))
    own = [name for name in dict.fromkeys((resolved.network.name, *resolved.score.networks)) if runs_code(name)]
    if not allowed.issuperset(own):
        _refuse_recorded_code(",".join(own), "--resume OUT --network")
    return folder, record, resolved


def _check(settings: Settings) -> tuple[torch.device, Protocol]:
    """What can be found wrong before any data is read."""
    methods.named(settings.method)
    find(settings.network.name)
    for name in settings.score.networks:
        settings_for(name, settings.network)
    where, protocol = execution.device(settings.device), config.choose("protocol", settings.score.protocol, PROTOCOLS)
    execution.check(settings.compile, where)
    execution.prepare(where)
    return where, protocol


def _read(source: Any, settings: Settings, reporter: Reporter) -> tuple[Dataset, Settings]:
    """The data, where it is worked on, and the settings resolved for it; what is wrong with them is said before."""
    where, _ = _check(settings)
    reporter.phase("reading data")
    real = data.load(source, settings.data)
    if settings.score.choose == "validation":
        real = real.held_out(settings.score.validation)
    real = real.to(where)
    reporter.update(1.0)
    return real, defaults.resolve(settings, real)


def _refuse_recorded_code(name: str, flag: str) -> None:
    """Refuse to import what only a file of results names."""
    if runs_code(name):
        raise InputError(
            f"What was made names the network {name!r}, which is code to be imported. "
            f"Expected {flag} {shlex.quote(name)} if you trust it."
        )


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
    seen = architecture if runs_code(matched.name) else course.architecture_for(matched, real)
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
