"""`accdd check` names every damaged file and nothing else; `accdd cache` removes what it may and nothing else."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from accdd import artifact, cache, execution, files
from accdd.cli import app
from accdd.config import InputError, Settings
from accdd.loop import State
from accdd.run import RunFolder, check


def told(path: Path) -> dict[str, str]:
    return {part.name: part.state for part in check(path).parts}


def distilled() -> artifact.Distilled:
    return artifact.Distilled(
        images=torch.rand(4, 3, 8, 8), labels=torch.arange(4) % 2, class_names=("a", "b"), mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )  # fmt: skip


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a finished run, without the run."""
    folder = RunFolder.create(
        tmp_path / "run", None, "f", {}, Settings(), torch.device("cpu"), execution.PLAIN
    )  # fmt: skip
    images = torch.rand(2, 2, 3, 8, 8)
    for sweep in (1, 2):
        folder.log(sweep, float(sweep), 0.5)
        folder.snapshot(sweep, float(sweep), images)
        folder.checkpoint(State(sweep, images, images.new_zeros(0), images * 0), float(sweep))
    artifact.save(distilled(), folder.path / "distilled")
    folder.evaluation({"verdict": "good", "scores": []}, 2)
    return folder.path


CHECKED = {
    "distilled": "distilled/images.safetensors",
    "snapshots/sweep-0000001.safetensors": "snapshots/sweep-0000001.safetensors",
    "checkpoints/sweep-0000001": "checkpoints/sweep-0000001/state.safetensors",
    "checkpoints/sweep-0000002": "checkpoints/sweep-0000002/state.json",
}


def test_a_whole_run_is_sound(out: Path):
    found = check(out)
    assert found.kind == "finished run" and found.sound
    assert {name for name, state in told(out).items() if state == "whole"} == {
        *CHECKED, "snapshots/sweep-0000002.safetensors"
    }  # fmt: skip
    assert told(out / "distilled") == {".": "whole"}


@pytest.mark.parametrize("part", CHECKED)
def test_one_flipped_bit_is_found_and_only_its_part_is_named(out: Path, part: str):
    before = told(out)
    file = out / CHECKED[part]
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    file.write_bytes(raw)
    assert {name for name, state in told(out).items() if state != before[name]} == {part}
    assert told(out)[part] == "damaged" and not check(out).sound


def test_what_is_missing_torn_or_strange_is_said(out: Path):
    (out / "config.yaml").unlink()
    (out / "env.json").write_text("{")
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"swe')
    (out / "notes.txt").write_text("mine")
    (out / "checkpoints" / ".sweep-0000003.0123456789abcdef.tmp").mkdir()
    found = {part.name: part for part in check(out).parts}
    assert (found["config.yaml"].state, found["env.json"].state) == ("missing", "damaged")
    assert found["metrics.jsonl"].state == "unknown" and "torn" in found["metrics.jsonl"].detail
    assert found["notes.txt"] == ("notes.txt", "unknown", "not made by accdd")
    assert "killed" in found["checkpoints/.sweep-0000003.0123456789abcdef.tmp"].detail
    (out / "evaluation.json").unlink()
    assert check(out).kind == "unfinished run"


def test_the_command_ends_with_1_where_something_is_damaged(out: Path):
    assert CliRunner().invoke(app, ["check", str(out)]).exit_code == 0
    (out / "distilled" / "images.safetensors").unlink()
    ran = CliRunner().invoke(app, ["check", str(out), "--json"])
    record = json.loads(ran.stdout)
    assert ran.exit_code == 1 and not record["sound"]
    assert [part["name"] for part in record["parts"] if part["state"] == "damaged"] == ["distilled"]


def abc(folder: Path) -> None:
    (folder / "a").write_text("abc")


def test_exports_and_entries_of_the_cache_are_known(tmp_path: Path):
    artifact.export(distilled(), "png", tmp_path / "png")
    assert check(tmp_path / "png").kind == "export" and check(tmp_path / "png").sound
    entry = files.cached("data", {"data": "x"}, abc)
    assert told(entry) == {".": "whole"}
    (entry / "a").write_text("abd")
    assert told(entry) == {"a": "damaged"}
    (entry / "a").unlink()
    assert told(entry) == {"a": "missing"}
    for index in ("bank.json", "pool.json"):
        growing = tmp_path / index
        files.write_text(growing / index, "{}")
        files.made(growing / "000000", abc)
        assert told(growing) == {index: "unknown", "000000": "whole"}
        (growing / "000000" / "a").write_text("abd")
        assert told(growing)["000000"] == "damaged"


def test_what_has_no_checksum_is_named_and_not_called_whole(out: Path):
    names = ("nearest.safetensors", "report.html", "distilled/preview.png")
    for name in names:
        (out / name).write_text("damaged, who knows")
    assert {told(out)[name] for name in names} == {"unknown"}


def test_what_accdd_did_not_make_is_refused(tmp_path: Path):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(InputError, match="is a study, whose cells each have a run"):
        check(tmp_path)
    (tmp_path / "study.json").unlink()
    with pytest.raises(InputError, match="nothing that accdd made"):
        check(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        check(tmp_path / "none")


# The cache ----------------------------------------------------------------------------------------------------


def kept(kind: str, number: int, size: int, age: float, **about: str) -> Path:
    """An entry of some size that was last used some seconds ago."""

    def fill(folder: Path) -> None:
        (folder / "a").write_bytes(bytes(size))
        (folder / {"data": "data.json", "pools": "pool.json"}[kind]).write_text(json.dumps(about))

    path = files.cached(kind, {"number": number, **({} if kind == "data" else about)}, fill)
    return aged(path, age)


def aged(path: Path, age: float) -> Path:
    then = time.time() - age
    for each in (*path.rglob("*"), path):
        os.utime(each, (then, then))
    return path


HOUR = 3600.0


def test_entries_are_listed_with_kind_data_size_and_last_use():
    kept("data", 0, 1000, 5 * HOUR, name="digits", fingerprint="f")
    pool = kept("pools", 1, 3000, 9 * HOUR, data="f")
    listed = cache.entries()
    assert [(entry.kind, entry.name) for entry in listed] == [("pools", "digits"), ("data", "digits")]
    assert listed[0].bytes == sum(file.stat().st_size for file in pool.iterdir()) > 3000
    assert abs(time.time() - 9 * HOUR - listed[0].used) < 60
    files.cached("pools", {"number": 1, "data": "f"}, lambda folder: pytest.fail("is there"))
    assert abs(time.time() - cache.entries()[-1].used) < 60


@pytest.mark.parametrize("lock", [".{}.lock", "{}/.000001.lock"])
def test_what_is_being_made_stays_for_a_day(lock: str):
    path = kept("pools", 0, 10, 2 * HOUR)
    made = path.parent / lock.format(path.name)
    made.touch()
    aged(made, 2 * HOUR)
    assert not cache.prune(everything=True) and path.exists()
    aged(made, 30 * HOUR)
    aged(path, 30 * HOUR)
    assert [entry.path for entry in cache.prune(everything=True)] == [path]


def test_the_longest_unused_go_until_the_size_is_kept():
    paths = [kept("pools", number, 10_000, (9 - number) * HOUR) for number in range(5)]
    cache.prune(max_size=25_000)
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    assert not cache.prune(max_size=25_000)
    cache.prune(older_than=5.5 * HOUR)
    assert [path.exists() for path in paths] == [False, False, False, False, True]


def test_what_is_in_use_or_unknown_stays():
    used, old = kept("pools", 0, 10, HOUR / 2), kept("pools", 1, 10, 2 * HOUR)
    root = files.cache_folder()
    mine = [root / "mine", root / "pools" / "mine", root / "pools" / ("0" * 32)]
    for folder in mine:
        folder.mkdir()
        (folder / "thesis.txt").write_text("the only copy")
        aged(folder, 100 * HOUR)
    files.write_text(root / "pools" / f".{'0' * 32}.lock", "")
    building, left = (root / "pools" / f".{name}.0123456789abcdef.tmp" for name in ("0a", "0b"))
    for folder, age in ((building, 20 * HOUR), (left, 30 * HOUR)):
        folder.mkdir()
        aged(folder, age)
    assert not any(entry.path.name.endswith(".lock") for entry in cache.entries())
    gone = cache.prune(everything=True)
    assert {entry.path for entry in gone} == {old, left}
    assert used.exists() and building.exists() and all((folder / "thesis.txt").exists() for folder in mine)
    cache.prune(everything=True, in_use=True)
    assert not used.exists() and all((folder / "thesis.txt").exists() for folder in mine)


@pytest.mark.parametrize("kind, index", [("targets", "bank.json"), ("pools", "pool.json")])
def test_scores_and_what_is_left_inside_a_bank_or_a_pool_go_too(kind: str, index: str):
    root = files.cache_folder()
    scores, bank = root / "scores" / ("0" * 32 + ".json"), root / kind / ("1" * 32)
    files.write_text(scores, "{}")
    files.write_text(bank / index, "{}")
    left = bank / ".000001.0123456789abcdef.tmp"
    files.write_text(left / "part", "three")
    aged(root, 30 * HOUR)
    assert {entry.path: (entry.kind, entry.bytes) for entry in cache.entries()} == {
        root / "scores": ("scores", 2), bank: (kind, 2), left: ("left over", 5)
    }  # fmt: skip
    assert told(bank)[left.name] == "unknown"
    assert cache.prune(older_than=29 * HOUR) and not scores.exists() and not bank.exists()


def test_a_snapshot_of_numbers_that_none_has_is_damaged(out: Path):
    file = out / "snapshots" / "sweep-0000001.safetensors"
    files.save_tensors({"images": torch.ones(2, dtype=torch.bfloat16)}, file, {"sha256": "0"})
    assert told(out)["snapshots/sweep-0000001.safetensors"] == "damaged"


def test_prune_is_told_what_goes(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="Nothing says what is to go"):
        cache.prune()
    path = kept("pools", 0, 10_000, 2 * HOUR)
    monkeypatch.setenv(cache.LIMIT, "5 kB")
    cache.prune()
    assert not path.exists()
    ran = CliRunner().invoke(app, ["cache", "ls", "--json"])
    assert ran.exit_code == 0 and json.loads(ran.stdout)["entries"] == []
    assert CliRunner().invoke(app, ["cache", "ls", "--all"]).exit_code == 2


@pytest.mark.parametrize(("text", "size"), [("10GB", 10**10), ("1.5 MB", 1_500_000), ("7", 7), ("2kb", 2000)])
def test_sizes(text: str, size: int):
    assert cache.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "10 XB", "-1GB", "1e3"])
def test_no_sizes(text: str):
    with pytest.raises(InputError, match="is no size"):
        cache.parse_size(text)
    assert cache.parse_age("2d") == 172800
    with pytest.raises(InputError, match="is no age"):
        cache.parse_age(text)
