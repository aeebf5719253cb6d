"""What Python users call to make, go on with, load and publish sets. The command line calls the same functions."""

import contextlib
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from accdd import artifact, config, data, execution, parallel, planning, presets, report, run, scoring
from accdd.artifact import Distilled
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.methods import METHODS
from accdd.networks import runs_code
from accdd.parallel import ALONE, Everywhere, Ranks
from accdd.run import Checkpoint, Quiet, Record, Reporter, Result, RunFolder, course, refusing, tracking


def load(path: str | Path) -> Distilled:
    """A distilled set from its folder, that of the run that made it, or the Hugging Face hub. Never runs code from a
    file; see `accdd.artifact.load`.

    Args:
        path: the folder; or "hf:owner/name", or "hf:owner/name@revision".
    """
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

    Where `out` holds a finished run of the same settings and data, that is the result, and at most its page is written.
    Where a network or a method of the user's took part, whose code may have changed, it is refused instead.

    Args:
        source: a name from `accdd.data.NAMED`, a path, `hf:owner/name`, arrays, or a `datasets.Dataset`; see
            `accdd.data.load`.
        ipc: images per class; short for `settings={"ipc": ...}`.
        out: a new folder for the run, or that of the same run, finished; None keeps everything in memory.
        preset: a name from `accdd.presets.PRESETS`.
        settings: dotted keys, as in {"pool.epochs": 5, "loop.budget": 600}; they win over the preset.
        track: a name from `accdd.run.TRACKERS`, told of losses, images and scores; it goes with `out`.
        reporter: told of progress; None is silent.

    Raises:
        InputError: something given is wrong, or another run is in `out`; nothing has been written.
        ArithmeticError: a network or the images diverged.
    """
    reporter = reporter or Quiet()

    def asked() -> tuple[Settings, dict[str, Any]]:
        wanted, told = _asked(preset, settings, ipc)
        tracking.check(track)
        refusing.check_choosing(wanted, kept=out is not None)
        return wanted, told

    if out is not None and parallel.restarted() and (Path(out) / "config.yaml").exists():
        wanted, told = asked()
        if run.alike(Path(out), told):
            own = (wanted.network.name, *(wanted.score.networks or ()))
            return resume(out, source, network=own, track=track, reporter=reporter)
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(parallel.joined())
        reporter = reporter if ranks.leads else Quiet()
        wanted, told = ranks.together(asked)
        done = ranks.leader(lambda: None if out is None else _done_before(Path(out), wanted, told, source))
        real, resolved = ranks.together(lambda: course.read(source, wanted, reporter))
        if done:
            ranks.leader(lambda: _check_same(*done, real, resolved))
            return _ended(done[0], real, reporter, ranks)
        ranks = _shard(ranks, resolved)
        work = ranks.together(lambda: course.prepare(source, real, resolved, reporter, wanted=wanted))
        work = work._replace(plan=ranks.leader(lambda: work.plan))  # that of another machine may be another
        _agree(ranks, work)
        ranks.together(lambda: work.bank.check_room(work.settings.targets.count or 0))
        course.announce(work, reporter, ranks)
        for unused in run.unused(told, resolved):
            reporter.note(unused)
        expected = run.foretell(work, reporter, ranks)
        if expected:
            reporter.note(f"About {expected}.")

        def created() -> RunFolder | None:
            if out is None or not ranks.leads:
                return None
            return RunFolder.create(
                out, work.path, real.fingerprint, told, work.settings, real.device, work.plan,
                expected.seconds if expected else None,
            )  # fmt: skip

        folder = ranks.together(created)
        ranks.together(lambda: stack.enter_context(folder.claimed()) if folder else None)
        return _carry_out(work, folder, track, reporter, ranks)


def forecast(
    source: Any,
    ipc: int | None = None,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> run.Forecast:
    """What `distill` would take with the same arguments in one process: time, memory, disk, from a few probed steps.

    Raises:
        InputError: something given is wrong, as for `distill`, or it would take more memory than `max_memory`.
    """
    wanted, told = _asked(preset, settings, ipc)
    reporter = reporter or Quiet()
    real, resolved = course.read(source, wanted, reporter)
    work = course.prepare(source, real, resolved, reporter, wanted=wanted)
    work.bank.check_room(work.settings.targets.count or 0)
    course.announce(work, reporter)
    for unused in run.unused(told, resolved):
        reporter.note(unused)
    return run.forecast(work, reporter, _shard(ALONE, resolved))


def resume(
    out: str | Path,
    source: Any = None,
    *,
    network: str | Sequence[str] | None = None,
    track: str | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Go on with a run that was killed or stopped, from its newest checkpoint, to what it would have become.

    To the same bits on the same processor, in runs that end by steps; where the clock decides, or on a GPU, nearly. A
    run that is finished already is the result; neither its data nor its networks are looked at.

    Args:
        out: the run's folder.
        source: the data, where it was given as arrays or has moved, and cannot be found again.
        network: the user's own networks, matched or scored, if the run has any: what a folder says is not reason
            enough to run code.
        track: as for `distill`.
        reporter: told of progress.

    Raises:
        InputError: there is no such run, or its data has changed or is not where it was.
        ArithmeticError: the images diverged.
    """
    reporter = reporter or Quiet()
    allowed = {network} if isinstance(network, str) else {*(network or ())}
    with contextlib.ExitStack() as stack:
        ranks = stack.enter_context(parallel.joined())
        reporter = reporter if ranks.leads else Quiet()
        ranks.together(lambda: tracking.check(track))
        folder, record, resolved = ranks.leader(lambda: _begun(out, allowed))
        if ranks.leader(lambda: folder.finished):
            return _ended(folder, None, reporter, ranks)
        given = record.source if source is None else source

        def read() -> tuple[Dataset, Settings]:
            if given is None:
                raise InputError(
                    f"The data of '{out}' was given as arrays. Expected it again: accdd.resume({str(out)!r}, data)."
                )
            if source is None and data.is_gone(given):
                raise InputError(
                    f"The data of '{out}' is not at '{given}' here. Expected its place, too: "
                    f"accdd distill DATA --resume {shlex.quote(str(out))}, or accdd.resume({str(out)!r}, DATA)."
                )
            found = course.read(given, resolved, reporter)
            if found[0].fingerprint != record.fingerprint:
                raise InputError(
                    f"The data of '{out}' ({record.source}) has changed since the run began. Expected the same."
                )
            return found

        real, resolved = ranks.together(read)
        where = real.device
        ranks = _shard(ranks, resolved)
        plan = record.plan if planning.suits(record.plan, resolved.precision, where) else None
        work = ranks.together(lambda: course.prepare(given, real, resolved, reporter, plan=plan))
        work = work._replace(plan=ranks.leader(lambda: work.plan))  # that of another machine may be another
        _agree(ranks, work)
        ranks.together(lambda: work.bank.check_room(resolved.targets.count or 0))
        course.announce(work, reporter, ranks)
        writes = folder if ranks.leads else None
        ranks.together(lambda: stack.enter_context(writes.claimed()) if writes else None)
        learned = ranks.leader(lambda: (folder.path / "distilled").exists())
        since, problems = ranks.leader(lambda: (None, []) if learned else folder.rewind(torch.device("cpu")))
        since = tree_map_only(Tensor, lambda tensor: tensor.to(where), since)
        here = f"{execution.machine(where)}, torch {torch.__version__}"
        if here != record.machine:
            reporter.note(f"Begun on {record.machine}, going on with {here}: the last bits will differ.")
        if plan is None:
            reporter.note(f"In {work.plan.precision} instead of {record.plan.precision}, which is slow here.")
        for problem in problems:
            reporter.note(f"Not used, because it is damaged: {problem}.")
        if learned:
            first, how = None, "The set is there: it is scored."  # and what a tracker was told stays
        elif since:
            first, how = since.state.sweep + 1, f"Going on after sweep {since.state.sweep}."
        else:
            first, how = 0, "No whole checkpoint: starting anew."
        reporter.note(how)
        return _carry_out(work, writes, track, reporter, ranks, since, first)


def merge(shards: Sequence[str | Path | Distilled]) -> Distilled:
    """The set of all classes, of those that runs with `shard` have learned; see `accdd.artifact.merge`.

    Args:
        shards: folders of runs or of sets, or `Distilled` values, in any order.
    """
    opened = [entry if isinstance(entry, Distilled) else load(entry) for entry in shards]
    return artifact.merge(dict(zip(scoring.called(shards), opened, strict=True)))


def push(distilled: str | Path | Distilled, repository: str, *, licence: str, private: bool = False) -> artifact.Pushed:
    """Publish a set on the Hugging Face hub, with a data set card; see `accdd.artifact.push`.

    Args:
        distilled: the folder of a run or of a set, or the set.
        repository: "owner/name", new or that of a set to replace.
        licence: of the data that the set was made from, as the hub spells it, as in `cc-by-4.0`.
        private: of a repository that is made now.
    """
    opened = distilled if isinstance(distilled, Distilled) else load(distilled)
    return artifact.push(opened, repository, licence=licence, private=private)


def import_set(path: str | Path, kind: str, **told: Any) -> Distilled:
    """A distilled set that another program made; see `accdd.artifact.import_set` for what can be told.

    Args:
        path: the file, or the folder of pictures.
        kind: `idc`, `dc`, `mtt` or `folder`.
    """
    return artifact.import_set(path, kind, **told)


# What several of the above need.


def _asked(preset: str | None, settings: Mapping[str, Any] | None, ipc: int | None) -> tuple[Settings, dict[str, Any]]:
    """The settings, and of these what was said, dotted."""
    given = presets.given(preset, {**(settings or {}), **({} if ipc is None else {"ipc": ipc})})
    wanted = config.override(Settings(), given)
    became = config.flatten(config.to_dict(wanted))
    return wanted, {key: became[key] for key in given}


def _carry_out(
    work: course.Work, folder: RunFolder | None, track: str | None, reporter: Reporter, ranks: Ranks,
    since: Checkpoint | None = None, first: int | None = None,
) -> Result:  # fmt: skip
    """All of a run that takes long; where there is a folder, followed by a tracker (from sweep `first`; None in a new
    run) and ended by its report."""
    if folder is None:
        return course.carry_out(work, None, reporter, since, ranks)
    with run.tracked(folder, track, reporter, first):
        result = course.carry_out(work, folder, reporter, since, ranks)
    report.finish(result.distilled, work.real, folder.path, reporter)
    return result


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
    gpus = [gpu for gpu in ranks.gathered(execution.gpu(real.device)) if gpu]
    if len(set(gpus)) < len(gpus):
        raise Everywhere(
            "Several processes on one GPU: what is on it does not get from one to the other. "
            "Expected a GPU for each process, without --device cuda:N, or --device cpu."
        )
    ranks.agree({
        "the data": real.fingerprint, **config.flatten(config.to_dict(work.settings)), "torch": torch.__version__,
    })  # fmt: skip


def _done_before(out: Path, wanted: Settings, told: Mapping[str, Any], source: Any) -> tuple[RunFolder, Record] | None:
    """A finished run of the same settings in `out`; whatever else is there is refused."""
    there = run.alike(out, told)
    ours = wanted.method in METHODS and not any(map(runs_code, (wanted.network.name, *(wanted.score.networks or ()))))
    if there and there[0].finished and ours:
        return there
    run.refuse_existing(out, told)
    refusing.refuse_inside(out, course.path_of(source))
    return None


def _check_same(folder: RunFolder, record: Record, real: Dataset, resolved: Settings) -> None:
    """Refuse a finished run on other data, or whose settings became others: a default has changed since.

    Raises:
        InputError: naming what differs.
    """
    there, wanted = config.flatten(record.resolved), config.flatten(config.to_dict(resolved))
    differing = {key for key in wanted if there.get(key) != wanted[key]}
    if "targets.count" in differing and "targets.count" not in record.given and resolved.loop.budget is not None:
        differing -= course.BY_BUDGET
    what = ["the data"] if record.fingerprint != real.fingerprint else sorted(differing)[:5]
    if what:
        raise InputError(
            f"'{folder.path}' holds a finished run that was asked for alike, but {', '.join(what)} differed. It is not "
            "written over. Expected a new folder: use another --out."
        )


def _ended(folder: RunFolder, real: Dataset | None, reporter: Reporter, ranks: Ranks) -> Result:
    """What a finished run has made. With the data at hand its page is written, if that alone is missing or older."""

    def result() -> Result:
        reporter.note(f"'{folder.path}' holds this run already, and it is finished: nothing is made again.")
        made = course.ended(folder.path)
        if report.complete(folder.path) or (real is None and (folder.path / report.FILE).exists()):
            return made
        if real is None:
            reporter.note(f"Its page is missing; accdd report {shlex.quote(str(folder.path))} writes it.")
            return made
        try:
            with folder.claimed():
                report.finish(made.distilled, real, folder.path, reporter)
        except (InputError, OSError) as error:  # another process is at it, or the folder cannot be written
            reporter.note(f"Its page is missing: {error}")
        return made

    made = ranks.leader(result)
    return made if ranks.leads else dataclasses.replace(made, scores=(), verdict="", out=None)


def _begun(out: str | Path, allowed: set[str]) -> tuple[RunFolder, Record, Settings]:
    """The folder of a run, what it says of itself, and its settings; `allowed` networks may run code to go on."""
    folder, record = RunFolder.open(out)
    resolved = config.override(Settings(), config.flatten(record.resolved))
    own = [name for name in dict.fromkeys((resolved.network.name, *(resolved.score.networks or ()))) if runs_code(name)]
    if not folder.finished and not allowed.issuperset(own):
        refusing.refuse_recorded_code(",".join(own), "--resume OUT --network")
    return folder, record, resolved
