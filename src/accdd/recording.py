"""CUDA graphs: what is launched on a GPU, recorded once and replayed, with independent pieces of it side by side."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

Result = TypeVar("Result")

BRANCHES = 5
"""Pieces of work that overlap on a GPU, at most: more take up more memory and are no faster (RESULTS.md)."""


def recorded(function: Callable[..., Any], where: torch.device) -> Callable[..., Any]:
    """On CUDA, the launches of `function` recorded once for each set of shapes and replayed from then on (CUDA graphs).

    That leaves a few launches to the processor instead of hundreds, which would keep it busier than the GPU. Tensors
    must come as arguments, and `function` must not branch on their values, wait for the GPU or bring anything to it.
    Inputs and results of every set of shapes stay in memory as long as the function does. On other devices it is
    `function`.
    """
    if where.type != "cuda":
        return function
    recordings: dict[Any, _Recording] = {}

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        tensors, tree = tree_flatten(args)
        key = tree, tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        with _RECORDING, torch.cuda.device(where):
            if key not in recordings:
                recordings[key] = _Recording(function, tensors, tree, where)
            return recordings[key](tensors)

    return run


_RECORDING = threading.RLock()
"""Held while launches are recorded or replayed: all share one memory for what is neither input nor result."""


@functools.cache
def _streams(where: torch.device) -> list[torch.cuda.Stream]:
    """One to record in, and one for each branch; always the same, as memory is used again on its own stream alone."""
    return [torch.cuda.Stream(where) for _ in range(1 + BRANCHES)]


@functools.cache
def _first_graph(where: torch.device) -> torch.cuda.CUDAGraph:
    """What recordings share their memory with, which is safe as they are replayed one after the other; it stays until
    `forget`, as memory whose last graph has gone cannot be shared again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=_streams(where)[0], capture_error_mode="thread_local"):
        torch.zeros(1, device=where)
    return graph


def forget() -> None:
    """Share new memory from now on, so that what is shared now is free once its last recording has gone."""
    with _RECORDING:
        _first_graph.cache_clear()


class _Recording:
    """A function's launches, reading from and writing to memory of their own."""

    def __init__(
        self, function: Callable[..., Any], tensors: list[Tensor], tree: TreeSpec, where: torch.device
    ) -> None:
        self._inputs = [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]
        args = tree_unflatten(self._inputs, tree)
        current, side, pool = torch.cuda.current_stream(where), _streams(where)[0], _first_graph(where).pool()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # compile, and let libraries choose their algorithms
            function(*args)
        current.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            results = function(*args)
        self._results, self._tree = tree_flatten(results)

    def __call__(self, tensors: list[Tensor]) -> Any:
        _copy(self._inputs, tensors)
        self._graph.replay()
        copies = [torch.empty_like(result) for result in self._results]
        _copy(copies, self._results)
        return tree_unflatten(copies, self._tree)


def _copy(into: list[Tensor], found: list[Tensor]) -> None:
    """All tensors of a list, in one launch for each format."""
    by_format: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, tensor in zip(into, found, strict=True):
        targets, tensors = by_format.setdefault(target.dtype, ([], []))
        targets.append(target)
        tensors.append(tensor)
    for targets, tensors in by_format.values():
        torch._foreach_copy_(targets, tensors)  # pyright: ignore[reportPrivateImportUsage]


def branches(works: Sequence[Callable[[], Result]], where: torch.device, most: int = BRANCHES) -> list[Result]:
    """The results of independent pieces of work; while they are recorded, `most` at a time overlap."""
    if where.type != "cuda" or len(works) == 1 or not torch.cuda.is_current_stream_capturing():
        return [work() for work in works]
    current, results = torch.cuda.current_stream(where), []
    streams = _streams(where)[1:][: min(most, len(works))]
    for stream in streams:
        stream.wait_stream(current)
    try:
        for number, work in enumerate(works):
            with torch.cuda.stream(streams[number % len(streams)]):
                results.append(work())
    finally:  # also when memory does not suffice: a recording cannot end with branches that have not come back
        for stream in streams:
            current.wait_stream(stream)
    return results
