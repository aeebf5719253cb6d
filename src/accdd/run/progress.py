"""Progress a person can use: a bar on a terminal, sparse plain lines elsewhere, nothing when quiet."""

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from accdd.text import duration, printable


class Reporter(Protocol):
    """Told what a run is doing. `phase` begins a stretch of work, `update` says how far it is."""

    def note(self, text: str) -> None: ...
    def phase(self, name: str) -> None: ...
    def update(self, share: float, detail: str = "") -> None: ...
    def close(self) -> None: ...


class Quiet:
    """Says nothing."""

    def note(self, text: str) -> None: ...
    def phase(self, name: str) -> None: ...
    def update(self, share: float, detail: str = "") -> None: ...
    def close(self) -> None: ...


class Bar:
    """A bar per phase on a terminal, with what is happening and the time left."""

    def __init__(self, console: Console) -> None:
        # Names may hold brackets, which rich would take for markup.
        self._progress = Progress(
            TextColumn("{task.description:<19}", markup=False), BarColumn(28), TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
        )  # fmt: skip
        self._progress.start()
        self._task = None

    def note(self, text: str) -> None:
        self._progress.console.print(printable(text), markup=False, highlight=False)

    def phase(self, name: str) -> None:
        self._task = self._progress.add_task(printable(name), total=1.0, detail="")

    def update(self, share: float, detail: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=share, detail=printable(detail))

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """For logs: a line at 1, 2 and 5 %, then at every 5 % or five minutes, whichever comes first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name, self._began, self._said, self._next = "", 0.0, 0.0, 0.01
        self._from: float | None = None  # the first share: a run that is gone on with does not begin at 0

    def note(self, text: str) -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def phase(self, name: str) -> None:
        self._name, self._began, self._said, self._next = name, time.monotonic(), time.monotonic(), 0.01
        self._from = None

    def update(self, share: float, detail: str = "") -> None:
        now = time.monotonic()
        self._from = share if self._from is None else self._from
        if share < self._next and now - self._said < 300:
            return
        elapsed = now - self._began
        if now - self._said < 5:  # short phases need no commentary
            return
        left = elapsed * (1 - share) / (share - self._from) if share > self._from else float("nan")
        rest = f", about {duration(left)} left" if share < 1 else ""
        self.note(f"{self._name}: {share:4.0%}  {detail}  {duration(elapsed)} passed{rest}")
        self._said = now
        marks = [0.01, 0.02, *(n / 20 for n in range(1, 21))]
        self._next = next((mark for mark in marks if mark > share), 2.0)

    def close(self) -> None: ...


def reporter(quiet: bool = False) -> Reporter:
    """The right one for standard error: standard output belongs to results."""
    if quiet:
        return Quiet()
    console = Console(stderr=True)
    return Bar(console) if sys.stderr.isatty() else Lines(console)
