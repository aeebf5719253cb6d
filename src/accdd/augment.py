"""Differentiable augmentation (DSA, Zhao & Bilen, ICML 2021) and CutMix, split into drawing and applying.

`draw` makes plain tensors of parameters on the CPU; `augmented` is a pure function of images and those parameters,
with no branch on a drawn value, so that one draw can be shared (siamese), sliced per step, batched over classes and
compiled.
`PHOTOGRAPHS` act on pixels from 0 to 1, everything else on normalised images: zeros that move in are the mean.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from accdd.config import InputError
from accdd.data import mirrors

Draw = dict[str, Tensor]
"""Drawn parameters by name; each tensor begins with the shape asked of `draw`."""

NAMES = ("flip", "color", "crop", "scale", "rotate", "cutout")
PLACEMENTS = ("crop", "scale", "rotate")
"""Of those listed, one is used at a time (IDC); DSA uses one of all."""
PHOTOGRAPHS = ("resized", "jitter", "lighting")
"""What networks on ImageNet are trained with, in pixels from 0 to 1 before they are normalised, and never one of all: a
window of RESIZED to 1 of the area, enlarged; brightness, contrast and saturation each times up to 1 +- JITTER, in any
order; and noise along the principal colours (Krizhevsky et al., NeurIPS 2012), for three channels."""

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP, CUTOUT, SCALE, ROTATE, FLIP = 0.125, 0.5, 1.2, 15.0, 0.5
RESIZED, JITTER, LIGHTING = 0.5, 0.4, 0.1
ASPECT, WINDOWS = (3 / 4, 4 / 3), 10
"""Of a window, width to height; and how many are drawn until one fits, otherwise it is the whole image."""
GREY = (0.299, 0.587, 0.114)
"""How red, green and blue add up to grey (ITU-R BT.601)."""
COLOUR_VARIANCES = (0.2175, 0.0188, 0.0045)
COLOUR_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of ImageNet's colours: variances, used as if they were deviations as the field does, and
directions as columns."""


def check(names: Sequence[str]) -> None:
    """Refuse unknown augmentation names with an `InputError`."""
    unknown = [name for name in names if name not in (*NAMES, *PHOTOGRAPHS)]
    if unknown:
        raise InputError(f"Unknown augmentation {unknown}. Expected any of: {', '.join((*NAMES, *PHOTOGRAPHS))}.")


def draw(
    names: Sequence[str], shape: tuple[int, ...], size: int, generator: torch.Generator, *, one_of: bool = False
) -> Draw:
    """Parameters for the augmentations in `names`.

    Args:
        names: any of `NAMES` and `PHOTOGRAPHS`, in any order.
        shape: (..., k): k = 1 for one draw shared by a batch (siamese), k = batch for one per image. Which of
            `PLACEMENTS` is used is drawn once per batch, so the same for all k.
        size: image height and width in pixels.
        generator: CPU generator.
        one_of: use a single one of all in `names`, drawn once per batch (DSA), and not all but the placements (IDC).
            What is not used is there with values that change nothing.

    Returns:
        A draw; its tensors begin with `shape`.
    """
    check(names)

    def uniform(low: float, high: float, *last: int) -> Tensor:
        return torch.rand((*shape, *last), generator=generator) * (high - low) + low

    def integer(low: int, high: int, *last: int) -> Tensor:
        return torch.randint(low, high + 1, (*shape, *last), generator=generator)

    rivals = [name for name in (NAMES if one_of else PLACEMENTS) if name in names]
    chosen = torch.randint(len(rivals) or 1, (*shape[:-1], 1), generator=generator)

    def used(name: str, values: Tensor, neutral: float) -> Tensor:
        if name not in rivals:
            return values
        own = (chosen == rivals.index(name)).reshape(*chosen.shape, *[1] * (values.ndim - len(shape)))
        return torch.where(own, values, torch.tensor(neutral, dtype=values.dtype))

    drawn: Draw = {}
    if "flip" in names:
        drawn["flip"] = used("flip", uniform(0, 1) < FLIP, False)
    if "color" in names:
        drawn["brightness"] = used("color", uniform(-BRIGHTNESS / 2, BRIGHTNESS / 2), 0)
        drawn["saturation"] = used("color", uniform(0, SATURATION), 1)
        drawn["contrast"] = used("color", uniform(CONTRAST, 1 + CONTRAST), 1)
    if "crop" in names:
        reach = int(size * CROP + 0.5)
        drawn["shift"] = used("crop", integer(-reach, reach, 2), 0)
    if "scale" in names or "rotate" in names:
        stretch, angle = torch.ones(*shape, 2), torch.zeros(shape)
        if "scale" in names:
            stretch = used("scale", uniform(1 / SCALE, SCALE, 2), 1)
        if "rotate" in names:
            angle = used("rotate", uniform(-ROTATE, ROTATE), 0) * (math.pi / 180)
        cos, sin = angle.cos() * stretch[..., 0], angle.sin()
        matrix = torch.stack([cos, -sin, sin, angle.cos() * stretch[..., 1]], dim=-1)
        drawn["affine"] = matrix.reshape(*shape, 2, 2)
    if "cutout" in names:
        hole = int(size * CUTOUT + 0.5)
        drawn["cutout"] = used("cutout", integer(0, size - hole % 2, 2), -2 * size)  # a hole beside the image
    if "resized" in names:
        drawn["window"] = _draw_windows(shape, size, generator)
    if "jitter" in names:
        drawn["jitter"] = uniform(1 - JITTER, 1 + JITTER, 3)
        drawn["order"] = torch.rand(*shape, 3, generator=generator).argsort(-1)
    if "lighting" in names:
        strengths = LIGHTING * torch.randn(*shape, 3, generator=generator)
        drawn["lighting"] = strengths * torch.tensor(COLOUR_VARIANCES) @ torch.tensor(COLOUR_DIRECTIONS).T
    return drawn


def _draw_windows(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
    """int64 (*shape, 4): top, left, height and width in pixels, of the first of `WINDOWS` that lies in the image."""
    area, aspect, down, right = torch.rand(4, *shape, WINDOWS, generator=generator)
    area = size**2 * (RESIZED + (1 - RESIZED) * area)
    low, high = (math.log(each) for each in ASPECT)
    aspect = (low + (high - low) * aspect).exp()
    height, width = ((area / aspect).sqrt().round().long(), (area * aspect).sqrt().round().long())
    fits = (height <= size) & (width <= size)
    first = fits.int().argmax(-1, keepdim=True)  # 0 where none fits
    height, width = (torch.where(fits.any(-1), each.gather(-1, first)[..., 0], size) for each in (height, width))
    down, right = (each.gather(-1, first)[..., 0] for each in (down, right))
    corner = ((down * (size - height + 1)).long(), (right * (size - width + 1)).long())
    return torch.stack([*corner, height, width], dim=-1)


def at(drawn: Draw, *index: int | slice | Tensor) -> Draw:
    """The draw at an index of its leading dimensions."""
    return {name: value[index] for name, value in drawn.items()}


def to(drawn: Draw, device: torch.device) -> Draw:
    """The draw on another device."""
    return {name: value.to(device) for name, value in drawn.items()}


def augmented(images: Tensor, drawn: Draw, mean: Tensor, std: Tensor) -> Tensor:
    """A batch as a network is trained on it: augmented, `PHOTOGRAPHS` before and the rest after it is normalised.

    Args:
        images: uint8 in [0, 255] or float in [0, 1], (n, c, h, w).
        drawn: from `draw`, sliced to shape (k,), k = 1 or n.
        mean, std: (c,).

    Returns:
        float (n, c, h, w). Differentiable in `images`, where they are float.
    """
    return apply(normalise(in_pixels(images, drawn), mean, std), drawn)


def in_pixels(images: Tensor, drawn: Draw) -> Tensor:
    """The part of `PHOTOGRAPHS`, float (n, c, h, w); `images` themselves where none is drawn. Nothing is cut off at 0
    and 1. Arguments as for `augmented`."""
    if not {"window", "jitter", "lighting"} & set(drawn):
        return images
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if "window" in drawn:
        images = _window(images, drawn["window"])
    if "jitter" in drawn:
        for place in range(3):
            images = _jittered(images, drawn["jitter"], drawn["order"][:, place])
    if "lighting" in drawn and images.shape[1] == 3:
        images = images + drawn["lighting"][:, :, None, None].to(images.dtype)
    return images


def apply(images: Tensor, drawn: Draw) -> Tensor:
    """Augment a normalised batch: flip, brightness, saturation, contrast, one placement, cutout, in this order.

    Args:
        images: float (n, c, h, w), normalised.
        drawn: from `draw`, sliced to shape (k,), k = 1 or n.

    Returns:
        float (n, c, h, w). Differentiable in `images`.
    """
    if "flip" in drawn:
        images = torch.where(_per_image(drawn["flip"]), images.flip(-1), images)
    if "brightness" in drawn:
        images = images + _per_image(drawn["brightness"])
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * _per_image(drawn["saturation"]) + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        images = (images - mean) * _per_image(drawn["contrast"]) + mean
    if "shift" in drawn:
        images = _shift(images, drawn["shift"])
    if "affine" in drawn:
        images = _affine(images, drawn["affine"])
    if "cutout" in drawn:
        images = images * ~_box(drawn["cutout"], images)
    return images


def suited(names: tuple[str, ...], data_name: str) -> tuple[str, ...]:
    """The augmentations without flips where a mirrored picture is of another class or of none."""
    return names if mirrors(data_name) else tuple(name for name in names if name != "flip")


def normalise(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """uint8 in [0, 255] or float in [0, 1], (n, c, h, w), to float of zero mean and unit deviation per channel.

    `mean` and `std` have c entries; as tensors on the images' device they cost no copy.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    shift, scale = (torch.as_tensor(each, device=images.device) for each in (mean, std))
    return (images - shift[:, None, None]) / scale[:, None, None]


def draw_cutmix(probability: float, steps: int, batch: int, size: int, generator: torch.Generator) -> Draw:
    """CutMix (Yun et al., ICCV 2019): one box and one permutation per batch, used with `probability`.

    Returns:
        A draw with leading dimension `steps`: `rank` float (steps, batch), whose order is the permutation, so that a
        short last batch may take a prefix; `top`, `left`, `bottom`, `right` int64 (steps,), the box in pixels, empty
        where CutMix is not used.
    """
    # Beta(1, 1), the field's choice, is the uniform distribution.
    kept = torch.rand(steps, generator=generator)
    side = (size * (1 - kept).sqrt()).long()
    side = side * (torch.rand(steps, generator=generator) < probability)
    centre = torch.randint(size, (2, steps), generator=generator)
    low, high = (centre - side // 2).clamp(0, size), (centre + side // 2).clamp(0, size)
    rank = torch.rand(steps, batch, generator=generator)
    return {"rank": rank, "top": low[0], "bottom": high[0], "left": low[1], "right": high[1]}


def apply_cutmix(images: Tensor, soft_labels: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
    """Paste each image's box from its partner, and mix their labels by area.

    Args:
        images: float (n, c, h, w).
        soft_labels: float (n, classes), rows summing to 1.
        drawn: from `draw_cutmix`, one step; `rank` may be longer than n.

    Returns:
        Images and labels of the same shapes.
    """
    h, w = images.shape[-2:]
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    inside_rows = (rows >= drawn["top"]) & (rows < drawn["bottom"])
    inside_columns = (columns >= drawn["left"]) & (columns < drawn["right"])
    box = inside_rows[:, None] & inside_columns
    share = box.float().mean()
    partner = drawn["rank"][: len(images)].argsort()
    return torch.where(box, images[partner], images), soft_labels.lerp(soft_labels[partner], share)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _shift(images: Tensor, offset: Tensor) -> Tensor:
    """Move by whole pixels, zeros entering: two products with shifted identities, so `offset` (k, 2) is data."""
    h, w = images.shape[-2:]
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    down = (rows[:, None] + offset[:, 0, None, None] == rows).to(images.dtype)  # (k, h, h)
    right = (columns[:, None] == columns + offset[:, 1, None, None]).to(images.dtype)  # (k, w, w)
    return down[:, None] @ images @ right[:, None]


def _window(images: Tensor, window: Tensor) -> Tensor:
    """The window (k, 4) enlarged to the whole, bilinear; at its border its last pixels go on."""
    n, _, h, w = images.shape

    def positions(count: int, first: Tensor, length: Tensor) -> Tensor:
        steps = (torch.arange(count, device=images.device) + 0.5) / count
        inside = (steps * length[:, None] - 0.5).clamp(min=0).minimum(length[:, None] - 1.0)
        return (2 * (first[:, None] + inside) + 1) / count - 1  # (k, count), as grid_sample counts

    top, left, height, width = window.unbind(-1)
    down, right = positions(h, top, height), positions(w, left, width)
    k = len(window)
    grid = torch.stack([right[:, None].expand(k, h, w), down[:, :, None].expand(k, h, w)], dim=-1)
    return F.grid_sample(images, grid.to(images.dtype).expand(n, h, w, 2), align_corners=False)


def _jittered(images: Tensor, factors: Tensor, which: Tensor) -> Tensor:
    """Brightness, contrast or saturation (`which` (k,), 0 to 2) times its factor (k, 3)."""
    grey = images.mean(1, keepdim=True)
    if images.shape[1] == 3:
        red, green, blue = images.split(1, dim=1)
        grey = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    mean = grey.mean((2, 3), keepdim=True)
    kind = _per_image(which)
    towards = torch.where(kind == 0, torch.zeros_like(mean), torch.where(kind == 1, mean, grey))
    factor = _per_image(factors.gather(1, which[:, None])[:, 0]).to(images.dtype)
    return towards + factor * (images - towards)


def _affine(images: Tensor, matrix: Tensor) -> Tensor:
    """Sample at matrix @ position, bilinear, zeros outside; `matrix` (k, 2, 2), positions from -1 to 1."""
    n, _, h, w = images.shape
    # Written out because `F.affine_grid` cannot be batched over classes by vmap.
    down = (2 * torch.arange(h, device=images.device, dtype=images.dtype) + 1) / h - 1
    right = (2 * torch.arange(w, device=images.device, dtype=images.dtype) + 1) / w - 1
    positions = torch.stack([right.expand(h, w), down[:, None].expand(h, w)], dim=-1)  # (h, w, 2): x, y
    grid = positions @ matrix[:, None].to(images.dtype).mT  # (k, h, w, 2)
    return F.grid_sample(images, grid.expand(n, h, w, 2), align_corners=False)


def _box(centre: Tensor, images: Tensor) -> Tensor:
    """Boolean (k, 1, h, w): the square of side CUTOUT * size around `centre` (k, 2), cut at the borders."""
    h, w = images.shape[-2:]
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    hole_h, hole_w = int(h * CUTOUT + 0.5), int(w * CUTOUT + 0.5)
    top, left = centre[:, :1] - hole_h // 2, centre[:, 1:] - hole_w // 2
    inside_rows = (rows >= top) & (rows < top + hole_h)  # (k, h)
    inside_columns = (columns >= left) & (columns < left + hole_w)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
