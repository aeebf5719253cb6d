"""How closely finished sets fit their targets: the loss on some of those they learned from, and on as many unseen ones.

    python benchmarks/unseen_targets.py RUN... [--count 60] [--json]

The unseen ones are those that follow in the bank, and are added to it where they are missing. Not compiled.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import accdd
from accdd import config, engine, loop
from accdd.execution import PLAIN
from accdd.keys import Key
from accdd.run import Quiet, course


def measure(run: Path, count: int) -> dict[str, Any]:
    """Mean losses of a set, summed over classes, with their standard errors over targets."""
    distilled = accdd.load(run)
    settings = config.override(config.Settings(), config.flatten(distilled.info["settings"]))
    source = distilled.info["source"]["path"]
    real, resolved = course.read(source, settings, Quiet())
    work = course.prepare(source, real, resolved, Quiet(), plan=PLAIN)
    sweep, in_use = engine.synthetic_sweeper(work.problem, PLAIN), resolved.targets.count or 0
    if not in_use:
        raise SystemExit(f"'{run}' was not on targets.")
    images = distilled.images.unflatten(0, (real.num_classes, resolved.ipc)).to(real.device)
    labels = torch.arange(real.num_classes, device=real.device)
    subsets = loop.draw_subsets(real, work.problem, resolved, Key(0), count)
    order = torch.randperm(in_use, generator=Key(0).generator("targets"))[:count].tolist()

    def losses(numbers: list[int]) -> list[float]:
        found = []
        for number, subset in zip(numbers, subsets, strict=False):
            target = work.bank[number]
            loss, _ = sweep(target.parameters, target.gradients, images, labels, target.siamese, subset)
            found.append(loss.sum().item())
        return found

    row: dict[str, Any] = {"run": str(run), "ipc": resolved.ipc, "targets": in_use, "sweeps": distilled.info["sweeps"]}
    for name, numbers in (("seen", order), ("unseen", list(range(in_use, in_use + count)))):
        values = losses(numbers)
        row |= {name: statistics.fmean(values), f"{name} error": statistics.stdev(values) / len(values) ** 0.5}
    return row


def main() -> None:
    """Measure, and print a line or a JSON object a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for run in arguments.runs:
        row = measure(run, arguments.count)
        losses = ", ".join(f"{name} {row[name]:.2f} ± {row[f'{name} error']:.2f}" for name in ("seen", "unseen"))
        told = f"{run}: IPC {row['ipc']}, {row['sweeps']:,} sweeps on {row['targets']:,} targets: {losses}"
        print(json.dumps(row) if arguments.json else f"{told}, ratio {row['unseen'] / row['seen']:.2f}", flush=True)


if __name__ == "__main__":
    main()
