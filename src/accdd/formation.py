"""Multi-formation (IDC, Kim et al., ICML 2022): one stored image holds factor x factor training images.

Storing is cutting a canvas into tiles, training is enlarging each tile to full size. `decode` and
`encode` are inverse up to the resize; both go through the same pair `split` and `join`, so where factor
does not divide the size they agree on the tiles (IDC's own initialisation and decoder do not).

A formation says which images are decoded by which factors: `uniform`, `multi` and `bounded`, of one signature.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 0.5
"""Value of the right and bottom border added where factor does not divide the size (mid-grey, as IDC)."""


def split(images: Tensor, factor: int) -> Tensor:
    """Cut images into tiles of ceil(size / factor).

    Args:
        images: (n, c, h, w).
        factor: tiles per side, f.

    Returns:
        (f * f * n, c, t, t): all top-left tiles first, then the tiles right of them, row by row.
    """
    n, c, h, w = images.shape
    tile_h, tile_w = math.ceil(h / factor), math.ceil(w / factor)
    canvas = F.pad(images, (0, tile_w * factor - w, 0, tile_h * factor - h), value=PADDING)
    tiles = canvas.reshape(n, c, factor, tile_h, factor, tile_w).permute(2, 4, 0, 1, 3, 5)  # (f, f, n, c, t, t)
    return tiles.reshape(factor * factor * n, c, tile_h, tile_w)


def join(tiles: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `split`: (f * f * n, c, t, t) to (n, c, h, w), the padding cut off."""
    count, c, tile_h, tile_w = tiles.shape
    n = count // (factor * factor)
    canvas = tiles.reshape(factor, factor, n, c, tile_h, tile_w).permute(2, 3, 0, 4, 1, 5)  # (n, c, f, t, f, t)
    canvas = canvas.reshape(n, c, factor * tile_h, factor * tile_w)
    return canvas[..., : size[0], : size[1]]


def decode(images: Tensor, factor: int) -> Tensor:
    """Stored images to training images: each tile enlarged to full size (bilinear). Differentiable.

    Args:
        images: float (n, c, h, w); any value range, [0, 1] in use.
        factor: tiles per side, f; 1 returns the images unchanged ("IDC-I").

    Returns:
        float (f * f * n, c, h, w); labels are `labels.repeat(f * f)`.
    """
    if factor == 1:
        return images
    tiles = split(images, factor)
    # As two matrix products, whose derivative is deterministic everywhere and in the compiled engine several times as
    # fast as that of F.interpolate, which scatters.
    sides = zip(tiles.shape[-2:], images.shape[-2:], strict=True)
    rows, columns = (_enlarging(before, after, tiles) for before, after in sides)
    return rows.T @ tiles @ columns


def encode(images: Tensor, factor: int, mode: str = "area") -> Tensor:
    """Training images to stored images: each shrunk into one of decode's own tiles.

    Args:
        images: float (f * f * n, c, h, w), ordered as `decode` returns them.
        factor: tiles per side, f.
        mode: `area`, `bilinear` (antialiased) or `nearest` (what the released IDC code does).

    Returns:
        float (n, c, h, w).
    """
    if factor == 1:
        return images
    h, w = images.shape[-2:]
    tile = (math.ceil(h / factor), math.ceil(w / factor))
    where = images.device
    if mode == "area" and where.type == "mps":  # which has it only for sizes that divide these
        images = images.cpu()
    if mode == "bilinear":
        tiles = F.interpolate(images, size=tile, mode="bilinear", antialias=True)
    else:
        tiles = F.interpolate(images, size=tile, mode=mode)
    return join(tiles.to(where), factor, (h, w))


Formation = Callable[[Tensor, int, int], Tensor]
"""(stored images of a class (n, c, h, w), factor, most training images in use at once) -> training images (m, c, h, w).

Differentiable, and pure: m follows from the shape alone. It runs under `vmap` and, without values, on `meta` tensors.
"""

Decode = Callable[[Tensor], Tensor]
"""A formation whose factor and bound are fixed."""


def uniform(images: Tensor, factor: int, bound: int) -> Tensor:
    """Every image by the full factor: (f * f * n, c, h, w); labels are repeated as a whole."""
    del bound
    return decode(images, factor)


def multi(images: Tensor, factor: int, bound: int) -> Tensor:
    """Every image by all factors, 1 first: ((1 + 4 + ... + f * f) * n, c, h, w); labels are repeated as a whole."""
    del bound
    return torch.cat([decode(images, each) for each in range(1, factor + 1)])


def bounded(images: Tensor, factor: int, bound: int) -> Tensor:
    """At most `bound` training images, without leaving out any stored one: see `shares`.

    All of the first images' tiles come first, in the order of `decode`, then those of the next factor's images.
    """
    first, decoded = 0, []
    for each, count in shares(len(images), factor, bound):
        decoded.append(decode(images[first : first + count], each))
        first += count
    return torch.cat(decoded)


def shares(n: int, factor: int, bound: int) -> list[tuple[int, int]]:
    """How many of n images `bounded` decodes by which factor, in the order of the images: (factor, count) pairs.

    Of each factor in turn, from the full one down, as many as fit when a slot is kept for every image not placed yet.
    As IDC counts, these are also the images being placed, so some slots stay empty (20 images, factor 3, bound 128:
    12, 3 and 5, in all 125).
    """
    assert n <= bound, f"{n} images do not fit a bound of {bound}"
    found, room, left = [], bound, n
    for each in range(factor, 0, -1):
        count = left if each == 1 else min((room - left) // each**2, left)
        room, left = room - count * each**2, left - count
        found.append((each, count))
    return [(each, count) for each, count in found if count]


FORMATIONS: dict[str, Formation] = {"uniform": uniform, "multi": multi, "bounded": bounded}

WHOLE: dict[str, Formation] = {"uniform": uniform, "multi": multi}
"""Those that finished sets are decoded by, which know no bound. Labels go with them as `labels.repeat(m // n)`."""


def decoded_by(name: str | None) -> str:
    """The formation that a finished set is decoded by, when it was learned with this one; None is a method's own.

    `uniform`, unless `multi`: a bound is a matter of distilling (as in IDC), and no file brings code.
    """
    return name if name in WHOLE else "uniform"


def decoder(name: str | None, factor: int) -> Decode:
    """What a finished set is decoded by, when it was learned with this formation."""
    whole = WHOLE[decoded_by(name)]
    return lambda images: whole(images, factor, 0)  # which know no bound


def count(decode: Decode, shape: Sequence[int]) -> int:
    """Training images of stored ones of the shape (n, c, h, w)."""
    return len(decode(torch.empty(tuple(shape), device="meta")))


def _enlarging(before: int, after: int, like: Tensor) -> Tensor:
    """(before, after): what takes rows of pixels to longer ones, with the weights of bilinear interpolation."""
    identity = torch.eye(before, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=after, mode="linear", align_corners=False)[0]
