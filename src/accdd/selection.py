"""Choosing real images: the baseline every distilled set is held against, and where learned images start.

Choices are functions of one signature: (data, images per class, key) -> int64 (classes, count) on the CPU, indices into
`data.images`. They repeat images of a class only where it has too few.
"""

import warnings

import torch
from torch import Tensor

from accdd.data import Dataset
from accdd.keys import Key

CLUSTERED = 1000
"""Images of a class that k-means looks at: so many, or twice as many as are to be chosen if those are more."""
COMPONENTS = 64
"""Principal components of their pixels that it sees: all there are of digits."""

_PIXELS = 1 << 13  # looked at at once, which bounds the memory


def random(data: Dataset, count: int, key: Key) -> Tensor:
    """Random images of each class."""
    generator = key.generator("random images")
    return torch.stack([choose(rows, count, generator) for rows in data.class_index])


def kmeans(data: Dataset, count: int, key: Key) -> Tensor:
    """The images of each class nearest to the centres of `count` clusters of its pixels, one for each centre.

    Large classes are sub-sampled (`CLUSTERED`). Where centres share their nearest image, the later one takes the
    nearest that is left. Images of a class with no more than `count` are all taken, as often as they fit in whole.
    """
    generator = key.generator("k-means images")
    return torch.stack([_central(data.images, rows, count, generator) for rows in data.class_index])


def choose(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` entries of `rows` (n,), each as often as every other or once more: once at most where n >= count."""
    passes = [torch.randperm(len(rows), generator=generator) for _ in range(-(-count // len(rows)))]
    return rows[torch.cat(passes)[:count]]


def _central(images: Tensor, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`kmeans` of one class: `count` entries of `rows`."""
    from sklearn.cluster import KMeans  # takes a second to import
    from sklearn.exceptions import ConvergenceWarning

    passes, rest = divmod(count, len(rows))
    whole = rows[torch.randperm(len(rows), generator=generator)].repeat(passes)
    if not rest:
        return whole
    seen = choose(rows, min(len(rows), max(CLUSTERED, 2 * rest)), generator)
    points = principal(images[seen.to(images.device)].flatten(1), COMPONENTS)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of images that are there twice, which does no harm
        fitted = KMeans(rest, n_init="auto", random_state=seed).fit(points.numpy())
    distances = torch.cdist(torch.from_numpy(fitted.cluster_centers_).to(points.dtype), points)
    nearest = []
    for row in distances:  # a centre
        nearest.append(int(row.argmin()))
        distances[:, nearest[-1]] = torch.inf
    return torch.cat([whole, seen[torch.tensor(nearest)]])


def principal(pixels: Tensor, components: int) -> Tensor:
    """Principal components of images, from their inner products: exact, and small where pixels are many.

    Args:
        pixels: uint8 (n, pixels).
        components: how many, at most.

    Returns:
        float64 (n, min(components, n)) on the CPU, the first component last; with all components, distances are those
        of the pixels scaled to [0, 1].
    """
    products = torch.zeros(len(pixels), len(pixels), dtype=torch.float64)
    for part in pixels.split(_PIXELS, dim=1):
        scaled = part.float() / 255
        scaled = scaled - scaled.mean(0)
        products += (scaled @ scaled.T).cpu()
    values, vectors = torch.linalg.eigh(products)
    return (vectors * values.clamp(min=0).sqrt())[:, -components:].contiguous()
