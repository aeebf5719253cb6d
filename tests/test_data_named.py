"""Data sets by name: from copies in every layout, from the hub, and what is said when neither works."""

import gzip
import io
import pickle
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import helpers
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

import accdd
from accdd import files, presets
from accdd.cli import app
from accdd.config import Data, InputError
from accdd.data import NAMED, Dataset, load, originals
from accdd.data.named import subset

ON_HUB = [name for name in NAMED if name != "digits"]
TEN = np.arange(20) % 10
"""Labels of twenty pictures."""


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(seed: int = 0, size: int = 8, kind: str = "png") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels(size, size, 3, seed=seed)).save(content, kind)
    return content.getvalue()


def class_folders(root: Path, names: Sequence[str], each: int = 2) -> Path:
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(each):
            (root / name / f"{index}.png").write_bytes(encoded(each * seed + index))
    return root


def refused(source, match: str, settings: Data | None = None) -> str:
    with pytest.raises(InputError, match=match) as raised:
        load(source, settings)
    return str(raised.value)


@pytest.fixture(autouse=True)
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a working folder of its own, without copies."""
    monkeypatch.delenv("ACCDD_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of copies."""
    (tmp_path / "copies").mkdir()
    monkeypatch.setenv("ACCDD_DATA", str(tmp_path / "copies"))
    return tmp_path / "copies"


# The table


def test_the_table_agrees_with_itself() -> None:
    for name, facts in NAMED.items():
        assert facts.channels in (1, 3) and facts.size >= 8 and facts.classes >= 10
        assert bool(facts.hub) == (name != "digits")
        assert len(facts.mean) == len(facts.std) == (facts.channels if facts.hub else 0)
        assert facts.only in (None, facts.classes)
    assert load("digits").num_classes == NAMED["digits"].classes and load("digits").size == NAMED["digits"].size


def test_presets_hold_the_papers_constants() -> None:
    for name, mean, std in (
        ("idc-mnist", [0.1307], [0.3081]),
        ("dm-fashion-mnist", [0.2861], [0.3530]),
        ("dsa-svhn", [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
        ("idc-cifar100", [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),  # CIFAR-10's, as released
        ("dc-cifar100", [0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762]),
        ("accdd-imagenet-10", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ):
        changes = presets.PRESETS[name].changes(10)
        assert (changes["data.mean"], changes["data.std"]) == (mean, std)


def test_the_subsets_of_imagenet_are_begun_alike_and_labels_are_ranks_of_ids() -> None:
    ten, hundred = subset(10), subset(100)
    assert list(hundred.items())[:10] == list(ten.items()) and len(hundred) == 100
    assert sorted(hundred) == sorted(hundred, key=lambda wordnet_id: hundred[wordnet_id])
    assert len(set(hundred.values())) == 100 and 0 <= min(hundred.values()) and max(hundred.values()) < 1000
    assert ten["n02869837"] == 452 and ten["n02107142"] == 236  # bonnet, Doberman


@pytest.mark.parametrize("verb", ["distill", "pool", "targets"])
def test_help_lists_all_names(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"]).output
    words = re.split(r"[\s,;]+", re.sub(r"-\n\s+", "-", shown))  # lines end after hyphens, too
    assert set(NAMED) <= set(words)


# Copies


def test_a_copy_is_found_by_name_and_has_it(root: Path) -> None:
    class_folders(root / "elsewhere", "abcdefghij")
    (root / "cifar10").symlink_to(root / "elsewhere")
    data = load("cifar10")
    assert data.name == "cifar10" and data.num_classes == 10 and data.size == 32
    assert load("cifar10", Data(size=8)).size == 8
    plain = load(root / "elsewhere", Data(size=32))
    assert plain.name == "elsewhere" and plain.fingerprint == data.fingerprint
    assert "fingerprint" in vars(data) and data.mean == plain.mean  # measured once


def test_a_copy_may_be_an_npz_file(root: Path) -> None:
    np.savez(root / "fashion-mnist.npz", images=pixels(20, 28, 28), labels=TEN)
    data = load("fashion-mnist")
    assert data.name == "fashion-mnist" and data.images.shape[1:] == (1, 28, 28)


def test_the_setting_wins_over_the_environment(root: Path, tmp_path: Path) -> None:
    class_folders(root / "svhn", "abcdefghij")
    class_folders(tmp_path / "other" / "svhn", "klmnopqrst")
    assert load("svhn").class_names[0] == "a"
    assert load("svhn", Data(root=str(tmp_path / "other"))).class_names[0] == "k"
    assert Data(root="x").root == str(Path.cwd() / "x")
    refused("svhn", r"data.root \(or ACCDD_DATA\) is '.*gone', which is no folder", Data(root="gone"))


def test_another_number_of_classes_is_refused_naming_both(root: Path) -> None:
    class_folders(root / "cifar100", "abc")
    refused("cifar100", r"'.*copies.cifar100' has 3 classes, and CIFAR-100 has 100\..* type .*copies.cifar100\.")
    assert load(str(root / "cifar100")).num_classes == 3


def test_a_bare_name_that_is_in_the_working_folder_is_not_guessed_at(root: Path, monkeypatch) -> None:
    class_folders(Path("cifar10"), "abc")
    refused("cifar10", r"'cifar10' is CIFAR-10, but .* Type \./cifar10 .* hf:uoft-cs/cifar10")
    assert load("./cifar10").num_classes == load(Path("cifar10")).num_classes == 3
    class_folders(root / "cifar10", "abcdefghij")
    refused("cifar10", "in the working folder, too")
    monkeypatch.chdir(root)
    assert load("cifar10").num_classes == 10
    class_folders(Path("digits"), "abc")
    refused("digits", r"'digits' is scikit-learn's digits, but .* Type \./digits to use that; or start")
    (Path("digits") / "env.json").touch()  # a run that was called so
    assert load("digits").size == 8


@pytest.mark.parametrize(
    "typed, meant", [("cifar-10", "cifar10"), ("CIFAR100", "cifar100"), ("fashionmnist", "fashion-mnist"),
                     ("tiny_imagenet", "tiny-imagenet"), ("imagenete", "imagenette")]
)  # fmt: skip
def test_a_misspelt_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    refused(typed, f"No data at '{typed}'. Did you mean '{meant}'?")


def test_a_run_by_name_is_scored_on_the_data_of_that_name(root: Path, tmp_path: Path, monkeypatch) -> None:
    class_folders(root / "mnist", "0123456789", each=6)
    monkeypatch.delenv("ACCDD_DATA")
    changes = {**helpers.TINY, "ipc": 1, "data.root": "../copies", "data.size": 8, "score.seeds": 0}
    result = accdd.distill("mnist", out=tmp_path / "run", settings=changes)
    assert result.distilled.info["source"]["path"] == result.distilled.info["source"]["name"] == "mnist"
    assert "flip" not in result.distilled.info["recipe"]["augment"]
    assert "a fifth of lr from 2/3" in result.distilled.info["recipe"]["schedule"]
    monkeypatch.chdir(tmp_path)
    (score,) = accdd.evaluate(tmp_path / "run", seeds=1, epochs=1)
    assert "no flip" in score.protocol
    (tmp_path / "copies").rename(tmp_path / "moved")
    monkeypatch.setenv("ACCDD_DATA", str(tmp_path / "moved"))
    (again,) = accdd.evaluate(tmp_path / "run", seeds=1, epochs=1)
    assert again.accuracies == score.accuracies


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """The `datasets` library with a `load_dataset` that serves what a test puts into `served`."""
    library = pytest.importorskip("datasets", reason="needs the datasets library")
    asked, served = [], {}

    def load_dataset(repository: str, *, cache_dir: str, **options: str):
        assert cache_dir == str(files.cache_folder() / "datasets")
        asked.append((repository, options))
        return library.DatasetDict(served)

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    return types.SimpleNamespace(library=library, asked=asked, served=served)


def rows(library, labels: Sequence[int], columns: Sequence[str], classes: int, seed: int = 0):
    """A split with pictures in the first column and the labels in the others."""
    kinds = {columns[0]: library.Image(), **{name: library.ClassLabel(num_classes=classes) for name in columns[1:]}}
    pictures = [{"bytes": encoded(seed + row), "path": None} for row in range(len(labels))]
    content: dict[str, list] = {columns[0]: pictures}
    for number, name in enumerate(columns[1:]):
        content[name] = list(labels) if not number else [0] * len(labels)
    return library.Dataset.from_dict(content, features=library.Features(kinds))


@pytest.mark.parametrize("name", [name for name in ON_HUB if NAMED[name].only is None])
def test_names_are_loaded_from_the_hub(name: str, hub) -> None:
    facts = NAMED[name]
    labels = np.arange(facts.classes).tolist()
    # With a second column of classes and a split that are not the ones to use.
    columns = [facts.image, facts.label, "coarse_label"]
    hub.served["train"] = rows(hub.library, labels, columns, facts.classes)
    hub.served[facts.test] = rows(hub.library, labels[:3], columns, facts.classes, seed=500)
    hub.served["other"] = rows(hub.library, labels[:1], columns, facts.classes)
    data = load(name, Data(size=8))
    assert hub.asked == [(facts.hub, dict(facts.options))]
    assert data.notes[-1] == f"{facts.title} from hf:{facts.hub}"
    assert data.name == name and data.labels.tolist() == labels and data.test_labels.tolist() == [0, 1, 2]
    assert not data.kept_aside
    np.testing.assert_array_equal(
        data.test_images[0].numpy(), np.asarray(Image.open(io.BytesIO(encoded(500)))).transpose(2, 0, 1)
    )


def test_imagenet_10_of_the_hub_is_its_classes_in_order(hub) -> None:
    ids = subset(10)
    theirs = [7, *reversed(ids.values()), 0, *ids.values()]
    columns = ["image", "label"]
    hub.served["train"] = rows(hub.library, theirs, columns, 1000)
    hub.served["validation"] = rows(hub.library, [3, 236, 452], columns, 1000)
    hub.served["test"] = rows(hub.library, [-1, -1], columns, 1000)
    data = load("imagenet-10", Data(size=8))
    assert data.class_names == tuple(ids) and data.labels.tolist() == [*range(9, -1, -1), *range(10)]
    assert data.test_labels.tolist() == [3, 0]
    np.testing.assert_array_equal(
        data.images[0].numpy(), np.asarray(Image.open(io.BytesIO(encoded(1)))).transpose(2, 0, 1)
    )


def test_what_came_from_the_hub_is_decoded_once(hub, monkeypatch) -> None:
    columns = ["img", "label"]
    hub.served["train"] = rows(hub.library, TEN.tolist(), columns, 10)
    first = load("cifar10")
    with monkeypatch.context() as patch:
        patch.setattr("accdd.data.hub.read", None)
        assert load("cifar10").fingerprint == first.fingerprint
    hub.served["train"] = rows(hub.library, TEN.tolist(), columns, 10, seed=1)
    assert load("cifar10").fingerprint != first.fingerprint


def test_a_hub_that_serves_something_else_is_refused(hub) -> None:
    hub.served["train"] = rows(hub.library, [0, 1, 0, 1], ["img", "label"], 2)
    refused("cifar10", "'hf:uoft-cs/cifar10' has 2 classes, and CIFAR-10 has 10")
    refused("mnist", "'mnist' has the columns label; expected one of type Image")
    hub.served["test"] = hub.served.pop("train")
    refused("cifar10", "expected one called train")


@pytest.mark.parametrize("name", ON_HUB)
@pytest.mark.parametrize("known", [False, True])
def test_without_the_hub_it_is_said_where_a_copy_goes(name: str, known: bool, tmp_path: Path, monkeypatch) -> None:
    def load_dataset(*arguments: object, **options: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    if known:
        monkeypatch.setenv("ACCDD_DATA", str(tmp_path))
    message = refused(name, rf"The hub could not be reached for '{NAMED[name].hub}' \(Couldn't reach the Hub\)\.")
    place = f"{tmp_path}/{name}" if known else f"FOLDER/{name}"
    for part in (place, "one folder of pictures per class", "parquet files", ".npz file", "binary version", "IDX"):
        assert part in message
    assert ("ACCDD_DATA=FOLDER" in message) == (not known)
    assert ("accepted its terms" in message) == ("imagenet' ImageNet" in message or "/imagenet'" in message)
    assert ("accepted its terms" in message) == name.startswith("imagenet-")
    ran = CliRunner().invoke(app, ["distill", name, "--out", str(tmp_path / "run")])
    assert ran.exit_code == 2 and "error: The hub could not be reached" in ran.output


# The authors' own files


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def mnist(folder: Path, *, zipped: bool = False) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images, tested = pixels(20, 28, 28), pixels(3, 28, 28, seed=1)
    for name, array in zip(originals.IDX, (images, TEN, tested, np.array([9, 0, 1])), strict=True):
        content = idx(array)
        (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)
    return images, tested


@pytest.mark.parametrize("below", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files(below: str, zipped: bool, root: Path) -> None:
    images, tested = mnist(root / "mnist" / below, zipped=zipped)
    data = load("mnist")
    np.testing.assert_array_equal(data.images[:, 0].numpy(), images)
    np.testing.assert_array_equal(data.test_images[:, 0].numpy(), tested)
    assert data.labels.tolist() == TEN.tolist() and data.test_labels.tolist() == [9, 0, 1]
    assert not data.kept_aside and load(root / "mnist").fingerprint == data.fingerprint


IMAGES = idx(pixels(20, 28, 28))


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "begins with nothing; expected 00 00 08 03"),
        (b"\x89PNG" + bytes(100), "begins with 89 50 4e 47; expected 00 00 08 03"),
        (idx(TEN), "begins with 00 00 08 01; expected 00 00 08 03"),
        (IMAGES[:9], "begins with 00 00 08 03"),
        (IMAGES[:-1], "announces 20 x 28 x 28 numbers and has 15679"),
        (IMAGES + b"x", "announces 20 x 28 x 28 numbers and has more than 15680"),
        (IMAGES[:4] + b"\xff" * 12, "announces 4294967295 x 4294967295 x 4294967295 numbers and has 0"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files_are_refused(content: bytes, match: str, zipped: bool, tmp_path: Path) -> None:
    mnist(tmp_path / "x", zipped=zipped)
    path = tmp_path / "x" / f"{originals.IDX[0]}{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(content) if zipped else content)
    refused(tmp_path / "x", f"'.*train-images-idx3-ubyte.*' {match}.* It is damaged or something else: download it")


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"no gzip", lambda c: c[:-8] + bytes(8)])
def test_damaged_gzip_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    mnist(tmp_path / "x", zipped=True)
    path = tmp_path / "x" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(tmp_path / "x", "'.*t10k-images-idx3-ubyte.gz' cannot be read")


def test_idx_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mnist(tmp_path / "x")
    (tmp_path / "x" / "train-labels-idx1-ubyte").write_bytes(idx(TEN[:19]))
    refused(tmp_path / "x", "labels has 19 entries for 20 images")
    (tmp_path / "x" / "train-labels-idx1-ubyte").unlink()
    refused(tmp_path / "x", "but not train-labels-idx1-ubyte")


def records(labels: Sequence[int], *, before: Sequence[int] = (), seed: int = 0) -> tuple[np.ndarray, bytes]:
    images = pixels(len(labels), 3, 32, 32, seed=seed)
    content = b"".join(bytes((*before, label)) + image.tobytes() for label, image in zip(labels, images, strict=True))
    return images, content


def cifar10(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True)
    parts = [records(range(10) if number else [9, 8], seed=number) for number in range(6)]
    for name, (_, content) in zip(originals.CIFAR10, [*parts[1:], parts[0]], strict=True):
        (folder / name).write_bytes(content)
    return np.concatenate([images for images, _ in parts[1:]])


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_cifar_10_in_its_binary_version(below: str, root: Path) -> None:
    images = cifar10(root / "cifar10" / below)
    data = load("cifar10")
    np.testing.assert_array_equal(data.images.numpy(), images)
    assert data.labels.tolist() == 5 * [*range(10)] and data.test_labels.tolist() == [9, 8]
    assert data.class_names == tuple("0123456789")
    (root / "cifar10" / below / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load("cifar10").class_names == tuple("abcdefghij")


def test_cifar_100_in_its_binary_version_has_the_second_label(root: Path) -> None:
    (root / "cifar100").mkdir()
    images, content = records(range(100), before=(99,))
    (root / "cifar100" / "train.bin").write_bytes(content)
    (root / "cifar100" / "test.bin").write_bytes(content[: 2 * 3074])
    data = load("cifar100")
    np.testing.assert_array_equal(data.images.numpy(), images)
    assert data.labels.tolist() == [*range(100)] and data.test_labels.tolist() == [0, 1]


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    cifar10(tmp_path / "x")
    path = tmp_path / "x" / "data_batch_3.bin"
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"x", b""):
        path.write_bytes(content)
        refused(tmp_path / "x", f"'.*data_batch_3.bin' has {len(content)} bytes; expected a multiple of 3073")
    path.write_bytes(bytes((10,)) + whole[1:])
    refused(tmp_path / "x", "'.*data_batch_3.bin' has the label 10; expected 0 to 9")
    path.unlink()
    refused(tmp_path / "x", "but not data_batch_3.bin")


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize(
    "names, below",
    [(("data_batch_1", "data_batch_2"), "."), (("data_batch_1", "data_batch_2"), "cifar-10-batches-py"),
     (("train", "meta"), "."), (("train", "meta"), "cifar-100-python")],
)  # fmt: skip
def test_pickled_cifar_is_not_opened(names: Sequence[str], below: str, tmp_path: Path) -> None:
    folder = tmp_path / "x" / below
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / "x", "pickled and could run code.*Expected the binary version .cifar-10-binary.tar.gz")
    assert not Path("unpickled").exists()


def test_svhn_has_a_0_for_its_10(root: Path) -> None:
    (root / "svhn").mkdir()
    images = pixels(20, 3, 32, 32)
    labels = np.where(TEN == 0, 10, TEN)[:, None].astype(np.uint8)
    for name, rows in zip(originals.SVHN, (slice(None), slice(2)), strict=True):
        savemat(root / "svhn" / name, {"X": images[rows].transpose(2, 3, 1, 0), "y": labels[rows]})
    data = load("svhn")
    np.testing.assert_array_equal(data.images.numpy(), images)
    assert data.labels.tolist() == TEN.tolist() and data.test_labels.tolist() == [0, 1]
    train = root / "svhn" / "train_32x32.mat"
    whole = train.read_bytes()
    for content in (b"", b"no matlab" * 50, whole[: len(whole) // 2]):
        train.write_bytes(content)
        refused("svhn", "'.*train_32x32.mat' cannot be read as SVHN's .mat")
    savemat(train, {"X": images.astype(float), "y": labels})
    refused("svhn", r"has X float64 .*; expected uint8 \(32, 32, 3, n\)")
    savemat(train, {"y": labels})
    refused("svhn", "'.*train_32x32.mat' cannot be read as SVHN's .mat")
    train.unlink()
    refused("svhn", "has test_32x32.mat, but not train_32x32.mat")


def tiny_imagenet(folder: Path, ids: Sequence[str]) -> Path:
    for seed, wordnet_id in enumerate(ids):
        (folder / "train" / wordnet_id / "images").mkdir(parents=True)
        (folder / "train" / wordnet_id / "images" / f"{wordnet_id}_0.JPEG").write_bytes(encoded(seed, kind="jpeg"))
        (folder / "train" / wordnet_id / f"{wordnet_id}_boxes.txt").touch()
    (folder / "val" / "images").mkdir(parents=True)
    for seed in range(2):
        (folder / "val" / "images" / f"val_{seed}.JPEG").write_bytes(encoded(500 + seed, kind="jpeg"))
    (folder / "test" / "images").mkdir(parents=True)
    lines = [f"val_{seed}.JPEG\t{ids[seed]}\t0\t0\t9\t9\n" for seed in range(2)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(reversed(ids)))
    return folder


@pytest.mark.parametrize("below", [".", "tiny-imagenet-200"])
def test_tiny_imagenet_as_it_is_distributed(below: str, root: Path) -> None:
    ids = [f"n{number:08d}" for number in reversed(range(200))]
    tiny_imagenet(root / "tiny-imagenet" / below, ids)
    data = load("tiny-imagenet", Data(size=8))
    assert data.class_names == tuple(sorted(ids)) and data.labels.tolist() == [*range(200)]
    assert data.test_labels.tolist() == [199, 198] and not data.kept_aside
    first = np.asarray(Image.open(io.BytesIO(encoded(0, kind="jpeg")))).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.images[199].numpy(), first)


@pytest.mark.parametrize(
    "line, match",
    [("val_0.JPEG n00000001", "in line 1 'val_0.JPEG n00000001'; expected"), ("val_0.JPEG\tn5\t0", "in line 1"),
     ("../../secret\tn00000001", "in line 1"), ("gone.JPEG\tn00000001", "Unreadable picture: '.*gone.JPEG'"),
     ("", "in line 1"), (None, "Test data has no images|None of|has no images")],
)  # fmt: skip
def test_wrong_annotations_are_refused(line: str | None, match: str, tmp_path: Path) -> None:
    folder = tiny_imagenet(tmp_path / "x", ["n00000001", "n00000002"])
    (folder / "val" / "val_annotations.txt").write_text("" if line is None else f"{line}\n")
    refused(folder, match)


# ImageNet's folders


def imagenet(folder: Path) -> list[str]:
    ids = [*subset(10)]
    class_folders(folder / "train", [*ids, "n00000001", "n99999999"])
    class_folders(folder / "val", [*ids, "n00000001", "n99999999"], each=1)
    (folder / "test").mkdir()
    (folder / "test" / "0.png").write_bytes(encoded())
    return ids


@pytest.mark.parametrize("called", ["imagenet", "imagenet-10"])
def test_imagenet_10_of_a_folder_is_its_classes_in_order(called: str, root: Path) -> None:
    ids = imagenet(root / called)
    data = load("imagenet-10", Data(size=8))
    assert data.name == "imagenet-10" and data.class_names == tuple(ids) != tuple(sorted(ids))
    assert data.labels.tolist() == np.arange(10).repeat(2).tolist() and data.test_labels.tolist() == [*range(10)]
    assert data.notes[0] == "without labels, not used: test"
    assert data.notes[-1] == f"ImageNet-10 from {root / called}"
    first = np.asarray(Image.open(root / called / "train" / ids[3] / "0.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.images[6].numpy(), first)


def test_only_changes_to_its_classes_matter(root: Path, monkeypatch) -> None:
    ids = imagenet(root / "imagenet")

    def fingerprint() -> str:
        return load("imagenet-10", Data(size=8)).fingerprint

    first = fingerprint()
    (root / "imagenet" / "train" / "n00000001" / "new.png").write_bytes(encoded(77))
    with monkeypatch.context() as patch:
        patch.setattr("accdd.data.folders.read", None)
        assert fingerprint() == first
    (root / "imagenet" / "val" / ids[2] / "new.png").write_bytes(encoded(77))
    assert fingerprint() != first


def test_missing_classes_are_named(root: Path) -> None:
    imagenet(root / "imagenet")
    refused("imagenet-100", "'.*imagenet.train' has no class folders .*expected one for each of the 100 classes")


def test_a_folder_of_imagenet_10_of_another_kind_is_counted(root: Path) -> None:
    class_folders(root / "imagenet-10", "abcdefghij")
    data = load("imagenet-10", Data(size=8))
    assert isinstance(data, Dataset) and data.class_names == tuple("abcdefghij")
