"""Files appear whole or not at all, whatever call fails; the cache repairs itself, with locks and without."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from accdd import files, locks
from accdd.files import MANIFEST, cache_folder, cached, commit_file, commit_folder, sha256, verify_folder, write_text

CONTENTS = {"a.bin": b"\x00\x01" * 500, "inner/b.txt": b"two\n"}


def fill(folder: Path) -> None:
    for name, data in CONTENTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def is_whole(folder: Path) -> bool:
    return verify_folder(folder) == [] and all((folder / name).read_bytes() == data for name, data in CONTENTS.items())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@contextmanager
def failing_at(k: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The k-th of all fsync, rename and replace calls raises; yields the names of the calls made."""
    calls: list[str] = []

    def wrap(name: str):
        original = getattr(os, name)

        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == k:
                raise OSError(28, "No space left on device")
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "replace"):
            patch.setattr(os, name, wrap(name))
        yield calls


def test_a_committed_folder_is_whole_and_nothing_else_is_left(tmp_path: Path):
    with commit_folder(tmp_path / "set", manifest=True) as temporary:
        assert temporary.parent == tmp_path
        fill(temporary)
        assert not (tmp_path / "set").exists()
    assert is_whole(tmp_path / "set")
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_parents_are_created(tmp_path: Path):
    with commit_folder(tmp_path / "x" / "y" / "set") as temporary:
        fill(temporary)
    assert (tmp_path / "x" / "y" / "set" / "a.bin").exists()
    assert not (tmp_path / "x" / "y" / "set" / MANIFEST).exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_when_the_body_raises(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error), commit_folder(tmp_path / "set", manifest=True) as temporary:
        fill(temporary)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path):
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError), commit_folder(tmp_path / "set"):
        pytest.fail("the body must not run")


def test_an_empty_folder_gives_way_where_that_is_allowed_and_only_while_it_is_empty(tmp_path: Path):
    (tmp_path / "set").mkdir()
    with commit_folder(tmp_path / "set", empty_ok=True) as temporary:
        fill(temporary)
    assert (tmp_path / "set" / "a.bin").exists()
    with pytest.raises(FileExistsError), commit_folder(tmp_path / "set", empty_ok=True):
        pytest.fail("the body must not run")
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError), commit_folder(tmp_path / "other", empty_ok=True):
        (tmp_path / "other" / "thesis.txt").write_text("the only copy")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "the only copy"
    assert {each.name for each in tmp_path.iterdir()} == {"set", "other"}


def test_a_target_that_appears_meanwhile_is_refused(tmp_path: Path):
    with pytest.raises(FileExistsError), commit_folder(tmp_path / "set"):
        (tmp_path / "set").mkdir()
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_a_whole_winner_is_kept(tmp_path: Path):
    with commit_folder(tmp_path / "set", manifest=True, winner_ok=True) as loser:
        fill(loser)
        with commit_folder(tmp_path / "set", manifest=True) as winner:
            fill(winner)
        first = (tmp_path / "set").stat().st_ino
    assert (tmp_path / "set").stat().st_ino == first
    assert [each.name for each in tmp_path.iterdir()] == ["set"]


def test_a_damaged_winner_is_refused(tmp_path: Path):
    with pytest.raises(OSError, match=r"damaged.*manifest"), commit_folder(tmp_path / "set", winner_ok=True) as loser:
        fill(loser)
        (tmp_path / "set").mkdir()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_modes_follow_the_umask(tmp_path: Path, umask: int, file_mode: int, folder_mode: int):
    before = os.umask(umask)
    try:
        with commit_folder(tmp_path / "set", manifest=True) as temporary:
            fill(temporary)
            (temporary / "a.bin").chmod(0o600)
        write_text(tmp_path / "note.txt", "x")
    finally:
        os.umask(before)
    written = [*(tmp_path / "set" / name for name in (*CONTENTS, MANIFEST)), tmp_path / "note.txt"]
    assert {file.stat().st_mode & 0o777 for file in written} == {file_mode}
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "set", tmp_path / "set" / "inner")} == {folder_mode}


def test_each_failing_call_leaves_no_target_or_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for k in range(1, 100):
        target = tmp_path / f"run{k}" / "set"
        target.parent.mkdir()
        with failing_at(k, monkeypatch) as calls:
            try:
                with commit_folder(target, manifest=True) as temporary:
                    fill(temporary)
                failed = False
            except OSError:
                failed = True
        assert is_whole(target) if target.exists() else failed
        assert [each.name for each in target.parent.iterdir()] in ([], ["set"])
        if not failed:
            # 2 files, manifest, inner folder, folder; rename; parent.
            assert calls == ["fsync"] * 5 + ["rename", "fsync"]
            return
    pytest.fail("never completed")


def test_each_failing_call_leaves_the_old_or_the_new_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "note.txt"
    for k in (1, 2, 3):
        file.write_text("old")
        with failing_at(k, monkeypatch), pytest.raises(OSError, match="No space"):
            write_text(file, "new")
        assert file.read_text() == ("old" if k < 3 else "new")
        assert list(tmp_path.iterdir()) == [file]
    with failing_at(4, monkeypatch) as calls:
        write_text(file, "newer")
    assert calls == ["fsync", "replace", "fsync"]


KILLED = """
import os, sys
from pathlib import Path
from accdd.files import commit_folder
k, calls = int(sys.argv[2]), 0
def wrap(original):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == k:
            os._exit(9)
        return original(*args, **kwargs)
    return call
for name in ("fsync", "rename"):
    setattr(os, name, wrap(getattr(os, name)))
with commit_folder(sys.argv[1], manifest=True) as folder:
    (folder / "a.bin").write_bytes(b"x" * 1000)
"""


def test_a_killed_process_leaves_no_target_or_a_whole_one(tmp_path: Path):
    source = Path(files.__file__).parents[1]
    target = tmp_path / "set"
    for k in (1, 3, 4, 5):  # in the first fsync, before the rename, in it, after it
        command = [sys.executable, "-c", KILLED, str(target), str(k)]
        assert subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}).returncode == 9
        assert target.exists() == (k == 5)
    assert verify_folder(target) == []


def test_text_is_replaced_and_kept_as_it_is(tmp_path: Path):
    write_text(tmp_path / "x" / "note.txt", "old")
    write_text(tmp_path / "x" / "note.txt", "ä\r\n\n")
    assert (tmp_path / "x" / "note.txt").read_bytes() == "ä\r\n\n".encode()


def test_commit_file_removes_what_the_body_left(tmp_path: Path):
    with pytest.raises(ValueError), commit_file(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_known_file(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def damage_flip(folder: Path) -> None:
    data = bytearray((folder / "a.bin").read_bytes())
    data[7] ^= 1
    (folder / "a.bin").write_bytes(data)


def damage_truncate(folder: Path) -> None:
    (folder / "a.bin").write_bytes(CONTENTS["a.bin"][:-1])


def damage_remove(folder: Path) -> None:
    (folder / "inner" / "b.txt").unlink()


def damage_link(folder: Path) -> None:
    (folder / "a.bin").rename(folder / "elsewhere")
    (folder / "a.bin").symlink_to(folder / "elsewhere")


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"a.bin": 7}')


def damage_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


DAMAGES = {
    damage_flip: "a.bin: has changed",
    damage_truncate: "a.bin: has 999 bytes instead of 1000",
    damage_remove: "inner/b.txt: is missing",
    damage_link: "a.bin: is missing",
    damage_manifest: "manifest.json: is not a manifest",
    damage_no_manifest: "manifest.json: is missing",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(tmp_path: Path, damage):
    with commit_folder(tmp_path / "set", manifest=True) as temporary:
        fill(temporary)
    damage(tmp_path / "set")
    problems = verify_folder(tmp_path / "set")
    assert len(problems) == 1
    assert problems[0].startswith(DAMAGES[damage])


def test_a_missing_folder_does_not_verify(tmp_path: Path):
    assert verify_folder(tmp_path / "none") == ["manifest.json: is missing"]


def test_a_manifest_cannot_point_outside(tmp_path: Path):
    (tmp_path / "secret").write_bytes(b"")
    with commit_folder(tmp_path / "set", manifest=True) as temporary:
        fill(temporary)
    (tmp_path / "set" / MANIFEST).write_text('{"../secret": {"size": 0, "sha256": ""}}')
    assert verify_folder(tmp_path / "set") == ["../secret: is missing"]


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ACCDD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "accdd"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "accdd"


def test_an_entry_is_built_once_per_key(cache: Path):
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        fill(folder)

    first = cached("pool", {"a": 1, "b": (2.5, None)}, build)
    assert first == cached("pool", {"b": [2.5, None], "a": 1}, build)
    assert len(built) == 1
    assert first.parent == cache / "pool"
    assert len(first.name) == 32
    assert (first / "key.json").read_text() == '{"a":1,"b":[2.5,null]}'
    assert cached("pool", {"a": 2}, build) != first
    assert cached("bank", {"a": 1, "b": (2.5, None)}, build).parent == cache / "bank"


def test_a_key_that_is_not_json_is_refused(cache: Path):
    for value in (float("nan"), object()):
        with pytest.raises((TypeError, ValueError)):
            cached("pool", {"a": value}, fill)
    assert not cache.exists()


def test_a_failed_build_leaves_no_entry(cache: Path):
    def build(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        cached("pool", {"a": 1}, build)
    assert list((cache / "pool").iterdir()) == []
    assert is_whole(cached("pool", {"a": 1}, fill))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_moved_aside_and_rebuilt(cache: Path, damage):
    entry = cached("pool", {"a": 1}, fill)
    for number in (1, 2):
        damage(entry)
        with pytest.warns(UserWarning, match=rf"damaged \(.*moved to {entry.name}.damaged-{number} ") as caught:
            assert cached("pool", {"a": 1}, fill) == entry
        assert caught[0].filename == __file__
        assert is_whole(entry)
    names = {each.name for each in entry.parent.iterdir()}
    assert names == {entry.name, f"{entry.name}.damaged-1", f"{entry.name}.damaged-2"}


@pytest.mark.skipif(locks.fcntl is None, reason="no locks on Windows")
def test_one_builds_while_others_wait(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locks, "SAY_AFTER", 0.0)
    built, begun, said = [], threading.Event(), threading.Event()

    def build(folder: Path) -> None:
        begun.set()
        assert said.wait(30)
        built.append(folder)
        fill(folder)

    def wait() -> None:
        begun.wait(30)
        cached("pool", {"a": 1}, build)

    threads = [threading.Thread(target=cached, args=("pool", {"a": 1}, build)), threading.Thread(target=wait)]
    shown: list[tuple[str, str]] = []

    def show(message: Warning, category: type[Warning], filename: str, *rest: object) -> None:
        shown.append((filename, str(message)))
        said.set()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(built) == 1
    (entry,) = (cache / "pool").iterdir()  # the lock is gone
    assert is_whole(entry)
    assert [(file, text.partition(" that is needed")[0]) for file, text in shown] == [
        (__file__, f"Another process is making something in '{entry.parent}'")
    ]


def test_a_lock_that_a_killed_process_left_holds_nobody_up(cache: Path):
    entry = cached("pool", {"a": 1}, fill)
    shutil.rmtree(entry)
    lock = entry.with_name(f".{entry.name}.lock")
    lock.touch()
    assert locks.LOCK.fullmatch(lock.name)
    assert is_whole(cached("pool", {"a": 1}, fill))
    assert not lock.exists()


def test_a_lock_that_cannot_be_taken_away_spoils_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".lock"):
            raise PermissionError(errno.EACCES, "refused", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    for _ in range(2):
        entry = cached("pool", {"a": 1}, fill)
        assert is_whole(entry)
        shutil.rmtree(entry)


def _no_locks_here(*args: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("flock", [None, lambda *args: None, _no_locks_here], ids=["Windows", "no-op", "refused"])
def test_racing_builders_agree_without_locks(cache: Path, monkeypatch: pytest.MonkeyPatch, flock):
    if flock is None:
        monkeypatch.setattr(locks, "fcntl", None)
    elif locks.fcntl is None:
        pytest.skip("no locks on Windows")
    else:
        monkeypatch.setattr(locks.fcntl, "flock", flock)
    barrier, entries = threading.Barrier(4, timeout=30), []

    def build(folder: Path) -> None:
        fill(folder)
        barrier.wait()  # all build at the same time, each in a folder of its own

    threads = [threading.Thread(target=lambda: entries.append(cached("pool", {"a": 1}, build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(entries) == 4
    assert set(entries) == {entries[0]}
    assert is_whole(entries[0])
    assert list((cache / "pool").iterdir()) == [entries[0]]


def test_an_entry_repaired_by_another_process_is_left_alone(cache: Path, monkeypatch: pytest.MonkeyPatch):
    entry = cached("pool", {"a": 1}, fill)
    damage_flip(entry)

    def verify_while_another_repairs(folder: Path, **how: int | None) -> list[str]:
        problems = verify_folder(folder, **how)
        if problems:
            folder.rename(folder.with_name("moved-by-the-other"))
            with commit_folder(folder, manifest=True) as temporary:
                fill(temporary)
        return problems

    monkeypatch.setattr(files, "verify_folder", verify_while_another_repairs)
    assert cached("pool", {"a": 1}, fill) == entry
    assert is_whole(entry)
    assert not any("damaged" in each.name for each in entry.parent.iterdir())
