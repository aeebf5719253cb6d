"""Studies cell by cell: how the numbers of RESULTS.md are made.

A cell is one `accdd distill` and one `accdd evaluate`, each run as a user would run it. A cell whose result is there is
skipped, so a study that was stopped goes on where it was, and with `--records FILE` also on another machine: a line for
each cell, as in benchmarks/records/. Afterwards a table is printed. With several workers one cell may be scored while
another is distilled.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
MODELS = ("--set=pool.epochs=2", "--set=pool.schedule=falling")
"""For cells that say nothing else, whatever their preset: what accdd did by itself when most records were made."""
WRITING = threading.Lock()
"""Held while a worker adds to the records."""


class Cell(NamedTuple):
    """One distillation and its scores."""

    name: str
    distill: Sequence[str]
    evaluate: Sequence[str]
    """Without any, it is not scored: what it took is its result."""
    threads: int = 1
    result: str = "scores.json"
    """Where its scores are kept: cells of one name share a run."""


def distill(cell: Cell, out: Path) -> None:
    """Make a cell's run unless it is there; what it prints stays beside it."""
    folder = out / cell.name / "run"
    scored = (out / cell.name / cell.result).exists()  # perhaps elsewhere: then there is no run
    if scored or (folder / "distilled").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # what a stopped study left unfinished
    ran = accdd(["distill", *MODELS, *cell.distill, "--out", str(folder)], cell, out)
    cost = {"took": round(ran.seconds), "gigabytes": round(ran.gigabytes, 2)}
    (out / cell.name / "cost.json").write_text(json.dumps(cost))
    print("distilled", cell.name, flush=True)


def score(cell: Cell, out: Path, records: Path | None) -> None:
    """Score a cell's run unless it is scored; `records` then gets a line more."""
    result = out / cell.name / cell.result
    if result.exists():
        return
    run = out / cell.name / "run"
    scores = '{"scores": []}'
    if cell.evaluate:
        scores = accdd(["evaluate", str(run), *cell.evaluate, "--json"], cell, out).printed.replace(str(run), "run")
    if records is not None:
        cost = out / cell.name / "cost.json"  # missing where the study was stopped just then
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        env = json.loads((run / "env.json").read_text())
        record = {
            "cell": cell.name, "result": cell.result, "options": options(cell),
            **{name: env[name] for name in ("machine", "accdd", "torch")},
            **(json.loads(cost.read_text()) if cost.exists() else {}),
            "sweeps": last["sweep"], "seconds": last["seconds"], **json.loads(scores),
        }  # fmt: skip
        with WRITING, records.open("a") as file:
            file.write(json.dumps(record) + "\n")
    result.write_text(scores)
    print("scored" if cell.evaluate else "done", cell.name, flush=True)


def options(cell: Cell) -> list[str]:
    """What a cell's two commands are told, without where data are."""
    return [Path(text).name if text.startswith("/") else text for text in (*cell.distill, *cell.evaluate)]


def recall(records: Path, cells: Sequence[Cell], out: Path) -> None:
    """Put the results of finished cells, of whatever machine, where those of this one are looked for."""
    known = {(cell.name, cell.result): options(cell) for cell in cells}
    for line in records.read_text().splitlines() if records.exists() else ():
        record = json.loads(line)
        name = record["cell"], record["result"]
        if name not in known:
            continue
        if record["options"] != known[name]:
            print(f"not used, because made with other options: {name[0]}")
            continue
        result = out / record["cell"] / record["result"]
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps({"scores": record["scores"]}))


class Ran(NamedTuple):
    """A command that ended well: what it printed on standard output, how long it took and its memory at most."""

    printed: str
    seconds: float
    gigabytes: float


def accdd(arguments: Sequence[str], cell: Cell, out: Path) -> Ran:
    """Run a command as a user would."""
    (out / cell.name).mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(cell.threads)}
    command = [sys.executable, "-m", "accdd", *arguments]
    began = time.perf_counter()
    with (out / cell.name / "log.txt").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took, peak = time.perf_counter() - began, used.ru_maxrss * 1024 / 1e9
        log.write(f"{arguments[0]}: {took:.0f} s, {peak:.2f} GB at most\n")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Ran(printed, took, peak)


def table(cells: Sequence[Cell], out: Path) -> None:
    """Mean, deviation and n: over sets where several cells end in a seed (each set by its mean), otherwise over
    networks."""
    groups: dict[str, list[float]] = defaultdict(list)
    sets = Counter(cell.name.rpartition("/")[0] for cell in cells)
    for cell in cells:
        result = out / cell.name / cell.result
        if not result.exists():
            continue
        parent, _, last = cell.name.rpartition("/")
        of_a_set = len(last) == 1 and last.isdigit() and sets[parent] > 1
        name = parent if of_a_set else cell.name
        for score in json.loads(result.read_text())["scores"]:
            moment = score["set"].partition("@")[2]
            values = [score["mean"]] if of_a_set else score["accuracies"]
            network = score["network"].removeprefix("convnet").strip("/")
            real = score["set"] if score.get("beside") else ""
            groups[" ".join(filter(None, (name, moment.split("@")[0], network, real)))] += values
    for name, values in groups.items():
        deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(f"{name:60} {statistics.fmean(values):5.1f}{deviation} (n = {len(values)})")


Draw = Callable[[Sequence[Cell], Path, Path], None]
"""(cells, folder of results, picture to write) -> None"""


def over_numbers(cells: Sequence[Cell], out: Path, file: Path, *, labels: Mapping[str, str]) -> None:
    """Accuracy over what cells are numbered by, as in 'real-batch/32': a panel for each kind, which `labels` name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(cell.name.split("/")[0] for cell in cells))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.2), squeeze=False, layout="constrained")
    for axis, kind in zip(axes[0], kinds, strict=True):
        found = {}
        for cell in cells:
            own, _, number = cell.name.partition("/")
            if own == kind and (result := out / cell.name / cell.result).exists():
                found[int(number)] = json.loads(result.read_text())["scores"][0]
        means, deviations = ([score[name] or 0 for score in found.values()] for name in ("mean", "std"))
        axis.errorbar(list(found), means, deviations, marker="o", ms=4, capsize=3)
        first = next(iter(found.values()))
        axis.set(xscale="log", xlabel=labels[kind], ylabel="accuracy on held-out images, %")
        axis.set_title(f"{first['protocol']}, n = {first['n']} networks on one set", fontsize=8)
        axis.set_xticks(list(found), [f"{number:,}" for number in found])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=130)


def over_time(cells: Sequence[Cell], out: Path, file: Path) -> None:
    """Accuracy over seconds and over sweeps of distilling: a column per data set, a line per combination."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = list(dict.fromkeys(cell.name.split("/")[1] for cell in cells))
    rows = (("seconds", 2, 2.0), ("sweeps", 1, 1.0))  # what is drawn over, its place in a name, where a start is drawn
    size = 4.6 * len(columns), 3.4 * len(rows)
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=size, sharey="col", squeeze=False, layout="constrained"
    )
    for (over, place, start), row in zip(rows, axes, strict=True):
        for axis, column in zip(row, columns, strict=True):
            for cell in cells:
                result = out / cell.name / "scores.json"
                if cell.name.split("/")[1] != column or not result.exists():
                    continue
                scores = json.loads(result.read_text())["scores"]
                moments = [max(float(score["set"].split("@")[place].rstrip("s")), start) for score in scores]
                axis.plot(moments, [each["mean"] for each in scores], marker="o", ms=3, label=cell.name.split("/")[2])
            label = f"{over} of distilling (start drawn at {start:g})"
            axis.set(xscale="log", title=column, xlabel=label, ylabel="test accuracy, %")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.savefig(file, dpi=130)


def main(doc: str, studies: Mapping[str, Callable[[], list[Cell]]], pictures: Mapping[str, tuple[Draw, str]]) -> None:
    """Run the missing cells of a study, then print what there is, and draw it where a picture is asked for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEXT", help="cells whose name holds this")
    parser.add_argument("--no-scores", action="store_true", help="distill only: scores can wait, what is timed cannot")
    parser.add_argument(
        "--records", type=Path, metavar="FILE", help="results of finished cells, in lines; new ones are added"
    )
    arguments = parser.parse_args()
    out, records = arguments.out, arguments.records
    cells = [cell for cell in studies[arguments.study]() if arguments.only in cell.name]
    if records is not None:
        records.parent.mkdir(parents=True, exist_ok=True)
        recall(records, cells, out)

    def make(cell: Cell) -> None:
        distill(cell, out)
        if not arguments.no_scores:
            score(cell, out, records)

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(make, cells))
    table(cells, out)
    if arguments.study in pictures and not arguments.no_scores:
        draw, file = pictures[arguments.study]
        draw(cells, out, ROOT / "docs" / file)
