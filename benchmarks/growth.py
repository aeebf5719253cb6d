"""How do seconds and memory grow: with classes, images per class and image size, and with larger networks?

python benchmarks/growth.py [WORDS] [--precision fp32] [--json]
"""

import dataclasses
import functools

from harness import Row, main
from matching import flops, sweep
from networks import iteration, iteration_flops
from setting import Case


def rows(precision: str) -> list[Row]:
    base = Case(ipc=1, width=32, per_class=70, precision=precision)
    grown = {f"{classes} classes": dataclasses.replace(base, classes=classes) for classes in (10, 50, 200)}
    grown |= {f"IPC {ipc}": dataclasses.replace(base, ipc=ipc) for ipc in (10, 50)}
    grown |= {f"{size} pixels": dataclasses.replace(base, size=size) for size in (16, 64)}
    listed = [
        Row(f"sweep, width 32, {name}", functools.partial(sweep, case), flops=functools.partial(flops, case))
        for name, case in grown.items()
    ]
    large = {
        "ConvNet-4-128, 64 px, IPC 10": Case(size=64, per_class=205, precision=precision),
        "ResNetAP-10, 128 px, IPC 10": Case(
            network="resnet_ap10", width=None, size=128, factor=3, per_class=205, precision=precision
        ),
    }
    return listed + [
        Row(f"iteration, {name}", functools.partial(iteration, case), flops=functools.partial(iteration_flops, case),
            repeats=2)
        for name, case in large.items()
    ]  # fmt: skip


if __name__ == "__main__":
    main("How do seconds and memory grow?", rows)
