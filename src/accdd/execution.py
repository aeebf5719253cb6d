"""Where and how the arithmetic happens: device, precision, compilation, and what a function costs.

Nothing here knows what is computed. Plans follow from counted work and the kind of device (on a GPU also from its free
memory), never from a stopwatch.
"""

import contextlib
import ctypes
import dataclasses
import functools
import math
import multiprocessing.util
import os
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils._triton import has_triton
from torch.utils.flop_counter import FlopCounterMode

from accdd import files
from accdd.config import InputError, Notice
from accdd.recording import BRANCHES


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a run executes its sweeps; stored with the run."""

    precision: str = "fp32"
    """Of convolutions and linear layers: `fp32` or `bf16`. Distances, norms and images are always fp32."""
    compile_matching: bool = False
    """Whether the two halves of a matching step are compiled, each as one graph."""
    compile_training: bool = False
    """Whether the training step of the network between sweeps is."""
    classes: int = 1
    """Classes matched at once; sweeps are cut into equal chunks of this many."""
    overlapping: int = 1
    """Chunks at the same time, on a GPU."""
    parts: int = 1
    """Parts that the synthetic images of a class are matched in, one after the other, so that less is held at once."""


PLAIN = Plan()
"""One class after the other, fp32, nothing compiled: bit-reproducible, and what other plans are held against."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one call of a function takes, counted without running it."""

    flops: int
    """Of matrix products and convolutions."""
    operations: int
    """Calls of kernels, when it is not compiled."""
    bytes: int
    """Of everything it writes: more than it ever holds at once."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.operations + other.operations, self.bytes + other.bytes)

    def side_by_side(self, count: int) -> "Cost":
        """Of `count` calls as one, mapped: as many operations, each on more."""
        return Cost(self.flops * count, self.operations, self.bytes * count)


# Rates that only have to be right within a factor of two: they place break-even points and limit banks of targets.
CPU_FLOPS, CUDA_FLOPS = 100e9, 8e12
"""fp32 operations a second in products: of one CPU thread, and of a data-centre GPU with all that is written, too."""
BF16_SPEED, CUDA_BF16_SPEED = 5, 2
"""What matrix units for bf16 gain over that (RESULTS.md)."""
CPU_BYTES = 4e9
"""Bytes a second that one thread writes in what surrounds the products on a CPU, which memory limits (RESULTS.md)."""
OPERATION_SECONDS, CUDA_OPERATION_SECONDS = 10e-6, 2e-6
"""Dispatch of one eager operation; on a GPU, where launches are recorded, what one takes at least."""
COMPILE_SECONDS = 30.0
"""For one function (half a matching step, or a training step), the first time."""
SMALL_FLOPS, CUDA_SMALL_FLOPS = 2e8, 8e9
"""Below that, dispatch is most of an operation's time on a CPU, and a GPU is not kept busy by one function."""
COMPILED_SHARE = 0.2
"""What compiling leaves of the dispatch, and of the time that a CPU takes to write (RESULTS.md)."""
CUDA_COMPILED_SHARE = 0.35
"""What compiling leaves of products with what surrounds them on a GPU, where the latter takes longer."""
PART_BYTES = 16e9
"""What the synthetic half of a class may write on a CPU, uncompiled, before it is done in parts; it holds about a third
of that at once (RESULTS.md)."""
WORKERS = "ACCDD_WORKERS"
"""The variable that tells a worker how many there are on its machine."""


def device(name: str) -> torch.device:
    """`auto` is CUDA if there is one, then Apple's MPS, then the CPU; otherwise a PyTorch device name.

    A GPU has its number, as tensors on it say it. Processes that torchrun or an executor started on one machine take
    its GPUs in turn, unless each is told which.

    Raises:
        InputError: no such device here.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available = [*(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cuda", *available]
    if torch.backends.mps.is_available():
        available = ["mps", *available]
    if name == "auto":
        name = "cuda" if "cuda" in available else available[0]
    if name == "cuda" and name in available:
        here = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count() if "LOCAL_RANK" in os.environ else None
        return torch.device("cuda", torch.cuda.current_device() if here is None else here)
    if name not in available:
        raise InputError(f"Device '{name}' is not available here. Expected auto or one of: {', '.join(available)}.")
    return torch.device(name)


def gpu(where: torch.device) -> str | None:
    """What tells a GPU from all others, on whatever machine and under whatever number; None is another device."""
    return str(torch.cuda.get_device_properties(where).uuid) if where.type == "cuda" else None


def machine(where: torch.device) -> str:
    """One line that names the hardware, for tables: 'NVIDIA H200' or 'AMD EPYC, 2 threads'."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def prepare(where: torch.device, max_memory: float | None = None) -> None:
    """Settings of the process, to be called before all else: what makes everything faster and changes no result, and
    how much of a GPU's memory it may take, in gigabytes; of a GPU that several workers use, each its part at most."""
    # What is compiled is kept for the next process. PyTorch's own place is a folder below /tmp that anybody could fill
    # with code to be run; it is fixed when the compiler is imported.
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_compiled_folder())
    if where.type == "cpu":
        _keep_freed_memory()
    if where.type == "cuda":
        total = torch.cuda.mem_get_info(where)[1]
        of_a_gpu = -(-int(os.environ.get(WORKERS, "1")) // torch.cuda.device_count())
        share = 1 / of_a_gpu if max_memory is None else min(1 / of_a_gpu, max_memory * 1e9 / total)
        torch.cuda.set_per_process_memory_fraction(share, where)
        # Convolutions multiply fp32 in TF32 by PyTorch's default, and other products do not; that is as it should be.
        warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
        torch.backends.cudnn.benchmark = True


def stand_back() -> None:
    """Leave the processor to other processes, as far as they want it: one thread of low priority."""
    torch.set_num_threads(1)
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)


def _compiled_folder() -> Path:
    """Where what is compiled is kept; for this process alone where accdd's cache lies in a folder with a space in its
    name, which PyTorch takes for two words on the command line of the C++ compiler."""
    folder = files.cache_folder() / "compiled"
    if not re.search(r"\s", str(folder)):
        return folder
    private = tempfile.mkdtemp(prefix="accdd-compiled-")
    # Not atexit's, which workers of `executor` do not come to before Python 3.13.
    multiprocessing.util.Finalize(None, shutil.rmtree, (private,), {"ignore_errors": True}, exitpriority=0)
    return Path(private)


def precision(name: str, where: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies it, otherwise fp32; a name is itself.

    On a CPU without such instructions bf16 works and is hundreds of times slower.
    """
    if name != "auto":
        return name
    if where.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(where) >= (8, 0) else "fp32"
    has_bf16 = where.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16" if has_bf16 else "fp32"


def count(function: Callable[..., Any], *args: Any) -> tuple[Cost, Any]:
    """The cost of `function(*args)` and its result without values; from shapes alone, so within a second."""
    args = tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), args)
    with FlopCounterMode(display=False) as products, _Counter() as counter:
        result = function(*args)
    return Cost(products.get_total_flops(), counter.operations, counter.bytes), result


def check(compile: str, where: torch.device) -> None:
    """Refuse with an `InputError` to compile `always` where nothing can be compiled."""
    if compile == "always" and not can_compile(where):
        raise InputError(
            f"--compile always: cannot compile for {where.type} here. Expected Linux with g++ or clang++, or CUDA with "
            "Triton; otherwise --compile auto or never."
        )


def seconds(cost: Cost, where: torch.device, precision: str) -> float:
    """A guess, good within a factor of two or three, at what one compiled call takes."""
    return guessed(cost, where, precision)[1]


def guessed(cost: Cost, where: torch.device, precision: str) -> tuple[float, float]:
    """Seconds of one call, uncompiled and compiled."""
    if where.type == "cuda":
        products = cost.flops / (CUDA_FLOPS * (CUDA_BF16_SPEED if precision == "bf16" else 1))
        dispatch = cost.operations * CUDA_OPERATION_SECONDS
        return products + dispatch, products * CUDA_COMPILED_SHARE + dispatch * COMPILED_SHARE
    threads, speed = torch.get_num_threads(), 1
    if precision == "bf16":
        speed = BF16_SPEED if torch.cpu._is_amx_tile_supported() else 2
    products = cost.flops / (CPU_FLOPS * speed * threads)
    around = cost.bytes / (CPU_BYTES * threads) + cost.operations * OPERATION_SECONDS
    return products + around, products + around * COMPILED_SHARE


def worth_compiling(
    compile: str,
    where: torch.device,
    cost: Cost,
    calls: float,
    budget: float | None = None,
    *,
    precision: str = "fp32",
    functions: int = 1,
) -> bool:
    """Whether compiling saves more time than it takes.

    Args:
        compile: `always` and `never` decide by themselves; `auto` estimates.
        where: the device.
        cost: of one call, uncompiled.
        calls: how many there will be.
        budget: seconds for all of them, if they are limited.
        precision: of the products.
        functions: into how many compiled functions a call is divided.
    """
    if compile != "auto":
        return compile == "always"
    eager, compiled = guessed(cost, where, precision)
    if budget is not None:
        calls = min(calls, budget / eager)
    return can_compile(where) and (eager - compiled) * calls > functions * COMPILE_SECONDS


@functools.cache
def can_compile(where: torch.device) -> bool:
    """Whether `torch.compile` finds what it needs to make code for the device."""
    if where.type == "cpu":
        return platform.system() == "Linux" and any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))
    return where.type == "cuda" and has_triton()


def compiled(function: Callable[..., Any], where: torch.device) -> Callable[..., Any]:
    """`function` as one compiled graph for each set of shapes that it is called with.

    Its tensors must come as arguments, and it must not branch on their values. Where the compiler fails, it is said
    once and `function` runs as it is.
    """
    # A second of imports, which a command that computes nothing is spared.
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    graph = torch.compile(function, fullgraph=True, dynamic=False)
    works = True

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        nonlocal works
        if not works:
            return function(*args)
        try:
            return graph(*args)
        except (FailOnRecompileLimitHit, TorchDynamoException) as error:
            warnings.warn(f"PyTorch cannot compile this, so it runs slower: {str(error)[:500]}", Notice, stacklevel=2)
            works = False
            return function(*args)

    return run


def chunk(count: int, largest: int) -> int:
    """The size of equal chunks, at most `largest`, that `count` things are cut into with the least padding."""
    return -(-count // -(-count // max(1, min(count, largest))))


def chunks(count: int, size: int) -> Iterator[list[int]]:
    """Indices 0 to count - 1 in chunks of exactly `size`; the last repeats its last index, to be dropped again."""
    for start in range(0, count, size):
        yield [min(index, count - 1) for index in range(start, start + size)]


def at_once(count: int, cost: Cost, where: torch.device) -> int:
    """How many of `count` like things, each of which costs `cost`, to do as one function, in equal parts.

    Only the smallest, as others are faster with convolutions of their own, and as many as fit in memory: on a CUDA GPU
    in what is free, on a CPU in `PART_BYTES`, so that a plan follows from counted work.
    """
    if cost.flops >= (CUDA_SMALL_FLOPS if where.type == "cuda" else SMALL_FLOPS):
        return 1
    room = free_memory(where) // (2 * cost.bytes) if where.type == "cuda" else PART_BYTES // max(1, cost.bytes)
    return chunk(count, int(room))


def overlapping(count: int, cost: Cost, where: torch.device) -> int:
    """How many of `count` like things, each a function of its own, to do at the same time: on a CPU one."""
    return chunk(count, min(BRANCHES, free_memory(where) // (2 * cost.bytes))) if where.type == "cuda" else 1


def parts(cost: Cost, where: torch.device) -> int:
    """Into how many parts to cut what costs `cost`, so that it holds less memory at once: on a CPU, where the system
    kills what takes too much."""
    return max(1, math.ceil(cost.bytes / PART_BYTES)) if where.type == "cpu" else 1


def granted_memory(where: torch.device) -> int:
    """Bytes of a CUDA device that this process may take in all."""
    return int(torch.cuda.get_per_process_memory_fraction(where) * torch.cuda.mem_get_info(where)[1])


def free_memory(where: torch.device) -> int:
    """Bytes that could be taken now on a device; on a CPU of what the system, and the container if any, grants.

    On Apple's MPS, which shares it, that of the CPU.
    """
    if where.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch keeps without using it is free, too
        free, _ = torch.cuda.mem_get_info(where)
        return max(0, min(free, granted_memory(where) - torch.cuda.memory_reserved(where)))
    limits = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    if not limits and hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(limits, default=4 * 2**30)


def gather(images: Tensor, rows: Tensor, where: torch.device) -> Tensor:
    """`images[rows]` on a device.

    Images that are too many for it stay on the CPU (see `Dataset.to`), and only these rows travel; if `rows` are on the
    device, this waits for it.
    """
    return images[rows.to(images.device)].to(where)


def synchronise(where: torch.device) -> None:
    """Wait until the device has done what it was given; before a clock is read."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    elif where.type == "mps":
        torch.mps.synchronize()


class _Counter(TorchDispatchMode):
    """Counts operations and the bytes of their results, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        self.bytes += sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result


@functools.cache
def _keep_freed_memory() -> None:
    """Ask glibc to keep large blocks for the next tensor instead of giving their pages back.

    By default every tensor above 32 MiB is mapped anew and its pages are cleared one fault at a time, which took
    a third of the time of a training step (RESULTS.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, 2**31 - 1)


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
