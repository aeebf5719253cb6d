"""Grids of settings, and the paper's own studies by name."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from accdd import config
from accdd.config import InputError, Settings

Grid = Mapping[str, Sequence[Any]]
"""Dotted settings with the values that each takes."""

EPOCHS = (0, 0.5, 1, 2, 5, 10, 20)


class Named(NamedTuple):
    """A study of the paper's; its values are ours where the paper states none."""

    over: Grid
    about: str
    changes: Mapping[str, Any] = {}
    """Settings of all cells."""


NAMED: Mapping[str, Named] = {
    "pre-training": Named(
        {"pool.draw": EPOCHS},
        "how long early-stage models are trained; one pool serves all",
        {"pool.epochs": EPOCHS, "pool.schedule": "falling"},
    ),
    "models": Named({"pool.networks": (1, 2, 5, 10)}, "how many early-stage models there are"),
    "magnitude": Named({"perturb.magnitude": (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)}, "how far they are perturbed"),
    "directions": Named({"perturb.directions": (1, 2, 4)}, "in how many directions"),
    "normalisation": Named({"perturb.normalisation": ("filter", "layer", "none")}, "how directions are scaled"),
    "where": Named(
        {"pool.use": (False, True), "perturb.use": (False, True)},
        "which networks are perturbed: none, fresh ones or early-stage models",
    ),
    "factor": Named({"images.factor": (1, 2, 3)}, "how many images are stored in one"),
}


def parse(assignments: Sequence[str]) -> dict[str, list[Any]]:
    """'pool.networks=1,2,5' and the like to a grid; values are YAML.

    Raises:
        InputError: no '=', no values, or a key given twice.
    """
    grid: dict[str, list[Any]] = {}
    for assignment in assignments:
        key, equals, values = (part.strip() for part in assignment.partition("="))
        try:
            listed = yaml.safe_load(f"[{values}]")
        except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none, or brackets without end
            listed = []
        if not equals or not listed:
            raise InputError(
                f"--over {assignment} lists no values. Expected KEY=VALUE,VALUE, as in --over pool.networks=1,2,5."
            )
        if key in grid:
            raise InputError(f"--over has '{key}' twice. Expected it once, with all of its values.")
        grid[key] = listed
    return grid


def joined(study: str | None, over: Grid, settings: Mapping[str, Any]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The grid of a named study and of what is given beside it, and the settings that all of its cells share.

    Raises:
        InputError: no such study or setting, no values, or a setting given both here and there.
    """
    named = config.choose("study", study, NAMED) if study else Named({}, "")
    for key in over:
        if key in named.over:
            raise InputError(f"--over {key} and --study {study} both vary '{key}'. Expected one of the two.")
    grid = {key: list(values) for key, values in {**named.over, **over}.items()}
    if not grid:
        raise InputError(f"Nothing is varied. Expected --over KEY=VALUE,VALUE or --study {'|'.join(NAMED)}.")
    for key, values in grid.items():
        if not values:
            raise InputError(f"'{key}' has no values to take. Expected some, as in --over pool.networks=1,2,5.")
        if key == "seed":
            raise InputError("Seeds are replicates. Expected --seeds NUMBER instead of --over seed.")
        if key in settings:
            raise InputError(f"'{key}' is both set and varied. Expected it in --over alone.")
        grid[key] = [_taken(key, value) for value in values]
    used = {}
    for group, apart in (("pool", "pool.seed"), ("perturb", "")):
        use, varied = f"{group}.use", [key for key in grid if key.startswith(f"{group}.") and key != apart]
        if not varied or use in grid:
            continue
        if settings.get(use) in (False, "false"):
            raise InputError(f"'{use}' is false, so '{varied[0]}' would vary nothing. Expected it true, or left out.")
        used[use] = True  # whatever the method or the preset does
    return grid, {**used, **named.changes, **settings}


def _taken(key: str, value: Any) -> Any:
    """A value as its setting takes it: YAML 1.1 reads 1e-3 as text, which a picture would not know for a number."""
    made = config.flatten(config.to_dict(config.override(Settings(), {key: value}))).get(key)
    if isinstance(value, str) and not isinstance(made, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def combinations(grid: Grid) -> list[dict[str, Any]]:
    """All of them, the last key varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
