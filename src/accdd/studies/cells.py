"""Cells: one distillation and its scores each, in a folder of their own, found again when a study goes on.

    FOLDER/study.json          what the study is; another study is refused
    FOLDER/CELL/cell.json      what the cell was asked for; another cell is refused
    FOLDER/CELL/run/           the run (see accdd.run)
    FOLDER/CELL/scores.json    its scores
    FOLDER/CELL/curve.json     those of its snapshots on the first network, where a study asks for them
    FOLDER/table.csv ...       what came out

A run that was stopped is gone on with. One that cannot be read is made again, with its scores, and what was there is
kept beside it as run.damaged-1 and so on; scores that cannot be read are made again.
"""

import collections
import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from accdd import (
    ahead,
    api,
    config,
    data,
    defaults,
    evaluation,
    execution,
    executor,
    files,
    presets,
    run,
    scoring,
    targets,
)
from accdd.config import InputError, Settings
from accdd.data import Dataset
from accdd.evaluation import Score
from accdd.networks import settings_for
from accdd.run import Quiet, Reporter, RunFolder, course, refusing

STUDY, CELL = "study.json", "cell.json"
SCORES = ("scores.json", "curve.json")


class Cell(NamedTuple):
    """What a cell is asked for."""

    name: str
    """Its folder below the study's."""
    settings: Mapping[str, Any]
    """Dotted; they win over the preset's."""
    baselines: tuple[str, ...] = ()
    """Real images scored beside it."""
    curve: bool = False
    """Whether its snapshots are scored on the first network, too."""


class Outcome(NamedTuple):
    """What came out of a cell."""

    scores: list[Score]
    """Of the set on each network, each followed by those of the baselines beside it."""
    curve: list[Score]
    """Of its snapshots on the first network, in order; empty where they were not asked for."""
    sweeps: int
    """Done."""
    seconds: Mapping[str, float]
    """Wall-clock time of each phase: pool, targets, distilling."""
    prepared: bool = False
    """Whether early-stage models or targets are behind it."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What the cells of a study share."""

    folder: Path
    kind: str
    """Name of the command, and whatever else tells this study from another."""
    source: Any
    """The data, as for `accdd.distill`."""
    preset: str | None
    reporter: Reporter
    executor: str = "inline"
    """What carries cells out (see accdd.executor)."""

    def outcomes(self, common: Mapping[str, Any], cells: Sequence[Cell]) -> tuple[list[Outcome], Dataset]:
        """What comes of the cells, each found or made, in their order; and the data of the first.

        Args:
            common: dotted settings that all cells share: they may not change when a study goes on, and cells may.
            cells: all of them.

        Raises:
            InputError: something is wrong with the settings, the data or the folder, and nothing has been written; or
                an executor's workers failed, and the other cells are kept.
            ArithmeticError: a network or the images of a cell diverged; the other cells are kept.
        """
        reals = self._begin(common, cells)
        for cell, real in zip(cells, reals, strict=True):
            self._claim(cell, real)
        if self.executor != "inline":
            self._hand_out(cells)
        found: list[Outcome] = []
        failed: list[tuple[Cell, ArithmeticError]] = []
        for number, cell in enumerate(cells, 1):
            self.reporter.note(f"Cell {number} of {len(cells)}: {cell.name}.")
            try:
                found.append(self._make(cell))
            except ArithmeticError as error:  # one value too far is no reason to be without the others
                failed.append((cell, error))
                self.reporter.note(f"Given up: {cell.name}: {error}")
            else:  # the table comes with the last of them, which may be hours away
                for score in found[-1].scores:
                    self.reporter.note(f"  {score.set if score.beside else 'learned'} on {score.network}: {score}")
        if failed:
            listed = "; ".join(f"{cell.name}: {error}" for cell, error in failed)
            raise ArithmeticError(
                f"{len(failed)} of {len(cells)} cells failed, the others are kept. {listed} Expected other values or "
                "settings there."
            ) from failed[0][1]
        return found, reals[0]

    def _begin(self, common: Mapping[str, Any], cells: Sequence[Cell]) -> list[Dataset]:
        """Check everything that can be found wrong, then make the folder, or see that it is this study's.

        Returns:
            The data of each cell.
        """
        executor.parse(self.executor)
        refusing.refuse_inside(self.folder, course.path_of(self.source))
        names = [cell.name for cell in cells]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"Two cells are called '{min(twice)}'. Expected values that differ, each once.")
        read: dict[config.Data, Dataset] = {}
        banks: dict[str, dict[str, Any]] = {}
        for cell in cells:
            wanted = self._wanted(cell.settings)
            _check_score(wanted)
            refusing.check_choosing(wanted, kept=True)
            execution.check(wanted.compile, execution.device(wanted.device))
            for name in cell.baselines:
                config.choose("baseline", name, evaluation.BASELINES)
            if wanted.data not in read:
                read[wanted.data] = data.load(self.source, wanted.data)
            real = read[wanted.data]
            if wanted.score.choose == "validation":
                real = real.held_out(wanted.score.validation)
            resolved = defaults.resolve(wanted, real)
            if folder := resolved.targets.folder:
                parts = targets.key_parts(real, resolved)
                if differing := targets.differing(banks.setdefault(folder, parts), parts):
                    raise InputError(
                        f"targets.folder holds one bank, and '{cell.name}' needs another ({', '.join(differing[:5])}). "
                        "Expected none: the cache keeps those of every cell."
                    )
            for name in (resolved.network.name, *(resolved.score.networks or ())):
                course.architecture_for(settings_for(name, resolved.network), real)
        reals = [read[self._wanted(cell.settings).data] for cell in cells]
        about = self._about(common)
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            if not (self.folder / STUDY).is_file():
                run.refuse_existing(self.folder)
            _agree(self.folder / STUDY, about, "study", "a new --out")
        for cell, real in zip(cells, reals, strict=True):
            if (self.folder / cell.name / CELL).exists():
                self._agree_cell(cell, real)
        files.write_text(self.folder / STUDY, json.dumps(about, indent=1))
        return reals

    def _hand_out(self, cells: Sequence[Cell]) -> None:
        """Have the executor make what is missing, which is then found."""
        alone = dataclasses.replace(self, folder=self.folder.absolute(), reporter=Quiet(), executor="inline")
        for folder, seed in ((self.folder / cell.name, self._wanted(cell.settings).seed) for cell in cells):
            there = [folder / name for name in SCORES if (folder / name).exists()]
            if any(_read(file, seed) is None for file in there):
                for file in there:  # or the cell would count as done
                    file.unlink()
        last = ["curve.json" if cell.curve else "scores.json" for cell in cells]
        tasks = [
            executor.Task(cell.name, alone._make, (cell,), alone.folder / cell.name / file)
            for cell, file in zip(cells, last, strict=True)
        ]
        for shared in self._shared([cell for cell, task in zip(cells, tasks, strict=True) if not task.done.exists()]):
            try:
                ahead.build_pool(
                    self.source, preset=self.preset, settings=shared.settings, executor=self.executor,
                    reporter=self.reporter,
                )  # fmt: skip
            except (ArithmeticError, InputError) as error:  # the cells that want it will say so, and the others go on
                self.reporter.note(f"Early-stage models of {shared.name}: {error}")
        executor.run(tasks, self.executor, self.reporter.note)

    def _shared(self, cells: Sequence[Cell]) -> list[Cell]:
        """A cell for each pool of early-stage models that several want, and would each train: the one of most."""
        wanting: dict[Any, list[Cell]] = collections.defaultdict(list)
        for cell in cells:
            wanted = self._wanted(cell.settings)
            if defaults.early_stage(wanted):
                pool = dataclasses.replace(wanted.pool, use=True, draw=None, networks=1)
                wanting[wanted.data, wanted.network, wanted.train, pool].append(cell)
        return [
            max(several, key=lambda cell: self._wanted(cell.settings).pool.networks)
            for several in wanting.values()
            if len(several) > 1
        ]

    def _claim(self, cell: Cell, real: Dataset) -> None:
        """Say in a cell's folder what it is."""
        folder = self.folder / cell.name
        if not (folder / CELL).exists():
            self._set_aside(folder, f"{CELL} is missing.")
            files.write_text(folder / CELL, json.dumps(self._cell_about(cell, real), indent=1))

    def _make(self, cell: Cell) -> Outcome:
        """The run and the scores of a cell, found or made; this is what a worker does."""
        folder = self.folder / cell.name
        self._learn(folder, cell)
        distilled = api.load(folder / "run")

        wanted = self._wanted(cell.settings)
        given = wanted.score
        named = given.networks or (wanted.network.name,)  # typed by the user, not only read from a file

        def scored(networks: Sequence[str], **options: Any) -> Callable[[], list[Score]]:
            return lambda: scoring.evaluate(
                folder / "run", test=self.source, data=self.source, networks=networks, seeds=given.seeds,
                protocol=given.protocol, seed=wanted.seed, epochs=given.epochs, device=wanted.device,
                compile=wanted.compile, precision=wanted.precision, max_memory=wanted.max_memory,
                reporter=self.reporter, **options,
            )  # fmt: skip

        scores = _found(folder / "scores.json", wanted.seed, scored(named, baselines=cell.baselines))
        curve = _found(folder / "curve.json", wanted.seed, scored(named[:1], snapshots=True)) if cell.curve else []
        seconds = {phase: value for phase, value in distilled.info["seconds"].items() if phase != "scoring"}
        made_with = distilled.info["settings"]
        prepared = bool(made_with["pool"]["use"] or made_with["targets"]["count"])
        return Outcome(scores, curve, distilled.info["sweeps"], seconds, prepared)

    def _learn(self, folder: Path, cell: Cell) -> None:
        """Make the run in a cell's folder, unless it is there, or go on with it."""
        out = folder / "run"
        try:
            finished = (out / "evaluation.json").exists()
            if finished or (out / "distilled").exists():
                api.load(out)
            if finished:
                if cell.curve and _read(folder / "curve.json", self._wanted(cell.settings).seed) is None:
                    for snapshot in run.snapshots(out):
                        run.read_snapshot(snapshot)
                return
            RunFolder.open(out)
        except InputError as error:  # half-written, damaged, of another version, or not there at all
            self._set_aside(folder, str(error))
            settings = {**cell.settings, "score.seeds": 0, "score.networks": []}  # `accdd.evaluate` scores
            api.distill(self.source, out=out, preset=self.preset, settings=settings, reporter=self.reporter)
            return
        network = self._wanted(cell.settings).network.name
        api.resume(out, self.source, network=network, reporter=self.reporter)

    def _set_aside(self, folder: Path, why: str) -> None:
        """Make room for a cell's run: one that is there is kept under another name, its scores are not."""
        for name in SCORES:
            (folder / name).unlink(missing_ok=True)
        there = folder / "run"
        if there.exists():
            kept = files.aside(there)
            there.rename(kept)
            self.reporter.note(f"'{there}' is made again; what was there is now '{kept}'. {why}")

    def _wanted(self, own: Mapping[str, Any]) -> Settings:
        return config.override(Settings(), presets.given(self.preset, own))

    def _about(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """What is compared when a study or a cell goes on."""
        asked = config.flatten(config.to_dict(config.override(Settings(), own)))
        return {
            "study": self.kind,
            "data": course.path_of(self.source),
            "preset": self.preset,
            **{key: asked[key] for key in own},
        }

    def _cell_about(self, cell: Cell, real: Dataset) -> dict[str, Any]:
        scored = {"baselines": list(cell.baselines), "curve": cell.curve}
        return self._about(cell.settings) | {"fingerprint": real.fingerprint} | scored

    def _agree_cell(self, cell: Cell, real: Dataset) -> None:
        file = self.folder / cell.name / CELL
        _agree(file, self._cell_about(cell, real), "cell", f"a new --out, or '{file}' removed")


def of_seed(settings: Mapping[str, Any], seed: int, independent: bool) -> dict[str, Any]:
    """The settings of a replicate, which has early-stage models and targets of its own if it is `independent`.

    Raises:
        InputError: the settings say which early-stage models.
    """
    if independent and "pool.seed" in settings:
        raise InputError("Independent sets each have the pool of their seed. Expected no 'pool.seed' beside it.")
    return {**settings, "seed": seed, **({"pool.seed": seed} if independent else {})}


def folder_name(values: Mapping[str, Any]) -> str:
    """What the folder of a combination is called, as in 'pool.draw=0.5,perturb.magnitude=0.1'."""
    name = ",".join(f"{key}={text(value)}" for key, value in values.items())
    short = re.sub(r"[^\w.=,+-]", "_", name)
    if len(short) > 150:  # what tells it from others may come later
        short = f"{short[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:9]}"
    return short or "all"


def text(value: Any) -> str:
    """A setting's value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _check_score(wanted: Settings) -> None:
    score = wanted.score
    config.choose("protocol", score.protocol, evaluation.PROTOCOLS)
    if score.seeds < 1 or score.networks == ():
        raise InputError(
            f"score.seeds = {score.seeds}, score.networks = {score.networks}: a study without scores says nothing. "
            "Expected --set score.seeds=1 or more, and score.networks."
        )
    if wanted.shard:
        raise InputError(f"shard = {list(wanted.shard)}: a part of the classes cannot be scored. Expected all of them.")


def _agree(file: Path, wanted: Mapping[str, Any], what: str, instead: str) -> None:
    """Refuse to go on in the folder of another study or cell, naming what differs; `instead` of an unreadable one."""
    try:
        there = TypeAdapter(dict[str, Any]).validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"'{file}' cannot be read: {why}. Expected {instead}.") from None
    wanted = json.loads(json.dumps(wanted))
    differing = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    if differing:
        listed = "; ".join(f"{key}: {there.get(key)} there, {wanted.get(key)} wanted" for key in differing[:5])
        raise InputError(
            f"{shlex.quote(str(file.parent))} holds another {what} ({listed}). "
            "Expected the settings that it was begun with, or a new --out."
        )


def _found(file: Path, seed: int, make: Callable[[], list[Score]]) -> list[Score]:
    """The scores in a file, or made and written there."""
    scores = _read(file, seed)
    if scores is None:
        scores = make()
        kept = _Kept(evaluation.VERSION, scores)
        files.write_text(file, json.dumps(dataclasses.asdict(kept), indent=1))
    return scores


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What is in a file of scores."""

    version: int
    scores: list[Score]


def _read(file: Path, seed: int) -> list[Score] | None:
    """The scores in a file; None where it is not there, half-written or damaged, older than `evaluation.VERSION`, or of
    networks of another seed."""
    try:
        kept = TypeAdapter(_Kept).validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    own = kept.version == evaluation.VERSION and all(score.seed == seed for score in kept.scores)
    return kept.scores if own else None
