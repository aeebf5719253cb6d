"""Files that were damaged or made to harm: refused, or read as they were; at once, and in little memory.

Each kind of file is changed again and again in a process of its own, with its memory watched. Where a format has no
checksum (parquet, and what JSON and zip say beside the data), a change may go unseen: those are counted as `changed`.
"""

import json
import os
import random
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import helpers
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from accdd import artifact, data, files
from accdd.config import Data, InputError
from accdd.run import checkpoints
from torture.commits import distilled, fresh, members, save_checkpoint
from torture.faults import Outcome, damage, forked

SECONDS, MEMORY = 1.0, 64 * 2**20
"""What refusing may take: seconds of the processor, and bytes beyond three times the file."""


class Kind(NamedTuple):
    """One kind of file."""

    write: Callable[[Path], None]
    """Into an empty folder."""
    read: Callable[[Path], Any]
    """Tensors and texts; raises `InputError`, or returns `REFUSED` where a reader refuses otherwise."""
    sealed: bool
    """Whether every change is to be seen."""
    victims: str = "**/*"
    """Which files are changed."""
    removable: bool = True
    """Whether what is read without one of the files is to be another thing."""


REFUSED = object()


def _of(data: Any) -> tuple[Any, ...]:
    return data.images, data.labels, data.class_names


def _write_pictures(folder: Path, ending: str) -> None:
    for label, name in enumerate(("ant", "bee")):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(10 * label + number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{ending}")


def _write_npz(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    np.savez(folder / "x.npz", images=images, labels=np.arange(20) % 2, class_names=np.array(["ant", "bee"]))


def _write_parquet(folder: Path) -> None:
    _write_pictures(folder.parent / "pictures", "png")
    encoded = [path.read_bytes() for path in sorted((folder.parent / "pictures").glob("*/*.png"))]
    rows = [{"bytes": each, "path": None} for each in encoded]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(rows, kind), "label": pa.array([0, 0, 0, 1, 1, 1], pa.int64())})
    pq.write_table(table, folder / "train-0.parquet")


def _read_checkpoint(folder: Path) -> Any:
    found, _ = checkpoints.newest(folder, helpers.CPU)
    return REFUSED if found is None else (found.state.images, found.state.velocity, found.seconds, found.metrics)


def _write_entry(folder: Path) -> None:
    with files.commit_folder(folder / "entry", manifest=True) as temporary:
        for number, member in enumerate(members()):
            files.save_tensors(member.parameters, temporary / f"{number}.safetensors")


def _read_entry(folder: Path) -> Any:
    """As every pool, block of targets and decoded set is looked at before it is used."""
    if files.verify_folder(folder / "entry"):
        return REFUSED
    return tuple(file.read_bytes() for file in sorted((folder / "entry").glob("*.safetensors")))


def _load(folder: Path) -> Any:
    return _of(data.load(folder, Data(test_fraction=0.4)))


def _read_set(folder: Path) -> Any:
    found = artifact.load(folder / "set")
    return *_of(found), found.mean, found.std, found.info


def _write_set(folder: Path) -> None:
    artifact.save(distilled(method="idc"), folder / "set")


def _write_open_set(folder: Path) -> None:
    _write_set(folder)
    header = folder / "set" / "distilled.json"
    entries = json.loads(header.read_text())
    del entries["checksum"]
    header.write_text(json.dumps(entries))


def _write_foreign(folder: Path) -> None:
    torch.save([helpers.noise(4, 3, 8, 8).sigmoid(), torch.arange(4)], folder / "x.pt")


KINDS = {
    "native": Kind(_write_set, _read_set, True, "set/images.safetensors"),
    "json": Kind(_write_set, _read_set, True, "set/distilled.json"),
    "json, no checksum": Kind(_write_open_set, _read_set, False, "set/distilled.json"),
    "checkpoint": Kind(lambda folder: save_checkpoint(folder, 1), _read_checkpoint, True),
    "pool, targets": Kind(_write_entry, _read_entry, True),
    "npz": Kind(_write_npz, lambda folder: _of(data.load(folder / "x.npz", Data(test_fraction=0.4))), True),
    "parquet": Kind(_write_parquet, _load, False),
    "pictures": Kind(lambda folder: _write_pictures(folder, "png"), _load, True, removable=False),
    "jpeg": Kind(lambda folder: _write_pictures(folder, "jpg"), _load, False, removable=False),
    "foreign": Kind(_write_foreign, lambda folder: _of(artifact.import_set(folder / "x.pt", "idc")), True),
}


def hostile(folder: Path, count: int, seed: int = 0, kinds: tuple[str, ...] = tuple(KINDS)) -> Outcome:
    """`count` files in all, changed in one to three places each."""
    wrong: list[str] = []
    said = []
    each = -(-count // len(kinds))
    for number, name in enumerate(kinds):
        report, here = fresh(folder / "reports") / "found.txt", fresh(folder / name.replace(", ", "-"))
        with forked() as child:
            if child is None:
                report.write_text(_batch(name, KINDS[name], here, each, seed + number))
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if code := os.waitstatus_to_exitcode(status):
            wrong.append(f"{name}: the process ended with {code}")
            continue
        first, *lines = report.read_text().splitlines()
        said.append(f"{name} {first}")
        wrong += lines
    return Outcome(each * len(kinds), tuple(wrong), "; ".join(said))


def _batch(name: str, kind: Kind, folder: Path, count: int, seed: int) -> str:
    draw, wrong, counted = random.Random(seed), [], {"refused": 0, "same": 0, "changed": 0}
    os.environ["ACCDD_CACHE"] = str(folder / "cache")
    warnings.simplefilter("ignore")  # that an entry is damaged, and what Pillow says of broken pictures
    here = folder / "files"
    kind.write(fresh(here))
    right = kind.read(here)
    originals = {file: file.read_bytes() for file in sorted(here.rglob("*")) if file.is_file()}
    victims = [file for file in originals if file.match(kind.victims) or kind.victims == "**/*"]
    allowed = MEMORY + 3 * sum(map(len, originals.values()))
    held = _peak()
    for number in range(count):
        _clean(here, originals)
        victim, how = draw.choice(victims), []
        for _ in range(draw.randint(1, 3)):
            if victim.is_file() and victim.stat().st_size:
                how.append(damage(victim, draw, kind.removable))
        began = time.process_time()
        try:
            found = kind.read(here)
            outcome = "refused" if found is REFUSED else "same" if _same(found, right) else "changed"
        except InputError:
            outcome = "refused"
        except BaseException as error:
            outcome = "refused"
            wrong.append(f"{name} {number}: {victim.name} {how}: {type(error).__name__}: {str(error)[:100]}")
        if (took := time.process_time() - began) > SECONDS:
            wrong.append(f"{name} {number}: {victim.name} {how}: took {took:.1f} s")
        if outcome == "changed" and kind.sealed:
            wrong.append(f"{name} {number}: {victim.name} {how}: read, and not as it was")
        counted[outcome] += 1
    _clean(here, originals)
    if not _same(kind.read(here), right):
        wrong.append(f"{name}: what was restored is not what was written")
    if (took_memory := _peak() - held) > allowed:
        wrong.append(f"{name}: {took_memory / 2**20:.0f} MB, more than {allowed / 2**20:.0f}")
    counts = ", ".join(f"{value} {word}" for word, value in counted.items() if value)
    return "\n".join([counts, *wrong])


def _clean(here: Path, originals: dict[Path, bytes]) -> None:
    """Everything as it was written."""
    fresh(here)
    for file, raw in originals.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, torch.Tensor):
        return mine.shape == theirs.shape and mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    if isinstance(mine, tuple):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return mine == theirs
