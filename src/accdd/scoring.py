"""Scores of distilled sets, and of real images beside them, for whoever has a folder or a set in hand."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accdd import artifact, config, defaults, evaluation, networks, run
from accdd import executor as executors
from accdd.artifact import Distilled
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.evaluation import Score, Way
from accdd.keys import Key, digest
from accdd.networks import runs_code, settings_for
from accdd.run import Quiet, Reporter, course, refusing


def evaluate(
    sets: str | Path | Distilled | Sequence[str | Path | Distilled],
    *,
    test: Any = None,
    networks: str | Sequence[str] | None = None,
    seeds: int = 3,
    protocol: str | Sequence[str] = "idc",
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    compile: str = "auto",
    precision: str = "auto",
    max_memory: float | None = None,
    snapshots: bool = False,
    data: Any = None,
    baselines: str | Sequence[str] = (),
    whole: bool = False,
    best_on_test: bool = False,
    fresh: bool = False,
    executor: str = "inline",
    reporter: Reporter | None = None,
) -> list[Score]:
    """Train fresh networks on distilled sets, and on real images beside them, and test them.

    Every network that was trained is kept in the cache, so that an evaluation that was stopped goes on where it was.

    Args:
        sets: distilled sets: folders of runs or of sets, or `Distilled` values.
        test: real data, whose test split is used, or all of it if it has none; None takes the data that each set
            was made from, if it is unchanged.
        networks: a name, or several, from `accdd.networks.NETWORKS`, with what is to be special about them, as in
            `convnet/width=32/depth=4`; or of your own (`module:callable`, `timm:NAME`). None takes the network the
            set was matched with, unless using that would run code that a file names.
        seeds: fresh networks per score.
        protocol: a name from `accdd.evaluation.PROTOCOLS`, or several.
        epochs: instead of the protocol's own number.
        seed: decides initialisation, order and augmentation of the networks.
        device: where to train.
        compile: `auto`, `always` or `never`.
        precision: `auto`, `fp32` or `bf16`.
        max_memory: gigabytes of a GPU that may be taken; None is all of it. On a CPU nothing limits it.
        snapshots: score the snapshots of the runs instead of their results, for accuracy over time.
        data: real data, whose training images baselines choose from; None is the data that each set was made from.
        baselines: a name, or several, from `accdd.evaluation.BASELINES`: as many real images as the set stores, by the
            same protocol and with networks that begin alike.
        whole: score the whole training set, too, by its own protocol (`accdd.evaluation.WHOLE`): an upper bound.
        best_on_test: also keep the highest test accuracy during training, for comparison with papers that report it.
        fresh: train all networks, whatever is found in the cache.
        executor: what trains them, each set's networks one by one: `inline` (here), `local:K`, `slurm` or `ray` (see
            `accdd.executor`). The cache must be one that all workers see.
        reporter: told of progress; None is silent.

    Returns:
        A score per set (or snapshot), network and protocol, each followed by those of the baselines beside it. The
        whole set, which has its own protocol, follows the first alone.

    Raises:
        InputError: something given is wrong, or a worker failed; networks that were trained are kept.
    """
    listed = [sets] if isinstance(sets, str | Path | Distilled) else list(sets)
    asked = _Asked(
        test=test, networks=_names(networks or ()), seeds=seeds, seed=seed, device=device, max_memory=max_memory,
        protocols=_protocols(protocol),
        snapshots=snapshots, data=data, baselines=_names(baselines), whole=whole,
        way=Way(epochs, best_on_test, compile, precision, fresh),
    )  # fmt: skip
    reporter = reporter or Quiet()
    opened = _opened(listed, asked)
    if executor == "inline":
        return _scores(listed, opened, asked, range(seeds), reporter)
    # Baselines are chosen once: where two images are nearly equal, another number of threads may choose the other.
    chosen = [_choose(distilled, asked, reporter) for distilled in opened]
    with executors.marks() as folder:
        tasks = []
        for label, entry, rows in zip(called(listed), listed, chosen, strict=True):
            for of in [(each,) for each in asked.networks] or [()]:
                for number in range(seeds):
                    name = " ".join(filter(None, (label, *of, f"network {number}")))
                    arguments = (entry, rows, asked._replace(networks=of), number)
                    tasks.append(executors.marked(name, _in_cache, arguments, folder / str(len(tasks))))
        executors.run(tasks, executor, reporter.note)
    found = asked._replace(way=asked.way._replace(fresh=False, handed_out=True))
    return _scores(listed, opened, found, range(seeds), reporter, chosen)


class _Asked(NamedTuple):
    """What `evaluate` was asked, but for the sets."""

    test: Any
    networks: tuple[str, ...]
    seeds: int
    protocols: tuple[str, ...]
    seed: int
    device: str
    max_memory: float | None
    snapshots: bool
    data: Any
    baselines: tuple[str, ...]
    whole: bool
    way: Way

    @property
    def settings(self) -> Settings:
        """Those that differ from a run's."""
        changes = {
            "device": self.device, "seed": self.seed, "compile": self.way.compile,
            "precision": self.way.precision, "max_memory": self.max_memory,
        }  # fmt: skip
        return config.override(Settings(), changes)


Chosen = Mapping[str, Tensor]
"""By baseline, int64 (networks, m): which real images each network is trained on."""


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Those of one or several."""
    return (given,) if isinstance(given, str) else tuple(given)


def _protocols(given: str | Sequence[str]) -> tuple[str, ...]:
    """The names of one or several, each once."""
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(name, str) for name in listed):
        raise InputError(f"protocol={given!r}. Expected one of {', '.join(evaluation.PROTOCOLS)}, or a list of some.")
    for name in listed:
        config.choose("protocol", name, evaluation.PROTOCOLS)
    return tuple(dict.fromkeys(listed))


def _in_cache(entry: str | Path | Distilled, chosen: Chosen, asked: _Asked, number: int) -> None:
    """Train one network of each score of a set, which is then found in the cache; a worker's task."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Scores cannot be kept")  # then they would be made in vain
        warnings.filterwarnings("ignore", message=".* networks diverged")  # said of all of them together
        _scores([entry], _opened([entry], asked), asked, range(number, number + 1), Quiet(), [chosen])


def _opened(listed: Sequence[str | Path | Distilled], asked: _Asked) -> list[Distilled]:
    """The sets, all of them before the first is scored, which may take long; and what can be found wrong before."""
    epochs = asked.way.epochs
    if asked.seeds < 1 or (epochs is not None and epochs < 1):
        raise InputError(f"seeds={asked.seeds}, epochs={epochs}: a score needs at least one network and one epoch.")
    settings = asked.settings
    refusing.check(settings)
    for name in asked.networks:
        settings_for(name, settings.network)
    for name in asked.baselines:
        config.choose("baseline", name, evaluation.BASELINES)
    opened = [entry if isinstance(entry, Distilled) else artifact.load(entry) for entry in listed]
    for label, distilled in zip(called(listed), opened, strict=True):
        made_with = distilled.info.get("settings")
        if isinstance(made_with, Mapping) and made_with.get("shard"):
            raise InputError(f"'{label}' has a part of the classes, as a shard. Expected the whole set: accdd merge.")
        if asked.baselines and len(set(distilled.labels.bincount(minlength=distilled.num_classes).tolist())) > 1:
            raise InputError(
                f"'{label}' has more images of some classes than of others, which baselines are not made for. "
                "Expected no baselines, or as many of every class."
            )
        matched = config.override(settings, evaluation.recorded(distilled, "network")).network
        if not asked.networks:
            refusing.refuse_recorded_code(matched.name, "--networks")
        for name in asked.networks or (matched.name,):
            _, channels, size, _ = distilled.images.shape
            networks.architecture(settings_for(name, matched), channels, size, distilled.num_classes)
    for entry, distilled in zip(listed, opened, strict=True) if len(opened) > 1 else ():
        evaluation.test_data(distilled, asked.test)
        if asked.baselines or asked.whole:
            evaluation.training_data(distilled, asked.data)
        if asked.snapshots and not isinstance(entry, Distilled):
            run.snapshots(entry)
    return opened


def _scores(
    listed: Sequence[str | Path | Distilled], opened: Sequence[Distilled], asked: _Asked, which: range,
    reporter: Reporter, chosen: Sequence[Chosen] | None = None,
) -> list[Score]:  # fmt: skip
    """The scores of some of the networks, by their numbers below `asked.seeds`."""
    scores: list[Score] = []
    said: set[str] = set()
    for place, (entry, label, distilled) in enumerate(zip(listed, called(listed), opened, strict=True)):
        tested, real = _real(distilled, asked, refusing.check(asked.settings)[0])
        about = "; ".join((f"Tested on {tested.name}: {len(tested.test_images):,} images", *tested.notes)) + "."
        if asked.test is not None and about not in said:
            reporter.note(about)
        said.add(about)
        rows = chosen[place] if chosen else _choose(distilled, asked, reporter, real)
        scores += _scores_of(entry, label, distilled, tested, real, rows, asked, which, reporter)
    found = sum(score.found or 0 for score in scores)
    if found and not asked.way.handed_out:
        reporter.note(
            f"{found} of {sum(score.n for score in scores)} networks were trained before; --fresh trains anew."
        )
    return scores


def _scores_of(
    entry: str | Path | Distilled, label: str, distilled: Distilled, tested: Dataset, real: Dataset | None,
    rows: Chosen, asked: _Asked, which: range, reporter: Reporter,
) -> list[Score]:  # fmt: skip
    """Those of one set on each network by each protocol, each followed by those of the real images beside it."""
    settings = asked.settings
    keys = evaluation.network_keys(Key(asked.seed), asked.seeds)[which.start : which.stop]
    report = reporter.update
    name = str(evaluation.origin(distilled).get("name") or tested.name)
    case = evaluation.Case(name, distilled.ipc, distilled.factor, tested.size, tested.num_classes)
    made_with = config.override(settings, evaluation.recorded(distilled, "network"))
    names = asked.networks or (made_with.network.name,)
    scored = {name: course.architecture_for(settings_for(name, made_with.network), tested) for name in names}
    scores: list[Score] = []
    for (name, architecture), protocol in itertools.product(scored.items(), asked.protocols):
        suited = evaluation.suited(evaluation.PROTOCOLS[protocol], case._replace(network=architecture.name))
        where = name if len(asked.protocols) == 1 else f"{name}, {protocol}"
        for version_label, images, labels in _versions(entry, label, distilled, asked.snapshots):
            reporter.phase(f"{Path(version_label).name} on {where}")
            found = evaluation.score(
                version_label, images, labels, tested, architecture, suited, asked.way,
                mean=distilled.mean, std=distilled.std, keys=keys, content=digest(images, labels), report=report,
            )  # fmt: skip
            stored = evaluation.storage(distilled.images, distilled.labels)
            scores.append(dataclasses.replace(found, network=name, bytes=stored))
        if not real:
            continue
        beside: list[Score] = []
        for baseline, chosen in rows.items():
            own = chosen[which.start : which.stop]
            reporter.phase(f"{baseline} on {where}")
            beside.append(
                evaluation.beside(
                    baseline, real, own, tested, architecture, suited, asked.way, keys=keys, report=report
                )
            )
        if asked.whole and protocol == asked.protocols[0]:
            reporter.phase(f"the whole set on {name}")
            beside.append(
                evaluation.whole(real, tested, architecture, asked.way._replace(epochs=None), keys=keys, report=report)
            )
            reporter.update(1.0)
        scores += [dataclasses.replace(each, network=name, beside=label) for each in beside]
    return scores


def _real(distilled: Distilled, asked: _Asked, where: torch.device) -> tuple[Dataset, Dataset | None]:
    """What a set is tested on, and what is scored beside it, if anything is."""
    tested = evaluation.test_data(distilled, asked.test).to(where)
    if not (asked.baselines or asked.whole):
        return tested, None
    real = evaluation.training_data(distilled, asked.data).to(where)
    tested = evaluation.apart(real, tested)
    if asked.baselines:
        evaluation.check_enough(real, distilled.ipc)
    return tested, real


def measure_rounding(
    distilled: Distilled, *, test: Any = None, network: str | None = None, seeds: int = 3, seed: int = 0,
    reporter: Reporter | None = None,
) -> list[Score]:  # fmt: skip
    """What rounding to 8 bits costs in accuracy: scores of the decoded set as it is and as pictures give it back.

    Both train networks from the same initial weights, in the same order and with the same augmentation.

    Args:
        distilled: the set.
        network: what to train; None is the network that the set was matched with, as for `evaluate`.
        test, seeds, seed, reporter: as for `evaluate`.

    Returns:
        Two scores, by the quick protocol: before and after.
    """
    both = [artifact.as_decoded(distilled), artifact.rounded(distilled)]
    scores = evaluate(both, test=test, networks=network, seeds=seeds, seed=seed, protocol="quick", reporter=reporter)
    return [dataclasses.replace(score, set=name) for score, name in zip(scores, ("float", "8 bits"), strict=True)]


def called(entries: Sequence[str | Path | Distilled]) -> list[str]:
    """What sets are called in their scores: their paths; those from memory `distilled`, `distilled-2` and so on."""
    from_memory = itertools.chain(["distilled"], (f"distilled-{number}" for number in itertools.count(2)))
    return [next(from_memory) if isinstance(entry, Distilled) else str(entry) for entry in entries]


def _choose(distilled: Distilled, asked: _Asked, reporter: Reporter, real: Dataset | None = None) -> Chosen:
    """Which real images each baseline trains on, looked at by early-stage models trained as the set's own were.

    They are of the network that the set was matched with, unless that is code which only a file names: then of the
    first that was asked for.
    """
    rows: dict[str, Tensor] = {}
    if not asked.baselines:
        return rows
    if real is None:
        _, real = _real(distilled, asked, refusing.check(asked.settings)[0])
    assert real  # there are baselines
    recorded = {**evaluation.recorded(distilled, "train"), **evaluation.recorded(distilled, "pool")}
    seen = config.override(asked.settings, evaluation.recorded(distilled, "network")).network
    if runs_code(seen.name):
        seen = settings_for(asked.networks[0], seen)
    settings = config.override(asked.settings, recorded)
    settings = config.override(settings, {"pool.epochs": settings.pool.epochs or defaults.EPOCHS})
    looking = evaluation.Real(real, course.architecture_for(seen, real), settings, reporter.update)
    for name in asked.baselines:
        reporter.phase(f"choosing, {name}")
        rows[name] = evaluation.chosen(name, looking, distilled.ipc, Key(settings.seed), asked.seeds)
        reporter.update(1.0)
    return rows


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
