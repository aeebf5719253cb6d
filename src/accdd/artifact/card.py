"""What a person sees of a distilled set: the preview picture and the data set card."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from accdd.artifact.distilled import Distilled

MAX_CLASSES, MAX_IMAGES = 20, 10
"""Columns and rows of the preview: one column per class."""
MAX_NAMES = 100
"""Class names written into the card; ImageNet's thousand would bury the rest."""

_GAP = 2  # pixels between images
_MIN_WIDTH, _MAX_WIDTH, _MAX_HEIGHT = 200, 1200, 6000  # of the whole picture, in pixels
_MIN_TILE = 64  # smaller images are hard to see
_BACKGROUND = 255

TAGS = """\
task_categories:
- image-classification
tags:
- dataset-distillation
- accdd
"""
LIMITS = """\
A distilled set is not a privacy guarantee: learned images can resemble real ones closely. Whatever licence and
conditions hold for the source hold here too.
"""

PARQUET = """\
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
"""

_CARD = """\
---
{head}{tags}---
# Distilled set

{count} learned images ({shape}) that stand in for a whole training set of {classes} classes: a network trained on
these few comes as close as it can to one trained on all the real images. {factor}

![One column per class; at most {classes_shown} classes and {images_shown} images of each](preview.png)

| | |
|---|---|
{facts}

## Load

With accdd:

```python
import accdd

images, labels = accdd.load("{place}").decode()  # float32 (n, c, h, w) in [0, 1]; int64 (n,)
```

{pictures}Without, from the files:

```python
import json, pathlib
import numpy as np
from safetensors.numpy import load_file
tensors = load_file("images.safetensors")
images, labels = tensors["images"], tensors["labels"]  # float32 (n, c, h, w) in [0, 1]; int64 (n,)
class_names = json.loads(pathlib.Path("distilled.json").read_text(encoding="utf-8"))["class_names"]
{decoding}```

Before training, subtract the mean {mean} and divide by the standard deviation {std} of each channel.{recipe}

## Scores

{scores}

## Limits

{limits}"""


_PICTURES = """\
As pictures of 8 bits, decoded, with `datasets`:

```python
from datasets import load_dataset

train = load_dataset("{place}", split="train")  # image (PIL), label (ClassLabel)
```

"""


class Hub(NamedTuple):
    """Where a set is published."""

    repository: str
    """owner/name."""
    licence: str
    """Of the source, as the hub spells it."""


def preview(distilled: Distilled) -> Image.Image:
    """A grid of the stored images, one column per class, enlarged without smoothing.

    Shows at most `MAX_IMAGES` images of each of the first `MAX_CLASSES` classes, fewer where images are large.
    """
    height, width = distilled.images.shape[-2:]
    columns = max(1, min(MAX_CLASSES, distilled.num_classes, _MAX_WIDTH // (width + _GAP)))
    rows = max(1, min(MAX_IMAGES, distilled.ipc, _MAX_HEIGHT // (height + _GAP)))
    wanted = math.ceil(max(_MIN_TILE, _MIN_WIDTH / columns) / width)
    scale = max(1, min(wanted, (_MAX_WIDTH // columns - _GAP) // width))
    step_down, step_right = height * scale + _GAP, width * scale + _GAP
    canvas = np.full((rows * step_down - _GAP, columns * step_right - _GAP, 3), _BACKGROUND, dtype=np.uint8)
    for label in range(columns):
        for row, image in enumerate(distilled.images[distilled.labels == label][:rows]):
            top, left = row * step_down, label * step_right
            canvas[top : top + height * scale, left : left + width * scale] = _to_rgb(image, scale)
    return Image.fromarray(canvas)


def card(distilled: Distilled, hub: Hub | None = None) -> str:
    """The README.md: markdown in which no name taken from the data acts as markup.

    Args:
        distilled: the set.
        hub: where it is published, with pictures as parquet beside it; None is a folder on somebody's disk.
    """
    count, channels, height, width = distilled.images.shape
    head = ""
    if hub:
        size = next(name for name, most in _SIZES.items() if distilled.count < most)
        head = f"license: {hub.licence}\nsize_categories:\n- {size}\n{PARQUET}"
    return _CARD.format(
        head=head,
        tags=TAGS,
        place=f"hf:{hub.repository}" if hub else "this/folder",
        pictures=_PICTURES.format(place=hub.repository) if hub else "",
        recipe=_recipe(distilled.info),
        limits=LIMITS,
        count=count,
        shape=f"{channels} x {height} x {width}, float32 in [0, 1]",
        classes=distilled.num_classes,
        factor=_factor_sentence(distilled),
        classes_shown=MAX_CLASSES,
        images_shown=MAX_IMAGES,
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(distilled).items()),
        decoding=_decoding(distilled),
        mean=_numbers(distilled.mean),
        std=_numbers(distilled.std),
        scores=_scores(distilled.info),
    )


_SIZES = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": math.inf}
"""The hub's words for the number of rows."""


def escape(text: Any, longest: int = 60) -> str:
    """Text from outside as it may stand in a line of markdown or HTML: punctuation becomes entities.

    Characters that print nothing (line ends, terminal escapes, changes of writing direction) are replaced.
    """
    shown = str(text)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return "".join(map(_escape_character, shown))


def _escape_character(character: str) -> str:
    if not character.isprintable():
        return "\N{REPLACEMENT CHARACTER}"
    return character if character.isalnum() or character in " …" else f"&#{ord(character)};"


def _to_rgb(image: torch.Tensor, scale: int) -> np.ndarray:
    """Float (c, h, w) in [0, 1] to uint8 (scale * h, scale * w, 3); other than 3 channels are averaged to grey."""
    if len(image) != 3:
        image = image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (h, w, 3)
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _factor_sentence(distilled: Distilled) -> str:
    if distilled.factor == 1:
        return "Each stored image is one training image."
    f = distilled.factor
    if distilled.formation == "multi":
        return f"Each stored image is cut into grids of 1 x 1 to {f} x {f} training images, enlarged when loaded."
    return f"Each stored image is a grid of {f} x {f} training images, cut and enlarged when loaded."


def _decoding(distilled: Distilled) -> str:
    """The lines of Python that decode stored images as `formation` does."""
    if distilled.factor == 1:
        return ""
    factors = range(2, distilled.factor + 1) if distilled.formation == "multi" else [distilled.factor]
    parts = ["images"] * (distilled.formation == "multi") + [f"decode(images, {factor})" for factor in factors]
    images = parts[0] if len(parts) == 1 else f"np.concatenate([{', '.join(parts)}])"
    return f"{_DECODE}images, labels = {images}, np.tile(labels, {distilled.count // len(distilled.labels)})\n"


_DECODE = """
def weights(few, many):  # of bilinear interpolation, (few, many)
    places = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
    return np.maximum(0, 1 - abs(np.arange(few)[:, None] - places)).astype(np.float32)

def decode(images, f):  # each image is cut into f x f tiles, and each tile enlarged
    n, c, h, w = images.shape
    y, x = -(-h // f), -(-w // f)
    images = np.pad(images, ((0, 0), (0, 0), (0, y * f - h), (0, x * f - w)), constant_values=0.5)
    tiles = images.reshape(n, c, f, y, f, x).transpose(2, 4, 0, 1, 3, 5).reshape(f * f * n, c, y, x)
    return weights(y, h).T @ tiles @ weights(x, w)

"""


def _facts(distilled: Distilled) -> dict[str, str]:
    info = distilled.info
    source, seconds, versions = info.get("source", "not recorded"), info.get("seconds"), info.get("versions")
    names = ", ".join(escape(name) for name in distilled.class_names[:MAX_NAMES])
    more = distilled.num_classes - MAX_NAMES
    return {
        "Method": escape(info.get("method", "not recorded")),
        "Source": escape(source.get("name", "not recorded") if isinstance(source, Mapping) else source),
        "Images per class (IPC)": str(distilled.ipc),
        "Classes": names + (f" and {more} more" if more > 0 else ""),
        "Cost": _listed(seconds, " s", ("pool", "targets", "distilling", "choosing", "scoring"))
        + f"; {escape(info.get('sweeps', 'unknown number of'))} sweeps",
        "Made with": _listed(versions, "", ("accdd", "torch")),
    }


def _listed(values: Any, unit: str, names: tuple[str, ...]) -> str:
    """As in 'pool 12.1 s, distilling 600 s' of those that are there."""
    there = [name for name in names if isinstance(values, Mapping) and name in values]
    return ", ".join(f"{name} {escape(values[name])}{unit}" for name in there) or "not recorded"


def _recipe(info: Mapping[str, Any]) -> str:
    """How to train on the set, where it says so."""
    recipe = info.get("recipe")
    if not isinstance(recipe, Mapping):
        return ""
    told = ", ".join(f"{escape(name)} {escape(value)}" for name, value in list(recipe.items())[:20])
    return f"\n\nRecommended training: {told}. In accdd, `as_loader(batch)` augments like this."


def _scores(info: Mapping[str, Any]) -> str:
    """The scores as a table; entries that are not scores, which a stranger's file may hold, are left out."""
    both = (info.get(name) for name in ("scores", "kept"))
    listed = [each for some in both if isinstance(some, list | tuple) for each in some]
    scores = [each for each in listed if isinstance(each, Mapping)]
    if not scores:
        return "None recorded."
    head = (
        "Accuracy in percent on real images after the last epoch, those of the test set unless the protocol says held "
        "out: mean ± standard deviation of n networks.\n\n"
    )
    lines = ["| trained on | network | protocol | n | accuracy |", "|---|---|---|---|---|"]
    for score in scores:
        named = " | ".join(escape(score.get(name, "?")) for name in ("set", "network", "protocol", "n"))
        named += f", {escape(score['diverged'])} diverged" if score.get("diverged") else ""
        spread = "" if score.get("std") is None else f" ± {_number(score['std'])}"  # one network has none
        lines.append(f"| {named} | {_number(score.get('mean'))}{spread} |")
    return head + "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) and 0 <= value <= 100 else "?"


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
