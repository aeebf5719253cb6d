"""Pictures of studies, drawn with matplotlib where it is installed."""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accdd import files
from accdd.evaluation import Score
from accdd.run import Reporter
from accdd.studies.cells import text
from accdd.studies.rows import Row, protocols

Draw = Callable[[Any], None]
"""(matplotlib's figure) -> None"""

WIDE = 20
"""Numbers whose largest is so many times the smallest above 0 stand on a logarithmic axis."""


def save(file: Path, draw: Draw, reporter: Reporter, *, panels: int = 1) -> Path | None:
    """A PNG file, or None and a word to the user where there is no matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        reporter.note("No picture, because matplotlib is not installed: pip install matplotlib.")
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * panels, 3.8), dpi=130, layout="constrained")
    draw(figure)
    with files.commit_file(file) as temporary:
        figure.savefig(temporary, format="png")
    return file


def grid(rows: Sequence[Row], keys: Sequence[str]) -> Draw | None:
    """A line plot over one key, a heat map over two; None for more."""
    by_number = {1: lines, 2: heat_maps}
    draw = by_number.get(len(keys))
    return draw and (lambda figure: draw(figure, rows, keys))


def lines(figure: Any, rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Accuracy over the values of a key, a line per network; bars are deviations."""
    (key,), axis = keys, figure.subplots()
    values = [row.what[key] for row in rows]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    for network in _networks(rows):
        own = [row for row in rows if row.network == network]
        places = [row.what[key] if numbers else text(row.what[key]) for row in own]
        errors = [row.deviation or 0 for row in own]
        style = "-" if numbers else ""
        axis.errorbar(places, [row.mean for row in own], errors, marker="o", ms=4, ls=style, capsize=3, label=network)
    if numbers:
        above = [value for value in values if value > 0]
        if above and max(above) >= WIDE * min(above):  # as 0.5, 1, 2, 5, 10, 20
            axis.set_xscale("symlog", linthresh=min(above), linscale=0.4)  # 0 has a place, too
        marks = list(dict.fromkeys(values))
        axis.set_xticks(marks, [text(value) for value in marks])
        axis.minorticks_off()
    told = " (bars: deviations)" if any(row.deviation for row in rows) else ""
    axis.set(xlabel=key, ylabel=f"accuracy, %{told}")
    axis.set_title(_conditions(rows), fontsize=9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def heat_maps(figure: Any, rows: Sequence[Row], keys: Sequence[str]) -> None:
    """Accuracy over two keys, a panel per network."""
    down, across = keys
    networks = _networks(rows)
    for axis, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        own = [row for row in rows if row.network == network]
        values = {key: list(dict.fromkeys(text(row.what[key]) for row in own)) for key in keys}
        found = {(text(row.what[down]), text(row.what[across])): row for row in own}
        means = [[found[y, x].mean if (y, x) in found else math.nan for x in values[across]] for y in values[down]]
        middle = (min(row.mean for row in own) + max(row.mean for row in own)) / 2
        shown = axis.imshow(means, aspect="auto")
        for (y, x), row in found.items():
            place, color = (values[across].index(x), values[down].index(y)), "w" if row.mean < middle else "k"
            deviation = "" if row.deviation is None else f"\n± {row.deviation:.1f}"
            axis.text(*place, f"{row.mean:.1f}{deviation}", ha="center", va="center", color=color, fontsize=8)
        axis.set_xticks(range(len(values[across])), values[across])
        axis.set_yticks(range(len(values[down])), values[down])
        axis.set(xlabel=across, ylabel=down)
        axis.set_title(f"{network}, {_conditions(own)}", fontsize=9)
        figure.colorbar(shown, ax=axis, label="accuracy, %")


def over_time(curves: Mapping[str, Sequence[Sequence[Score]]], beside: Sequence[Row]) -> Draw:
    """Accuracy over seconds of distilling: a line per method and seed, baselines across.

    Bars and bands are deviations over networks.

    Args:
        curves: by method, for each seed, the scores of its snapshots, all on one network.
        beside: rows of baselines.
    """

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        network = next(iter(curves.values()))[0][0].network
        told = protocols(score for seeds in curves.values() for curve in seeds for score in curve)
        for number, (method, seeds) in enumerate(curves.items()):
            for seed, curve in enumerate(seeds):
                label = method if seed == 0 else None
                axis.errorbar(
                    [seconds(score) for score in curve], [score.mean for score in curve],
                    [score.std or 0 for score in curve], marker="o", ms=3, capsize=2, color=f"C{number}", label=label,
                )  # fmt: skip
        for number, row in enumerate(row for row in beside if row.network == network):
            label = f"{next(iter(row.what.values()))}, real images{f', {row.protocol}' if len(told) > 1 else ''}"
            color = f"C{len(curves) + number}"
            axis.axhline(row.mean, ls="--", lw=1, color=color, label=label)
            if row.deviation:
                axis.axhspan(row.mean - row.deviation, row.mean + row.deviation, color=color, alpha=0.08, lw=0)
        axis.set(xlabel="seconds of distilling", ylabel="accuracy, %")
        about = f"{network}, protocol {'; '.join(told)}\nn = {next(iter(curves.values()))[0][0].n} networks on each set"
        axis.set_title(about, fontsize=9)
        axis.set_xscale("symlog", linthresh=1, subs=[2, 5])  # the start, at 0 seconds, has a place
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)

    return draw


def seconds(snapshot: Score) -> float:
    """Of distilling before a snapshot, which its name ends in."""
    return float(snapshot.set.rpartition("@")[2].removesuffix("s"))


def _networks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.network for row in rows))


def _conditions(rows: Sequence[Row]) -> str:
    """How the values of a picture came about."""
    return f"protocol {'; '.join(protocols(rows))}\n{rows[0].replicates}"  # both have no room in one line
