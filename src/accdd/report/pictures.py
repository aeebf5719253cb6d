"""Contact sheets: the images of a class side by side as one picture, small enough that a whole set fits a page.

Small sets are shown to the bit. For large ones, quality and then the number of images shown are lowered until all
sheets together fit the bytes that a view may take.
"""

import base64
import dataclasses
import io
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

COLUMNS = 10
"""Images side by side on a sheet, at most."""
SIDE = 96
"""Larger images are shrunk to this many pixels."""
QUALITIES = (30, 45, 60, 75, 90, None)
"""Of WebP; None is lossless."""
SAMPLE = 5
"""Sheets encoded to judge how much all of them would take."""

_GAP = 1  # pixels between images, transparent


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A picture of some images of one class."""

    source: str
    """As a data: address."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    count: int
    """Images on it."""


@dataclasses.dataclass(frozen=True)
class View:
    """Sheets of the classes, and what had to be left out for them to fit."""

    sheets: tuple[Sheet, ...]
    """Of each class in turn; fewer than there are classes where not even one image of each would fit."""
    quality: int | None
    """Of WebP; None is lossless."""
    shown: int
    """Images of a class shown, at most."""

    @property
    def bytes(self) -> int:
        """What it takes on the page."""
        return sum(len(sheet.source) for sheet in self.sheets)


def view(
    classes: int, images_of: Callable[[int, int], Tensor], most: int, budget: int, columns: int | None = COLUMNS
) -> View:
    """Sheets of as many images as fit, as well as they fit.

    Args:
        classes: how many there are.
        images_of: (class, most) -> at most that many of its images, float (n, c, h, w) in [0, 1].
        most: images per class to show if there is room.
        budget: bytes on the page for all of it.
        columns: images side by side, at most; None makes two rows.
    """
    if not classes:
        return View((), None, 0)
    for few in dict.fromkeys((classes, min(classes, 100), min(classes, 20))):
        for shown in dict.fromkeys(count for count in (most, 10, 5, 2, 1) if count <= most):
            sample = [draw(images_of(label, shown), columns) for label in range(0, few, -(-few // SAMPLE))]
            fitting: list[int | None] = []
            for quality in QUALITIES:  # what all would take is judged by a few, until that is too much
                if sum(len(_sheet(*each, quality).source) for each in sample) * few > budget * len(sample):
                    break
                fitting.insert(0, quality)
            drawn = [draw(images_of(label, shown), columns) for label in range(few)] if fitting else []
            for quality in fitting:
                made = View(tuple(_sheet(*each, quality) for each in drawn), quality, shown)
                if made.bytes <= budget:
                    return made
    return View((), None, 0)


def draw(images: Tensor, columns: int | None = COLUMNS) -> tuple[Image.Image, int]:
    """A picture of images, float (n, c, h, w) in [0, 1], row by row, and n."""
    images = to_rgb(shrunk(images))
    n, _, h, w = images.shape
    across = max(1, n // 2 if columns is None else min(n, columns))
    down = math.ceil(n / across)
    canvas = torch.zeros(4, down * (h + _GAP) - _GAP if n else 1, across * (w + _GAP) - _GAP, dtype=torch.uint8)
    for place, image in enumerate((images * 255).round().to(torch.uint8)):
        top, left = place // across * (h + _GAP), place % across * (w + _GAP)
        canvas[:3, top : top + h, left : left + w] = image
        canvas[3, top : top + h, left : left + w] = 255
    return Image.fromarray(canvas.permute(1, 2, 0).numpy()), n


def shrunk(images: Tensor, side: int = SIDE) -> Tensor:
    """At most `side` pixels high and wide."""
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    if scale >= 1 or not len(images):
        return images
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(images, size=size, mode="area")


def to_rgb(images: Tensor) -> Tensor:
    """(n, c, h, w) to (n, 3, h, w); other than 3 channels are averaged to grey."""
    return images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def by_class(images: Tensor, labels: Tensor, classes: int) -> Sequence[Tensor]:
    """The images of each class, in their order."""
    counts = torch.bincount(labels, minlength=classes).tolist()
    return images[labels.argsort(stable=True)].split(counts)


def _sheet(picture: Image.Image, count: int, quality: int | None) -> Sheet:
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", **({"lossless": True} if quality is None else {"quality": quality}), method=4)
    source = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
    return Sheet(source, *picture.size, count)
