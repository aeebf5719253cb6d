"""Where the arithmetic happens."""

import platform
from pathlib import Path

import torch

from accdd.config import InputError


def device(name: str) -> torch.device:
    """`auto` is CUDA if there is one, then Apple's MPS, then the CPU; otherwise a PyTorch device name.

    Raises:
        InputError: no such device here.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available = [*(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cuda", *available]
    if torch.backends.mps.is_available():
        available = ["mps", *available]
    if name == "auto":
        return torch.device("cuda" if "cuda" in available else available[0])
    if name not in available:
        raise InputError(f"Device '{name}' is not available here. Expected auto or one of: {', '.join(available)}.")
    return torch.device(name)


def machine(where: torch.device) -> str:
    """One line that names the hardware, for tables: 'NVIDIA H200' or 'AMD EPYC, 2 threads'."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
