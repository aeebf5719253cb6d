"""What runs begin with, made before any of them: early-stage models and targets, here or by an executor's workers."""

from collections.abc import Mapping, Sequence
from typing import Any

from accdd import augmented_models as models
from accdd import config, defaults, execution, presets, run
from accdd import executor as executors
from accdd.augmented_models import pool
from accdd.config import InputError, Settings
from accdd.run import Quiet, Reporter, course
from accdd.targets import Bank

BLOCKS_AT_ONCE = 5
"""Blocks of targets that one worker makes: fewer, and reading data would take longer than they do."""


def build_pool(
    source: Any,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    executor: str = "inline",
    reporter: Reporter | None = None,
) -> models.ModelPool:
    """Train the early-stage models for some data ahead of time, or find them in the cache.

    Args:
        source, preset, settings, reporter: as for `distill`; its method and how long it is decide whether a run is on
            targets, and that for how many epochs networks are trained where `pool.epochs` does not say.
        executor: what trains each network by itself: `inline` (here, some side by side where that is faster),
            `local:K`, `slurm` or `ray` (see `accdd.executor`).

    Raises:
        InputError: something given is wrong, or a worker failed; networks that were trained are kept.
        ArithmeticError: a network diverged, here.
    """
    reporter = reporter or Quiet()
    given = {**presets.given(preset, settings or {}), "pool.use": True}
    wanted = config.override(Settings(), given)
    real, resolved = course.read(source, wanted, reporter)
    work = course.prepare(source, real, resolved, reporter, wanted=wanted)  # a short budget leaves no targets
    resolved, architecture = work.settings, work.architecture
    given["pool.epochs"] = resolved.pool.epochs
    reporter.note(run.describe(real, resolved, architecture)[0])
    missing = pool.missing(real, architecture, resolved) if executor != "inline" else []
    if missing:
        reporter.phase("early-stage models")
        with executors.marks() as folder:
            tasks = [
                executors.marked(f"network {n}", _pool_member, (source, given, n), folder / str(n)) for n in missing
            ]
            executors.run(tasks, executor, reporter.note)
        if pool.missing(real, architecture, resolved):
            raise executors.made_elsewhere(real.device, execution.precision(resolved.precision, real.device))
    built = work.pool()
    assert built  # pool.use is set above
    return built


def build_targets(
    source: Any,
    count: int | None = None,
    *,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    executor: str = "inline",
    reporter: Reporter | None = None,
) -> tuple[Bank, int]:
    """Make the target bank for some data ahead of time, or what is missing of it; the bank and how many it is to hold.

    Args:
        source, preset, settings, reporter: as for `distill`; settings of the learned images do not matter.
        count: how many targets; short for `settings={"targets.count": count}`.
        executor: what makes them, as for `build_pool`, in shares of `BLOCKS_AT_ONCE` blocks.

    Raises:
        InputError: something given is wrong, the disk is too small, or a worker failed; what was made is kept.
        ArithmeticError: a network diverged, here.
    """
    reporter = reporter or Quiet()
    own = dict(settings or {}) | ({} if count is None else {"targets.count": count})
    given = presets.given(preset, own)
    if own.get("targets.count") is None and not given.get("targets.count"):  # where a preset uses none, too
        given["targets.count"] = defaults.TARGETS
    # The only loop that targets are for.
    given |= {"loop.inner_steps": 1, "loop.train_images": 0, "loop.train_epochs": 0, "loop.warm_up": 0}
    wanted = config.override(Settings(), given)
    if not (count := wanted.targets.count):
        raise InputError(f"--count {count}: that makes no targets. Expected at least 1.")
    real, resolved = course.read(source, wanted, reporter)
    work = course.prepare(source, real, resolved, reporter)
    work.bank.check_room(count)
    reporter.note(run.describe(real, resolved, work.architecture)[0])
    reporter.note(run.describe_bank(work.bank, count))
    if executor != "inline" and work.bank.missing(count):
        if resolved.pool.use:
            build_pool(source, settings=given, executor=executor, reporter=reporter)
        reporter.phase("targets")
        missing = [block for block, place in work.bank.blocks(count).items() if not place.exists()]
        with executors.marks() as folder:
            tasks = []
            for first in range(0, len(missing), BLOCKS_AT_ONCE):
                share = missing[first : first + BLOCKS_AT_ONCE]
                name, mark = f"blocks {share[0]} to {share[-1]}", folder / str(first)
                tasks.append(executors.marked(name, _target_blocks, (source, given, share), mark))
            executors.run(tasks, executor, reporter.note)
        if work.bank.missing(count):
            raise executors.made_elsewhere(real.device, execution.precision(resolved.precision, real.device))
    elif work.bank.missing(count):
        work.pool()
    course.build_bank(work.bank, count, reporter)
    return work.bank, count


def _pool_member(source: Any, given: Mapping[str, Any], network: int) -> None:
    """Train one network, which is then found in the cache; a worker's task."""
    real, resolved = course.read(source, config.override(Settings(), given), Quiet())
    pool.build_member(real, course.architecture_for(resolved.network, real), resolved, network)


def _target_blocks(source: Any, given: Mapping[str, Any], blocks: Sequence[int]) -> None:
    """Make some blocks of the bank; a worker's task."""
    real, resolved = course.read(source, config.override(Settings(), given), Quiet())
    work = course.prepare(source, real, resolved, Quiet())
    for block in blocks:
        work.bank.ensure(block)
