"""Choosing real images: the baseline every distilled set is held against, and where learned images start.

Choices are functions of one signature: (data, images per class, key) -> int64 (classes, count) on the CPU, indices into
`data.images`; those by a rule about features or numbers take each class's indices instead, and are told what is known
of an image. Images of a class are repeated only where it has too few.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from accdd.data import Dataset
from accdd.keys import Key

CLUSTERED = 1000
"""Images of a class that k-means looks at: so many, or twice as many as are to be chosen if those are more."""
COMPONENTS = 64
"""Principal components of their pixels that it sees: all there are of digits."""
Look = Callable[[Tensor], Tensor]
"""(indices (k,) of images) -> what is known of each: features (k, m) or one number (k,), float, on any device. Asked
for one class at a time, so that features of all images are never in memory together."""


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


def herding(class_index: tuple[Tensor, ...], count: int, key: Key, look: Look) -> Tensor:
    """Of each class, one after another, the image that brings the mean of those chosen nearest to the class's mean.

    Greedy mean matching (Welling, ICML 2009), without repetition. The first is the image nearest to the mean.

    Args:
        class_index: per class the int64 indices of its images, on the CPU.
        count: images per class, at most those of the smallest class.
        key: not used, nothing is drawn.
        look: features.

    Returns:
        As `random`, in the order of choice.
    """
    del key

    def of_class(features: Tensor) -> list[int]:
        away = features - features.mean(0)  # (k, m)
        squares, total = away.square().sum(1), torch.zeros_like(away[0])
        chosen: list[int] = []
        for _ in range(count):
            # |total + away|^2 but for the same |total|^2 in all of them.
            rated = squares + 2 * (away @ total)
            rated[chosen] = torch.inf
            chosen.append(int(rated.argmin()))
            total = total + away[chosen[-1]]
        return chosen

    return torch.stack([rows[of_class(look(rows))] for rows in class_index])


def kcenter(class_index: tuple[Tensor, ...], count: int, key: Key, look: Look) -> Tensor:
    """Of each class, one after another, the image farthest from all that are chosen.

    Greedy k-center (Sener & Savarese, ICLR 2018), begun with the image nearest to the class's mean, where theirs
    begins with labelled ones. Without repetition.

    Args, returns: as for `herding`.
    """
    del key

    def of_class(features: Tensor) -> list[int]:
        chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
        nearest = features.new_full((len(features),), torch.inf)
        while len(chosen) < count:
            nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
            nearest[chosen] = -1  # below every distance, so that copies of an image are chosen after all others
            chosen.append(int(nearest.argmax()))
        return chosen

    return torch.stack([rows[of_class(look(rows))] for rows in class_index])


def highest(class_index: tuple[Tensor, ...], count: int, key: Key, look: Look) -> Tensor:
    """The images of each class of the highest values; of equal ones in random order.

    Args:
        class_index, count: as for `herding`.
        key: decides between equal values.
        look: one number per image.

    Returns:
        As `random`, highest first.
    """
    generator = key.generator("equal values")
    mixed = [rows[torch.randperm(len(rows), generator=generator)] for rows in class_index]
    return torch.stack([rows[look(rows).cpu().argsort(descending=True, stable=True)[:count]] for rows in mixed])


def forgotten(correct: Tensor) -> Tensor:
    """How often each image was forgotten: right at one look and wrong at the next (Toneva et al., ICLR 2019).

    Args:
        correct: bool (looks, n), whether each image was classified correctly, in order of training.

    Returns:
        int64 (n,). An image that was never right counts as forgotten at every look, more often than any other can be.
    """
    events = (correct[:-1] & ~correct[1:]).sum(0)
    return torch.where(correct.any(0), events, len(correct))


def error_norm(probabilities: Tensor, labels: Tensor) -> Tensor:
    """EL2N: the norm of predicted probabilities minus the one-hot label, averaged over networks.

    Paul et al., NeurIPS 2021, with ten networks early in training.

    Args:
        probabilities: float (networks, n, classes).
        labels: int64 (n,).

    Returns:
        float (n,), from 0 to the square root of 2.
    """
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[-1])
    return (probabilities - truth).norm(dim=-1).mean(0)
