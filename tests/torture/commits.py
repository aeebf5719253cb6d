"""Everything that accdd commits, each with the state before, the commit, and what a reader finds afterwards."""

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import helpers
import torch

from accdd import artifact, files
from accdd.augmented_models import EarlyStageModel, Fresh, pool
from accdd.config import InputError
from accdd.keys import Key
from accdd.loop import State
from accdd.run import Checkpoint, checkpoints
from accdd.targets import Bank, Target


class Commit(NamedTuple):
    """One kind of commit into a folder."""

    prepare: Callable[[Path], None]
    commit: Callable[[Path], None]
    found: Callable[[Path], str]
    """`old` or `new`, each to the bit; anything else says what is wrong."""


def same(mine: Any, theirs: Any) -> bool:
    return torch.equal(mine, theirs)


# Checkpoints --------------------------------------------------------------------------------------------------


def state(sweep: int) -> State:
    images = helpers.noise(2, 1, 3, 8, 8, seed=sweep)
    return State(sweep, images, images.new_zeros(0), -images)


def save_checkpoint(folder: Path, sweep: int) -> None:
    checkpoints.save(folder, Checkpoint(state(sweep), float(sweep), sweep))


def two_checkpoints(folder: Path) -> None:
    for sweep in (1, 2):
        save_checkpoint(folder, sweep)


def found_checkpoint(folder: Path) -> str:
    found, problems = checkpoints.newest(folder, helpers.CPU)
    if found is None or problems:
        return f"no checkpoint, or one was damaged: {problems}"
    right = state(found.state.sweep)
    if not (same(found.state.images, right.images) and same(found.state.velocity, right.velocity)):
        return "other bits"
    name = {2: "old", 3: "new"}.get(found.state.sweep, f"sweep {found.state.sweep}")
    save_checkpoint(folder, 9)  # whatever is left behind, the next one is found
    later, problems = checkpoints.newest(folder, helpers.CPU)
    return name if later and later.state.sweep == 9 and not problems else "what is left hides the next checkpoint"


# Distilled sets -----------------------------------------------------------------------------------------------


def distilled(**info: Any) -> artifact.Distilled:
    return artifact.Distilled(
        images=helpers.noise(4, 3, 8, 8).sigmoid(), labels=torch.arange(4) % 2, class_names=("a", "b"),
        mean=(0.5,) * 3, std=(0.2,) * 3, info=info,
    )  # fmt: skip


def found_set(folder: Path) -> str:
    if not os.path.lexists(folder / "set"):
        return "old"
    try:
        found = artifact.load(folder / "set")
    except InputError as error:
        return str(error)
    return "new" if same(found.images, distilled().images) else "other bits"


def found_info(folder: Path) -> str:
    try:
        return artifact.load(folder / "set").info["state"]
    except InputError as error:
        return str(error)


# The cache ----------------------------------------------------------------------------------------------------


def members() -> tuple[EarlyStageModel, ...]:
    return tuple(EarlyStageModel(n, 1.0, 0.5, helpers.network().initialise(Key(n))) for n in range(2))


def build_pool(folder: Path) -> None:
    """The pool as it is written, of networks that were not trained."""
    real_build, real_folder = pool.build, files.cache_folder
    pool.build = lambda *args: iter([{network: [member] for network, member in enumerate(members())}])
    files.cache_folder = lambda: folder
    try:
        built = pool.load_or_build(helpers.stripes(), helpers.network(), helpers.settings())
    finally:
        pool.build, files.cache_folder = real_build, real_folder
    for mine, theirs in zip(built.models, members(), strict=True):
        assert all(same(mine.parameters[name], value) for name, value in theirs.parameters.items()), "other bits"


def found_entry(build: Callable[[Path], None], glob: str) -> Callable[[Path], str]:
    """Old where there is no entry, new where all that are there are whole; and it can be built after all."""

    def found(folder: Path) -> str:
        entries = [path for path in folder.glob(glob) if not path.name.startswith(".")]
        problems = [problem for path in entries for problem in files.verify_folder(path)]
        if problems:
            return problems[0]
        build(folder)
        return "new" if entries else "old"

    return found


def build_target(folder: Path) -> None:
    """A block of the bank as it is written, of one target over and over."""
    data, given = helpers.stripes(), helpers.settings({"targets.count": 10, "targets.folder": str(folder / "bank")})
    bank = Bank(data, helpers.problem(data), Fresh(helpers.network(), helpers.CPU), given)
    bank.make = lambda number: a_target()
    mine = bank[3]
    assert all(same(mine.parameters[name], value) for name, value in a_target().parameters.items()), "other bits"


@functools.cache
def a_target(folder: Path = Path("unused")) -> Target:
    data = helpers.stripes()
    given = helpers.settings({"targets.count": 10, "targets.folder": str(folder)})
    return Bank(data, helpers.problem(data), Fresh(helpers.network(), helpers.CPU), given).make(0)


def make_a_target(folder: Path) -> None:
    """Before any fault: at the first one PyTorch imports parts of itself, which cannot be tried twice."""
    del folder
    a_target()


# Exports ------------------------------------------------------------------------------------------------------


def found_export(name: str, whole: Callable[[Path], bool]) -> Callable[[Path], str]:
    def found(folder: Path) -> str:
        if not os.path.lexists(folder / name):
            return "old"
        return "new" if whole(folder / name) else "half an export"

    return found


def whole_pictures(folder: Path) -> bool:
    return len(list(folder.glob("train/*/*.png"))) == 4 and (folder / "train" / "metadata.jsonl").stat().st_size > 100


def nothing(folder: Path) -> None:
    del folder


COMMITS = {
    "checkpoint": Commit(two_checkpoints, lambda folder: save_checkpoint(folder, 3), found_checkpoint),
    "artefact": Commit(nothing, lambda folder: artifact.save(distilled(), folder / "set"), found_set),
    "scores": Commit(
        lambda folder: artifact.save(distilled(state="old"), folder / "set"),
        lambda folder: artifact.annotate(distilled(state="new"), folder / "set"),
        found_info,
    ),
    "pool": Commit(nothing, build_pool, found_entry(build_pool, "pools/*/0*")),
    "targets": Commit(make_a_target, build_target, found_entry(build_target, "bank/0*")),
    "export": Commit(
        nothing,
        lambda folder: artifact.export(distilled(), "png", folder / "png") and None,
        found_export("png", whole_pictures),
    ),
}


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
