"""Comparison: host methods and baselines, each under one budget."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accdd import config, methods
from accdd.config import InputError
from accdd.run import Quiet, Reporter
from accdd.studies import pictures, rows
from accdd.studies.ablate import Found
from accdd.studies.cells import Cell, Study, of_seed

HOSTS = ("idc", "dsa", "dc", "dm")
BASELINES = ("random", "herding", "kcenter")


def compare(
    source: Any,
    out: str | Path,
    *,
    hosts: Sequence[str] = HOSTS,
    baselines: Sequence[str] = BASELINES,
    seeds: int = 1,
    independent: bool = False,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    executor: str = "inline",
    reporter: Reporter | None = None,
) -> Found:
    """Distil by several host methods with the same settings, and score the sets beside as many real images.

    The budget is that of the distilling loop (`loop.budget`); snapshots are scored when it is over.

    Args:
        source: data as for `accdd.distill`.
        out: a folder: new, or this study's.
        hosts: names from `accdd.methods.METHODS`.
        baselines: names from `accdd.evaluation.BASELINES`.
        seeds: sets distilled by every method, from the seeds 0, 1 and so on.
        independent, preset, settings, executor, reporter: as for `ablate`.

    Raises:
        InputError, ArithmeticError: as for `ablate`.
    """
    reporter, common = reporter or Quiet(), dict(settings or {})
    if seeds < 1 or not hosts:
        raise InputError(f"{len(hosts)} methods, {seeds} seeds: there is nothing to distil. Expected at least 1 each.")
    if len({*hosts}) < len(hosts) or len({*baselines}) < len(baselines):
        raise InputError("A method or baseline is named twice. Expected each once.")
    for key in ("method", "seed"):
        if key in common:
            raise InputError(f"A comparison sets '{key}' itself. Expected --methods and --seeds instead.")
    for name in hosts:
        methods.named(name)
    if config.override(config.Settings(), common).loop.snapshots == 0:
        raise InputError("loop.snapshots = 0 leaves nothing to draw over time. Expected at least 1.")
    doing = Study(Path(out), "compare", source, preset, reporter, executor)
    # How a set is learned may decide its protocol, which is that of the baselines beside it; others are in the cache.
    cells = [
        Cell(f"{name}/seed-{seed}", of_seed({**common, "method": name}, seed, independent), curve=True,
             baselines=tuple(baselines) if seed == 0 else ())
        for seed in range(seeds)
        for name in hosts
    ]  # fmt: skip
    outcomes, _ = doing.outcomes(common, cells)
    by_host = {name: outcomes[number :: len(hosts)] for number, name in enumerate(hosts)}
    learned = [row for name, own in by_host.items() for row in rows.summary({"method": name}, own, independent)]
    real_images = [row for own in by_host.values() for row in rows.beside("method", own[0].scores)]
    beside = list({(row.what["method"], row.network, row.protocol): row for row in real_images}.values())
    for network in dict.fromkeys(row.network for row in learned):
        protocols = rows.protocols(row for row in learned if row.network == network)
        if len(protocols) > 1:
            reporter.note(
                f"On {network} the sets were scored by different protocols ({'; '.join(protocols)}), as their source "
                "makes exceptions for the factor and the images per class: accuracies by different ones do not compare."
            )
    found = rows.with_differences(learned + beside)
    rows.write(doing.folder, found)
    curves = {name: [outcome.curve for outcome in own] for name, own in by_host.items()}
    drawn = pictures.save(doing.folder / "over-time.png", pictures.over_time(curves, beside), reporter)
    return Found(found, [drawn] if drawn else [])
