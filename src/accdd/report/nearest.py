"""The copy check: beside every learned image the real one that is most like it, and how far apart they are.

Learned images often start as real ones, and all of what is learned comes from real ones. Whether one has stayed, or
become, a copy is a matter of distance, and a distance says something only beside that between real images.

    nearest.safetensors   decoded, rows int64 (n,); distances float32 (n,); images uint8 (n, c, h, w);
                          reference float32 (k,)
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from accdd import execution, files
from accdd.artifact import Distilled
from accdd.data import Dataset, mapped

FILE = "nearest.safetensors"
REFERENCE = 50
"""Real images per class, at most, whose distance to the nearest other real one is measured."""
ROUNDED = 0.5 / 255
"""How far rounding to 8 bits moves a pixel at most."""
SUSPICIOUS = 0.05
"""A learned image is as near as a copy where this share of real images, or less, has a nearer other real one."""


class Nearest(NamedTuple):
    """For each of n stored images, the pair of one of its decoded images and a real one that is nearest of all."""

    decoded: Tensor
    """Which of the stored image's decoded images, int64 (n,): number `i * n + stored` of what `decode` returns."""
    rows: Tensor
    """Which training image of the class, its position in the data, int64 (n,)."""
    distances: Tensor
    """Root mean square difference of their pixels in [0, 1], float32 (n,)."""
    images: Tensor
    """The real images, uint8 (n, c, h, w)."""
    reference: Tensor
    """The same distance from real images, evenly chosen of each class, to the nearest other of it, float32 (k,)."""

    @property
    def usual(self) -> float:
        """Within this, few real images have another one; 0 without a reference."""
        return self.reference.quantile(SUSPICIOUS).item() if len(self.reference) else 0.0

    @property
    def limit(self) -> float:
        """Up to it, a learned image is as near to a real one as a copy. A copy that was rounded to 8 bits is one even
        where real images have twins."""
        return max(self.usual, ROUNDED)

    @property
    def copies(self) -> int:
        """Learned images no farther than `limit`."""
        return int((self.distances <= self.limit).sum())


@torch.no_grad()
def find(distilled: Distilled, real: Dataset) -> Nearest:
    """Look for the nearest real image among those of the same class.

    Args:
        distilled: the set.
        real: the training images that it was learned from.
    """
    decoded, _ = distilled.decode()
    n, where = len(distilled.labels), real.device
    each = len(decoded) // n
    which, rows = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    distances, reference = torch.zeros(n), []
    for label, members in enumerate(real.class_index):
        own = (distilled.labels == label).nonzero()[:, 0]
        some = members[torch.linspace(0, len(members) - 1, min(REFERENCE, len(members))).long()]
        asked = (torch.arange(each)[:, None] * n + own).flatten()  # (each * own,)
        queries = torch.cat([decoded[asked], real.images[some.to(real.images.device)].cpu() / 255]).to(where)
        # An image is not its own nearest other: its own row is left out.
        without = torch.cat([torch.full_like(asked, -1), some])
        found, apart = _nearest(queries, without, real, members)
        pairs = apart[: len(asked)].view(each, -1)
        distances[own], which[own] = pairs.min(0)
        rows[own] = found[: len(asked)].view(each, -1).gather(0, which[own][None])[0]
        reference.append(apart[len(asked) :] if len(members) > 1 else apart[:0])
    pictures = real.images[rows.to(real.images.device)].cpu()
    return Nearest(which, rows, distances, pictures, torch.cat(reference))


def _nearest(queries: Tensor, without: Tensor, real: Dataset, members: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and distances (both (q,), on the CPU) of what is nearest to queries (q, c, h, w) of the rows `members`."""
    flat = queries.flatten(1)
    best = torch.full((len(flat),), math.inf, device=flat.device)
    found = torch.zeros(len(flat), dtype=torch.int64)
    for few in members.split(mapped.chunk(real.images)):
        pixels = execution.gather(real.images, few, flat.device).flatten(1) / 255
        squares = (flat**2).sum(1, keepdim=True) + (pixels**2).sum(1) - 2 * flat @ pixels.T  # (q, few)
        squares = squares.masked_fill((without[:, None] == few).to(flat.device), math.inf)
        value, place = squares.min(1)
        better = (value < best).cpu()
        best, found = torch.minimum(best, value), torch.where(better, few[place.cpu()], found)
    # The difference of large squares finds which is nearest, but is no good for how near a near one is.
    chosen = [execution.gather(real.images, rows, flat.device).flatten(1) / 255 for rows in found.split(1000)]
    apart = [(a - b).square().mean(1).sqrt().cpu() for a, b in zip(flat.split(1000), chosen, strict=True)]
    return found, torch.cat(apart)


def save(nearest: Nearest, folder: Path) -> None:
    """Write it into a run folder."""
    with files.commit_file(folder / FILE) as file:
        files.save_tensors({name: value.contiguous() for name, value in nearest._asdict().items()}, file)


def read(folder: Path, stored: Tensor, each: int) -> Nearest:
    """That of a run folder, which may come from a stranger.

    Args:
        folder: the run's.
        stored: the set's images, (n, c, h, w).
        each: decoded images of a stored one.

    Raises:
        ValueError: it is damaged, or does not go with the set.
        OSError: it cannot be read.
    """
    n = len(stored)
    expected = {"decoded": (n,), "rows": (n,), "distances": (n,), "images": tuple(stored.shape)}
    if not (folder / FILE).is_file():  # reading a pipe might never end
        raise ValueError("is no file")
    try:
        with safe_open(folder / FILE, framework="pt") as tensors:
            found = Nearest(*(tensors.get_tensor(name) for name in Nearest._fields))
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    for name, shape in expected.items():
        if tuple(getattr(found, name).shape) != shape:
            raise ValueError(f"{name} are of shape {tuple(getattr(found, name).shape)} instead of {shape}")
    kinds = [value.dtype for value in found]
    if kinds != [torch.int64, torch.int64, torch.float32, torch.uint8, torch.float32] or found.reference.ndim != 1:
        raise ValueError(f"holds {kinds}")
    if not (found.distances.isfinite().all() and found.reference.isfinite().all()):
        raise ValueError("holds distances that are no numbers")
    if n and not 0 <= int(found.decoded.min()) <= int(found.decoded.max()) < each:
        raise ValueError("names decoded images that there are not")
    return found
