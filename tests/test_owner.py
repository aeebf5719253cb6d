"""Two runs on one folder, a folder that goes away, a disk that is full or cannot be written: nothing valid is lost."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_same
from test_resume import RUNS, TINY, arrays, distilled
from torture.disk import Disk

import accdd
from accdd import locks as file_locks
from accdd.config import InputError
from accdd.loop import State
from accdd.run import checkpoints, owner
from accdd.run.folder import RunFolder

IDC = {**TINY, **RUNS["idc"]}


@pytest.fixture(params=["locks", "locks that let everybody in"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    works = request.param == "locks"
    if not works:
        monkeypatch.setattr(file_locks.fcntl, "flock", lambda *args: None)
    return works


@contextlib.contextmanager
def at_sweep(number: int, happens: Any) -> Iterator[None]:
    """Something happens once, after the checkpoint of a sweep was saved."""
    real, left = RunFolder.checkpoint, [happens]

    def checkpoint(folder: RunFolder, state: State, seconds: float) -> None:
        real(folder, state, seconds)
        if state.sweep == number and left:
            left.pop()(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", checkpoint)
        yield


def test_a_second_process_is_turned_away_or_takes_over_and_the_bits_are_the_same(tmp_path: Path, locks: bool):
    out, whole = tmp_path / "run", distilled(tmp_path / "whole", **IDC)
    second: list[Any] = []

    def resumed(folder: RunFolder) -> None:
        """What another process would do meanwhile."""
        if locks:
            with pytest.raises(InputError, match=rf"Process {os.getpid()} on .* is at work on the run"):
                accdd.resume(out, arrays())
        else:
            second.append(accdd.resume(out, arrays()).distilled)

    with at_sweep(5, resumed):
        if locks:
            assert_same(distilled(out, **IDC).images, whole.images)
            return
        with pytest.raises(OSError, match="has taken over the run"):
            distilled(out, **IDC)
    assert_same(second[0].images, whole.images)
    assert_same(accdd.load(out).images, whole.images)
    assert (out / "evaluation.json").exists() and accdd.run.check(out).sound


def test_two_that_begin_at_once_get_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("accdd.run.folder.refuse_existing", lambda path: None)  # both found nothing there
    monkeypatch.setattr("accdd.run.refuse_existing", lambda *args: None)
    with at_sweep(3, lambda folder: begun_again(tmp_path / "run")):
        distilled(tmp_path / "run", **IDC)


def begun_again(out: Path) -> None:
    with pytest.raises(InputError, match="Another process has just begun a run in"):
        distilled(out, **IDC)


def test_a_finished_run_leaves_no_owner_and_a_killed_one_is_no_hindrance(tmp_path: Path):
    distilled(tmp_path / "run", **IDC)
    assert not (tmp_path / "run" / owner.FILE).exists()
    (tmp_path / "run" / "evaluation.json").unlink()
    (tmp_path / "run" / owner.FILE).write_text('{"token": "of the dead"}')
    accdd.resume(tmp_path / "run", arrays())


def test_a_folder_removed_under_the_run_is_said_and_not_made_again(tmp_path: Path):
    out = tmp_path / "run"
    with at_sweep(5, lambda folder: shutil.rmtree(out)), pytest.raises(OSError, match="was removed while the run went"):
        distilled(out, **IDC)
    assert not out.exists()


def test_a_link_in_the_place_of_the_owner_s_file_is_not_written_through(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / owner.FILE).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(OSError), owner.Owner(tmp_path).claimed():
        pass
    assert (tmp_path / "mine.txt").read_text() == "precious"


REFUSALS = {"full disk": errno.ENOSPC, "read-only file system": errno.EROFS}


@pytest.mark.parametrize("code", REFUSALS.values(), ids=REFUSALS)
def test_a_disk_that_refuses_stops_the_run_which_goes_on_once_it_does_not(tmp_path: Path, code: int):
    out, whole = tmp_path / "run", distilled(tmp_path / "whole", **IDC)
    refusing: list[Path] = []

    def refuse(number: int, name: str, path: Path) -> None:
        if refusing and path.absolute().is_relative_to(out) and name not in ("unlink", "rmdir"):
            raise OSError(code, os.strerror(code), str(path))

    with (
        Disk(refuse).mounted(),
        at_sweep(5, lambda folder: refusing.append(out)),
        pytest.raises(OSError, match=rf"{os.strerror(code)}.*saved before is whole.*accdd distill --resume {out}"),
    ):
        distilled(out, **IDC)
    assert checkpoints.listed(out / "checkpoints")[0].name == "sweep-0000005"
    assert accdd.run.check(out).sound
    assert_same(accdd.resume(out, arrays()).distilled.images, whole.images)


def test_a_disk_that_does_not_say_which_file_is_full_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out, real = tmp_path / "run", os.fsync

    def fsync(handle: int) -> None:  # as the system has it: without a name
        if any((out / "checkpoints").glob("sweep-*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=rf"{out}/.* cannot be written: .*accdd distill --resume {out}"):
        distilled(out, **IDC)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the system lets root write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="Permission denied"):
            distilled(tmp_path / "run", **IDC)
    finally:
        tmp_path.chmod(0o700)
