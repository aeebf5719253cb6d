"""The loop under a clock: budget, snapshots, checkpoints, metrics, progress, signals."""

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import execution
from accdd.config import Loop, Settings
from accdd.loop import State
from accdd.parallel import ALONE, Ranks
from accdd.run import trouble
from accdd.run.checkpoints import Checkpoint
from accdd.run.folder import RunFolder
from accdd.run.progress import Reporter
from accdd.run.trouble import Begin

LOOK_SECONDS = 0.1
"""How often a GPU is waited for and the clock read: in between, later sweeps are drawn and launched while it works."""

SAVE_SECONDS, SAVED_SHARE = 30.0, 0.005
"""How often all that is needed to go on is saved, and how much of the time that may take; see `loop.checkpoint`."""


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop: it is saved, and the message says how to go on."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        """Of the signal."""


class Learned(NamedTuple):
    """What came of a loop."""

    images: Tensor
    """float32 (classes, ipc, c, h, w) in [0, 1]."""
    sweeps: int
    seconds: float
    """Of the loop alone."""
    halvings: int = 0
    """Of the images' step size, after numbers that were not finite."""


def learn(
    begin: Begin,
    where: torch.device,
    settings: Settings,
    reporter: Reporter,
    folder: RunFolder | None,
    since: Checkpoint | None = None,
    ranks: Ranks = ALONE,
) -> Learned:
    """Run a loop until its steps or its budget are used up.

    Loss and images are looked at about once a second and before they are saved. Where they are no longer finite, the
    run goes back to the last state that was saved (without a folder: that would have been) and goes on from there with
    half the step size, at most `trouble.HALVINGS` times.

    Args:
        begin: starts the loop; it is told how to find out where the run stands, and after which state to go on.
        where: the device.
        settings: resolved.
        reporter: told of progress.
        folder: where metrics, snapshots and checkpoints go, if anywhere; of rank 0.
        since: what to go on from.
        ranks: who this is among those that share the classes. The clock of rank 0 is everyone's, and what is looked at,
            saved and returned is of all classes.

    Raises:
        ArithmeticError: the loss or the images are not finite, with the smallest step size, too.
        Stopped: SIGTERM or SIGINT came; with a folder, everything is saved. A second signal of the same kind ends the
            process at once.
    """
    reporter.phase("distilling")
    clock = _Clock(settings.loop, ranks, since.seconds if since else 0.0)
    state = since.state if since else None
    if state and clock.progress(state.sweep) >= 1:
        return Learned(state.images.clamp(0, 1), state.sweep, clock.spent, state.halvings)
    keeper = _Keeper(settings.loop, folder, ranks, clock, reporter, state, since.metrics if since else 0)
    with _signals() as came:

        def stopping() -> bool:
            """Whether a signal came; of several ranks to any, by the time this sweep had ended."""
            return bool(came) if ranks.alone else clock.stop

        clock.go_on()
        states = begin(clock.progress, state)
        while (following := next(states, None)) is not None:
            state = following
            must = state.sweep in (0, clock.total) or state.overfit is not None or came or not ranks.alone
            if where.type != "cpu" and not must and keeper.good and clock.running() < LOOK_SECONDS:
                continue
            execution.synchronise(where)  # without it, seconds would count launches
            clock.read(stop=bool(came))
            state, finite = keeper.keep(state, stopping)
            if not finite:
                states = keeper.go_back(begin, state)
                state = keeper.good
                continue
            if stopping() or clock.progress(state.sweep) >= 1:
                break
            clock.go_on()
    assert state is not None
    if stopping():
        again = f" Go on with: accdd distill --resume {shlex.quote(str(folder.path))}" if folder else ""
        number = came[0] if came else signal.SIGTERM  # it came to another rank
        raise Stopped(number, f"Stopped after sweep {state.sweep}.{again}")
    # The last is of all classes.
    return Learned(state.images.detach().clamp(0, 1), state.sweep, clock.spent, state.halvings)


class _Clock:
    """The time spent in the loop, without what saving takes, and when to save; of several ranks, that of the first."""

    def __init__(self, loop: Loop, ranks: Ranks, spent: float) -> None:
        self.spent = spent
        self.total = None if loop.steps is None else loop.steps * loop.inner_steps
        """Sweeps, where they are counted."""
        self.stop = self.due = False
        """Whether a signal had come to any rank, and whether it was time to save, when the clock was read."""
        self._loop, self._ranks = loop, ranks
        self._until = loop.checkpoint or SAVE_SECONDS
        self._resumed = self._saved = time.perf_counter()

    def progress(self, sweeps: int) -> float:
        """The share of the run that is over: 1 where it ends, more if the last sweep took longer than was left."""
        budget, total = self._loop.budget, self.total
        return max(self.spent / budget if budget else 0.0, sweeps / total if total else float(total == 0))

    def running(self) -> float:
        """Seconds since `go_on`."""
        return time.perf_counter() - self._resumed

    def go_on(self) -> None:
        """Count from now on."""
        self._resumed = time.perf_counter()

    def read(self, *, stop: bool) -> None:
        """Count what has passed since `go_on`; all ranks do it together, and say whether to `stop`."""
        mine = (-math.inf, -math.inf)
        if self._ranks.leads:
            now = time.perf_counter()
            mine = (self.spent + now - self._resumed, float(now - self._saved >= self._until))
        stopped, self.spent, due = self._ranks.largest([float(stop), *mine])
        self.stop, self.due = stopped > 0, due > 0

    def saved(self, began: float) -> None:
        """Saving, which began at this moment, is over; the longer it took, the later the next."""
        self._saved = time.perf_counter()
        self._until = self._loop.checkpoint or max(SAVE_SECONDS, (self._saved - began) / SAVED_SHARE)

    def went_back(self) -> None:
        """Count from now on, also until it is time to save."""
        self._resumed = self._saved = time.perf_counter()


class _Keeper:
    """What of a run is told and kept: loss, snapshots, checkpoints, and the last good state, to go back to."""

    def __init__(
        self, loop: Loop, folder: RunFolder | None, ranks: Ranks, clock: _Clock, reporter: Reporter,
        since: State | None, metrics: int,
    ) -> None:  # fmt: skip
        self.good = since
        """The last that was saved, or the first; of all classes."""
        self._metrics = metrics  # bytes of metrics.jsonl then
        self._loop, self._folder, self._ranks, self._clock, self._reporter = loop, folder, ranks, clock, reporter
        self._shows = ranks.largest([float(folder is not None)]) == [1.0] and bool(loop.snapshots)
        self._logged, self._loss = clock.spent - 1, None
        self._marks = self._ahead(since)

    def keep(self, state: State, stopping: Callable[[], bool]) -> tuple[State, bool]:
        """Look at a state, and keep of it what is due.

        Returns:
            A 2-tuple of the state, of all classes if it was kept, and whether its numbers are finite: they are looked
            at where something would be kept, and what is not finite never is.
        """
        clock, folder, ranks, losses = self._clock, self._folder, self._ranks, state.losses
        share = clock.progress(state.sweep)
        over = share >= 1
        told = bool(state.sweep) and (over or clock.spent - self._logged >= 1 or state.overfit is not None)
        save = stopping() or over or clock.due
        shown = self._shows and (state.sweep == 0 or over or share >= self._marks[0])
        finite = True
        if told or save or shown:  # each rank looks at its own share: images travel only where they are kept
            finite = ranks.largest([float(not trouble.finite(state))]) == [0.0]
        if save or shown or not finite or not self.good:
            state = self._together(state)
            self.good = self.good or state
        if not finite:
            return state, False
        if told:
            self._logged, self._loss = clock.spent, ranks.whole(losses).sum().item()
            if folder:
                folder.log(state.sweep, clock.spent, self._loss, state.overfit)
        if shown and folder:
            folder.snapshot(state.sweep, clock.spent, state.images)
        self._marks = [mark for mark in self._marks if mark > share]
        of = f"/{clock.total}" if clock.total and not self._loop.budget else ""
        loss = "" if self._loss is None else f", loss {self._loss:.4g}"
        self._reporter.update(min(share, 1.0), f"sweep {state.sweep}{of}{loss}")
        if save or (stopping() and trouble.finite(state)):  # a signal may have come since
            began = time.perf_counter()
            if folder:
                folder.checkpoint(state, clock.spent)
            self.good, self._metrics = state, folder.written() if folder else 0
            clock.saved(began)
        return state, True

    def go_back(self, begin: Begin, bad: State) -> Iterator[State]:
        """States from the last good one on, with half the step size.

        Raises:
            ArithmeticError: it was halved often enough.
        """
        good, folder, progress = self.good, self._folder, self._clock.progress
        assert good is not None  # at the latest `bad` itself
        failing = trouble.last_finite(begin, progress, good, bad.sweep, self._together)
        where = f"by sweep {bad.sweep}" if failing is None else f"in sweep {failing.sweep + 1}"
        if good.halvings == trouble.HALVINGS:
            loss = bad.losses.sum().item()
            what = f"The loss became {loss}" if not math.isfinite(loss) else "The images became infinite"
            raise ArithmeticError(
                f"{what} {where}, also with the images' step size halved {good.halvings} times. "
                "Lower images.lr, or train.lr."
            )
        self.good = good = good._replace(halvings=good.halvings + 1)
        self._reporter.note(
            f"Not finite {where}: back to sweep {good.sweep}, with the images' step size halved "
            f"({good.halvings} of at most {trouble.HALVINGS} times)."
        )
        if folder:
            folder.restored(good.sweep, self._metrics, failing or good, good.halvings)
            self._metrics = folder.written()
        self._marks = self._ahead(good)
        self._clock.went_back()
        return begin(progress, good)

    def _ahead(self, state: State | None) -> list[float]:
        """Shares of the run at which snapshots are due after a state: each twice the one before, the last is 1."""
        marks = (2.0**-halvings for halvings in range(self._loop.snapshots - 1, -1, -1))
        return [mark for mark in marks if not state or mark > self._clock.progress(state.sweep)]

    def _together(self, state: State) -> State:
        images, velocity, losses = map(self._ranks.whole, (state.images, state.velocity, state.losses))
        return state._replace(images=images, velocity=velocity, losses=losses)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect a SIGTERM or SIGINT in a list instead of dying of it; a second of the same kind is obeyed at once.

    One of each is no haste: Ctrl-C reaches all processes of a terminal, and whoever started this one may terminate it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there Python lets signals be handled
        yield came
        return

    def note(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)

    # What the parent wants ignored stays ignored, as in a script's background jobs.
    found = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    before = {each: handler for each, handler in found.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for each in before:
            signal.signal(each, note)
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
