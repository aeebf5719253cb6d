"""Reproduction: what was published for a preset, beside what comes out here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accdd import config, data, files
from accdd.config import InputError, Settings
from accdd.presets import PRESETS, Preset, given
from accdd.run import Quiet, Reporter
from accdd.studies import rows
from accdd.studies.cells import Cell, Study, of_seed
from accdd.studies.rows import Row

WIDEST = 4.0
"""Points of percent that an interval may span and still say that something was reproduced: methods that are worth
telling apart lie 2 points apart."""


class Reproduction(NamedTuple):
    """A published row and ours."""

    preset: str
    ipc: int
    source: str
    """Who published it."""
    published: float
    """Test accuracy in percent, as its authors report it."""
    cost: str
    """What the published run took, as far as it is known."""
    data: str
    """What it was tried on."""
    row: Row
    """What came out."""
    share: float
    """Of the published number of sweeps."""
    seconds: Mapping[str, float]
    """Wall-clock time of each phase, of the first set."""
    precision: str | None
    """In which networks were trained for the score, as `auto` or the user chose it: published ones were in fp32."""
    changed: tuple[str, ...]
    """Settings that are not the preset's, and other data than it was published on."""

    @property
    def difference(self) -> float:
        """Points of percent, ours - published."""
        return self.row.mean - self.published

    @property
    def verdict(self) -> str:
        """In a sentence: only complete runs with the preset's own settings are judged, and only several of them."""
        reasons = []
        if self.share != 1:
            how = "cut short at" if self.share < 1 else "gone on to"
            reasons.append(f"{how} {_percent(self.share)} of the published steps")
        reasons += [f"not the published settings ({', '.join(self.changed)})"] if self.changed else []
        if reasons:
            return f"No reproduction: {', and '.join(reasons)}."
        if self.row.interval is None or self.row.sets < 2:
            return "No verdict: one set does not say how far others are from it. Expected --seeds 3."
        low, high = self.row.interval
        if low <= self.published <= high:
            if high - low > WIDEST:
                return (
                    f"No verdict: the published accuracy lies within our interval, which is {high - low:.1f} points "
                    "wide. Expected more --seeds."
                )
            return "Reproduced: the published accuracy lies within our interval."
        where = "below" if high < self.published else "above"
        return f"Not reproduced: our interval lies {where} the published accuracy."

    def __str__(self) -> str:
        row = self.row
        within = "" if row.interval is None else " [{:.1f}, {:.1f}]".format(*row.interval)
        deviation = "" if row.deviation is None else f" ± {row.deviation:.1f}"
        ours = f"{row.mean:.1f}{deviation} %{within} ({row.replicates}, protocol {row.protocol}, {self.precision})"
        took = ", ".join(f"{value:.0f} s {phase}" for phase, value in self.seconds.items())
        return (
            f"{self.preset}, IPC {self.ipc}, on {self.data}\n"
            f"published  {self.published:.1f} %  {self.source}{f'; {self.cost}' if self.cost else ''}\n"
            f"ours       {ours}; {took}\n"
            f"difference {self.difference:+.1f} points, at {_percent(self.share)} of the published steps\n"
            f"{self.verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        more = {"difference": round(self.difference, 2), "verdict": self.verdict}
        return self._asdict() | {"row": self.row.to_dict(), "changed": list(self.changed)} | more


def reproduce(
    name: str,
    source: Any,
    out: str | Path,
    *,
    ipc: int | None = None,
    seeds: int = 1,
    settings: Mapping[str, Any] | None = None,
    executor: str = "inline",
    reporter: Reporter | None = None,
) -> Reproduction:
    """Distil by a preset, score as its authors did, and put the result beside what they published.

    Args:
        name: a name from `accdd.presets.PRESETS` for which something is published.
        source: the data it was published on, as for `accdd.distill`; None looks for it by its name.
        out: a folder: new, or this study's.
        ipc: images per class; None is the smallest number for which something is published.
        seeds: sets distilled, each with early-stage models of its own.
        settings: dotted; those that decide the set are said beside the result. `loop.budget` cuts it short.
        executor: what carries cells out: `inline`, `local:K`, `slurm` or `ray` (see `accdd.executor`).
        reporter: told of progress; None is silent.

    Raises:
        InputError: nothing is published; or as for `ablate`.
        ArithmeticError: as for `ablate`.
    """
    preset, reporter = config.choose("preset", name, PRESETS), reporter or Quiet()
    if not preset.published or ipc not in (None, *preset.published):
        there = ", ".join(each for each, row in PRESETS.items() if row.published)
        if not preset.published:
            raise InputError(f"Nothing is published for '{name}', as far as accdd knows. Expected one of: {there}.")
        raise InputError(
            f"Nothing is published for '{name}' at IPC {ipc}, as far as accdd knows. Expected --ipc "
            f"{' or '.join(map(str, preset.published))}, or one of: {there}."
        )
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: there is nothing to distil. Expected at least 1.")
    ipc = min(preset.published) if ipc is None else ipc
    own = dict(settings or {})
    for key in ("ipc", "seed", "pool.seed"):
        if key in own:
            raise InputError(f"A reproduction sets '{key}' itself. Expected --ipc and --seeds instead.")
    common = {"score.protocol": preset.protocol, **own, "ipc": ipc}
    networks = config.override(Settings(), given(name, common)).score.networks or ()
    if len(networks) > 1:
        raise InputError(f"score.networks has {len(networks)}, and a published row is of one. Expected one network.")
    known = _published_on(name)
    if source is None and not known:
        raise InputError(f"'{name}' was published on no data that accdd knows by name. Expected --data DATA.")
    doing = Study(Path(out), "reproduce", known if source is None else source, name, reporter, executor)
    cells = [Cell(f"seed-{seed}", of_seed(common, seed, independent=True)) for seed in range(seeds)]
    outcomes, real = doing.outcomes(common, cells)
    published = config.override(Settings(), preset.changes(ipc)).loop
    assert published.steps  # every published row says
    share = min(outcome.sweeps for outcome in outcomes) / (published.steps * published.inner_steps)
    row = rows.summary({"preset": name}, outcomes, independent=True)[0]
    found = Reproduction(
        name, ipc, preset.source, preset.published[ipc], preset.cost, real.name, row, share, outcomes[0].seconds,
        outcomes[0].scores[0].precision, _changed(name, preset, ipc, own, real.name),
    )  # fmt: skip
    files.write_text(doing.folder / "reproduction.json", json.dumps(found.to_dict(), indent=1))
    rows.write(doing.folder, [row])
    return found


NEUTRAL = (
    "loop.steps", "loop.budget", "loop.checkpoint", "loop.snapshots", "score.seeds", "device", "compile", "data.root",
    "max_memory", "precision",
)  # fmt: skip
"""What changes neither a run nor its scores, but for when they end, which is said in steps, and for their precision,
which is said beside the result, whoever chose it."""


def _changed(name: str, preset: Preset, ipc: int, own: Mapping[str, Any], called: str) -> tuple[str, ...]:
    """What is not as published."""
    published = preset.changes(ipc) | {"score.protocol": preset.protocol}
    before, after = (config.flatten(config.to_dict(config.override(Settings(), each)))
                     for each in (published, {**published, **own}))  # fmt: skip
    for each in (before, after):
        each["score.networks"] = list(each["score.networks"] or [each["network.name"]])
    changed = [key for key in own if key not in NEUTRAL and before[key] != after[key]]
    known = _published_on(name)
    other = [f"data {called} instead of {known}"] if known and not _is_data(called, known) else []
    return (*changed, *other)


def _published_on(preset: str) -> str | None:
    """The data that is a part of a preset's name."""
    return max((each for each in data.NAMED if each in preset), key=len, default=None)


def _is_data(called: str, known: str) -> bool:
    """Whether data is of exactly that name, or by that of its whole on the hub: cifar10-jpeg is not cifar10."""
    facts = data.NAMED[known]
    names = (known,) if facts.only else (known, facts.hub.rpartition("/")[2].lower())
    return called.lower().rpartition("/")[2] in names


def _percent(share: float) -> str:
    """As in '5 %', '0.03 %'; 100 % is no less."""
    return f"{100 * share:.3g} %" if share < 0.999 else f"{100 * share:.6g} %"
