"""Photographs that outgrow memory: the same pixels from the disk, bounded memory, and devices they do not fit on."""

import json
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from PIL import Image

from accdd import execution, files, training
from accdd.config import Data, Train
from accdd.data import Dataset, load, mapped
from accdd.keys import Key
from accdd.training import Trained

ON_DISK, IN_MEMORY = 0.0, 1e9
"""Shares of the free memory that everything and nothing is above."""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
META = torch.device("meta")
"""Stands for a device with memory of its own: a tensor there and one on the CPU do not mix."""


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def class_folders(root: Path, per_class: int = 6) -> Path:
    for seed, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            picture = pixels(9, 8, 3, seed=per_class * seed + index).numpy()
            Image.fromarray(picture).save(root / name / f"{index}.png")
    return root


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("share", [ON_DISK, IN_MEMORY])
@pytest.mark.parametrize("rows", [torch.tensor([4, 0, 4]), torch.arange(5) > 2, torch.arange(0)])
def test_taking_and_joining_are_indexing_and_concatenating(share, rows, monkeypatch) -> None:
    monkeypatch.setattr(mapped, "SHARE", share)
    monkeypatch.setattr(mapped, "chunk", lambda images: 2)
    images = pixels(5, 3, 4, 4)
    taken = mapped.take(images, rows)
    assert torch.equal(taken, images[rows]) and taken.is_contiguous()
    assert torch.equal(mapped.join(images, taken), torch.cat([images, images[rows]]))


@linux
def test_only_what_is_large_goes_to_a_file_that_is_gone_with_the_tensor(monkeypatch) -> None:
    where = f"{files.cache_folder()}/"
    monkeypatch.setattr(mapped, "SHARE", IN_MEMORY)
    small = mapped.empty(10, 3, 64, 64)
    assert where not in mapped_files()
    monkeypatch.setattr(mapped, "SHARE", ON_DISK)
    large = mapped.empty(10, 3, 64, 64)
    assert where in mapped_files() and list(files.cache_folder().iterdir()) == []
    assert large.shape == small.shape and large.dtype == small.dtype == torch.uint8
    large.fill_(7)
    view = large[3]
    del large
    assert view.unique().tolist() == [7]
    del view
    assert where not in mapped_files()


@linux
def test_without_room_on_the_disk_memory_has_to_do(monkeypatch) -> None:
    monkeypatch.setattr(mapped, "SHARE", ON_DISK)
    usage = mapped.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(mapped.shutil, "disk_usage", lambda path: usage)
    assert mapped.empty(100, 100).shape == (100, 100)
    assert str(files.cache_folder()) not in mapped_files()


@linux
def test_more_than_the_memory_can_be_mapped(tmp_path: Path) -> None:
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("this system reserves memory for every mapping")
    lines = Path("/proc/meminfo").read_text().splitlines()
    size = 2 * sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("MemTotal:", "SwapTotal:")))
    try:  # a file of holes, which takes no room
        np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(size // 100, 100))[-1] = 5
    except OSError as error:
        pytest.skip(f"no such file here: {error}")
    tensor = mapped.load(tmp_path / "x.npy")
    assert tensor.shape == (size // 100, 100)
    assert tensor[0].sum() == 0 and tensor[-1].tolist() == [5] * 100
    tensor[0, 0] = 1
    assert mapped.load(tmp_path / "x.npy")[0, 0] == 0
    del tensor


@pytest.mark.parametrize("shape", [(3, 2), (0, 4), (5,)])
def test_a_mapped_file_is_the_array(shape, tmp_path: Path) -> None:
    for array in (np.arange(np.prod(shape)).reshape(shape), pixels(*shape).numpy()):
        np.save(tmp_path / "x.npy", array)
        tensor = mapped.load(tmp_path / "x.npy")
        assert tensor.dtype == torch.from_numpy(array).dtype and np.array_equal(tensor.numpy(), array)


def test_data_is_the_same_from_disk_and_from_memory(tmp_path: Path, monkeypatch) -> None:
    root = class_folders(tmp_path / "mine")
    (root / "ant" / "3.png").write_bytes(b"")
    seen = []
    for share in (ON_DISK, IN_MEMORY):
        monkeypatch.setattr(mapped, "SHARE", share)
        monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / f"cache {share}"))
        data = load(root, Data(size=6, skip_unreadable=True))
        whole = data.all_for_testing()
        seen.append((data.fingerprint, data.mean, data.std, data.notes, whole.fingerprint, len(whole.test_images)))
    assert seen[0] == seen[1] and seen[0][-1] == 11


MEASURE = """
import json, sys, threading, time
from pathlib import Path
from accdd.config import Data
from accdd.data import load, mapped

def anonymous():  # what cannot be dropped and read again
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])

def watch():
    while not done:
        peaks.append(anonymous())
        time.sleep(0.002)

small, large, mapped.SHARE, done = sys.argv[1], sys.argv[2], float(sys.argv[3]), False
load(small)  # decoders, threads
before, peaks = anonymous(), []
watcher = threading.Thread(target=watch)
watcher.start()
data = load(large, Data(size=112))
data.fingerprint, data.moments
done = True
watcher.join()
tensors = (data.images, data.test_images)
json.dump([max(peaks) - before, sum(t.nbytes for t in tensors), len(data.images)], sys.stdout)
"""


@linux
def test_decoding_takes_little_memory_where_the_pictures_take_much(tmp_path: Path, monkeypatch) -> None:
    small, large = class_folders(tmp_path / "small"), class_folders(tmp_path / "large", per_class=1)
    for name in ("ant", "bee"):
        encoded = (large / name / "0.png").read_bytes()
        for index in range(1, 1500):
            (large / name / f"{index}.png").write_bytes(encoded)

    def measured(share: float) -> tuple[int, int, int]:
        monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / f"cache {share}"))
        command = [sys.executable, "-c", MEASURE, str(small), str(large), str(share)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    peak, size, count = measured(ON_DISK)
    assert count == 2400 and size == 3000 * 3 * 112**2  # 113 MB
    margin = 40 * 2**20  # threads, chunks of 16 MiB
    assert peak < margin < size / 2
    unbounded, _, _ = measured(IN_MEMORY)
    assert unbounded > size  # so the watcher sees what it is to see


# A device that the images do not fit on


@pytest.mark.parametrize("room, stays", [(2.0, False), (1.9, True)])
def test_images_go_to_a_device_that_has_twice_the_room(room: float, stays: bool, data: Dataset, monkeypatch) -> None:
    needed = data.images.nbytes + data.test_images.nbytes
    monkeypatch.setattr(execution, "free_memory", lambda where: int(room * needed))
    moved = data.to(META)
    assert moved.device == moved.labels.device == moved.test_labels.device == META
    where = torch.device("cpu") if stays else META
    assert moved.images.device == moved.test_images.device == where
    assert (moved.images is data.images) == stays


def test_rows_are_gathered_where_images_are_and_then_moved() -> None:
    images, rows = pixels(6, 3, 2, 2), torch.tensor([[5, 0], [1, 1]])
    assert torch.equal(execution.gather(images, rows, helpers.CPU), images[rows])
    moved = execution.gather(images, rows, META)
    assert moved.device == META and moved.shape == (2, 2, 3, 2, 2)


def test_networks_train_on_a_device_with_images_that_are_not_there(data: Dataset) -> None:
    recipe = Train(batch=5, augment=("color", "crop", "scale", "rotate"), cutmix=1.0)
    step = training.make_step(helpers.network(), recipe, data.mean, data.std, META)
    parameters = {name: value.to(META) for name, value in helpers.network().initialise(Key(0)).items()}
    steps = training.train(
        step, training.begin([parameters]), data.images, data.labels.to(META), torch.arange(12)[None],
        recipe=recipe, lr=0.1, num_classes=2, keys=[Key(0)],
    )  # fmt: skip
    trained: list[Trained] = [networks for networks, _ in steps]
    assert len(trained) == 3
    assert all(value.device == META for value in trained[-1].parameters.values())


def test_free_memory_is_what_the_system_says() -> None:
    free = execution.free_memory(helpers.CPU)
    assert 2**20 < free < 2**50
