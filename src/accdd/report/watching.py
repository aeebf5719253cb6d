"""A run as it goes, in a terminal: how far, how long yet, whether it is safe to stop, and what it has so far."""

import contextlib
import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from accdd import config, run
from accdd.config import InputError
from accdd.report import pictures, reading
from accdd.report.page import spread
from accdd.report.reading import OTHERS, Line, is_number
from accdd.run import Interim, InterimScores, checkpoints
from accdd.text import duration, printable

QUIET = 120
"""Seconds without a new line of metrics.jsonl after which a run that distils seems to have stopped."""
BLOCKS = 16
"""Larger images are shrunk to this many columns."""
_RECENT = 30  # lines from which the pace is taken


class Standing(NamedTuple):
    """How a run stands."""

    name: str
    phase: str
    done: float | None
    """Share of the distilling, 0 to 1; None before it began, or where the end is not known."""
    facts: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    finished: bool


def watch(
    path: Path,
    *,
    once: bool = False,
    every: float = 1.0,
    scores: InterimScores | None = None,
    console: Console | None = None,
) -> None:
    """Show a run until it is finished, or once.

    Args:
        path: its folder.
        once: print and end.
        every: seconds between two looks.
        scores: shown while the run learns, each when it is there; `once` waits for one.
        console: where; None is standard output.

    Raises:
        InputError: it is no run, or was removed meanwhile.
    """
    console = console or Console()
    if once or not console.is_terminal:
        console.print(shown(path, console, time.time(), scores.newest() if scores else None))
        return
    try:
        with (
            _beside(scores, console) as interim,
            Live(console=console, auto_refresh=False, vertical_overflow="crop") as live,
        ):
            while True:
                finished = (path / "evaluation.json").exists()  # looked at before, so that the last screen has it
                live.update(shown(path, console, time.time(), interim()), refresh=True)
                if finished:
                    return
                time.sleep(every)
    except KeyboardInterrupt:  # that is how watching ends; the run is another process
        return


@contextlib.contextmanager
def _beside(scores: InterimScores | None, console: Console) -> Iterator[Callable[[], Interim | str | None]]:
    """The newest score, or why there are no more, while a thread makes them."""
    if scores is None:
        yield lambda: None
        return
    found: Interim | str | None = None
    over = threading.Event()

    def go_on(share: float) -> None:
        if over.is_set():
            raise InterruptedError

    def work() -> None:
        nonlocal found
        while not over.wait(1.0):
            try:
                found = scores.newest(go_on)
            except InterruptedError:
                return
            except Exception as error:  # whatever it is, the run goes on and can be watched
                found = f"not known: {error}"
                return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: found
    finally:
        over.set()
        thread.join(1.0)
        if thread.is_alive():
            console.print("Waiting for the network that is being trained to end its epoch.")
            thread.join()


def shown(path: Path, console: Console, now: float, interim: Interim | str | None = None) -> RenderableType:
    """What is printed."""
    standing = stand(path, now, interim)
    head = Text(f"{standing.name}: {standing.phase}", style="bold")
    table = Table.grid(padding=(0, 2))
    if standing.done is not None and console.is_terminal:
        # A bar ends no line of its own; a table's row does.
        table.add_row(Text("done", style="dim"), ProgressBar(total=1.0, completed=standing.done, width=50))
    for label, value in standing.facts:
        table.add_row(Text(label, style="dim"), Text(printable(value)))
    parts: list[RenderableType] = [head, table]
    there = run.newest_snapshot(path)
    if there and console.color_system:
        _, images = there
        parts += [Text(), blocks(images[:, 0].clamp(0, 1), console.width)]
    parts += [Text(printable(problem), style="yellow") for problem in standing.problems]
    return Group(*parts)


def stand(path: Path, now: float, interim: Interim | str | None = None) -> Standing:
    """How the run in a folder stands at a moment, in seconds since 1970, and what its images scored so far.

    Raises:
        InputError: it is no run.
    """
    if not (path / "config.yaml").exists():
        what = "holds no config.yaml" if path.is_dir() else "is a file" if path.exists() else "does not exist"
        raise InputError(f"'{path}' is no run to watch: it {what}. Expected the folder given to 'accdd distill --out'.")
    problems: list[str] = []
    resolved = reading.mapping(path / "config.yaml", yaml.safe_load, problems).get("resolved")
    settings = config.flatten(resolved) if isinstance(resolved, Mapping) else {}
    begun = (path / "metrics.jsonl").exists()
    lines = reading.read_lines(path / "metrics.jsonl", problems) if begun else ()
    finished, learned = (path / "evaluation.json").exists(), (path / "distilled").exists()
    facts: list[tuple[str, str]] = []
    done = None
    if lines:
        done, told = _progress(lines, settings)
        facts += told if not learned else told[:2]
    if interim and not finished:
        facts.append(("accuracy", str(interim)))
    if finished:
        phase = "finished"
        facts += _outcome(reading.mapping(path / "evaluation.json", json.loads, problems), problems)
    elif learned:
        phase = "scoring"
        facts.append(
            ("safe to stop", f"the set is saved{_ago(path / 'distilled', now)}; what was scored is found again")
        )
    elif settings.get("score.choose") == "validation" and done == 1:
        phase = "choosing a snapshot"
        facts.append(("safe to stop", "all images are saved; networks that were trained to choose by are found again"))
    elif begun or any((path / "snapshots").glob("sweep-*")):
        phase = "distilling"
        facts.append(("safe to stop", _saved(path, now)))
        silent = now - (path / "metrics.jsonl").stat().st_mtime if begun else 0
        if silent > QUIET:
            phase = "distilling, or stopped"
            facts.append(
                (
                    "silent",
                    f"for {duration(silent)}; if it was stopped: accdd distill --resume {shlex.quote(str(path))}",
                )
            )
    else:
        phase = "before the first sweep: data, early-stage models, targets"
    return Standing(printable(path.resolve().name), phase, done, tuple(facts), tuple(problems), finished)


def _progress(lines: tuple[Line, ...], settings: Mapping[str, Any]) -> tuple[float | None, list[tuple[str, str]]]:
    """The share that is done, and it in words."""
    last = lines[-1]
    recent = lines[-_RECENT:]
    steps, inner, budget = (settings.get(f"loop.{name}") for name in ("steps", "inner_steps", "budget"))
    total = steps * inner if is_number(steps) and is_number(inner) else None
    shares, left = [], []
    if total:
        shares.append(last.sweep / total)
        pace = (recent[-1].sweep - recent[0].sweep) / max(recent[-1].seconds - recent[0].seconds, 1e-9)
        if len(recent) > 1 and pace > 0:
            left.append(max(total - last.sweep, 0) / pace)
    if is_number(budget) and budget > 0:
        shares.append(last.seconds / budget)
        left.append(max(budget - last.seconds, 0))
    facts = [
        ("sweep", f"{last.sweep}{f' of {total}' if total else ''}, {duration(last.seconds)} of distilling"),
        ("loss", f"{last.loss:.4g}, from {lines[0].loss:.4g}"),
    ]
    if left:
        facts.append(("time left", f"about {duration(min(left))}, and what scoring takes"))
    return min(max(shares), 1.0) if shares else None, facts


def _outcome(outcome: Mapping[str, Any], problems: list[str]) -> list[tuple[str, str]]:
    """Accuracies, those of real images beside them."""
    listed = outcome.get("scores")
    rows = reading.read_rows(listed if isinstance(listed, list) else [], problems)
    if not rows:
        return [("accuracy", "not scored")]
    several = [len({getattr(row, name) for row in rows}) > 1 for name in ("network", "protocol")]
    told = []
    for row in rows:
        facts = f"({row.network}, n = {len(row.accuracies)}, protocol {row.protocol})"
        name = f"accuracy of {row.set}" if row.set in OTHERS else "accuracy"
        # No two alike: they are the keys of --json.
        name += (f" on {row.network}" if several[0] else "") + (f", {row.protocol}" if several[1] else "")
        told.append((name, f"{row.mean:.1f}{spread(row.accuracies)} % {facts}"))
    return told


def _saved(path: Path, now: float) -> str:
    saved = (each for each in checkpoints.listed(path / "checkpoints") if (each / "manifest.json").exists())
    newest = next(saved, None)
    if newest is None:
        return "not yet saved; Ctrl-C in its terminal saves, and stops"
    return f"saved{_ago(newest / 'manifest.json', now)}; Ctrl-C in its terminal saves again, and stops"


def _ago(path: Path, now: float) -> str:
    return f" {max(0, round(now - path.stat().st_mtime))} s ago"


def blocks(images: Tensor, width: int) -> Text:
    """As many images side by side as `width` columns hold, two pixels a character: the upper half and the lower.

    Args:
        images: float (n, c, h, w) in [0, 1].
        width: columns of the terminal.
    """
    small = pictures.to_rgb(pictures.shrunk(images, BLOCKS))
    small = small[: max(1, (width + 1) // (small.shape[-1] + 1))]
    pixels = (small.nan_to_num() * 255).round().int().permute(2, 0, 3, 1).tolist()  # (h, n, w, 3)
    text = Text(no_wrap=True, overflow="crop")
    for top in range(0, len(pixels), 2):
        under = pixels[top + 1] if top + 1 < len(pixels) else None
        for place, row in enumerate(pixels[top]):
            for column, upper in enumerate(row):
                lower = Color.from_rgb(*under[place][column]) if under else None
                text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=lower))
            text.append(" ")
        text.append("\n")
    return text
