"""The course of a run: networks, targets, images, scores, from its beginning or from where it was interrupted."""

import dataclasses
import functools
import json
import shlex
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from accdd import (
    artifact,
    config,
    data,
    defaults,
    evaluation,
    loop,
    methods,
    networks,
    planning,
    recording,
    training,
)
from accdd import augmented_models as models
from accdd.artifact import Distilled
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.engine import Problem
from accdd.evaluation import PROTOCOLS, Case, Protocol, Score, Way
from accdd.execution import Plan
from accdd.formation import decoded_by
from accdd.keys import Key, digest
from accdd.networks import Architecture, settings_for
from accdd.parallel import ALONE, Ranks
from accdd.run import refusing, words
from accdd.run.checkpoints import Checkpoint
from accdd.run.choosing import best_on_validation
from accdd.run.folder import RunFolder
from accdd.run.learning import learn
from accdd.run.progress import Reporter
from accdd.run.trouble import within_memory
from accdd.targets import Bank


@dataclasses.dataclass(frozen=True)
class Result:
    """What a distillation made."""

    distilled: Distilled
    """The learned set."""
    scores: tuple[Score, ...]
    """Of the distilled set and of random real images at the same number of stored images; empty if not scored."""
    seconds: Mapping[str, float]
    """Wall-clock time of each phase: pool, targets (where there are any), distilling, choosing (likewise), scoring."""
    verdict: str
    """One sentence."""
    out: Path | None
    """The run folder, if one was asked for."""


BY_BUDGET = frozenset({"targets.count", "images.step", "images.lr", "images.schedule", "pool.epochs"})
"""Settings that may depend on how many targets a budget pays for here, where nothing is said of them."""


SCHEDULE = "a fifth of lr from 2/3 of the epochs on, a fifth of that from 5/6 on"
"""What `training.fifth_twice` does, in the words of the recommended recipe."""


class Work(NamedTuple):
    """What a run is made of, before anything long begins."""

    path: str | None
    """How the data is found again; see `path_of`."""
    real: Dataset
    """The data, on the device."""
    settings: Settings
    """Resolved."""
    plan: Plan
    architecture: Architecture
    problem: Problem
    bank: Bank
    pool: Callable[[], models.ModelPool | None]
    """The early-stage models, trained or found when they are first asked for."""


def read(source: Any, settings: Settings, reporter: Reporter) -> tuple[Dataset, Settings]:
    """The data, where it is worked on, and the settings resolved for it; what is wrong with them is said before."""
    where, _ = refusing.check(settings)
    reporter.phase("reading data")
    real = data.load(source, settings.data)
    if settings.score.choose == "validation":
        real = real.held_out(settings.score.validation)
    real = real.to(where)
    reporter.update(1.0)
    return real, defaults.resolve(settings, real)


def prepare(
    source: Any,
    real: Dataset,
    settings: Settings,
    reporter: Reporter,
    *,
    wanted: Settings | None = None,
    plan: Plan | None = None,
) -> Work:
    """The pieces that settings name, for some data.

    Args:
        source: the data as given.
        real: the data, on the device.
        settings: resolved.
        reporter: told when early-stage models are trained.
        wanted: what was asked for; where it says nothing of targets, there will be as many as the budget pays for.
        plan: of a run that goes on; None is the fastest.
    """
    architecture = architecture_for(settings.network, real)
    problem = methods.problem(settings, real, architecture)

    @functools.cache
    def pool() -> models.ModelPool | None:
        return early_stage_models(real, architecture, settings, reporter)

    @functools.cache
    def networks_of() -> models.Source:
        return models.source(architecture, real.device, settings, pool())

    bank = Bank(real, problem, lambda key: networks_of()(key), settings)
    if wanted:
        settings = _afforded(bank, wanted, settings, real, reporter)
    plan = plan or planning.choose_plan(problem, real, settings)
    return Work(path_of(source), real, settings, plan, architecture, problem, bank, pool)


def _afforded(bank: Bank, wanted: Settings, resolved: Settings, real: Dataset, reporter: Reporter) -> Settings:
    """The resolved settings with as many targets as the budget pays for, where nothing was said of them."""
    count, budget = resolved.targets.count, resolved.loop.budget
    said = wanted.targets.count is not None or wanted.targets.folder or wanted.targets.refresh
    if said or not count or budget is None:
        return resolved
    paid = bank.afford(count, budget)
    if paid < count:
        reporter.note(f"{paid or 'No'} targets instead of {count}: a budget of {budget:g} s pays for no more.")
    return defaults.resolve(config.override(wanted, {"targets.count": paid}), real)


def announce(work: Work, reporter: Reporter, ranks: Ranks = ALONE) -> None:
    """Say what was understood, before anything long begins."""
    for line in words.describe(work.real, work.settings, work.architecture):
        reporter.note(line)
    reporter.note(words.describe_plan(work.plan, work.real.device))
    if not ranks.alone:
        reporter.note(f"The classes are divided among {ranks.count} processes.")


def scored(work: Work) -> list[tuple[str, Architecture, Protocol]]:
    """The networks that are trained on the result, as they were named, each with its protocol."""
    named = [(name, settings_for(name, work.settings.network)) for name in work.settings.score.networks or ()]
    networks = [(name, architecture_for(settings, work.real)) for name, settings in named]
    return [(name, network, protocol_for(work, network)) for name, network in networks]


def carry_out(
    work: Work, folder: RunFolder | None, reporter: Reporter, since: Checkpoint | None = None, ranks: Ranks = ALONE
) -> Result:
    """Everything of a run that takes long, from its beginning or from where it was interrupted.

    Of several ranks, which all learn, the first alone has a folder, scores and speaks.
    """
    real, resolved, networks = work.real, work.settings, scored(work)
    saved = folder.path / "distilled" if folder else None
    distilled = ranks.leader(lambda: artifact.load(saved) if saved and saved.exists() else None)
    if not distilled:  # otherwise the run was interrupted while it was scored
        distilled = _learned(work, folder, reporter, since, ranks)
        if folder and resolved.score.choose == "validation":
            began = time.perf_counter()
            protocol = protocol_for(work, work.architecture)
            distilled = best_on_validation(distilled, real, work.architecture, protocol, resolved, folder, reporter)
            distilled.info["seconds"]["choosing"] = round(time.perf_counter() - began, 2)
        if folder and saved:
            folder.check()
            artifact.save(distilled, saved)  # before scoring, which may take longer
    if not ranks.leads:
        return Result(distilled, (), distilled.info["seconds"], "", None)
    seconds: dict[str, float] = dict(distilled.info["seconds"])

    scores: tuple[Score, ...] = ()
    for name, network, protocol in networks if resolved.score.seeds and not resolved.shard else ():
        reporter.phase(f"scoring, {name}")
        scores += tuple(
            dataclasses.replace(each, network=name) for each in _scores(work, distilled, network, protocol, reporter)
        )
    seconds["scoring"] = round(sum(score.seconds for score in scores), 2)  # whenever these networks were trained

    outcome = {"scores": [score.to_dict() for score in scores], "seconds": seconds}
    distilled = dataclasses.replace(distilled, info=distilled.info | outcome)
    sentence = words.verdict(real, resolved, scores, distilled.info["sweeps"], seconds, distilled.info.get("halvings"))
    if folder:
        folder.check()
        artifact.annotate(distilled, folder.path / "distilled")
        folder.evaluation({"verdict": sentence, **outcome}, distilled.info["sweeps"])
    return Result(distilled, scores, seconds, sentence, folder.path if folder else None)


def ended(path: Path) -> Result:
    """What a finished run has made, as its folder says.

    Raises:
        InputError: something of it is damaged.
    """
    distilled = artifact.load(path)
    try:
        record = json.loads((path / "evaluation.json").read_text())
        scores = tuple(Score.from_dict(score) for score in record["scores"])
        return Result(distilled, scores, dict(record["seconds"]), str(record["verdict"]), path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{path}' holds a finished run, but evaluation.json is damaged: {error}. The set is whole: "
            f"'accdd evaluate {shlex.quote(str(path))}' scores it."
        ) from None


def early_stage_models(
    real: Dataset, architecture: Architecture, settings: Settings, reporter: Reporter
) -> models.ModelPool | None:
    """The early-stage models, trained or found; None where the settings want fresh networks."""
    if not settings.pool.use:
        return None
    reporter.phase("early-stage models")
    built = models.load_or_build(real, architecture, settings, reporter.update)
    reporter.update(1.0)
    return built


def build_bank(bank: Bank, count: int, reporter: Reporter, ranks: Ranks = ALONE) -> None:
    """Make what is missing of the first `count` targets."""
    reporter.phase("targets")
    bank.build(count, reporter.update, ranks)
    reporter.update(1.0)


def architecture_for(settings: config.Network, real: Dataset) -> Architecture:
    """The network for this data."""
    return networks.architecture(settings, real.channels, real.size, real.num_classes)


def path_of(source: Any) -> str | None:
    """How the data is found again: its name, its hub id, or its path (absolute); None for what was only in memory."""
    if isinstance(source, str) and (data.is_name(source) or source.startswith("hf:")):
        return source
    return str(Path(source).expanduser().absolute()) if isinstance(source, str | Path) else None


def _learned(
    work: Work, folder: RunFolder | None, reporter: Reporter, since: Checkpoint | None, ranks: Ranks
) -> Distilled:
    """The set, with networks, targets and images made or gone on with; `info` says what each took."""
    real, resolved, bank = work.real, work.settings, work.bank
    where, count = real.device, resolved.targets.count or 0
    if count:
        reporter.note(words.describe_bank(bank, count))
    # What networks and targets cost is said whether they were made now or found in the cache; a bank that was brought
    # along in a folder of its own needs no networks.
    brought = count and resolved.targets.folder and not resolved.targets.refresh and not bank.missing(count)
    if not brought:
        ranks.leader(lambda: work.pool() and None)  # where the cache is shared, the others find them
    trained = None if brought else work.pool()
    seconds = {"pool": trained.seconds if trained else 0.0}
    if count:
        build_bank(bank, count, reporter, ranks)
        seconds["targets"] = round(bank.seconds(count), 2)
        begin = functools.partial(loop.distill_on_targets, real, work.problem, bank, resolved, ranks=ranks)
    else:
        next_network = models.source(work.architecture, where, resolved, trained)
        begin = functools.partial(loop.distill, real, work.problem, next_network, resolved, ranks=ranks)
    if ranks.alone:
        most = planning.most_parts(work.problem, resolved)
        begin = within_memory(begin, work.plan, reporter.note, most, functools.partial(_release, bank))
    else:  # they cannot each repeat a sweep
        begin = functools.partial(begin, work.plan)
    learned = learn(begin, where, resolved, reporter, folder, since, ranks)
    seconds["distilling"] = round(learned.seconds, 2)
    assert resolved.images.factor
    troubled = {"halvings": learned.halvings} if learned.halvings else {}
    return Distilled(
        images=learned.images.flatten(0, 1).cpu(),
        labels=torch.arange(real.num_classes)[ranks.share(real.num_classes) if ranks.apart else slice(None)]
        .repeat_interleave(resolved.ipc),
        class_names=real.class_names, mean=real.mean, std=real.std,
        factor=resolved.images.factor, formation=decoded_by(resolved.images.formation),
        info=_info(work, learned.sweeps) | troubled | {"seconds": seconds},
    )  # fmt: skip


def _release(bank: Bank) -> None:
    """Let go of what a GPU holds that can be made again: recorded launches, and targets."""
    bank.release()
    training.make_step.cache_clear()
    recording.forget()


def _scores(
    work: Work, distilled: Distilled, network: Architecture, protocol: Protocol, reporter: Reporter
) -> tuple[Score, Score]:
    """Of the set, and of as many random real images, drawn again for every network."""
    real, settings = work.real, work.settings
    root, seeds = Key(settings.seed), settings.score.seeds
    keys, way = evaluation.network_keys(root, seeds), Way.of(settings)
    images, labels = distilled.decode()
    own = evaluation.score(
        "distilled", images, labels, real, network, protocol, way, mean=real.mean, std=real.std, keys=keys,
        content=digest(images, labels), report=lambda share: reporter.update(share / 2),
    )  # fmt: skip
    rows = evaluation.chosen("random", evaluation.Real(real, network, settings), settings.ipc, root, seeds)
    random = evaluation.beside(
        "random", real, rows, real, network, protocol, way, keys=keys,
        report=lambda share: reporter.update((1 + share) / 2),
    )  # fmt: skip
    own = dataclasses.replace(own, bytes=evaluation.storage(distilled.images, distilled.labels))
    return own, dataclasses.replace(random, beside=own.set)


def protocol_for(work: Work, network: Architecture) -> Protocol:
    """The protocol of the run's scores, as its source applies it to them."""
    rule = PROTOCOLS[work.settings.score.protocol]
    return evaluation.suited(rule, case(work.real, work.settings)._replace(network=network.name))


def case(real: Dataset, settings: Settings) -> Case:
    """What a protocol may make exceptions for, but for the network."""
    return Case(real.name, settings.ipc, settings.images.factor or 1, real.size, real.num_classes)


def _info(work: Work, sweeps: int) -> dict[str, Any]:
    """What the artefact says about itself."""
    real, settings = work.real, work.settings
    # What is worth training on the set for, however it was scored.
    idc = evaluation.suited(PROTOCOLS["idc"], case(real, settings))
    recipe = {"epochs": idc.epochs, "schedule": SCHEDULE, **config.to_dict(idc.recipe)}
    return {
        "method": settings.method,
        "source": {"name": real.name, "path": work.path, "fingerprint": real.fingerprint},
        "settings": config.to_dict(settings),
        "plan": dataclasses.asdict(work.plan),
        "sweeps": sweeps,
        "recipe": recipe,
        "versions": {"accdd": version("accdd"), "torch": torch.__version__},
        "scores": [],
    }
