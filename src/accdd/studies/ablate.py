"""Ablation: a grid of settings, seeds as replicates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from accdd.config import InputError
from accdd.run import Quiet, Reporter
from accdd.studies import grids, pictures, rows
from accdd.studies.cells import Cell, Study, folder_name, of_seed
from accdd.studies.grids import Grid
from accdd.studies.rows import Row


class Found(NamedTuple):
    """What came out of a study."""

    rows: list[Row]
    """In the order in which they were asked for."""
    pictures: list[Path]


def ablate(
    source: Any,
    out: str | Path,
    over: Grid | None = None,
    *,
    study: str | None = None,
    seeds: int = 1,
    independent: bool = False,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    executor: str = "inline",
    reporter: Reporter | None = None,
) -> Found:
    """Distil with every combination of some settings, score each set, and write a table and a picture.

    A study that was stopped goes on where it was, also with more values or more seeds.

    Args:
        source: data as for `accdd.distill`.
        out: a folder: new, or this study's.
        over: dotted settings with the values that each takes, as in {"pool.networks": [1, 2, 5]}.
        study: a name from `accdd.studies.NAMED`; its grid is joined with `over`.
        seeds: sets distilled with every combination, from the seeds 0, 1 and so on.
        independent: every seed has early-stage models and targets of its own, too, which all share otherwise: their
            deviation is then that of the whole method, and not only of its start and the networks that score it.
        preset: a name from `accdd.presets.PRESETS`.
        settings: dotted, of all cells; those of `score` say how sets are scored.
        executor: what carries cells out: `inline`, `local:K`, `slurm` or `ray` (see `accdd.executor`).
        reporter: told of progress; None is silent.

    Raises:
        InputError: something given is wrong, and nothing has been written; or workers failed.
        ArithmeticError: what some cells learned diverged; the others are kept, as they are where workers failed.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: there is nothing to distil. Expected at least 1.")
    reporter = reporter or Quiet()
    grid, common = grids.joined(study, over or {}, settings or {})
    if "seed" in common:
        raise InputError("Seeds are replicates. Expected --seeds NUMBER and no setting 'seed'.")
    combinations = grids.combinations(grid)
    kind = f"ablate over {', '.join(grid)}"
    doing = Study(Path(out), kind, source, preset, reporter, executor)

    cells = [
        Cell(f"{folder_name(values)}/seed-{seed}", of_seed({**common, **values}, seed, independent))
        for seed in range(seeds)  # so that a stopped study has every combination equally often
        for values in combinations
    ]
    outcomes, _ = doing.outcomes(common, cells)
    by_combination = [outcomes[number :: len(combinations)] for number in range(len(combinations))]
    summaries = [
        rows.summary(values, own, independent) for values, own in zip(combinations, by_combination, strict=True)
    ]
    found = rows.with_differences([row for summary in summaries for row in summary])
    rows.write(doing.folder, found)
    draw = pictures.grid(found, list(grid))
    panels = len({row.network for row in found}) if len(grid) > 1 else 1
    drawn = pictures.save(doing.folder / "ablation.png", draw, reporter, panels=panels) if draw else None
    return Found(found, [drawn] if drawn else [])
