"""How long until something happens: `accdd --help`, `import accdd`, and the second start on CIFAR-10?

python benchmarks/startup.py [--json]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

CIFAR10 = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10-jpeg"

LOAD = """
import sys, time
from accdd import data
began = time.perf_counter()
real = data.load(sys.argv[1])
real.mean, real.std, real.fingerprint
print(time.perf_counter() - began)
"""


def seconds(*arguments: str, repeats: int = 7) -> float:
    """The median of a whole process."""
    measured = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        measured.append(time.perf_counter() - began)
    return statistics.median(measured)


def loading() -> list[float]:
    """Reading CIFAR-10 in three new processes, beyond imports: the first decodes unless the cache has it."""
    runs = [subprocess.run([sys.executable, "-c", LOAD, str(CIFAR10)], check=True, capture_output=True) for _ in "123"]
    return [float(run.stdout) for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    as_json = parser.parse_args().json
    found = {
        "python -c pass": seconds("-c", "pass"),
        "accdd --help (bar: 0.3 s)": seconds("-m", "accdd", "--help"),
        "import torch": seconds("-c", "import torch"),
        "import accdd (bar: import torch + 0.3 s)": seconds("-c", "import accdd"),
        "import accdd.api (what a run imports)": seconds("-c", "import accdd.api"),
    }
    if CIFAR10.exists():
        first, *later = loading()
        found |= {"CIFAR-10, first of three starts": first, "CIFAR-10, later (bar: 1 s)": statistics.median(later)}
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:44} {value:7.3f} s")
    if not CIFAR10.exists():
        print(f"CIFAR-10 was not read: no data at {CIFAR10}")


if __name__ == "__main__":
    main()
