"""Keyed randomness: every draw is a function of (scheme, seed, purpose, step), never of call order.

A key holds no state. Asking the same key for the same purpose twice gives the same numbers, so runs can
be split, reordered or continued and still draw the same.
"""

import dataclasses
import hashlib

import torch

SCHEME = 1
"""Version of the mapping from keys to numbers; part of every cache key and every artefact."""


def digest(*tensors: torch.Tensor) -> str:
    """SHA-256 (hex) of shapes, types and values; the same on every device."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).numpy().data)
    return found.hexdigest()


@dataclasses.dataclass(frozen=True)
class Key:
    """A place in the tree of draws: the seed and the path of purposes and positions below it."""

    seed: int
    path: tuple[str | int, ...] = ()

    def at(self, *place: str | int) -> "Key":
        """The key of a purpose or position below this one."""
        return Key(self.seed, (*self.path, *place))

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose at this place; always draw on the CPU and move the result."""
        text = repr((SCHEME, self.seed, *self.path, purpose)).encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        return torch.Generator().manual_seed(seed)
