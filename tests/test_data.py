"""Every source of data, every kind of wrong input, and the statistics of what comes out."""

import io
import json
import os
import pickle
import struct
import sys
import types
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from accdd import files
from accdd.config import Data, InputError
from accdd.data import Dataset, build, load, mirrors
from accdd.data.pictures import working_size

FASHION_MNIST = Path(__file__).parents[2] / "shared" / "data" / "fashion-mnist"

SKIP = Data(skip_unreadable=True)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def labelled(count: int = 12, classes: int = 3, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    return pixels(count, *(shape or (3, 16, 16))), np.arange(count) % classes


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def class_folders(root: Path, *, names: tuple[str, ...] = ("ant", "bee", "cat"), count: int = 6) -> Path:
    """JPEGs of differing sizes, none of whose sides is below 64."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(count):
            height, width = 64 + 7 * index, 80 + 5 * label
            Image.fromarray(pixels(height, width, 3, seed=index)).save(root / name / f"{index}.jpg")
    return root


def write_parquet(
    path: Path,
    pictures: list[bytes | None],
    labels: list,
    *,
    names: list[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
) -> Path:
    image = pa.array([{"bytes": content, "path": "x"} for content in pictures])
    table = pa.table({columns[0]: image, columns[1]: pa.array(labels)})
    if names:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
    return path


def assert_refused(source, match: str, settings: Data | None = None) -> None:
    with pytest.raises(InputError, match=match):
        load(source, settings or Data())


# What a data set knows about itself


def test_statistics_equal_numpy() -> None:
    images, labels = labelled(50, 5)
    data = load((images, labels, images, labels), Data())
    scaled = images / 255
    np.testing.assert_allclose(data.mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std((0, 2, 3)), rtol=1e-12)
    assert (data.num_classes, data.channels, data.size) == (5, 3, 16)


def test_a_constant_channel_has_std_1() -> None:
    images, labels = labelled()
    images[:, 1] = 77
    data = load((images, labels, images, labels), Data())
    assert data.std[1] == 1 and data.std[0] < 1
    assert data.mean[1] == pytest.approx(77 / 255)


def test_data_can_be_called_something_and_is_then_mirrored_or_not() -> None:
    images, labels = labelled()
    given = (images, labels, images, labels)
    plain, named = (load(given, Data(name=name)) for name in (None, "mnist-3-and-5"))
    assert (plain.name, named.name) == ("arrays", "mnist-3-and-5")
    assert mirrors(plain.name) and not mirrors(named.name)
    assert named.fingerprint == plain.fingerprint


def test_fingerprint_changes_with_one_pixel_and_one_label() -> None:
    images, labels = labelled()
    first = load((images, labels, images, labels), Data())
    assert load((images.copy(), labels, images, labels), Data()).fingerprint == first.fingerprint
    for position in (0, 2):
        arrays = [images.copy(), labels, images.copy(), labels]
        arrays[position][3, 2, 1, 0] ^= 1
        assert load(tuple(arrays), Data()).fingerprint != first.fingerprint
    swapped = labels.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert load((images, swapped, images, labels), Data()).fingerprint != first.fingerprint


def test_class_index_finds_each_class() -> None:
    images, labels = labelled(13, 4)
    data = load((images, labels, images, labels), Data())
    for label, index in enumerate(data.class_index):
        assert index.dtype == torch.int64
        assert index.tolist() == np.flatnonzero(labels == label).tolist()


def test_to_keeps_everything() -> None:
    data = load(labelled(), Data())
    moved = data.to("cpu")
    assert moved.fingerprint == data.fingerprint and moved.notes == data.notes
    assert data.to("meta").images.device.type == "meta"


def test_a_dataset_is_returned_as_it_is() -> None:
    data = load(labelled(), Data())
    assert load(data, Data()) is data


def test_the_callers_arrays_are_not_shared() -> None:
    images, labels = labelled()
    data = load((images, labels, images, labels), Data())
    images[:] = 0
    assert data.images.any()


# The split that is kept aside


def test_the_kept_aside_split_is_stratified_and_always_the_same() -> None:
    images, labels = pixels(61, 1, 8, 8), np.array([0] * 40 + [1] * 19 + [2] * 2)
    one, other = (load((images, labels), Data()) for _ in range(2))
    assert one.fingerprint == other.fingerprint and one.kept_aside
    assert torch.bincount(one.test_labels).tolist() == [8, 4, 1]
    assert torch.bincount(one.labels).tolist() == [32, 15, 1]
    together = torch.cat([one.images, one.test_images]).flatten(1)
    assert sorted(together.tolist()) == sorted(images.reshape(61, -1).tolist())
    assert "no test split: 20 % of each class kept aside (keyed)" in one.notes


def test_a_class_with_one_image_stays_in_training() -> None:
    data = load((pixels(4, 1, 8, 8), np.array([0, 1, 1, 1])), Data(test_fraction=0.9))
    assert data.labels.tolist() == [0, 1] and data.test_labels.tolist() == [1, 1]
    assert "1 of 2 classes have no test images" in data.notes
    held = load((*labelled(), pixels(1, 3, 16, 16), np.array([0])), Data(held_out=0.5))
    assert held.notes[-1] == "tested on 50 % of each class's training images, held out, and not on test images"
    few = load((pixels(4, 1, 8, 8), np.array([0, 1, 1, 1])), Data(test_fraction=0.3, held_out=0.5))
    assert [note for note in few.notes if "have no test" in note] == ["1 of 2 classes have no test images"]  # said once


def test_nothing_to_keep_aside_is_refused() -> None:
    assert_refused((pixels(3, 1, 8, 8), np.arange(3)), "every class has only one image")


# Digits


def test_digits() -> None:
    data = load("digits", Data())
    assert data.images.shape[1:] == (1, 8, 8) and len(data.images) + len(data.test_images) == 1797
    assert data.class_names == tuple("0123456789")
    assert data.images.max() == 255 and data.name == "digits"
    assert set(data.images.unique().tolist()) == {round(value * 255 / 16) for value in range(17)}
    assert data.fingerprint and "fingerprint" in vars(load(data, Data(name="mine")))  # not measured again


# Arrays


@pytest.mark.parametrize("as_tensor", [False, True])
def test_float_images_become_8_bit(as_tensor: bool) -> None:
    images, labels = labelled()
    given = images.astype(np.float32) / 255
    source = (torch.from_numpy(given), torch.from_numpy(labels)) if as_tensor else (given, labels)
    data = load(source, Data())
    assert data.fingerprint == load((images, labels), Data()).fingerprint
    assert "float pixels rounded to 8 bits" in data.notes


def test_grey_arrays_need_no_channel_axis() -> None:
    images, labels = labelled(12, 3, 9, 9)
    assert load((images, labels), Data()).images.shape[1:] == (1, 9, 9)


def test_arrays_that_are_not_square_are_cropped() -> None:
    images, labels = labelled(12, 3, 3, 20, 40)
    data = load((images, labels), Data())
    assert data.size == 16
    assert data.notes[0] == "12 pictures of 40x20, RGB; resized to 16 x 16 (short side, centre crop)"


def test_a_crop_without_resizing_is_the_centre() -> None:
    images, labels = labelled(12, 3, 3, 16, 24)
    data = load((images, labels, images, labels), Data())
    np.testing.assert_array_equal(data.images.numpy(), images[:, :, :, 4:20])


def test_npz_with_everything(tmp_path: Path) -> None:
    images, labels = labelled(12, 3)
    names = np.array(["x", "y", "z"])
    path = tmp_path / "mine.npz"
    np.savez(path, images=images, labels=labels, test_images=images[:3], test_labels=labels[:3], class_names=names)
    data = load(str(path), Data())
    np.testing.assert_array_equal(data.images.numpy(), images)
    assert data.class_names == ("x", "y", "z") and data.name == "mine"
    assert data.test_labels.tolist() == [0, 1, 2]


def wrong(**changes) -> tuple:
    parts = dict(zip(("images", "labels"), labelled(), strict=True)) | changes
    return parts["images"], parts["labels"]


NAN = np.zeros((12, 1, 4, 4), dtype=np.float32)
NAN[0, 0, 0, :3] = np.nan, np.inf, -np.inf


@pytest.mark.parametrize(
    "source, match",
    [
        (wrong(images=NAN), "3 pixels that are NaN or infinite"),
        (wrong(images=NAN[1:, :, :2] + 2.0), r"88 pixels outside \[0, 1\] \(2 to 2\).*Divide by 255"),
        (wrong(images=pixels(12, 784)), r"uint8 \(12, 784\); expected \(n, c, h, w\)"),
        (wrong(images=pixels(12, 16, 16, 3)), r"Type images.transpose\(0, 3, 1, 2\)"),
        (wrong(images=pixels(12, 4, 8, 8)), "with c 1 or 3"),
        (wrong(images=pixels(12, 3, 8, 8).astype(np.int64)), r"int64.*expected uint8 in \[0, 255\]"),
        (wrong(images=pixels(0, 3, 8, 8), labels=np.arange(0)), "which is empty"),
        (wrong(images=[[1, 2]]), "images is a list; expected a numpy array"),
        (wrong(labels=np.arange(12) % 3 - 1), r"labels are -1, 0, 1; expected 0 to 2 without gaps"),
        (wrong(labels=np.arange(12) % 3 * 2), r"labels are 0, 2, 4; expected 0 to 2 without gaps.*np.unique"),
        (wrong(labels=np.arange(12) % 3 + 1), r"labels are 1, 2, 3; expected 0 to 2"),
        (wrong(labels=np.arange(12) % 3 + 0.5), "expected integers"),
        (wrong(labels=np.array(["a", "b"] * 6)), "expected integers"),
        (wrong(labels=np.eye(12, dtype=np.int64)), r"argmax\(1\) if one-hot"),
        (wrong(labels=np.arange(11) % 3), "11 entries for 12 images"),
        (wrong(labels=np.zeros(12, dtype=np.int64)), r"Only one class \(0\) in 12 training images; expected at least"),
        (labelled()[:1], r"Got a tuple of 1; expected \(images, labels\)"),
        ((*labelled(), *labelled(12, 3, 1, 16, 16)), r"Test images have the shape \(1, 16, 16\)"),
        ((*labelled(), *labelled(12, 4)), r"Test labels are 0, 1, 2, 3; expected the training labels, 0 to 2"),
        (7, "Data is a int; expected digits"),
    ],
)
def test_wrong_objects_are_refused(source, match: str) -> None:
    assert_refused(source, match)


def test_npz_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_text("not an archive")
    assert_refused(path, "not a readable .npz file")
    path.write_bytes(pickle.dumps([1]))
    assert_refused(path, "not a readable .npz file")
    path.write_bytes(b"")
    assert_refused(path, "not a readable .npz file")
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert_refused(tmp_path / "x.npy", "not a readable .npz file")


def test_npz_with_the_wrong_arrays_is_refused(tmp_path: Path) -> None:
    images, labels = labelled()
    path = tmp_path / "x.npz"
    np.savez(path, x=images, y=labels)
    assert_refused(path, "holds the arrays x, y; expected images and labels")
    np.savez(path, images=images, labels=labels, test_images=images)
    assert_refused(path, "together with test_labels")
    np.savez(path, images=images, labels=np.array([{}] * 12))
    assert_refused(path, r"holds Python objects \(pickle\), which could run code")
    np.savez(path, images=images, labels=labels, class_names=np.arange(3))
    assert_refused(path, "class_names in .* expected one text per class")
    np.savez(path, images=images, labels=labels, class_names=np.array(["x", "y", "z", "w"]))
    assert_refused(path, "expected 0 to 3 without gaps. There are 4 class names; without training images: w")


# Folders of class folders


def test_photographs_of_differing_sizes(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    Image.fromarray(pixels(120, 90)).save(root / "ant" / "grey.png")
    Image.fromarray(pixels(120, 90, 4)).save(root / "bee" / "clear.webp")
    (root / "cat" / "notes.txt").write_text("not a picture")
    (root / "cat" / ".hidden.png").write_bytes(b"")
    (root / ".git").mkdir()
    (root / "cat" / "Thumbs.db").write_bytes(b"of Windows, and of no interest")
    data = load(root, Data())
    assert data.images.shape == (17, 3, 64, 64) and data.test_images.shape == (3, 3, 64, 64)
    assert data.class_names == ("ant", "bee", "cat") and data.name == "photos"
    assert data.notes == (
        "20 pictures of 19 sizes (80x64 to 90x120), RGB; resized to 64 x 64 (short side, centre crop)",
        "grey pictures made RGB: 1",
        "pictures with transparency laid on white: 1",
        "files ignored: 2 (in no class folder, hidden, or not PNG, JPEG, WebP or BMP)",
        "no test split: 20 % of each class kept aside (keyed)",
    )


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_train_and_test_folders(tmp_path: Path, test: str) -> None:
    class_folders(tmp_path / "train")
    class_folders(tmp_path / test, count=2)
    data = load(str(tmp_path), Data(size=20))
    assert data.images.shape == (18, 3, 20, 20)
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_an_unused_split_is_noted(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        class_folders(tmp_path / split, count=2)
    assert "splits not used: val" in load(tmp_path, Data()).notes


@pytest.mark.parametrize(("train", "test"), [("Train", "TEST"), ("training", "testing"), ("TRAIN", "Validation")])
def test_splits_are_known_however_they_are_written(train: str, test: str, tmp_path: Path) -> None:
    class_folders(tmp_path / train, count=2)
    class_folders(tmp_path / test, count=1)
    (tmp_path / "Meta").mkdir()
    data = load(tmp_path, Data())
    assert data.class_names == ("ant", "bee", "cat") and len(data.images) == 6 and len(data.test_images) == 3
    assert data.notes[0] == f"beside {train}, not used: Meta"
    if train == "training":
        class_folders(tmp_path / "train", count=3)
        data = load(tmp_path, Data())
        assert len(data.images) == 9 and data.notes[0] == "beside train, not used: Meta, training"


@pytest.mark.parametrize(
    ("train", "test"), [("training_set", "test_set"), ("seg_train", "seg_test"), ("Train Images", "Val Images")]
)
def test_splits_are_known_by_a_word_of_their_names(train: str, test: str, tmp_path: Path) -> None:
    class_folders(tmp_path / train, count=2)
    class_folders(tmp_path / test, count=1)
    class_folders(tmp_path / "bullet_train_rides", count=1)
    data = load(tmp_path, Data())
    assert data.class_names == ("ant", "bee", "cat") and len(data.images) == 6 and len(data.test_images) == 3
    assert data.notes[0] == f"beside {train}, not used: bullet_train_rides"


@pytest.mark.parametrize(
    "names",
    [("bullet_train", "car", "road_test"), ("cat_train", "dog_train"), ("bus", "freight-train"),
     ("a_test", "a_train", "b_test", "b_train"), ("a_train", "a_training", "a_val")],
)  # fmt: skip
@pytest.mark.parametrize("below", ["", "nested"])
def test_classes_may_be_called_like_splits(names: tuple[str, ...], below: str, tmp_path: Path) -> None:
    for name in names:
        class_folders(tmp_path / name, names=(below,), count=2) if below else class_folders(tmp_path, names=(name,))
    assert load(tmp_path, Data()).class_names == names


def test_where_splits_have_their_usual_names_others_are_left_alone(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("val", 2), ("extra_test", 1)):
        class_folders(tmp_path / name, count=count)
    data = load(tmp_path, Data())
    assert len(data.test_images) == 6 and data.notes[0] == "beside train, not used: extra_test"


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_folders(tmp_path, names=("car", "test", "train"))
    data = load(tmp_path, Data())
    assert data.class_names == ("car", "test", "train")
    assert data.notes[0] == "without class folders, so taken for classes: test, train"


def test_of_splits_to_test_on_one_with_labels_is_taken(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    for split, own in (("train", labels), ("test", [-1] * len(labels)), ("validation", labels)):
        write_parquet(tmp_path / f"{split}-0.parquet", pictures, own)
    data = load(tmp_path, Data())
    assert data.notes[0] == "without labels, not used: test" and data.test_labels.tolist() == labels
    nothing = [pa.array([{"bytes": content, "path": "x"} for content in pictures])]
    pq.write_table(pa.Table.from_arrays(nothing, ["image"]), tmp_path / "test-0.parquet")  # no column of labels
    assert load(tmp_path, Data()).notes[0] == "without labels, not used: test"
    write_parquet(tmp_path / "test-0.parquet", pictures, labels)
    (tmp_path / "validation-0.parquet").write_bytes(b"damaged, and of no matter")
    assert load(tmp_path, Data()).notes[0] == "splits not used: validation"
    (tmp_path / "validation-0.parquet").unlink()
    write_parquet(tmp_path / "test-0.parquet", pictures, [-1] * len(labels))
    assert_refused(tmp_path, "Test labels are -1")


def test_parquet_files_may_be_called_after_their_data(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    write_parquet(tmp_path / "mine_train.parquet", pictures, labels)
    write_parquet(tmp_path / "mine-test-0.parquet", pictures[:4], labels[:4])
    data = load(tmp_path, Data())
    assert (len(data.images), len(data.test_images), data.kept_aside) == (12, 4, False)


@pytest.mark.parametrize(
    ("train", "test"),
    [("unit-test-train-0", "unit-test-test-0"), ("train-test-0", "test-train-0"), ("mine_val_train", "mine_val_test")],
)
def test_of_several_words_in_a_name_one_is_the_split(train: str, test: str, tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    write_parquet(tmp_path / f"{train}.parquet", pictures, labels)
    write_parquet(tmp_path / f"{test}.parquet", pictures[:4], labels[:4])
    data = load(tmp_path, Data())
    assert (len(data.images), len(data.test_images)) == (12, 4)


def test_a_file_called_after_a_crash_test_is_trained_on(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    write_parquet(tmp_path / "crash-test.parquet", pictures, labels)
    assert load(tmp_path, Data()).kept_aside


def test_data_whose_path_is_no_text_is_refused(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"F\xfctos")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("names are UTF-8 here")
    assert_refused(class_folders(root), "The path of the data .* is no UTF-8. Rename it")


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path)
    try:
        (tmp_path / os.fsdecode(b"M\xfcller")).mkdir()
    except OSError:
        pytest.skip("names are UTF-8 here")
    assert_refused(tmp_path, "is no UTF-8. Rename it")


def test_grey_pictures_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    arrays = pixels(4, 28, 28)
    for index, array in enumerate(arrays):
        folder = tmp_path / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{index}.png")
    class_folders(tmp_path / "unrelated")
    data = load(tmp_path, Data(test_fraction=0.5))
    assert data.notes[:2] == ("beside train, not used: unrelated", "4 pictures of 28x28, grey")
    found = {tuple(image.flatten().tolist()) for image in torch.cat([data.images, data.test_images])}
    assert found == {tuple(array.flatten().tolist()) for array in arrays}


def single(tmp_path: Path, save, size: int | None = None) -> torch.Tensor:
    """The pixels of the only training picture of class a, written by `save(path without ending)`."""
    for name in "ab":
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            save(tmp_path / split / name / "x")
    return load(tmp_path, Data(size=size)).images[0]


def test_orientation_is_respected(tmp_path: Path) -> None:
    array = pixels(16, 16, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = single(tmp_path, lambda path: Image.fromarray(array).save(path.with_suffix(".png"), exif=exif))
    np.testing.assert_array_equal(upright.numpy(), np.rot90(array, -1).transpose(2, 0, 1))


def tags(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of these tags: (number, type, count, value of four bytes)."""
    listed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + listed + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_put_upright_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    picture = Image.fromarray(pixels(16, 16, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = single(tmp_path, lambda path: picture.save(path.with_suffix(".png"), exif=exif))
    with Image.open(tmp_path / "train" / "a" / "x.png") as written:
        expected = np.asarray(ImageOps.exif_transpose(written))
    np.testing.assert_array_equal(upright.numpy(), expected.transpose(2, 0, 1))


def test_a_picture_is_put_upright_whatever_else_a_camera_wrote(tmp_path: Path) -> None:
    turned, text = (0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 2, 4, b"72 \0")  # a resolution that is a text
    half = np.full((16, 16, 3), 20, np.uint8)
    half[:8] = 220
    exif = tags(turned, text)
    upright = single(tmp_path, lambda path: Image.fromarray(half).save(path.with_suffix(".jpg"), exif=exif))
    assert (upright[..., 9:] > 150).all() and (upright[..., :7] < 90).all()


def test_what_a_camera_wrote_may_be_damaged_where_the_pixels_are_not(tmp_path: Path) -> None:
    grey = Image.new("RGB", (16, 16), (128, 128, 128))
    found = single(tmp_path, lambda path: grey.save(path.with_suffix(".jpg"), exif=b"Exif\0\0no tags at all"))
    assert (found == 128).all()


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    array = pixels(16, 16, 4)
    array[..., 3] = 255
    array[:4, :, 3] = 0
    laid = single(tmp_path, lambda path: Image.fromarray(array).save(path.with_suffix(".png")))
    assert (laid[:, :4] == 255).all()
    np.testing.assert_array_equal(laid[:, 4:].numpy(), array[4:, :, :3].transpose(2, 0, 1))


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = pixels(16, 16).astype(np.uint16) * 257
    shallow = single(tmp_path, lambda path: Image.fromarray(deep).save(path.with_suffix(".png")))
    np.testing.assert_array_equal(shallow[0].numpy(), deep // 257)


def test_a_clear_colour_of_16_bits_is_lost_and_not_said_to_be_laid_on_white(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((16, 16), 257 * 7, np.uint16))
    assert (single(tmp_path, lambda path: deep.save(path.with_suffix(".png"), transparency=257 * 7)) == 7).all()
    assert not any("transparency" in note for note in load(tmp_path, Data()).notes)


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    flat = Image.new("RGB", (16, 16), (200, 30, 40))
    flat = flat.quantize(16) if mode == "P" else flat.convert(mode)
    ending = ".png" if mode == "P" else ".jpg"
    colours = single(tmp_path, lambda path: flat.save(path.with_suffix(ending)))[:, 8, 8]
    assert (colours - torch.tensor([200, 30, 40])).abs().max() < 8


def test_large_jpegs_keep_their_brightness(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 512).astype(np.uint8)[:, None], 700, 1)  # (512, 700)
    small = single(tmp_path, lambda path: Image.fromarray(ramp).save(path.with_suffix(".jpg")), size=8)
    np.testing.assert_allclose(small[0].numpy(), np.repeat(np.linspace(0, 255, 17)[1::2, None], 8, 1), atol=3)


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ({(28, 28): 5}, 28),
        ({(128, 128): 5}, 128),
        ({(129, 129): 5}, 64),
        ({(64, 80): 3, (20, 20): 2}, 64),
        ({(64, 80): 2, (40, 90): 3}, 32),
        ({(31, 80): 2, (40, 90): 3}, 16),
        ({(9, 80): 1, (10, 90): 3}, 8),
        ({(4, 5): 1}, 8),
    ],
)
def test_working_size(sizes: dict, expected: int) -> None:
    assert working_size(Counter(sizes), None) == expected
    assert working_size(Counter(sizes), 48) == 48


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", "No data at '.*nowhere'. Expected digits, mnist, .*, a folder with one")
    assert_refused(tmp_path, "No class folders in")
    (tmp_path / "ant").mkdir()
    assert_refused(tmp_path, "Only one class folder \\('ant'\\)")
    (tmp_path / "bee").mkdir()
    assert_refused(tmp_path, r"Class folder '.*ant' holds no pictures \(0 other files\)")


def test_folders_of_splits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "test", names=("ant", "dog"))
    assert_refused(tmp_path, "has the splits test; expected one called train")
    class_folders(tmp_path / "train")
    assert_refused(tmp_path, "has the class folders dog, which .* has not")


def test_linked_folders_inside_of_class_folders_are_named_and_not_read(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    (root / "ant" / "latest").symlink_to(root / "ant")
    data = load(root, Data(size=8))
    assert len(data.images) + len(data.test_images) == 18
    assert any(note.startswith("linked folders inside of class folders, not read: ") for note in data.notes)
    (root / "cat").rename(tmp_path / "cat")
    (root / "cat").mkdir()
    (root / "cat" / "all").symlink_to(tmp_path / "cat")
    assert_refused(root, "0 other files; linked folders inside of it are not read")


def test_the_folder_above_is_data_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(class_folders(tmp_path / "photos") / "cat")
    assert load("..", Data(size=8)).num_classes == 3


def test_parquet_files_about_pictures_in_folders_are_not_taken_for_the_data(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos")
    for where, column in (("labels", "image"), ("ant/embeddings", "file_name"), ("bee/embeddings", "file_name")):
        pq.write_table(pa.table({column: ["a.jpg"], "label": [0]}), root / f"{where}.parquet")
    data = load(root, Data())
    assert data.class_names == ("ant", "bee", "cat") and any(note.startswith("files ignored: 3") for note in data.notes)
    only = tmp_path / "only"
    only.mkdir()
    (root / "labels.parquet").rename(only / "labels.parquet")
    assert_refused(only, "Column 'image' of .*labels.parquet' is string; expected struct")
    (root / "ant" / "embeddings.parquet").rename(only / "labels.parquet")
    (only / "assets").mkdir()
    Image.fromarray(pixels(8, 8)).save(only / "assets" / "banner.png")
    (only / "data").mkdir()
    (only / "labels.parquet").rename(only / "data" / "train-0.parquet")
    assert_refused(only, "has the columns file_name, label; expected a picture")
    (root / "data").mkdir()
    (only / "data" / "train-0.parquet").rename(root / "data" / "train-0.parquet")
    assert_refused(root, r"Class folder '.*data' holds no pictures \(1 other files\)")


def test_all_unreadable_pictures_are_named_at_once(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    for name in ("ant/0.jpg", "bee/3.jpg"):
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: len(content) // 2])
    assert_refused(root, r"2 unreadable pictures: '.*ant.0.jpg' .*, '.*bee.3.jpg' .*Replace or remove them")


@pytest.mark.parametrize("kind", ["truncated", "garbage", "empty", "gif"])
def test_an_unreadable_picture_is_named_or_skipped(tmp_path: Path, kind: str) -> None:
    root = class_folders(tmp_path)
    path = root / "bee" / "3.jpg"
    content = path.read_bytes()
    changed = {"truncated": content[: len(content) // 2], "garbage": b"no picture", "empty": b""}
    path.write_bytes(changed.get(kind) or (encoded(pixels(8, 8), "GIF") if kind == "gif" else b""))
    assert_refused(root, r"Unreadable picture: '.*bee.3.jpg' .*--set data.skip_unreadable=true")
    data = load(root, SKIP)
    assert len(data.images) + len(data.test_images) == 17
    assert data.notes[0].startswith("17 pictures")
    assert any(note.startswith("unreadable pictures skipped: 1, '") for note in data.notes)


def test_a_class_of_unreadable_pictures_is_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path, count=2)
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    assert_refused(root, "without training images: bee", SKIP)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    assert_refused(root, "None of the 6 pictures can be read", SKIP)


def test_a_png_whose_checksum_is_not_that_of_its_pixels_is_refused(tmp_path: Path) -> None:
    """All rows can be decoded, so nothing but the checksums tells."""
    path = class_folders(tmp_path, count=4) / "ant" / "0.png"
    Image.new("RGB", (8, 8), (10, 20, 30)).save(path)
    load(tmp_path, Data())
    whole = path.read_bytes()
    checksum = whole.index(b"IEND") - 8
    path.write_bytes(whole[:checksum] + bytes([whole[checksum] ^ 1]) + whole[checksum + 1 :])
    with Image.open(path) as image:
        image.load()
    assert_refused(tmp_path, r"Unreadable picture: '.*0.png' \(broken PNG file")


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])
def test_a_picture_that_declares_too_many_pixels_is_refused(tmp_path: Path, side: int) -> None:
    root = class_folders(tmp_path, count=2)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    png = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    (root / "ant" / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    assert_refused(root, r"bomb.png' \(it declares more than 50 million pixels\)")
    assert len(load(root, SKIP).images) == 3


# Parquet


def parquet_pictures(count: int = 12, size: int = 10) -> tuple[np.ndarray, list[bytes | None], list[int]]:
    arrays = pixels(count, size, size, 3)
    return arrays, [encoded(array) for array in arrays], [index % 3 for index in range(count)]


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "fine_label")])
@pytest.mark.parametrize("below", ["", "data", "plain_text"])
def test_parquet_folders(tmp_path: Path, columns: tuple[str, str], below: str) -> None:
    arrays, pictures, labels = parquet_pictures()
    names = ["x", "y", "z"]
    folder = tmp_path / "mine" / below
    write_parquet(folder / "train-00000-of-00002.parquet", pictures[:7], labels[:7], names=names, columns=columns)
    write_parquet(folder / "train-00001-of-00002.parquet", pictures[7:], labels[7:], names=names, columns=columns)
    write_parquet(folder / "validation-00000-of-00001.parquet", pictures[:2], labels[:2], columns=columns)
    data = load(tmp_path / "mine", Data())
    np.testing.assert_array_equal(data.images.numpy(), arrays.transpose(0, 3, 1, 2))
    assert data.labels.tolist() == labels and data.test_labels.tolist() == labels[:2]
    assert data.class_names == ("x", "y", "z") and data.name == "mine"


def test_one_parquet_file_is_the_training_split(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    path = write_parquet(tmp_path / "some.parquet", pictures, labels)
    data = load(path, Data())
    assert len(data.images) == 9 and data.class_names == ("0", "1", "2")
    assert load(tmp_path, Data()).fingerprint == data.fingerprint


def test_an_unreadable_row_is_named_or_skipped(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    pictures[7] = None
    path = write_parquet(tmp_path / "train-0.parquet", pictures, labels)
    assert_refused(tmp_path, r"Unreadable picture: '.*train-0.parquet', row 7 \(it is empty\)")
    pictures[7] = (encoded(pixels(64, 64, 3), "JPEG"))[:-500]
    write_parquet(path, pictures, labels)
    assert_refused(tmp_path, r"row 7 \(image file is truncated")
    data = load(tmp_path, SKIP)
    assert len(data.images) + len(data.test_images) == 11
    assert any("skipped: 1, '" in note and "row 7" in note for note in data.notes)


def test_wrong_parquet_files_are_refused(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    path = tmp_path / "train-0.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert_refused(tmp_path, "cannot be read as parquet")
    write_parquet(path, pictures, labels, columns=("photo", "label"))
    assert_refused(tmp_path, "has the columns photo, label; expected a picture in one called image or img")
    write_parquet(path, pictures, [str(label) for label in labels])
    assert_refused(tmp_path, "Column 'label' .* is string; expected integer labels")
    write_parquet(path, pictures, [None, *labels[1:]])
    assert_refused(tmp_path, "row 0 has no label")
    write_parquet(path, pictures, [label * 2 for label in labels])
    assert_refused(tmp_path, "labels are 0, 2, 4")
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), path)
    assert_refused(tmp_path, "expected struct<bytes: binary, path: string>")
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"label", b"l\xe2bel"))
    assert_refused(tmp_path, "cannot be read as parquet .'utf-8' codec can't decode")
    write_parquet(path, pictures, labels)
    damaged = bytearray(path.read_bytes())
    damaged[4:400] = bytes(396)
    path.write_bytes(damaged)
    assert_refused(tmp_path, r"train-0.parquet' is damaged after row 0|train-0.parquet', row 0")
    path.rename(tmp_path / "test-0.parquet")
    assert_refused(tmp_path, "has the splits test; expected one called train")


def test_several_configurations_are_refused(tmp_path: Path) -> None:
    _, pictures, labels = parquet_pictures()
    for name in ("full", "half"):
        write_parquet(tmp_path / name / "train-0.parquet", pictures, labels)
    assert_refused(tmp_path, "Several folders in .* hold parquet files; name one of them: .*full, .*half")


def test_fashion_mnist_as_its_card_says() -> None:
    if not FASHION_MNIST.is_dir():
        pytest.skip(f"needs the parquet files of {FASHION_MNIST.name} in {FASHION_MNIST.parent}")
    data = load(FASHION_MNIST, Data())
    assert data.images.shape == (60000, 1, 28, 28) and data.test_images.shape == (10000, 1, 28, 28)
    assert data.class_names[:2] == ("T-shirt/top", "Trouser") and data.class_names[9] == "Ankle boot"
    assert [len(index) for index in data.class_index] == [6000] * 10
    assert round(data.mean[0], 3) == 0.286 and round(data.std[0], 3) == 0.353


# The hub and objects of its library


@pytest.fixture
def hub():
    return pytest.importorskip("datasets", reason="needs the datasets library")


def hub_rows(hub, *, class_names: list[str] | None = None, label: str = "label"):
    arrays, pictures, labels = parquet_pictures()
    kind = hub.ClassLabel(names=class_names) if class_names else hub.Value("int64")
    features = hub.Features({"picture": hub.Image(), label: kind})
    rows = {"picture": [{"bytes": content, "path": None} for content in pictures], label: labels}
    return arrays, hub.Dataset.from_dict(rows, features=features)


def test_a_dataset_object(hub) -> None:
    arrays, rows = hub_rows(hub, class_names=["x", "y", "z"])
    data = load(hub.DatasetDict(train=rows, test=rows.select([2, 1])), Data())
    np.testing.assert_array_equal(data.images.numpy(), arrays.transpose(0, 3, 1, 2))
    assert data.class_names == ("x", "y", "z") and data.test_labels.tolist() == [2, 1]
    assert len(load(rows, Data()).images) == 9
    nothing = rows.map(lambda row: {"label": -1}, features=rows.features)
    data = load(hub.DatasetDict(train=rows, test=nothing, validation=rows.select([2, 1])), Data())
    assert data.test_labels.tolist() == [2, 1] and data.notes[0] == "without labels, not used: test"
    bare = rows.select([0]).remove_columns("label")
    data = load(hub.DatasetDict(other=bare, test=bare, train=rows, validation=rows.select([2, 1])), Data())
    assert data.test_labels.tolist() == [2, 1] and data.notes[1] == "splits not used: other"


def test_a_dataset_object_with_numbers_for_classes(hub) -> None:
    assert load(hub_rows(hub)[1], Data()).class_names == ("0", "1", "2")
    assert_refused(hub_rows(hub, label="age")[1], "has the columns picture, age; expected one of type Image")


def test_hub_names_are_loaded_through_the_library(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows = hub_rows(hub, class_names=["x", "y", "z"])[1]
    monkeypatch.setattr(
        hub, "load_dataset", lambda name, cache_dir: asked.append((name, cache_dir)) or hub.DatasetDict(train=rows)
    )
    data = load("hf:owner/name", Data())
    assert asked == [("owner/name", str(files.cache_folder() / "datasets"))]
    assert data.name == "owner/name" and data.num_classes == 3


@pytest.mark.parametrize(
    "error, match",
    [
        (ConnectionError("Couldn't reach 'owner/name'"), "The hub could not be reached for 'owner/name'"),
        (FileNotFoundError("no such repository"), "The hub has no data set 'owner/name'"),
        (ValueError("Config name is missing."), r"could not be loaded from the hub \(Config name is missing\)"),
    ],
)
def test_a_hub_that_fails_is_told_with_what_works_locally(monkeypatch, error: Exception, match: str) -> None:
    def load_dataset(name: str, cache_dir: str) -> None:
        del name, cache_dir
        raise error

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=match) as raised:
        load("hf:owner/name", Data())
    for layout in ("one folder of pictures per class", "folder of parquet files", ".npz file"):
        assert layout in str(raised.value)


def test_a_wrong_hub_name_is_refused() -> None:
    assert_refused("hf:", "expected hf:owner/name")
    assert_refused("hf:../here", "expected hf:owner/name")


# Building by hand


def test_build_notes_classes_without_test_images() -> None:
    images, labels = torch.from_numpy(pixels(6, 1, 8, 8)), torch.tensor([0, 1, 2] * 2)
    data = build("mine", (images, labels), (images[:2], labels[:2]), class_names=["x", "y", "z"], notes=["first"])
    assert isinstance(data, Dataset)
    assert data.notes == ("first", "1 of 3 classes have no test images")
    with pytest.raises(InputError, match="6 images but 5 labels"):
        build("mine", (images, labels[:5]), None)
