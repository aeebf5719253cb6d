"""Shards: runs of some of the classes, merged to the set that one run would have made, to the last bit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY, assert_same, several

import accdd
from accdd import Distilled, InputError
from accdd.data import Dataset

UNTRAINED = {**TINY, "loop.inner_steps": 1, "loop.train_images": 0, "score.seeds": 0, "compile": "never"}
RUNS: dict[str, dict[str, Any]] = {
    "idc": {**UNTRAINED, "targets.count": 0},
    "idc, trained on real images": {**UNTRAINED, "loop.inner_steps": 2, "loop.train_images": 8},
    "targets": {**UNTRAINED, "targets.count": 10, "loop.steps": 4},
    "dsa": {**UNTRAINED, "method": "dsa", "targets.count": 0},
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return several(5)


def learned(data: Dataset, part: int, parts: int, changes: dict[str, Any] = RUNS["idc"]) -> Distilled:
    return accdd.distill(data, settings={**changes, "match.classes": 1, "shard": [part, parts]}).distilled


@pytest.fixture(scope="module")
def shards(data: Dataset) -> dict[int, Distilled]:
    """Of two."""
    return {part: learned(data, part, 2) for part in (1, 2)}


@pytest.mark.parametrize("run", RUNS)
def test_merged_shards_are_the_set_of_one_run(data: Dataset, run: str):
    whole = accdd.distill(data, settings={**RUNS[run], "match.classes": 1}).distilled
    parts = [learned(data, part, 3, RUNS[run]) for part in (3, 1, 2)]
    assert sorted(len(part.labels.unique()) for part in parts) == [1, 2, 2]
    merged = accdd.merge(parts)
    assert_same((merged.images, merged.labels), (whole.images, whole.labels))
    left_out = ("seconds",)
    assert {k: v for k, v in merged.info.items() if k not in left_out} == {
        k: v for k, v in whole.info.items() if k not in left_out
    }


def test_a_shard_is_not_scored_as_if_it_were_the_set(shards: dict[int, Distilled]):
    with pytest.raises(InputError, match="'distilled' has a part of the classes"):
        accdd.evaluate(shards[1])


def test_shards_are_saved_gone_on_with_and_merged_by_the_command(data: Dataset, tmp_path: Path, capsys):
    from accdd.cli import app

    for part in (1, 2):
        accdd.distill(data, out=tmp_path / str(part), settings={**RUNS["idc"], "score.seeds": 2, "shard": [part, 2]})
    app(["merge", str(tmp_path / "2"), str(tmp_path / "1"), "--out", str(tmp_path / "merged")], standalone_mode=False)
    assert "10 stored images of 5 classes" in capsys.readouterr().out
    assert accdd.load(tmp_path / "merged").labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert not accdd.load(tmp_path / "1").info["scores"]  # a part of the classes is not scored


def test_what_a_shard_went_through_is_kept_and_how_it_was_executed_does_not_matter(shards: dict[int, Distilled]):
    info = shards[2].info
    other = dataclasses.replace(shards[2], info={**info, "halvings": 2, "plan": {**info["plan"], "classes": 7}})
    assert accdd.merge([shards[1], other]).info["halvings"] == 2


def test_where_and_how_a_shard_was_made_does_not_matter(shards: dict[int, Distilled]):
    settings = shards[2].info["settings"]
    elsewhere = {
        **settings, "device": "cuda", "compile": "auto", "max_memory": 8.0, "data": {**settings["data"], "root": "/d"},
        "targets": {**settings["targets"], "folder": "/bank"}, "loop": {**settings["loop"], "checkpoint": 1.0},
        "score": {**settings["score"], "seeds": 9},
    }  # fmt: skip
    other = dataclasses.replace(shards[2], info={**shards[2].info, "settings": elsewhere})
    merged = accdd.merge([shards[1], other])
    assert_same(merged.images, accdd.merge([shards[1], shards[2]]).images)


def test_what_shards_share_is_counted_once_and_their_sweeps_add_up(shards: dict[int, Distilled]):
    cost = [shards[part].info["seconds"] | {"pool": pool, "distilling": 5.0} for part, pool in ((1, 40.0), (2, 30.0))]
    both = [dataclasses.replace(shards[part], info=shards[part].info | {"seconds": cost[part - 1]}) for part in (1, 2)]
    told = accdd.merge(both).info["seconds"]
    assert (told["pool"], told["distilling"]) == (40.0, 10.0)


def test_a_shard_says_what_it_learned(data: Dataset):
    result = accdd.distill(data, settings={**RUNS["idc"], "shard": [1, 2]})
    assert result.verdict.startswith("4 images (2 per class) of") and ", shard 1/2 learned in" in result.verdict


def test_the_same_shard_twice_or_none_of_it(shards: dict[int, Distilled]):
    with pytest.raises(InputError, match="'distilled' and 'distilled-2' are both shard 1/2"):
        accdd.merge([shards[1], shards[1]])
    with pytest.raises(InputError, match=r"Of 2 shards, these are missing: 2\."):
        accdd.merge([shards[1]])
    with pytest.raises(InputError, match="nothing to merge"):
        accdd.merge([])


def test_what_was_not_learned_together_is_not_merged(data: Dataset, shards: dict[int, Distilled]):
    whole = accdd.distill(data, settings=RUNS["idc"]).distilled
    with pytest.raises(InputError, match="'distilled-2' is no shard"):
        accdd.merge([shards[1], whole])
    with pytest.raises(InputError, match=r"no shards of one run \(shards: 2 and 3\)"):
        accdd.merge([shards[1], learned(data, 2, 3)])
    other_seed = learned(data, 2, 2, {**RUNS["idc"], "seed": 7})
    with pytest.raises(InputError, match=r"\(settings\.seed: 0 and 7\)"):
        accdd.merge([shards[1], other_seed])
    for damage in ({"settings": {**shards[2].info["settings"], "shard": [1, "x"]}}, {"seconds": None}, {"sweeps": "9"}):
        strange = dataclasses.replace(shards[2], info={**shards[2].info, **damage})
        with pytest.raises(InputError, match="'distilled-2' is no shard"):
            accdd.merge([shards[1], strange])
    renamed = dataclasses.replace(shards[2], class_names=tuple("abcde"))
    with pytest.raises(InputError, match="class_names"):
        accdd.merge([shards[1], renamed])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shard": [3, 2]}, "--shard 3/2 of 5 classes"),
        ({"shard": [0, 2]}, "--shard 0/2 of 5 classes"),
        ({"shard": [1, 6]}, "--shard 1/6 of 5 classes"),
        ({"method": "dc", "loop.inner_steps": 2, "loop.train_images": 0}, "on the images of all classes"),
        ({"targets.count": 10, "targets.refresh": 0.1}, "targets.refresh follows the loss of all classes"),
        ({"score.choose": "validation"}, "each shard would choose another sweep"),
    ],
)
def test_what_cannot_be_learned_apart_is_refused(data: Dataset, tmp_path: Path, changes: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        accdd.distill(data, out=tmp_path / "run", settings={**UNTRAINED, "shard": [1, 2], **changes})
