"""Where does the time of a compiled matching sweep and a compiled training step go?

python benchmarks/shares.py
"""

from collections import defaultdict

import torch
from harness import Work, matrix_product
from matching import sweep
from networks import between_sweeps
from setting import Case
from torch.profiler import ProfilerActivity, profile

from accdd import execution

KINDS = {
    "convolutions, gradients": ("aten::convolution_backward",),
    "convolutions": ("aten::convolution", "aten::_convolution", "aten::mkldnn_convolution", "aten::cudnn_convolution"),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "everything fused": ("## Call CompiledFxGraph", "triton_"),
}
"""By how names begin; the first that fits."""


def shares(work: Work, where: torch.device) -> dict[str, float]:
    """Seconds of one repetition by kind of kernel, and in all."""
    work()
    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if where.type == "cuda" else [])]
    with profile(activities=activities) as found:
        work()
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in found.key_averages():
        own = event.self_device_time_total if where.type == "cuda" else event.self_cpu_time_total
        name = next((kind for kind, begins in KINDS.items() if event.key.startswith(begins)), "the rest")
        seconds[name] += own / 1e6
    return dict(seconds)


def main() -> None:
    where, case = execution.device("auto"), Case(per_class=205)
    execution.prepare(where)
    print(f"{execution.machine(where)}; matrix product {matrix_product(where, 'fp32') / 1e9:.0f} GFLOP/s")
    for name, prepare in (("sweep, IPC 10", sweep), ("training, 2,000 images", between_sweeps)):
        found = shares(prepare(case), where)
        total = sum(found.values())
        print(f"{name}: {total:.2f} s")
        for kind, seconds in sorted(found.items(), key=lambda item: -item[1]):
            print(f"  {kind:26} {seconds:7.3f} s  {seconds / total:4.0%}")


if __name__ == "__main__":
    main()
