"""A distilled set through every format and back: bytes, what the pixels lose, accuracy before and after.

    python benchmarks/round_trips.py RUN [--seeds 3] [--epochs N]

RUN is the folder of a run whose data is at hand. Networks before and after begin alike: differences are of the images.
"""

import argparse
import dataclasses
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image

import accdd
from accdd import artifact
from accdd.artifact import Distilled


def npz(path: Path, like: Distilled) -> Distilled:
    """Its arrays, as numpy reads them."""
    with np.load(path) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
    return dataclasses.replace(like, images=images, labels=labels, factor=1, formation="uniform")


def parquet(path: Path, like: Distilled) -> Distilled:
    """Its pictures, as pyarrow and Pillow read them."""
    rows = pyarrow.parquet.read_table(path / "data").to_pylist()
    pixels = [np.array(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    images = torch.from_numpy(np.stack(pixels)).float() / 255
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([row["label"] for row in rows])
    return dataclasses.replace(like, images=images, labels=labels, factor=1, formation="uniform")


def tensors(path: Path, like: Distilled) -> Distilled:
    """Stored images, as IDC's code reads them."""
    read = artifact.import_set(path, "idc", factor=like.factor, mean=like.mean, std=like.std)
    return dataclasses.replace(like, images=read.images, labels=read.labels)


def pictures(path: Path, like: Distilled) -> Distilled:
    """Class folders."""
    read = artifact.import_set(path, "folder", mean=like.mean, std=like.std)
    return dataclasses.replace(like, images=read.images, labels=read.labels, factor=1, formation="uniform")


BACK: dict[str, Callable[[Path, Distilled], Distilled]] = {
    "npz": npz, "pt": tensors, "png": pictures, "hf": parquet,
}  # fmt: skip


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())


def pairs(distilled: Distilled) -> list[bytes]:
    """Every decoded image with its label, to the bit."""
    return [label.tobytes() + image.tobytes() for image, label in zip(*distilled.to_numpy(), strict=True)]


def main() -> None:
    """Write, read back, compare, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the protocol quick's")
    told = parser.parse_args()
    distilled = accdd.load(told.run)
    sets, sizes = {"accdd": distilled}, {"accdd": size(told.run / "distilled")}
    with tempfile.TemporaryDirectory() as folder:
        for name, back in BACK.items():
            path = Path(folder) / name
            artifact.export(distilled, name, path)
            sets[name], sizes[name] = back(path, distilled), size(path)
    scores = accdd.evaluate(list(sets.values()), seeds=told.seeds, epochs=told.epochs, protocol="quick")
    wanted = set(pairs(distilled))
    print("| format | bytes | images as before | accuracy | difference, network by network |")
    print("|---|---|---|---|---|")
    for (name, each), score in zip(sets.items(), scores, strict=True):
        kept = sum(pair in wanted for pair in pairs(each))
        off = [after - before for after, before in zip(score.accuracies, scores[0].accuracies, strict=True)]
        apart = "" if name == "accdd" else ", ".join(f"{difference:+.2f}" for difference in off)
        print(f"| {name} | {sizes[name]:,} | {kept} of {len(wanted)} | {score} | {apart} |")


if __name__ == "__main__":
    main()
