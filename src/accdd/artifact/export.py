"""A distilled set in other programs' formats."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from accdd import files
from accdd.artifact.card import LIMITS, PARQUET, TAGS, escape
from accdd.artifact.distilled import Distilled
from accdd.artifact.names import distinct_names, folder_names
from accdd.config import InputError, choose


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What 8 bits cost, in units of a pixel from 0 to 255."""

    largest: float
    """Largest difference of any pixel, at most 0.5."""
    mean: float
    """Mean absolute difference."""

    def __str__(self) -> str:
        return f"rounded to 8 bits: off by {self.largest:.2f} of 255 at most, {self.mean:.2f} on average"


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    images: int
    """How many images: decoded ones, but for `pt` as they are stored."""
    rounding: Rounding | None
    """What rounding to 8 bits changed, for pictures; None where nothing is rounded."""


def export(distilled: Distilled, fmt: str, dest: str | Path) -> Exported:
    """Write the set in another format, atomically.

    Args:
        fmt: a name from `FORMATS`.
        dest: the file to create, or for formats of `PICTURES` the folder; taken as it is, no ending is added.

    Raises:
        InputError: an unknown format, or something other than an empty folder is at `dest` already.
    """
    refuse_taken(fmt, dest)
    if fmt not in PICTURES:
        with files.commit_file(dest) as temporary:
            return Exported(FORMATS[fmt](distilled, temporary), None)
    try:
        with files.commit_folder(dest, empty_ok=True) as temporary:
            return Exported(FORMATS[fmt](distilled, temporary), rounding(distilled))
    except FileExistsError:  # it came meanwhile
        raise _taken(dest) from None


def refuse_taken(fmt: str, dest: str | Path) -> None:
    """Refuse an unknown format, or a place where something is, before any work is done for it."""
    choose("export format", fmt, FORMATS)
    dest = Path(dest)
    empty = fmt in PICTURES and dest.is_dir() and not dest.is_symlink() and not any(dest.iterdir())
    if (dest.exists() or dest.is_symlink()) and not empty:
        raise _taken(dest)


def rounded(distilled: Distilled) -> Distilled:
    """The decoded set as pictures of 8 bits give it back."""
    whole = as_decoded(distilled)
    return dataclasses.replace(whole, images=_eight_bits(whole.images).float() / 255)


def as_decoded(distilled: Distilled) -> Distilled:
    """The same set with what it decodes into as stored images."""
    images, labels = distilled.decode()
    return dataclasses.replace(distilled, images=images, labels=labels, factor=1, formation="uniform")


def rounding(distilled: Distilled) -> Rounding:
    """What rounding the decoded images to 8 bits changes."""
    images, _ = distilled.decode()
    off = (images * 255 - _eight_bits(images)).abs()
    return Rounding(float(off.max()), float(off.mean()))


def _taken(dest: str | Path) -> InputError:
    return InputError(f"{dest} exists already and is not overwritten. Choose another name or remove it.")


def _eight_bits(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255], (n, c, h, w), of float in [0, 1]."""
    return (images * 255).round().to(torch.uint8)


def _pictures(distilled: Distilled) -> list[tuple[int, bytes]]:
    """(label, PNG) of each decoded image; grey for one channel, RGB for three."""
    images, labels = distilled.decode()
    if images.shape[1] not in (1, 3):
        raise InputError(f"Images of {images.shape[1]} channels are no pictures. Expected 1 or 3; or --to npz or pt.")
    encoded = []
    for pixels, label in zip(_eight_bits(images).numpy(), labels.tolist(), strict=True):
        stream = io.BytesIO()
        Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
            stream, "PNG"
        )
        encoded.append((label, stream.getvalue()))
    return encoded


# One function for each format.


def _npz(distilled: Distilled, file: Path) -> int:
    """What accdd reads as DATA: decoded `images` and `labels`; beside them the set as it is stored."""
    images, labels = distilled.decode()
    arrays = {
        "images": images.numpy(),  # float32 (m, c, h, w) in [0, 1]
        "labels": labels.numpy(),
        "class_names": np.array(distilled.class_names, dtype=np.str_),  # objects would need pickle
        "mean": np.array(distilled.mean),
        "std": np.array(distilled.std),
        "factor": np.array(distilled.factor),
        "formation": np.array(distilled.formation),
        "stored_images": distilled.images.numpy(),
        "stored_labels": distilled.labels.numpy(),
    }
    with file.open("wb") as stream:  # given a name instead, numpy would add an ending
        np.savez(stream, **arrays)
    return len(labels)


def _pt(distilled: Distilled, file: Path) -> int:
    """What IDC's released code reads: [images, labels] as stored, sorted by class; decoding is left to the reader."""
    order = distilled.labels.argsort(stable=True)
    torch.save([distilled.images[order], distilled.labels[order]], file)
    return len(order)


def _png(distilled: Distilled, folder: Path) -> int:
    """train/CLASS/NNNN.png, and train/metadata.jsonl with label and class name of each."""
    names, train = folder_names(distilled.class_names), folder / "train"
    for name in names:
        (train / name).mkdir(parents=True)
    lines, seen = [], [0] * len(names)
    for label, encoded in _pictures(distilled):
        path = f"{names[label]}/{seen[label]:04}.png"
        (train / path).write_bytes(encoded)
        line = {"file_name": path, "label": label, "class_name": distilled.class_names[label]}
        lines.append(json.dumps(line))
        seen[label] += 1
    (train / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _hf(distilled: Distilled, folder: Path) -> int:
    """data/train-*.parquet with the columns image (PNG) and label (class names in the schema), and README.md."""
    import pyarrow as pa  # only here: other formats need not wait for it
    import pyarrow.parquet as pq

    rows = _pictures(distilled)
    names = distinct_names(distilled.class_names)  # `datasets` refuses two classes of one name
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    columns = {
        "image": pa.array(
            [{"bytes": encoded, "path": None} for _, encoded in rows],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "label": pa.array([label for label, _ in rows], pa.int64()),
    }
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text(_card(distilled, len(rows)), encoding="utf-8")
    return len(rows)


_CARD = """\
---
{parquet}{tags}---
# Distilled set

{count} learned images of {classes} classes, decoded and rounded to 8 bits, that stand in for a whole training set.
Method: {method}.

```python
from datasets import load_dataset

train = load_dataset("this/folder", split="train")  # image (PIL, {height} x {width}), label (ClassLabel)
```

Before training, scale pixels to [0, 1], subtract the mean ({mean}) and divide by the standard deviation ({std}) of
each channel. {off}.

{limits}"""


def _card(distilled: Distilled, count: int) -> str:
    return _CARD.format(
        parquet=PARQUET,
        tags=TAGS,
        limits=LIMITS,
        count=count,
        classes=distilled.num_classes,
        method=escape(distilled.info.get("method", "not recorded")),
        height=distilled.images.shape[-2],
        width=distilled.images.shape[-1],
        mean=", ".join(f"{value:.4f}" for value in distilled.mean),
        std=", ".join(f"{value:.4f}" for value in distilled.std),
        off=str(rounding(distilled)).capitalize(),
    )


PICTURES: dict[str, Callable[[Distilled, Path], int]] = {"png": _png, "hf": _hf}
"""Formats of pictures of 8 bits, each a folder. Signature: `(distilled, folder to fill) -> images`."""

FORMATS: dict[str, Callable[[Distilled, Path], int]] = {"npz": _npz, "pt": _pt, **PICTURES}
"""Export formats by name; those not in `PICTURES` are one file. Signature: `(distilled, file to write) -> images`."""
