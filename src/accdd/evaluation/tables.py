"""Scores as a table: CSV, Markdown or LaTeX, every value with its protocol, n and deviation."""

import collections
import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence

from accdd import config
from accdd.evaluation.metrics import PERCENT, interval
from accdd.evaluation.scores import Score
from accdd.keys import Key

Rows = list[list[str]]


def table(scores: Sequence[Score], style: str) -> str:
    """The scores as text, one row each, in their order; lines end with a newline.

    Args:
        scores: what to show.
        style: a key of `STYLES`.

    Raises:
        InputError: there is no such style.
    """
    return config.choose("table", style, STYLES)(rows(scores))


def rows(scores: Sequence[Score]) -> Rows:
    """The header and a row per score: accuracies in percent, storage in bytes; columns that no row fills are left out.

    The best on test has columns of its own, after those of the last epoch, and says so.
    """
    called = network_names(scores)
    columns: dict[str, Callable[[Score], object]] = {
        "set": lambda score: score.set,
        "beside": lambda score: score.beside,
        "network": lambda score: called[score.network, score.shape],
        "protocol": lambda score: score.protocol,
        "epochs": lambda score: score.epochs,
        "n": lambda score: score.n,
        "diverged": lambda score: score.diverged,
        "accuracy, last epoch": lambda score: _mean(score.accuracies),
        "deviation": lambda score: _deviation(score.accuracies),
        "95 % interval": _interval,
        "best on test": lambda score: _mean(score.best_on_test or ()),
        "its deviation": lambda score: _deviation(score.best_on_test or ()),
        "bytes": lambda score: score.bytes,
    }
    cells = {name: [_text(read(score)) for score in scores] for name, read in columns.items()}
    kept = {name: column for name, column in cells.items() if any(column) or name in ("deviation", "n")}
    return [list(kept), *(list(row) for row in zip(*kept.values(), strict=True))]


def network_names(scores: Sequence[Score]) -> dict[tuple[str, str | None], str]:
    """What to call networks by `Score.network` and `Score.shape`: one name that stands for several shapes, as sets
    matched at several widths bring along, is followed by the options that tell them apart."""
    shapes: dict[str, dict[str | None, dict[str, str]]] = collections.defaultdict(dict)
    for score in scores:
        options = [option.partition("=") for option in (score.shape or "").split("/")]
        shapes[score.network][score.shape] = {name: value for name, _, value in options if name}
    names = {}
    for network, by_shape in shapes.items():
        known = [options for shape, options in by_shape.items() if shape is not None]
        shared = set.intersection(*({*options.items()} for options in known)) if known else set()
        for shape, options in by_shape.items():
            apart = [f"{name}={value}" for name, value in options.items() if (name, value) not in shared]
            names[network, shape] = "/".join([network, *apart])
    return names


def _mean(values: Sequence[float]) -> str | None:
    return f"{statistics.fmean(values):.2f}" if values else None


def _deviation(values: Sequence[float]) -> str | None:
    return f"{statistics.stdev(values):.2f}" if len(values) > 1 else None


def _interval(score: Score) -> str | None:
    """Of the mean over networks."""
    if score.n < 2:
        return None
    found = interval(score.accuracies, Key(score.seed or 0), within=PERCENT)
    return f"{found.low:.2f} to {found.high:.2f}"


def _text(value: object) -> str:
    return "" if value is None else str(value)


def as_csv(rows: Rows) -> str:
    """Comma-separated, quoted where needed (RFC 4180, but for the line ends)."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def as_markdown(rows: Rows) -> str:
    """A pipe table."""
    header, *body = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"
}  # fmt: skip
"""Characters that mean something to LaTeX, and how to print them."""


def as_latex(rows: Rows) -> str:
    """A `tabular` with rules of the package booktabs."""
    header, *body = [" & ".join("".join(LATEX.get(c, c) for c in cell) for cell in row) + r" \\" for row in rows]
    # A rule and the end of a line take what follows in brackets, or a star, for their own.
    header, *body = ["{}" + line if line.startswith(("[", "*")) else line for line in (header, *body)]
    columns = "l" * len(rows[0])
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


STYLES: Mapping[str, Callable[[Rows], str]] = {"csv": as_csv, "markdown": as_markdown, "latex": as_latex}
