"""Decoded data in the cache: the same to the last bit, decoded once, and never in the way."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from accdd import files
from accdd.config import Data, InputError
from accdd.data import Dataset, arrays, cache, folders, load, parquet

TENSORS = ("images", "labels", "test_images", "test_labels")


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def class_folders(root: Path) -> Path:
    """Two classes of four small PNGs, and a file that is no picture."""
    for seed, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(pixels(9, 8, 3, seed=4 * seed + index)).save(root / name / f"{index}.png")
    (root / "read me.txt").write_text("about ants and bees")
    return root


def parquet_folder(root: Path) -> Path:
    pictures = [path.read_bytes() for path in sorted(class_folders(root / "source").rglob("*.png"))]
    shutil.rmtree(root / "source")
    image = pa.array([{"bytes": content, "path": None} for content in pictures])
    pq.write_table(pa.table({"image": image, "label": [0, 1] * 4}), root / "train-0.parquet")
    pq.write_table(pa.table({"image": image[:2], "label": [0, 1]}), root / "test-0.parquet")
    return root


def npz_file(root: Path) -> Path:
    root.mkdir()
    np.savez(root / "some.npz", images=pixels(8, 3, 10, 10), labels=np.arange(8) % 2, class_names=np.array(["é", "b"]))
    return root / "some.npz"


SOURCES = [
    (class_folders, lambda path: folders.load_folder(path, Data())),
    (parquet_folder, lambda path: parquet.load_parquet(path.name, parquet.find_parquet(path), Data())),
    (npz_file, lambda path: arrays.load_npz(path, Data())),
]
"""Each with how it is read without the cache."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one name whenever a path is decoded."""
    calls: list[str] = []

    def counted(read: Callable[..., Dataset]) -> Callable[..., Dataset]:
        def wrapper(*arguments: object) -> Dataset:
            calls.append(read.__name__)
            return read(*arguments)

        return wrapper

    for module, name in ((folders, "load_folder"), (parquet, "load_parquet"), (arrays, "load_npz")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return calls


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "mine")


def entries() -> list[Path]:
    return sorted((files.cache_folder() / "data").iterdir())


def known(data: Dataset) -> tuple[object, ...]:
    return data.name, data.class_names, data.notes, data.kept_aside, data.mean, data.std, data.fingerprint


def assert_same(first: Dataset, second: Dataset) -> None:
    assert known(first) == known(second)
    for name in TENSORS:
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype


@pytest.mark.parametrize("make, read", SOURCES)
def test_later_loads_equal_the_first_and_an_uncached_one_without_decoding(make, read, tmp_path, decoded) -> None:
    source = make(tmp_path / "mine")
    first = load(source)
    second = load(str(source))
    assert len(decoded) == 1 and len(entries()) == 1
    assert_same(first, read(source))
    assert_same(second, first)
    assert known(dataclasses.replace(second)) == known(first)  # the copy measures for itself


def test_later_loads_measure_nothing_also_after_a_move(root, monkeypatch) -> None:
    first = known(load(root))
    monkeypatch.setattr("accdd.data.dataset._histogram", None)
    monkeypatch.setattr("accdd.data.dataset.digest", None)
    assert known(load(root).to("cpu")) == first
    assert load(root, Data(mean=(0.5,) * 3)).std == first[5]


def test_other_images_are_measured_again(root) -> None:
    data = load(root)
    whole = data.all_for_testing()
    assert len(whole.test_images) == 8 and whole.fingerprint != data.fingerprint


def test_given_mean_and_std_are_applied_after_the_cache(root, decoded) -> None:
    measured = load(root)
    given = load(root, Data(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)))
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert load(root).mean == measured.mean and len(decoded) == 1


def change(root: Path) -> None:
    Image.fromarray(pixels(9, 8, 3, seed=99)).save(root / "ant" / "0.png")


def touch(root: Path) -> None:
    os.utime(root / "ant" / "0.png", ns=(1, 1))


def add(root: Path) -> None:
    shutil.copy2(root / "ant" / "0.png", root / "bee" / "new.png")


def remove(root: Path) -> None:
    (root / "bee" / "3.png").unlink()


def rename(root: Path) -> None:
    (root / "bee").rename(root / "cat")


def ignore_one_more(root: Path) -> None:
    (root / "bee" / "notes.txt").touch()


@pytest.mark.parametrize("edit", [change, touch, add, remove, rename, ignore_one_more])
def test_other_files_are_decoded_again(edit, root, decoded) -> None:
    before = load(root)
    edit(root)
    after = load(root)
    assert len(decoded) == 2
    assert known(before) != known(after) or edit is touch
    assert_same(folders.load_folder(root, Data()), after)


def test_what_a_system_writes_when_a_folder_is_looked_at_changes_nothing(root, decoded) -> None:
    load(root)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "bee" / name).touch()
    load(root)
    assert len(decoded) == 1
    assert not any(part.name == ".DS_Store" for part in folders.parts(root, ["ant", "bee"]))


def test_an_empty_class_folder_is_noticed(root) -> None:
    load(root)
    (root / "cat").mkdir()
    with pytest.raises(InputError, match=r"'.*cat' holds no pictures"):
        load(root)


def test_linked_class_folders_are_followed_and_circles_end(root, tmp_path, decoded) -> None:
    (root / "bee").rename(tmp_path / "elsewhere")
    (root / "bee").symlink_to(tmp_path / "elsewhere")
    (root / "ant" / "back").symlink_to(root)
    (root / "ant" / "self").symlink_to("self")
    load(root)
    load(root)
    assert len(decoded) == 1
    (tmp_path / "elsewhere" / "3.png").unlink()
    load(root)
    assert len(decoded) == 2


@pytest.mark.parametrize("other", [Data(size=6), Data(test_fraction=0.5), Data(skip_unreadable=True)])
def test_other_settings_are_decoded_again(other: Data, root, decoded) -> None:
    load(root)
    load(root, other)
    assert_same(load(root, other), folders.load_folder(root, other))
    assert decoded == ["load_folder"] * 3 and len(entries()) == 2  # the third is the comparison


@pytest.mark.parametrize("make, read", SOURCES)
def test_the_size_that_came_out_is_not_decoded_again_when_it_is_asked_for(make, read, tmp_path, decoded) -> None:
    source = make(tmp_path / "mine")
    chosen = load(source)
    asked = Data(size=chosen.size)
    assert_same(load(source, asked), chosen)
    assert len(decoded) == 1 and len(entries()) == 1
    shutil.rmtree(entries()[0])
    assert_same(load(source, asked), chosen)  # and is the same where it is decoded
    assert len(decoded) == 2


def test_another_decoder_decodes_again(root, decoded, monkeypatch) -> None:
    load(root)
    monkeypatch.setattr("PIL.__version__", "0")
    load(root)
    assert len(decoded) == 2


def test_a_relative_path_finds_the_same_entry(root, decoded, monkeypatch) -> None:
    load(root)
    monkeypatch.chdir(root)
    assert load(".").name == "mine"
    monkeypatch.chdir(root.parent)
    load("mine")
    assert len(decoded) == 1


@pytest.mark.parametrize("name", ["images.npy", "data.json"])
def test_a_damaged_entry_is_moved_aside_and_decoded_again(name: str, root, decoded) -> None:
    first = load(root)
    damaged = bytearray((entries()[0] / name).read_bytes())
    damaged[-3] ^= 1
    (entries()[0] / name).write_bytes(damaged)
    with pytest.warns(UserWarning, match=rf"is damaged \({name}: has changed"):
        again = load(root)
    # The first is mapped from the very file that was overwritten.
    assert again.fingerprint == first.fingerprint == dataclasses.replace(again).fingerprint
    assert len(decoded) == 2


def test_of_large_files_only_the_size_is_verified(root, decoded, monkeypatch) -> None:
    load(root)
    path = entries()[0] / "images.npy"
    monkeypatch.setattr(cache, "HASHED_UP_TO", path.stat().st_size - 1)
    with monkeypatch.context() as patch:
        hashed = []
        patch.setattr(files, "sha256", lambda path, sha256=files.sha256: hashed.append(path.name) or sha256(path))
        load(root)
    assert "labels.npy" in hashed and "images.npy" not in hashed and len(decoded) == 1
    os.truncate(path, path.stat().st_size - 1)
    with pytest.warns(UserWarning, match=r"images.npy: has \d+ bytes instead of"):
        load(root)
    assert len(decoded) == 2


def test_a_cache_inside_the_data_is_not_used(root, monkeypatch, decoded) -> None:
    first = load(root)
    monkeypatch.setenv("ACCDD_CACHE", str(root / "cache"))
    assert_same(load(root), first)
    assert len(decoded) == 2 and not (root / "cache").exists()


def test_a_cache_that_cannot_be_written_stops_nothing(root, tmp_path, monkeypatch, decoded) -> None:
    first = load(root)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "a file"))
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be kept in the cache .*set ACCDD_CACHE") as warned:
            assert_same(load(root), first)
        assert warned[0].filename == __file__
    assert len(decoded) == 3


def test_a_full_disk_stops_nothing(root, monkeypatch, decoded) -> None:
    nearly_full = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nearly_full)
    with pytest.warns(UserWarning, match="would take more than half of what is free"):
        data = load(root)
    assert data.num_classes == 2 and len(decoded) == 1
    assert entries() == []


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_broken_picture_leaves_nothing_behind(content: bytes, root) -> None:
    (root / "ant" / "2.png").write_bytes(content)
    with pytest.raises(InputError, match=r"Unreadable picture: '.*ant.2.png'"):
        load(root)
    assert entries() == []
    data = load(root, Data(skip_unreadable=True))
    assert any("unreadable pictures skipped: 1" in note for note in data.notes)
    assert load(root, Data(skip_unreadable=True)).notes == data.notes


def test_a_failure_of_reading_is_not_blamed_on_the_cache(root, monkeypatch) -> None:
    def fail(*arguments: object) -> Dataset:
        raise PermissionError(13, "may not be read", "x")

    monkeypatch.setattr(folders, "load_folder", fail)
    with pytest.raises(PermissionError, match="may not be read"):
        load(root)
    assert entries() == []


def test_writing_into_the_tensors_does_not_reach_the_cache(root, decoded) -> None:
    expected = folders.load_folder(root, Data())
    data = load(root)
    for name in TENSORS:
        getattr(data, name).zero_()
    assert_same(load(root), expected)
    assert len(decoded) == 2  # one of them the comparison


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_tensors_are_mapped(root) -> None:
    data = load(root)
    maps = Path("/proc/self/maps").read_text()
    for name in TENSORS:
        assert str(entries()[0] / f"{name}.npy") in maps
    del data


def test_arrays_and_digits_are_not_kept() -> None:
    load((pixels(6, 3, 8, 8), np.arange(6) % 2))
    load("digits")
    assert not files.cache_folder().exists()
