"""Sets travel: what is exported is read back by other programs, what others made is read by accdd, whoever made it."""

import dataclasses
import io
import json
import os
import pickle
import re
import runpy
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import accdd
from accdd import augment, data
from accdd.artifact import FORMATS, PICTURES, Distilled, export, import_set, torch_file
from accdd.artifact.names import SPLIT_WORDS, distinct_names, folder_names
from accdd.artifact.torch_archive import MAX_FILE
from accdd.cli import app
from accdd.config import InputError

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_on_png.py"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def a_set(
    classes: int = 3, ipc: int = 2, channels: int = 3, size: int = 8, factor: int = 2, **changes: Any
) -> Distilled:
    generator = torch.Generator().manual_seed(0)
    made = Distilled(
        images=torch.rand(classes * ipc, channels, size, size, generator=generator),
        labels=torch.arange(classes).repeat_interleave(ipc),
        class_names=tuple("abcdefghijkl"[:classes]),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        factor=factor,
    )
    return dataclasses.replace(made, **changes)


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


# --- export -------------------------------------------------------------------------------------------------------


def read_png(path: Path, cache: Path) -> tuple[np.ndarray, list[int]]:
    del cache
    folders = sorted(each for each in (path / "train").iterdir() if each.is_dir())  # as torchvision's ImageFolder
    pairs = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    return np.stack([np.asarray(Image.open(file)) for file, _ in pairs]), [label for _, label in pairs]


def read_imagefolder(path: Path, cache: Path) -> tuple[np.ndarray, list[int]]:
    import datasets

    rows: Any = datasets.load_dataset("imagefolder", data_dir=str(path), cache_dir=str(cache), split="train")
    return np.stack([np.asarray(row["image"]) for row in rows]), rows["label"][:]


def read_hub(path: Path, cache: Path) -> tuple[np.ndarray, list[int]]:
    import datasets

    rows: Any = datasets.load_dataset(str(path), cache_dir=str(cache), split="train")
    assert rows.features["label"].names == list("abc")
    return np.stack([np.asarray(row["image"]) for row in rows]), rows["label"][:]


READERS = {"png": read_png, "imagefolder": read_imagefolder, "hub": read_hub}


def by_class(images: np.ndarray, labels: Any) -> dict[int, np.ndarray]:
    """The images of each class, in order: class folders group what decoding interleaves."""
    return {label: images[np.asarray(labels) == label] for label in sorted(set(np.asarray(labels).tolist()))}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_pictures_are_read_back_by_others_within_rounding(tmp_path: Path, reader: str, channels: int):
    distilled, fmt = a_set(channels=channels), "hf" if reader == "hub" else "png"
    made = export(distilled, fmt, tmp_path / "out")
    images, labels = READERS[reader](tmp_path / "out", tmp_path / "cache")
    images = images[:, None] if channels == 1 else images.transpose(0, 3, 1, 2)
    expected, expected_labels = distilled.to_numpy()
    found, wanted = by_class(images, labels), by_class(expected * 255, expected_labels)
    assert found.keys() == wanted.keys()
    off = np.concatenate([np.abs(found[label] - wanted[label]).ravel() for label in wanted])
    assert made.rounding and made.images == len(expected)
    assert off.max() == pytest.approx(made.rounding.largest, abs=1e-4) and off.max() <= 0.5 + 1e-4
    assert off.mean() == pytest.approx(made.rounding.mean, abs=1e-4)


@pytest.mark.parametrize("fmt", [*FORMATS])
def test_every_export_is_read_back_by_accdd(tmp_path: Path, fmt: str):
    distilled, dest = a_set(ipc=5, factor=1), tmp_path / f"out.{fmt}"
    export(distilled, fmt, dest)
    expected = by_class(*distilled.to_numpy())
    if fmt == "pt":
        images, labels = import_set(dest, "idc", factor=1).to_numpy()
    else:
        real = data.load(dest if fmt != "npz" else dest.rename(tmp_path / "out.npz")).all_for_testing()
        assert real.class_names == distilled.class_names
        images, labels = real.test_images.numpy() / 255, real.test_labels.numpy()
    for label, found in by_class(images, labels).items():
        # What is kept aside changes the order within a class; sorted by their sums, images meet again.
        sort = [each[each.sum((1, 2, 3)).argsort()] for each in (found, expected[label])]
        assert np.abs(sort[0] - sort[1]).max() <= (0 if fmt == "pt" else 0.5 / 255 + 1e-6)


def test_the_pt_file_is_what_idcs_code_loads(tmp_path: Path):
    shuffled = torch.tensor([5, 0, 3, 1, 4, 2])
    stored = a_set()
    export(
        dataclasses.replace(stored, images=stored.images[shuffled], labels=stored.labels[shuffled]),
        "pt",
        tmp_path / "a",
    )
    images, labels = torch.load(tmp_path / "a", weights_only=True)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]  # IDC decodes class by class, by position
    sums = [each.sum((1, 2, 3)).reshape(3, 2).sort().values for each in (images, stored.images)]
    assert torch.equal(*sums)


def test_metadata_names_every_picture(tmp_path: Path):
    export(a_set(class_names=("b/c", "b/c", 'ä"\n')), "png", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 24 and all((tmp_path / "out/train" / line["file_name"]).is_file() for line in lines)
    assert {(line["label"], line["class_name"]) for line in lines} == {(0, "b/c"), (1, "b/c"), (2, 'ä"\n')}


FOLDERS = {
    ("cat", "dog"): ["cat", "dog"],
    ("dog", "cat"): ["0-dog", "1-cat"],
    ("cat", "cat"): ["0-cat", "1-cat"],
    ("Cat", "cat"): ["0-Cat", "1-cat"],
    ("a/b", "..", "", "."): ["0-a_b", "1", "2", "3"],
    ("con", "NUL", "lpt1", "e"): ["0", "1", "2", "3-e"],
    ("crash test", "validation"): ["0", "1"],
    ("train", "truck"): ["train", "truck"],
    tuple(map(str, range(12))): [f"{label:02}" for label in range(12)],
    ("e\u0301", "é"): ["0-e_", "1-é"],
    ("\udc80\x1b", "é"): ["0", "1-é"],
    ("x" * 300, "y. "): ["0-" + "x" * 50, "1-y_"],
}


@pytest.mark.parametrize("names", FOLDERS)
def test_class_folders_are_safe_distinct_and_in_the_order_of_the_labels(names: tuple[str, ...]):
    made = folder_names(names)
    assert made == FOLDERS[names]
    assert made == sorted(made) and len({name.casefold() for name in made}) == len(names)


@pytest.mark.parametrize("word", sorted(SPLIT_WORDS))
def test_no_class_is_taken_for_a_split(word: str):
    assert folder_names([f"a {word}", "b"]) == ["0", "1-b"]


def test_distinct_names_are_distinct():
    assert distinct_names(["a", "a", "a (2)", "a"]) == ["a", "a (2)", "a (2) (2)", "a (3)"]


@pytest.mark.parametrize("fmt", [*FORMATS])
def test_nothing_is_overwritten_and_nothing_left_behind(tmp_path: Path, fmt: str, monkeypatch: pytest.MonkeyPatch):
    full, out = tmp_path / "full", tmp_path / "out"
    full.mkdir()
    (full / "thesis.txt").write_text("the only copy")
    for taken in (full, full / "thesis.txt"):
        with pytest.raises(InputError, match="exists already and is not overwritten"):
            export(a_set(), fmt, taken)
    assert (full / "thesis.txt").read_text() == "the only copy"

    def full_disk(*_: Any) -> int:
        raise OSError("no space left")

    monkeypatch.setitem(FORMATS, fmt, full_disk)
    with pytest.raises(OSError, match="no space"):
        export(a_set(), fmt, out)
    assert [each.name for each in tmp_path.iterdir()] == ["full"]
    monkeypatch.undo()
    out.mkdir()
    if fmt in PICTURES:
        export(a_set(), fmt, out)  # an empty folder is as good as none
        assert any(out.iterdir())


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'png'"):
        export(a_set(), "pngs", "nowhere")


def test_an_image_that_needs_no_rounding_is_told_so(tmp_path: Path):
    whole = a_set(factor=1)
    made = export(dataclasses.replace(whole, images=(whole.images * 255).round() / 255), "png", tmp_path / "out")
    assert made.rounding and made.rounding.largest < 1e-4


def test_the_example_trains_on_pictures_as_well_as_on_the_set_and_knows_nothing_of_accdd(tmp_path: Path):
    digits = data.load("digits")
    rows = torch.cat([own[:5] for own in digits.class_index])
    noise = 0.1 * torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (digits.images[rows] / 255 + noise).clamp(0, 1)  # no multiples of 1/255, as learned pixels are none
    names = tuple(map(str, range(10)))
    few = Distilled(images=images, labels=digits.labels[rows], class_names=names, mean=(0.5,), std=(0.5,), factor=1)
    export(few, "png", tmp_path / "out")
    whole = digits.test_images / 255, digits.test_labels
    export(dataclasses.replace(few, images=whole[0], labels=whole[1]), "png", tmp_path / "test")
    assert "import accdd" not in EXAMPLE.read_text()
    command = [sys.executable, EXAMPLE, tmp_path / "out", tmp_path / "test" / "train"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    told = re.search(r"test accuracy (\S+) % of 359", ran.stdout)
    example = runpy.run_path(str(EXAMPLE))
    predict = example["train"](few.images[:, 0], few.labels)
    expected = 100 * (predict(whole[0][:, 0]) == whole[1]).float().mean()
    assert told and abs(float(told[1]) - expected) < 1 and expected > 60


def test_export_on_the_command_line_tells_what_rounding_cost(tmp_path: Path):
    a_set().save(tmp_path / "set")
    told = run("export", tmp_path / "set", tmp_path / "out", "--to", "png")
    assert told.exit_code == 0 and "24 images, rounded to 8 bits: off by 0." in told.stdout
    assert "--measure" in told.stdout
    about = json.loads(run("export", tmp_path / "set", tmp_path / "hf", "--to", "hf", "--json").stdout)
    assert 0 < about["rounding"]["mean"] < about["rounding"]["largest"] <= 0.5001
    refused = run("export", tmp_path / "set", tmp_path / "a.npz", "--measure")
    assert refused.exit_code == 2 and "npz rounds nothing. Expected --to png or hf" in refused.stderr
    stored = run("export", tmp_path / "set", tmp_path / "a.pt", "--to", "pt")
    assert "6 images" in stored.stdout and "factor 2" in stored.stdout


def test_the_cost_in_accuracy_is_measured_with_the_same_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def scored(sets: list[Distilled], **told: Any) -> list[Any]:
        seen.append((sets, told))
        return [accdd.Score("distilled", "convnet", "quick", 1, (50.0,), 1.0) for _ in sets]

    monkeypatch.setattr("accdd.scoring.evaluate", scored)
    distilled = a_set()
    before, after = accdd.measure_rounding(distilled, test="digits", network="mlp", seeds=2)
    ((whole, eight), told) = seen[0]
    assert (before.set, after.set) == ("float", "8 bits") and told["protocol"] == "quick" and told["seed"] == 0
    assert told["networks"] == "mlp"
    images, labels = distilled.decode()
    assert torch.equal(whole.images, images) and torch.equal(eight.labels, labels) and whole.factor == eight.factor == 1
    assert torch.equal(eight.images, (images * 255).round() / 255)


# --- import -------------------------------------------------------------------------------------------------------


def normalised(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (images - mean) / std


def write_idc(folder: Path, distilled: Distilled) -> tuple[Path, dict[str, Any]]:
    torch.save([distilled.images, distilled.labels], folder / "data.pt")
    return folder / "data.pt", {}


def write_dc(folder: Path, distilled: Distilled) -> tuple[Path, dict[str, Any]]:
    other = [torch.zeros(2, 3, 4, 4), torch.arange(2)]
    accuracies = {"ConvNet": [np.float64(0.31), np.float64(0.32)]}  # as DC's code leaves them
    entry = [normalised(distilled.images), distilled.labels]
    torch.save({"data": [other, entry], "accs_all_exps": accuracies}, folder / "res_DC.pt")
    return folder / "res_DC.pt", {"index": 1, "mean": MEAN, "std": STD, "factor": 2}


def write_mtt(folder: Path, distilled: Distilled) -> tuple[Path, dict[str, Any]]:
    torch.save(normalised(distilled.images).requires_grad_(), folder / "images_10.pt")
    torch.save(distilled.labels, folder / "labels_10.pt")
    return folder / "images_10.pt", {"mean": MEAN, "std": STD, "factor": 2}


def write_whitened(folder: Path, distilled: Distilled) -> tuple[Path, dict[str, Any]]:
    flat = distilled.images.flatten(1)
    matrix = torch.linalg.qr(torch.randn(192, 192, generator=torch.Generator().manual_seed(1)))[0] * 3
    mean = torch.full((1, 192), 0.4)
    torch.save(((flat - mean) @ matrix).reshape(distilled.images.shape), folder / "images_best.pt")
    torch.save(torch.nn.functional.one_hot(distilled.labels).float() * 3 - 1, folder / "labels_best.pt")  # DATM: logits
    torch.save({"mean_vector": mean, "transform_inv": torch.linalg.inv(matrix)}, folder / "zca.pt")
    return folder / "images_best.pt", {"zca": folder / "zca.pt", "factor": 2}


def write_folder(folder: Path, distilled: Distilled) -> tuple[Path, dict[str, Any]]:
    export(dataclasses.replace(distilled, factor=1), "png", folder / "out")
    return folder / "out", {"factor": 2}


WRITERS: dict[str, tuple[str, Callable[[Path, Distilled], tuple[Path, dict[str, Any]]], float]] = {
    "idc": ("idc", write_idc, 0),
    "dc": ("dc", write_dc, 1e-6),
    "mtt": ("mtt", write_mtt, 1e-6),
    "whitened": ("mtt", write_whitened, 1e-5),
    "folder": ("folder", write_folder, 0.5 / 255 + 1e-6),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_others_made_becomes_a_set(tmp_path: Path, writer: str):
    (kind, write, tolerance), distilled = WRITERS[writer], a_set()
    path, told = write(tmp_path, distilled)
    found = import_set(path, kind, **told)
    assert (found.images - distilled.images).abs().max() <= tolerance
    assert torch.equal(found.labels, distilled.labels) and found.factor == 2
    assert found.class_names == (("a", "b", "c") if kind == "folder" else ("0", "1", "2"))
    found.save(tmp_path / "set")
    again = accdd.load(tmp_path / "set")
    assert torch.equal(again.images, found.images) and again.info["imported"]["kind"] == kind
    assert (kind == "folder") != ("sha256" in again.info["imported"])
    assert (tmp_path / "set" / "preview.png").is_file()


def test_an_imported_set_is_scored(tmp_path: Path):
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "data.pt")
    made = run("import", tmp_path / "data.pt", tmp_path / "set", "--from", "idc", "--factor", "1", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["images"] == [10, 1, 8, 8]
    scoring = ("evaluate", tmp_path / "set", "--seeds", 1, "--epochs", 1, "--networks", "mlp")
    told = run(*scoring, "--test", "digits", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["scores"][0]["n"] == 1
    shown = run("info", tmp_path / "set")
    assert "imported.kind: idc" in shown.stdout and "mean and std measured" in shown.stdout
    asked = run(*scoring)
    assert asked.exit_code == 2 and "Expected --test DATA" in asked.stderr


def test_import_on_the_command_line_says_what_was_assumed(tmp_path: Path):
    path, _ = write_idc(tmp_path, a_set())
    (tmp_path / "names.txt").write_text("ant\nbee\n\ncow\n")
    told = run("import", path, tmp_path / "set", "--from", "idc", "--classes", tmp_path / "names.txt")
    assert told.exit_code == 0, told.stderr
    assert "note: factor 2 assumed" in told.stdout and "evaluate" in told.stdout
    assert accdd.load(tmp_path / "set").class_names == ("ant", "bee", "cow")
    again = run("import", path, tmp_path / "set", "--from", "idc")
    assert again.exit_code == 2 and "exists already" in again.stderr


def test_whitened_images_kept_as_they_are_reach_the_network_unchanged(tmp_path: Path):
    path, _ = write_whitened(tmp_path, a_set())
    found = import_set(path, "mtt", as_is=True)
    whitened = torch.load(path, weights_only=True)
    assert torch.allclose(augment.normalise(found.images, found.mean, found.std), whitened, atol=1e-4)
    assert "must be tested on images whitened alike" in found.info["notes"][-1]


def test_what_mtt_has_coloured_itself_is_taken_as_pixels(tmp_path: Path):
    distilled = a_set()
    torch.save(distilled.images, tmp_path / "images_zca_5.pt")
    torch.save(distilled.labels, tmp_path / "labels_5.pt")
    assert torch.equal(import_set(tmp_path / "images_zca_5.pt", "mtt").images, distilled.images)
    with pytest.raises(InputError, match=r"is not whitened any more\. Expected neither --zca nor --as-is"):
        import_set(tmp_path / "images_zca_5.pt", "mtt", as_is=True)


def test_pixels_beyond_the_range_are_clamped_and_told(tmp_path: Path):
    images = torch.full((2, 3, 8, 8), 0.5)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 1.25, -0.5
    torch.save([images, torch.arange(2)], tmp_path / "data.pt")
    found = import_set(tmp_path / "data.pt", "idc", mean=(0.5,) * 3, std=(0.2,) * 3, factor=1)
    assert found.images.amax() == 1 and found.images.amin() == 0 and found.mean == (0.5,) * 3
    assert found.info["notes"] == ["0.52 % of the pixels were outside [0, 1], by up to 0.5: clamped"]


def test_a_picture_that_claims_too_many_pixels_is_refused_by_name(tmp_path: Path):
    png = io.BytesIO()
    Image.new("L", (8, 8)).save(png, "png")
    huge = bytearray(png.getvalue())
    huge[16:24] = struct.pack(">II", 60000, 60000)  # width and height
    huge[29:33] = struct.pack(">I", zlib.crc32(huge[12:29]))
    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "0.png").write_bytes(huge)
    with pytest.raises(InputError, match=r"a/0\.png.*pixels"):
        import_set(tmp_path / "in", "folder")


def test_large_pictures_keep_their_size(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("RGB", (160, 160), "red").save(tmp_path / name / "0.png")
    assert import_set(tmp_path, "folder").images.shape == (2, 3, 160, 160)


WRONG: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "an unknown kind": ("idd", [torch.rand(2, 3, 8, 8), torch.arange(2)], {}, "Did you mean 'idc'"),
    "normalised": ("idc", [torch.randn(2, 3, 8, 8), torch.arange(2)], {}, "normalised or whitened"),
    "bytes": ("idc", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2)], {}, "expected floating-point"),
    "no constants": ("dc", {"data": [[torch.rand(2, 3, 8, 8), torch.arange(2)]]}, {}, "--mean 0.4914,0.4822,0.4465"),
    "one constant": ("dc", {"data": []}, {"mean": MEAN}, "Got one of --mean and --std"),
    "a std of 0": ("dc", {"data": []}, {"mean": MEAN, "std": (0.0,) * 3}, "expected numbers above 0"),
    "constants of grey": (
        "dc", {"data": [[torch.rand(2, 3, 8, 8), torch.arange(2)]]}, {"mean": (0.1,), "std": (0.3,)}, "1 and 1 numbers"
    ),
    "no such experiment": (
        "dc", {"data": [[torch.rand(2, 3, 8, 8), torch.arange(2)]]}, {"index": 5}, "Expected 0 to 0"
    ),
    "idc for dc": ("dc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {}, "no res_.*pt of DC"),
    "dc for idc": ("idc", {"data": []}, {}, "no pair of tensors"),
    "an option of another, though 0": (
        "idc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {"index": 0}, "--index says nothing"
    ),
    "an option of another": ("idc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {"as_is": True}, "--as-is says nothing"),
    "channels last": ("idc", [torch.rand(2, 8, 8, 3), torch.arange(2)], {}, r"\[2, 8, 8, 3\]; expected \(n, c, h, w\)"),
    "fewer labels": ("idc", [torch.rand(3, 3, 8, 8), torch.arange(2)], {}, r"labels have the shape \[2\] for 3"),
    "float labels": ("idc", [torch.rand(2, 3, 8, 8), torch.rand(2)], {}, "labels are torch.float32"),
    "negative labels": ("idc", [torch.rand(2, 3, 8, 8), torch.arange(2) - 1], {}, "labels from -1"),
    "a huge label": ("idc", [torch.rand(2, 3, 8, 8), torch.tensor([0, 2**61])], {}, "--classes FILE with one name"),
    "no names": ("idc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {"class_names": []}, "Expected 0 to -1"),
    "more names than soft labels": (
        "idc", [torch.rand(2, 3, 8, 8), torch.rand(2, 3)], {"class_names": list("ab")}, "Got 2 class names"
    ),
    "fewer names": ("idc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {"class_names": ["a"]}, "Expected 0 to 0"),
    "no labels": ("mtt", torch.rand(2, 3, 8, 8), {}, "no labels for"),
    "a file for a folder": ("folder", torch.rand(2, 3, 8, 8), {}, "is no folder"),
    "no tensor": ("idc", [1, "text"], {}, "no pair of tensors"),
    "too large for 32 bits": (
        "idc", [torch.full((2, 3, 8, 8), 1e200, dtype=torch.float64), torch.arange(2)], {}, "from inf to inf"
    ),
    "a factor of 0": ("idc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {"factor": 0}, "factor is 0"),
    "a factor of 9": ("idc", [torch.rand(2, 3, 8, 8), torch.arange(2)], {"factor": 9}, "factor is 9"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_understood_is_refused(tmp_path: Path, what: str):
    kind, value, told, message = WRONG[what]
    torch.save(value, tmp_path / "old.pt")
    with pytest.raises(InputError, match=message):
        import_set(tmp_path / "old.pt", kind, **told)


def test_whitened_or_normalised_is_asked(tmp_path: Path):
    path, _ = write_mtt(tmp_path, a_set())
    with pytest.raises(InputError, match=r"whitened \(ZCA\) or normalised.*--zca FILE.*--as-is.*--mean"):
        import_set(path, "mtt")
    with pytest.raises(InputError, match=r"it is not \{'mean_vector': \(1, 192\)"):
        import_set(path, "mtt", zca=tmp_path / "labels_10.pt")
    with pytest.raises(InputError, match="Expected one of them"):
        import_set(path, "mtt", zca=tmp_path / "labels_10.pt", as_is=True)


# --- hostile files ------------------------------------------------------------------------------------------------


class Attack:
    """Unpickling it creates a folder."""

    def __init__(self, target: str):
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"mkdir {self.target}",)


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def good() -> bytes:
    return saved([torch.rand(4, 3, 8, 8), torch.arange(4)])


def rezipped(raw: bytes, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    """The archive written anew, with members replaced."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for name in old.namelist():
            short = name.partition("/")[2].replace("/", "_").replace(".", "_")
            new.writestr(name, changes.get(short, old.read(name)))
    return stream.getvalue()


def pickle_of(raw: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return archive.read("archive/data.pkl")


def repickled(before: bytes, after: bytes) -> bytes:
    raw = good()
    assert before in pickle_of(raw)
    return rezipped(raw, data_pkl=pickle_of(raw).replace(before, after))


def claiming(size: int) -> bytes:
    """The list of members says that the images have `size` bytes."""
    raw = bytearray(good())
    at = raw.index(b"archive/data/0", raw.index(b"PK\1\2")) - 46
    raw[at + 20 : at + 28] = struct.pack("<2I", size, size)
    return bytes(raw)


def marks(count: int) -> bytes:
    return rezipped(good(), data_pkl=b"\x80\x02" + b"(" * count + b"t" * count + b".")


def nested_keys() -> bytes:
    """A dictionary whose key takes 2^60 steps to hash."""
    body = b"\x80\x02}" + b"N\x85" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"Ns."
    return rezipped(good(), data_pkl=body)


def with_nan() -> bytes:
    images = torch.rand(4, 3, 8, 8)
    images[3, 2, 7, 7] = torch.nan
    return saved([images, torch.arange(4)])


def with_infinities() -> bytes:
    images = torch.rand(4, 3, 8, 8)
    images[0, 0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    return saved([images, torch.arange(4)])


def flipped() -> bytes:
    raw = bytearray(good())
    raw[len(raw) // 2] ^= 1
    return bytes(raw)


def quantised() -> torch.Tensor:
    with pytest.warns(UserWarning):
        return torch.quantize_per_tensor(torch.rand(4, 3, 8, 8), 0.1, 0, torch.quint8)


ONE = torch.ones(1)
ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "os.system": (lambda: saved([Attack("attacked"), torch.arange(4)]), r"names 'posix\.system'"),
    "a bare pickle": (lambda: pickle.dumps(Attack("attacked")), "bare pickle"),
    "a legacy file": (lambda: saved([ONE, ONE], _use_new_zipfile_serialization=False), "bare pickle.*write it again"),
    "a zip bomb": (
        lambda: rezipped(saved([torch.zeros(10**6, 3), ONE]), zipfile.ZIP_DEFLATED), "is compressed"
    ),
    "a claim beyond the file": (lambda: claiming(2**31), "claim 2,147,"),
    "a claim into the next member": (lambda: claiming(3200), "storage '0' claims 768 numbers"),
    "a storage of 2^40": (lambda: repickled(b"M\x00\x03", b"\x8a\x06\0\0\0\0\0\1"), "claims 1,099,511,627,776 numbers"),
    "a shape of 2^40": (lambda: repickled(b"(K\x04K\x03", b"(\x8a\x06\0\0\0\0\0\1K\x03"), "reaches past"),
    "a negative offset": (lambda: repickled(b"QK\x00(K\x04", b"QJ\xff\xff\xff\xff(K\x04"), "pickle is damaged"),
    "expanded": (lambda: saved([ONE.expand(10**9, 3, 8, 8), ONE]), "is not dense"),
    "overlapping": (lambda: saved([torch.rand(99).unfold(0, 4, 1), ONE]), "is not dense"),
    "with gaps": (lambda: saved([torch.rand(8, 3, 8, 8)[::2], ONE]), "is not dense"),
    "sparse": (lambda: saved([torch.rand(4, 4).to_sparse(), ONE]), "_rebuild_sparse_tensor"),
    "quantised": (lambda: saved([quantised(), ONE]), "_rebuild_qtensor"),
    "a module": (lambda: saved(torch.nn.Linear(2, 2)), "names 'torch.nn"),
    "five dimensions": (lambda: saved([torch.rand(1, 1, 1, 1, 1), ONE]), "has the shape"),
    "no images": (lambda: saved([torch.rand(0, 3, 8, 8), ONE]), "has the shape"),
    "NaN": (with_nan, "NaN or infinite"),
    "infinities": (with_infinities, "NaN or infinite"),
    "cut off": (lambda: good()[:-1], "cut off"),
    "cut in half": (lambda: good()[:2000], "cut off"),
    "a flipped bit": (flipped, "damaged"),
    "appended to": (lambda: good() + b"PK", "appended to"),
    "no pickle": (lambda: good().replace(b"data.pkl", b"data.pkx"), "no data.pkl"),
    "big-endian": (lambda: rezipped(good(), byteorder=b"big"), "little-endian"),
    "a damaged pickle": (lambda: rezipped(good(), data_pkl=b"\x80\x02]q"), "pickle is damaged"),
    "an empty pickle": (lambda: rezipped(good(), data_pkl=b"."), "pickle is damaged"),
    "a long pickle": (lambda: rezipped(good(), data_pkl=b"N" * 300_000), "its pickle has 300,000 bytes"),
    "a memo of 2^31": (lambda: rezipped(good(), data_pkl=b"\x80\x02]r\xff\xff\xff\x7f."), "no pair of tensors"),
    "many marks": (lambda: marks(130_000), "no pair of tensors"),
    "a key of keys": (nested_keys, "pickle is damaged"),
    "another opcode": (lambda: rezipped(good(), data_pkl=b"\x80\x02cos\nsystem\n."), "names 'os.system'"),
    "an old opcode": (lambda: rezipped(good(), data_pkl=b"(S'ls'\nios\nsystem\n."), "uses STRING"),
    "a lone zip": (lambda: b"PK\5\6" + bytes(18), "not a .pt file"),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "not a .pt file"),
    "nothing": (lambda: b"", "not a .pt file"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_files_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str):
    monkeypatch.chdir(tmp_path)
    make, reason = ATTACKS[attack]
    Path("old.pt").write_bytes(make())
    resource = pytest.importorskip("resource")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(InputError, match=f"(?s)old.pt.*{reason}") as caught:
        import_set("old.pt", "idc")
    assert time.perf_counter() - began < 5  # on a busy machine; what they ask for would take minutes
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown <= 3 * Path("old.pt").stat().st_size + 64 * 1024**2
    assert len(str(caught.value)) < 500 and not Path("attacked").exists()


def test_the_attack_itself_works(tmp_path: Path):
    pickle.loads(pickle.dumps(Attack(str(tmp_path / "attacked"))))
    assert (tmp_path / "attacked").exists(), "or the refusals above show nothing"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(InputError, match="there is no such file"):
            import_set(path, "idc")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path):
    with (tmp_path / "old.pt").open("wb") as stream:
        stream.truncate(MAX_FILE + 1)
    with pytest.raises(InputError, match="more than 2,147,483,648"):
        import_set(tmp_path / "old.pt", "idc")


def test_no_flipped_bit_is_missed_or_escapes_as_another_error(tmp_path: Path):
    torch.manual_seed(0)
    raw, path = good(), tmp_path / "old.pt"
    path.write_bytes(raw)
    expected = import_set(path, "idc")
    for position in range(0, len(raw), 11):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            found = import_set(path, "idc")
        except InputError:
            continue
        # Padding, dates and the like carry nothing; whatever is read is what was written.
        assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)


def test_no_change_of_a_pickle_escapes_as_another_error_or_takes_long(tmp_path: Path):
    raw, random, path, read = good(), np.random.default_rng(0), tmp_path / "old.pt", 0
    body = pickle_of(raw)
    for _ in range(300):
        changed = bytearray(body)
        for position in random.integers(0, len(body), random.integers(1, 4)):
            changed[position] = random.integers(0, 256)
        path.write_bytes(rezipped(raw, data_pkl=bytes(changed)))
        began = time.perf_counter()
        try:
            import_set(path, "idc")
            read += 1
        except InputError as error:
            assert len(str(error)) < 500
        assert time.perf_counter() - began < 1
    assert 0 < read < 150, "some bytes mean nothing, most do"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell the peak of memory")
def test_a_large_set_takes_no_more_than_three_times_its_file(tmp_path: Path):
    torch.save([torch.rand(3000, 3, 32, 32).half(), torch.arange(3000) % 10], tmp_path / "old.pt")  # 18 MB
    code = (
        "import resource, sys\nfrom accdd.artifact import import_set\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\nbefore = peak()\n"
        "import_set(sys.argv[1], 'idc')\nprint(peak() - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "old.pt"], capture_output=True, text=True, timeout=60)
    assert int(ran.stdout) <= 3 * (tmp_path / "old.pt").stat().st_size + 64 * 1024**2


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int16, torch.int64]
)
def test_tensors_are_read_as_torch_reads_them(tmp_path: Path, dtype: torch.dtype):
    base = (torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
    plain = (1, -1, 2**40, 0.5, True, None, "ä")
    value = {"a": [base, base[2:4].T, OrderedDict(b=base[:, :1].clone())], "c": plain, 7: 1}
    torch.save(value, tmp_path / "a.pt")
    expected, found = torch.load(tmp_path / "a.pt", weights_only=True), torch_file.read(tmp_path / "a.pt")
    assert found["c"] == expected["c"] == plain and found[7] == 1 and found["a"][2].keys() == {"b"}
    pairs = [(found["a"][0], base), (found["a"][1], base[2:4].T), (found["a"][2]["b"], base[:, :1])]
    for stored, tensor in pairs:
        assert torch.equal(stored.read(), tensor) and stored.dtype == dtype


# --- Python -------------------------------------------------------------------------------------------------------


def test_the_data_set_and_the_arrays_are_what_decoding_gives():
    distilled = a_set()
    images, labels = distilled.decode()
    dataset, (array, numbers) = distilled.as_dataset(), distilled.to_numpy()
    assert len(dataset) == 24 and array.dtype == np.float32 and numbers.dtype == np.int64
    for position in (0, 7, 23):
        image, label = dataset[position]
        assert torch.equal(image, images[position]) and label == labels[position]
        assert np.array_equal(array[position], images[position].numpy()) and numbers[position] == label


def test_a_pass_of_the_loader_shows_every_image_once():
    distilled = a_set()
    loader = distilled.as_loader(5, augment=())
    batches = list(loader)
    assert len(batches) == len(loader) == 5 and [len(labels) for _, labels in batches] == [5, 5, 5, 5, 4]
    images, labels = torch.cat([each for each, _ in batches]), torch.cat([each for _, each in batches])
    wanted, wanted_labels = distilled.decode()
    normal = (wanted - 0.5) / 0.25
    order = [next(i for i in range(24) if torch.allclose(image, normal[i])) for image in images]
    assert sorted(order) == list(range(24)) and order != list(range(24))
    assert torch.equal(labels, wanted_labels[order])


def test_epochs_of_the_loader_differ_and_can_be_had_again():
    distilled = a_set(info={"recipe": {"augment": ["color", "crop"], "one_of": False}})
    loader = distilled.as_loader(8)
    first, second = (torch.cat([images for images, _ in loader]) for _ in range(2))
    assert not torch.equal(first.sort(0).values, second.sort(0).values)
    loader.epoch = 0
    assert torch.equal(torch.cat([images for images, _ in loader]), first)
    again = distilled.as_loader(8)
    again.epoch = 1
    assert torch.equal(torch.cat([images for images, _ in again]), second)
    other = torch.cat([images for images, _ in distilled.as_loader(8, seed=1)])
    assert not torch.equal(other, first)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"batch": 0, "augment": ()}, "batch=0"),
        ({"batch": 4}, "records no recommendation"),
        ({"batch": 4, "augment": "crop"}, "augment='crop'. Expected a tuple"),
        ({"batch": 4, "augment": ("crp",)}, "Unknown augmentation"),
    ],
)
def test_a_loader_that_cannot_be_made_is_refused(told: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        a_set().as_loader(**told)


def test_class_names_that_no_folder_may_have_come_back_from_pictures(tmp_path: Path):
    for names in (("dog", "cat"), ("test", "a/b"), ("cat", "dog")):
        folder = tmp_path / "-".join(map(str.upper, names)).replace("/", "_")
        export(a_set(classes=2, class_names=names), "png", folder)
        assert import_set(folder, "folder").class_names == names
        (folder / "train" / "metadata.jsonl").write_text('{"file_name": 3}\n')
        found = import_set(folder, "folder").class_names
        assert found == tuple(folder_names(names))  # nothing is made of what another program wrote
