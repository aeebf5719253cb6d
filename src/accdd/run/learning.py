"""The loop under a clock: budget, snapshots, metrics, progress."""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from accdd import execution
from accdd.config import Settings
from accdd.loop import Progress, State
from accdd.run.folder import RunFolder
from accdd.run.progress import Reporter

LOOK_SECONDS = 0.1
"""How often a GPU is waited for and the clock read: in between, later sweeps are drawn and launched while it works."""


def learn(
    begin: Callable[[Progress], Iterator[State]],
    where: torch.device,
    settings: Settings,
    reporter: Reporter,
    folder: RunFolder | None,
) -> tuple[Tensor, int, float]:
    """Run a loop until its steps or its budget are used up.

    Args:
        begin: starts the loop; it is told how to find out where the run stands.
        where: the device.
        settings: resolved.
        reporter: told of progress.
        folder: where metrics and snapshots go, if anywhere.

    Returns:
        The images, float32 (classes, ipc, c, h, w) in [0, 1]; the sweeps done; the seconds of the loop alone.

    Raises:
        ArithmeticError: the loss is no longer finite (looked at once a second).
    """
    steps, budget = settings.loop.steps, settings.loop.budget
    total = None if steps is None else steps * settings.loop.inner_steps
    marks = _marks(settings.loop.snapshots)
    reporter.phase("distilling")
    spent, logged, loss, state = 0.0, -1.0, None, None  # `spent` leaves out what keeping snapshots takes
    resumed = time.perf_counter()

    def progress(sweeps: int) -> float:
        return max(spent / budget if budget else 0.0, sweeps / total if total else float(total == 0))

    for state in begin(progress):
        must = state.sweep in (0, total) or state.overfit is not None
        if where.type != "cpu" and not must and time.perf_counter() - resumed < LOOK_SECONDS:
            continue
        execution.synchronise(where)  # without it, seconds would count launches
        spent += time.perf_counter() - resumed
        share = progress(state.sweep)
        over = share >= 1
        if state.sweep and (over or spent - logged >= 1 or state.overfit is not None):
            logged, loss = spent, _finite(state.losses.sum().item(), state.sweep)
            if folder:
                folder.log(state.sweep, spent, loss, state.overfit)
        if folder and settings.loop.snapshots and (state.sweep == 0 or over or share >= marks[0]):
            folder.snapshot(state.sweep, spent, state.images)
        marks = [mark for mark in marks if mark > share]
        of = f"/{total}" if total and not budget else ""
        reporter.update(min(share, 1.0), f"sweep {state.sweep}{of}" + ("" if loss is None else f", loss {loss:.4g}"))
        if over:
            break
        resumed = time.perf_counter()
    assert state is not None
    return state.images.detach().clamp(0, 1), state.sweep, spent


def _finite(loss: float, sweep: int) -> float:
    if not math.isfinite(loss):
        raise ArithmeticError(f"The loss became {loss} by sweep {sweep}. Lower images.lr, or train.lr.")
    return loss


def _marks(count: int) -> list[float]:
    """Shares of the run at which snapshots are kept: each twice the one before, the last at the end."""
    return [2.0**-halvings for halvings in range(count - 1, -1, -1)]
