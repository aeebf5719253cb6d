"""Sets on the hub: what is published, that it comes back the same, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import Hub, serving
from typer.testing import CliRunner

import accdd
from accdd import artifact
from accdd.artifact import Distilled
from accdd.cli import app
from accdd.config import InputError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    with serving(monkeypatch) as found:
        yield found


def a_set(**info: object) -> Distilled:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 8, 8, generator=generator)
    names = ("ant", "b|ee", "cat")
    return Distilled(
        images=images, labels=torch.arange(3).repeat_interleave(2), class_names=names,
        mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), factor=2, info={"method": "idc", **info},
    )  # fmt: skip


def test_what_is_pushed_is_loaded_the_same(hub: Hub):
    mine = a_set()
    pushed = accdd.push(mine, "me/ants", licence="cc-by-4.0")
    assert pushed.url.endswith(f"/datasets/me/ants/commit/{hub.revision('me/ants')}")
    assert set(pushed.files) == set(hub.repositories["me/ants"]) - {".gitattributes"}
    for path in ("hf:me/ants", Path("hf:me/ants"), "hf:me/ants@main"):
        theirs = accdd.load(path)
        assert torch.equal(theirs.images, mine.images) and torch.equal(theirs.labels, mine.labels)
        assert theirs.class_names == mine.class_names and theirs.factor == 2 and theirs.info == mine.info
    fetched = [asked for asked in hub.asked if "/resolve/" in asked and asked.startswith("GET")]
    assert {asked.rpartition("/")[2] for asked in fetched} == {"images.safetensors", "distilled.json"}


def test_the_card_says_all_that_the_hub_asks_for(hub: Hub):
    score = {"set": "distilled", "network": "convnet", "mean": 61.25, "std": 0.5, "n": 3, "protocol": "idc"}
    recipe = {"epochs": 1000, "lr": 0.01}
    accdd.push(a_set(scores=[score], recipe=recipe, sweeps=12), "me/ants", licence="cc-by-4.0", private=True)
    assert hub.private["me/ants"]
    card = hub.repositories["me/ants"]["README.md"].decode()
    _, head, body = card.split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["license"] == "cc-by-4.0" and told["size_categories"] == ["n<1K"]
    assert told["task_categories"] == ["image-classification"] and "dataset-distillation" in told["tags"]
    assert told["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    for said in (
        'accdd.load("hf:me/ants")', 'load_dataset("me/ants", split="train")', "61.2 ± 0.5", "| idc |",
        "Recommended training: epochs 1000", "not a privacy guarantee", "12 sweeps",
    ):  # fmt: skip
        assert said in body, said


def test_the_parquet_beside_it_is_what_the_datasets_library_reads(hub: Hub, tmp_path: Path):
    import datasets

    accdd.push(a_set(), "me/ants", licence="mit")
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "train.parquet"
    file.write_bytes(hub.repositories["me/ants"]["data/train-00000-of-00001.parquet"])
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 24 and rows.features["label"].names == ["ant", "b|ee", "cat"]


def test_no_path_of_this_machine_is_published(hub: Hub):
    info = {
        "source": {"name": "mine", "path": "/home/me/pictures"},
        "settings": {"data": {"root": "C:\\Users\\me\\data"}, "targets": {"folder": "/scratch/me/bank"}},
        "list": ["/a/b", "a/b", 3],
        "notes": ["linked folders, not read: '/home/me/cat/link', '/home/me/its own/x y'", "it's all"],
    }
    accdd.push(a_set(**info), "me/ants", licence="other")
    everything = b"".join(hub.repositories["me/ants"].values())
    for path in (b"/home", b"Users", b"/scratch", b"/a/b"):
        assert path not in everything
    theirs = accdd.load("hf:me/ants").info
    assert "path" not in theirs["source"] and theirs["settings"]["data"]["root"] == "data"
    assert theirs["list"] == ["b", "a/b", 3]
    assert theirs["notes"] == ["linked folders, not read: 'link', 'x y'", "it's all"]


def test_a_second_push_replaces_the_set_and_an_unknown_repository_is_left_alone(hub: Hub):
    accdd.push(a_set(), "me/ants", licence="mit")
    accdd.push(a_set(method="dsa"), "me/ants", licence="mit")
    assert accdd.load("hf:me/ants").info["method"] == "dsa"
    hub.repositories["me/photos"] = {".gitattributes": b"", "photo.png": b"x"}
    with pytest.raises(InputError, match=r"'me/photos' is there already and holds no distilled set \(photo.png\)"):
        accdd.push(a_set(), "me/photos", licence="mit")
    assert set(hub.repositories["me/photos"]) == {".gitattributes", "photo.png"}


@pytest.mark.parametrize("name", ["ants", "me/", "me/a/b", "../x", "", "me/ants?x"])
def test_names_that_are_none_are_refused_before_the_hub_is_asked(hub: Hub, name: str):
    for call in (lambda: accdd.load(f"hf:{name}"), lambda: accdd.push(a_set(), name, licence="mit")):
        with pytest.raises(InputError, match=r"does not name a data set of the hub\. Expected owner/name"):
            call()
    assert not hub.asked


@pytest.mark.parametrize("licence", ["", "CC BY 4.0", "a\nlicense: mit", "{x}"])
def test_licences_that_are_none_are_refused(hub: Hub, licence: str):
    with pytest.raises(InputError, match="is no licence as the hub spells them"):
        accdd.push(a_set(), "me/ants", licence=licence)
    assert not hub.repositories


def test_what_the_hub_refuses_is_said_in_a_sentence(hub: Hub):
    with pytest.raises(InputError, match=r"'hf:me/nothing' cannot be fetched: .*Expected a name that is there"):
        accdd.load("hf:me/nothing")
    hub.repositories["me/photos"] = {"photo.png": b"x"}
    with pytest.raises(InputError, match=r"'hf:me/photos' holds no distilled set: there is no distilled\.json"):
        accdd.load("hf:me/photos")
    hub.forbids = True
    with pytest.raises(InputError, match="'me/ants' cannot be published: "):
        accdd.push(a_set(), "me/ants", licence="mit")


def test_without_a_network_it_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"'me/ants' cannot be published: .*Expected a name that is there, a network"):
        accdd.push(a_set(), "me/ants", licence="mit")
    with pytest.raises(InputError, match="'hf:me/ants' cannot be fetched: "):
        accdd.load("hf:me/ants")


def test_a_damaged_set_of_the_hub_is_refused(hub: Hub):
    accdd.push(a_set(), "me/ants", licence="mit")
    files = hub.repositories["me/ants"]
    files["images.safetensors"] = files["images.safetensors"][:-1] + b"\x01"
    with pytest.raises(InputError, match=r"its SHA-256 is not the one in distilled\.json"):
        accdd.load("hf:me/ants")


def test_the_command_pushes_and_every_verb_of_sets_takes_what_it_pushed(hub: Hub, tmp_path: Path):
    artifact.save(a_set(), tmp_path / "set")
    run = CliRunner()
    ran = run.invoke(app, ["push", str(tmp_path / "set"), "me/ants", "--license", "mit", "--json"])
    assert ran.exit_code == 0, ran.output
    assert "distilled.json" in json.loads(ran.stdout)["files"]
    ran = run.invoke(app, ["info", "hf:me/ants"])
    assert ran.exit_code == 0 and "verified" in ran.stdout
    ran = run.invoke(app, ["export", "hf:me/ants", str(tmp_path / "x.npz")])
    assert ran.exit_code == 0 and (tmp_path / "x.npz").exists()
    ran = run.invoke(app, ["push", str(tmp_path / "set"), "me/ants"])
    assert ran.exit_code == 2 and "--license" in ran.output
    ran = run.invoke(app, ["push", str(tmp_path / "none"), "me/ants", "--license", "mit"])
    assert ran.exit_code == 2 and "does not exist" in ran.output
