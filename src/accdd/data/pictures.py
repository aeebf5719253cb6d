"""Encoded pictures (PNG, JPEG, WebP, BMP) to one uint8 tensor of a working size.

Two passes over the same pictures: the first reads only headers, because the working size and whether
everything is grey must be known before memory is set aside; the second decodes straight into that memory.
"""

import contextlib
import io
import itertools
import os
import statistics
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from accdd.config import Data, InputError
from accdd.data import mapped
from accdd.data.dataset import Split, listed

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Pillow's names of the formats that are opened; every other decoder stays shut."""

MAX_PIXELS = 50_000_000
"""Pictures that declare more than this are refused before anything is decoded."""

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error, zlib.error)
"""What Pillow raises for damaged files, depending on the format and the place of the damage."""
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What puts a picture upright, by its orientation. Pillow's `exif_transpose` writes the whole EXIF anew, too, and fails
where that is damaged."""
_BLOCK = 64
"""Pictures per task: enough to make the cost of handing over a task disappear."""


@dataclass(frozen=True)
class Picture:
    """One encoded picture."""

    where: str
    """How an error names it: a path, or a file and row."""
    label: int
    encoded: bytes | Path
    """The file's content, or where it is."""


Pictures = Callable[[], Iterator[Picture]]
"""A split: called once per pass, so that the encoded pictures need not be held in memory."""


def of_files(files: Sequence[tuple[int, Path]]) -> Pictures:
    """The split of some labels and files."""

    def pictures() -> Iterator[Picture]:
        for label, path in files:
            yield Picture(where=f"'{path}'", label=label, encoded=path)

    return pictures


@dataclass
class _Survey:
    """What the headers of a split say."""

    labels: list[int] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Pictures of each upright (width, height)."""
    grey: int = 0
    transparent: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    """Why the picture at a position cannot be read."""


def read(splits: Sequence[Pictures], settings: Data) -> tuple[list[Split], list[str]]:
    """Decodes splits to one working size: short side resized (Lanczos), centre cropped.

    Args:
        splits: the training pictures, then the test pictures if there are any.
        settings: the wanted size, and whether unreadable pictures are left out.

    Returns:
        A 2-tuple of `(splits, notes)`: for each split the images, uint8 (n, c, size, size) in [0, 255] with
        c = 1 if all pictures of all splits are grey and 3 otherwise, and the labels, int64 (n,).

    Raises:
        InputError: an unreadable, truncated or oversized picture, named, unless such are left out.
    """
    surveys = [_survey(pictures) for pictures in splits]
    _refuse(surveys, settings)
    sizes = sum((survey.sizes for survey in surveys), Counter())
    if not sizes:
        raise InputError(f"None of the {sum(len(survey.labels) for survey in surveys)} pictures can be read.")
    size = working_size(sizes, settings.size)
    grey = sum(survey.grey for survey in surveys)
    channels = 1 if grey == sizes.total() else 3
    decoded = [_decode(pictures, survey, size, channels) for pictures, survey in zip(splits, surveys, strict=True)]
    _refuse(surveys, settings)
    notes = [describe(sum(len(labels) for _, labels in decoded), sizes, size, channels)]
    transparent = sum(survey.transparent for survey in surveys)
    reasons = _reasons(surveys)
    notes += [f"grey pictures made RGB: {grey}"] if grey and channels == 3 else []
    notes += [f"pictures with transparency laid on white: {transparent}"] if transparent else []
    notes += [f"unreadable pictures skipped: {len(reasons)}, {listed(reasons)}"] if reasons else []
    return decoded, notes


def working_size(sizes: Counter[tuple[int, int]], wanted: int | None) -> int:
    """Height and width that all pictures get.

    `wanted` if given; the pictures' own if they are all of one square size up to 128; 64 if the
    median short side reaches it; else the largest of 32, 16 and 8 that no short side falls below, at least 8.

    Args:
        sizes: pictures of each (width, height), at least one.
        wanted: what the user asked for, or None.
    """
    if wanted is not None:
        return wanted
    width, height = next(iter(sizes))
    if len(sizes) == 1 and width == height <= 128:
        return width
    short = sorted(min(size) for size in sizes.elements())
    if statistics.median(short) >= 64:
        return 64
    return max((side for side in (32, 16, 8) if side <= short[0]), default=8)


def describe(count: int, sizes: Counter[tuple[int, int]], size: int, channels: int) -> str:
    """One sentence on `count` pictures as they came and what became of their size."""
    colour = "grey" if channels == 1 else "RGB"
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    (width, height), (widest, highest) = by_area[0], by_area[-1]
    came = f"{width}x{height}" if len(sizes) == 1 else f"{len(sizes)} sizes ({width}x{height} to {widest}x{highest})"
    became = "" if list(sizes) == [(size, size)] else f"; resized to {size} x {size} (short side, centre crop)"
    return f"{count} pictures of {came}, {colour}{became}"


def fit(image: Image.Image, size: int) -> Image.Image:
    """The central square of a picture, resized (Lanczos, antialiased) to size x size."""
    if image.size == (size, size):
        return image
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short))


def _reasons(surveys: Sequence[_Survey]) -> list[str]:
    return [survey.unreadable[position] for survey in surveys for position in sorted(survey.unreadable)]


def _refuse(surveys: Sequence[_Survey], settings: Data) -> None:
    reasons = _reasons(surveys)
    if reasons and not settings.skip_unreadable:
        what = "Unreadable picture" if len(reasons) == 1 else f"{len(reasons)} unreadable pictures"
        raise InputError(
            f"{what}: {listed(reasons)}. Replace or remove {'it' if len(reasons) == 1 else 'them'}, or leave such "
            "pictures out with --set data.skip_unreadable=true."
        )


def _survey(pictures: Pictures) -> _Survey:
    survey = _Survey()
    with warnings.catch_warnings():
        # Pillow only warns of enormous pictures; here they are unreadable ones.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for position, picture in enumerate(pictures()):
            survey.labels.append(picture.label)
            try:
                _survey_one(picture, survey)
            except (*_BROKEN, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
                survey.unreadable[position] = f"{picture.where} ({_reason(error)})"
    return survey


def _survey_one(picture: Picture, survey: _Survey) -> None:
    with _open(picture) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height}")
        turned = _orientation(image) >= 5  # 5 to 8 swap width and height
        survey.sizes[(image.height, image.width) if turned else image.size] += 1
        survey.grey += image.mode in _GREY
        survey.transparent += image.has_transparency_data and not image.mode.startswith("I")  # see `_in_colour`


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"it declares more than {MAX_PIXELS // 1_000_000} million pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not a PNG, JPEG, WebP or BMP picture"
    return str(error).rstrip(".") or type(error).__name__


@contextlib.contextmanager
def _open(picture: Picture) -> Iterator[Image.Image]:
    if picture.encoded == b"":
        raise ValueError("it is empty")
    encoded = picture.encoded if isinstance(picture.encoded, Path) else io.BytesIO(picture.encoded)
    with Image.open(encoded, formats=FORMATS) as image:
        yield image


def _orientation(image: Image.Image) -> int:
    # Asking a PNG for its EXIF data decodes it, so first see whether there can be any.
    if not any("exif" in str(key).lower() or "xmp" in str(key).lower() for key in image.info):
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:  # the pixels may be sound
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _decode(pictures: Pictures, survey: _Survey, size: int, channels: int) -> Split:
    images = mapped.empty(len(survey.labels), channels, size, size)
    pixels = images.numpy()  # the same memory

    def decode_block(block: list[tuple[int, Picture]]) -> dict[int, str]:
        broken = {}
        for position, picture in block:
            try:
                pixels[position] = _pixels(picture, size, channels)
            except _BROKEN as error:
                broken[position] = f"{picture.where} ({_reason(error)})"
        return broken

    numbered = (pair for pair in enumerate(pictures()) if pair[0] not in survey.unreadable)
    workers = min(os.cpu_count() or 1, 16)
    with ThreadPoolExecutor(workers) as pool:  # threads, for Pillow decodes outside the interpreter lock
        # A few blocks per worker at a time, so that a stream of encoded pictures is not drawn into memory at once.
        while batch := list(itertools.islice(numbered, 8 * workers * _BLOCK)):
            blocks = [batch[start : start + _BLOCK] for start in range(0, len(batch), _BLOCK)]
            for broken in pool.map(decode_block, blocks):
                survey.unreadable |= broken
    labels = torch.tensor(survey.labels, dtype=torch.int64)
    if not survey.unreadable:
        return images, labels
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[list(survey.unreadable)] = False
    return mapped.take(images, kept), labels[kept]


def _pixels(picture: Picture, size: int, channels: int) -> np.ndarray:
    """Decoded, upright, in the wanted colours and size: uint8 (c, size, size)."""
    with _open(picture) as image:
        if image.format == "PNG":
            image.verify()  # decoding stops at the last pixel, before the checksum of what it has read
    with _open(picture) as image:
        # JPEG can decode at a half, quarter or eighth; twice the size leaves Lanczos something to filter.
        image.draft(image.mode, (2 * size, 2 * size))
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        return to_array(fit(_in_colour(upright, channels), size))


def to_array(image: Image.Image) -> np.ndarray:
    """Pixels of a grey or RGB picture as uint8 (c, h, w)."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _in_colour(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip instead of scaling; a clear colour is lost
        deep = np.asarray(image).clip(0, 65535)
        image = Image.fromarray((deep / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def resize(images: Tensor, size: int) -> Tensor:
    """Decoded images, uint8 (n, c, h, w) with c 1 or 3, as uint8 (n, c, size, size), as pictures are resized."""
    if images.shape[2:] == (size, size):
        return images
    resized = images.new_empty((len(images), images.shape[1], size, size))
    for position, pixels in enumerate(images.numpy()):
        picture = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
        resized[position] = torch.from_numpy(to_array(fit(picture, size)).copy())
    return resized
