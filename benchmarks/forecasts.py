"""What is foretold of a run against what it takes: time, memory and disk of six configurations.

    python benchmarks/forecasts.py --out FOLDER [--only TEXT]

Each is told beforehand by `accdd distill --dry-run` and then made, both as a user would, with a cache of its own. Its
memory is what the process holds at most, looked at every 0.2 s, without what it has mapped of targets, which is as the
forecast counts it. Cells that are there are not made again.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cells import DATA

CASES: Mapping[str, Sequence[str]] = {
    "digits, defaults": ["digits", "--steps=3000", "--set=score.seeds=2"],
    "digits, IDC, IPC 5": ["digits", "--ipc=5", "--targets=0", "--inner-steps=20", "--set=loop.train_images=500",
                           "--set=images.step=gradient", "--steps=20", "--compile=never"],
    "Fashion-MNIST, targets, IPC 10": [f"{DATA}/fashion-mnist", "--ipc=10", "--set=network.width=32", "--targets=50",
                                       "--steps=300", "--set=pool.networks=2", "--set=score.epochs=100"],
    "CIFAR-10, IDC, IPC 1": [f"{DATA}/cifar10-jpeg", "--set=network.width=32", "--targets=0", "--inner-steps=50",
                             "--set=loop.train_images=2000", "--set=images.step=gradient", "--steps=2",
                             "--set=pool.networks=1", "--set=score.epochs=100"],
    "CIFAR-10, width 128, targets": [f"{DATA}/cifar10-jpeg", "--targets=50", "--steps=150", "--set=pool.networks=1",
                                     "--set=pool.epochs=1", "--set=score.seeds=1", "--set=score.epochs=300"],
    "CIFAR-10, DSA, fresh, IPC 10": [f"{DATA}/cifar10-jpeg", "--method=dsa", "--ipc=10", "--no-early-stage",
                                     "--set=network.width=32", "--inner-steps=10", "--steps=10", "--targets=0",
                                     "--set=score.epochs=100"],
}  # fmt: skip


def own_memory(pid: int) -> int:
    """Bytes that a process holds now, without mapped targets."""
    held, counted = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            counted = not line.endswith("targets.safetensors")
        elif line.startswith("Rss:") and counted:
            held += 1024 * int(line.split()[1])
    return held


def measured(command: Sequence[str], environment: Mapping[str, str], log: Path) -> tuple[float, int]:
    """Seconds and bytes at the peak of a command that succeeds."""
    began, peak = time.perf_counter(), 0
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        while process.poll() is None:
            try:
                peak = max(peak, own_memory(process.pid))
            except (OSError, ProcessLookupError):  # it has just ended
                break
            time.sleep(0.2)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, peak


def files_of(*folders: Path) -> int:
    """Bytes of the tensors in some folders, without data and what was compiled."""
    return sum(
        path.stat().st_size
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not {"data", "compiled"} & set(path.relative_to(folder).parts)
    )


def case(flags: Sequence[str], folder: Path) -> dict[str, Any]:
    """What was foretold and what it took, for one configuration."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    accdd = [sys.executable, "-m", "accdd", "distill", *flags, "--quiet"]
    told = subprocess.run([*accdd, "--dry-run", "--json"], env=environment, check=True, stdout=subprocess.PIPE)
    _, peak = measured([*accdd, f"--out={folder / 'run'}"], environment, folder / "log.txt")
    taken = json.loads((folder / "run" / "evaluation.json").read_text())["seconds"]
    return {
        "foretold": json.loads(told.stdout),
        "taken": {"seconds": taken, "memory": peak, "disk": files_of(folder / "run", folder / "cache")},
    }


def main() -> None:
    """Make the cells that are missing, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cells")
    parser.add_argument("--only", default="", help="configurations with this in their names")
    told = parser.parse_args()
    print("| configuration | seconds foretold | taken | GB foretold | taken | MB of disk foretold | taken |")
    print("|---|---|---|---|---|---|---|")
    for name, flags in CASES.items():
        folder = told.out / re.sub(r"\W+", "-", name)
        if told.only not in name:
            continue
        if not (folder / "result.json").exists():
            folder.mkdir(parents=True)
            found = case(flags, folder)
            (folder / "result.json").write_text(json.dumps(found, indent=1))
        found = json.loads((folder / "result.json").read_text())
        row = [name]
        for how, digits in (
            (lambda each: sum(each["seconds"].values()), "{:.0f}"),
            (lambda each: each["memory"] / 1e9, "{:.2f}"),
            (lambda each: each["disk"] / 1e6, "{:.0f}"),
        ):
            row += [digits.format(how(found[which])) for which in ("foretold", "taken")]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
