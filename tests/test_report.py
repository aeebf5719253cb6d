"""The page of a run: what it says, what it never does, and what it makes of folders that are not whole."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import itertools
import json
import os
import re
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

import accdd
from accdd import artifact, evaluation, report
from accdd.artifact import Distilled
from accdd.cli import app
from accdd.config import InputError
from accdd.report import charts, comparison, gallery, nearest, page, pictures, reading, watching
from accdd.report.charts import Point
from accdd.run import Quiet, RunFolder, tracking
from accdd.run.folder import merged

TINY = {"pool.networks": 1, "pool.epochs": 1, "network.width": 4, "train.batch": 8, "loop.steps": 2}
SCORED = {**TINY, "score.seeds": 2, "score.epochs": 1, "images.factor": 2}
NASTY = "<script>alert(1)</script>\x1b[31m\u202e"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run on two classes; no test changes it."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(root / "cache"))
        stripes = helpers.stripes()
        arrays = (stripes.images.numpy(), stripes.labels.numpy())
        accdd.distill(arrays, ipc=2, out=root / "run", settings=SCORED)
    yield root / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def command(line: str) -> Any:
    return CliRunner().invoke(app, shlex.split(line))


def change(run: Path, name: str, **changes: Any) -> None:
    file = run / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class Page(html.parser.HTMLParser):
    """The elements of a page in order, each with its attributes, the text in it, and the elements it is in."""

    VOID = frozenset({"meta", "img", "input", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str], tuple[str, ...]]] = []
        self._open: list[int] = []
        self.feed(text)
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [], tuple(self.elements[place][0] for place in self._open)))
        if tag not in self.VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self._open:
            self.elements[place][2].append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _, _ in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text, _ in self.elements if name == tag]


# What a run leaves behind -------------------------------------------------------------------------------------


def test_a_run_ends_with_its_page_and_its_nearest_real_images(made: Path):
    text = (made / "report.html").read_text()
    assert json.loads((made / "evaluation.json").read_text())["verdict"] in html.unescape(text)
    assert reading.read(made).problems == ()
    modes = {path.stat().st_mode & 0o777 for path in made.rglob("*") if path.is_file()}
    assert modes == {(made / "config.yaml").stat().st_mode & 0o777}  # who may read one may read all


def test_the_page_is_a_function_of_the_folder_alone(made: Path, run: Path):
    first = (made / "report.html").read_bytes()
    assert report.write(made).read_bytes() == first
    (run / "report.html").unlink()
    assert report.write(run).read_bytes() == first  # a copy elsewhere, by the same name


def test_the_run_s_command_writes_a_page_that_is_missing_or_older_than_its_end(made: Path, run: Path):
    assert report.complete(made)
    evaluation, nearest_ = run / "evaluation.json", run / nearest.FILE
    for spoil in (
        (run / "report.html").unlink, nearest_.unlink,
        lambda: os.utime(evaluation, ns=(0, (run / "report.html").stat().st_mtime_ns + 1)),
    ):  # fmt: skip
        shutil.rmtree(run)
        shutil.copytree(made, run)
        assert report.complete(run)
        spoil()
        assert not report.complete(run)
    stripes = helpers.stripes()
    result = accdd.distill((stripes.images.numpy(), stripes.labels.numpy()), ipc=2, out=run, settings=SCORED)
    assert result.out == run and report.complete(run)


def test_a_report_that_cannot_be_written_does_not_lose_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(page, "write", fail)
    stripes, notes = helpers.stripes(), []
    quiet = Quiet()
    quiet.note = notes.append  # type: ignore[method-assign]
    result = accdd.distill(
        (stripes.images.numpy(), stripes.labels.numpy()), out=tmp_path / "new", settings={**TINY, "score.seeds": 0},
        reporter=quiet,
    )  # fmt: skip
    assert result.out and not (tmp_path / "new" / "report.html").exists()
    assert accdd.load(tmp_path / "new").ipc == 1
    assert any("no report, because of RuntimeError: no such luck" in note for note in notes)


# What the page says -------------------------------------------------------------------------------------------


def test_the_page_holds_images_scores_cost_and_how_to_go_on(made: Path):
    text = (made / "report.html").read_text()
    shown = Page(text)
    assert shown.text("h2") == [
        "Learned images", "Accuracy", "Nearest real images", "What it cost", "How to use it", "Settings and environment"
    ]  # fmt: skip
    captions = shown.text("figcaption")
    assert captions == ["0", "1", "0", "1"]  # arrays have no names; gallery and nearest
    views = [img["data-view"] for img in shown.all("img")]
    snapshots = len(list((made / "snapshots").iterdir()))
    assert views == (["stored", "decoded"] + ["step"] * (snapshots - 1)) * 2 + ["nearest"] * 2
    cells = ["".join(text).strip() for tag, _, text, _ in shown.elements if tag == "td"]
    score = json.loads((made / "evaluation.json").read_text())["scores"][0]
    assert f"{score['mean']:.1f}" in cells and score["protocol"] in cells
    assert 'accdd.load("run")' in "".join(shown.text("code"))


def test_the_command_on_the_page_makes_the_same_set_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    tiny = "--set pool.networks=1 --set pool.epochs=[0.1] --set network.width=4 --set score.seeds=0"
    assert command(f"distill digits --steps 2 {tiny} --seed 3 --out first").exit_code == 0
    again = reading.read(tmp_path / "first")
    line = page.reproduce(again)
    assert line and line.startswith("accdd distill digits --out again ")
    result = command(line.removeprefix("accdd "))
    assert result.exit_code == 0, result.output
    helpers.assert_same(accdd.load(tmp_path / "again").images, accdd.load(tmp_path / "first").images)


def test_scores_that_were_kept_are_shown_with_the_whole_set_and_over_time(run: Path):
    row = {"network": "convnet", "protocol": "idc", "epochs": 1, "accuracies": [50.0, 60.0]}
    kept = [row | {"set": name} for name in ("run", "herding", "whole", "run@1@0.5s", "run@2@1.0s")]
    change(run, "evaluation.json", kept=[*kept, {"set": 3}, "text", row | {"set": "run", "accuracies": [200.0]}])
    seen = reading.read(run)
    assert [each.set for each in seen.others] == ["random", "herding", "whole"]
    assert [(each.sweep, each.seconds) for each in seen.course] == [(1, 0.5), (2, 1.0)]
    assert seen.problems == ("evaluation.json: 3 of 10 scores are damaged and left out.",)
    shown = Page(page.render(seen))
    assert "Over time" in shown.text("h3") and "herding" in shown.text("th")
    assert "9.2 to 100.0" in shown.text("td")  # two values say little


def test_evaluate_keeps_scores_for_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    tiny = "--set pool.networks=1 --set pool.epochs=0.1 --set network.width=4 --set score.seeds=1 --set score.epochs=1"
    assert command(f"distill digits --steps 2 {tiny} --out run").exit_code == 0
    before = json.loads(Path("run/evaluation.json").read_text())
    for line in ("--baselines herding", "--snapshots", "--snapshots"):  # the same scores are kept once
        told = command(f"evaluate run --epochs 1 --seeds 2 --keep --json {line}")
        assert told.exit_code == 0, told.stderr
    scores = json.loads(told.stdout)["scores"]
    after = json.loads(Path("run/evaluation.json").read_text())
    kept = after.pop("kept")
    assert after == before
    assert [each["set"] for each in kept] == ["distilled", "herding", *(f"distilled{s['set'][3:]}" for s in scores)]
    assert [each["accuracies"] for each in kept[2:]] == [score["accuracies"] for score in scores]
    shown = Page(Path("run/report.html").read_text())
    assert {"By class", "Over time"} <= set(shown.text("h3")) and "herding" in shown.text("th")
    of_set = accdd.load("run").info["kept"]
    assert [each["set"] for each in of_set] == ["distilled"] and of_set[0]["accuracies"] == kept[0]["accuracies"]
    assert "idc, no flip, 1 epochs" in html.unescape(Path("run/distilled/README.md").read_text())


def test_a_score_that_is_kept_again_is_the_last_that_was_kept():
    first, second = ({"set": "a", "network": "convnet", "protocol": name, "n": 1} for name in ("idc", "dsa"))
    again = first | {"n": 2}
    assert merged([first, second], [again]) == [second, again]


def test_scores_of_an_imported_set_are_kept_with_what_it_was_tested_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save([images, torch.arange(10)], "old.pt")
    assert command("import old.pt set --from idc --factor 1").exit_code == 0
    flags = "--networks convnet/width=4 --epochs 1 --seeds 2 --baselines random --data digits"
    told = command(f"evaluate set --test digits {flags} --keep --json")
    assert told.exit_code == 0, told.stderr
    scores = json.loads(told.stdout)["scores"]
    seen = reading.read("set")
    assert [row.accuracies for row in seen.rows] == [tuple(score["accuracies"]) for score in scores]
    shown = Page(Path("set/report.html").read_text())
    assert any(re.fullmatch(r"idc, no flip, 1 epochs, tested on digits [0-9a-f]{6}", cell) for cell in shown.text("td"))
    assert "Not scored." not in shown.text("p")
    assert "augment=()" in Path("set/report.html").read_text()  # nothing is recommended for it
    told = command("evaluate set --epochs 1 --seeds 1 --keep")
    assert told.exit_code == 2 and "Expected --test DATA" in told.stderr


def test_runs_that_have_no_images_yet_are_compared_all_the_same(made: Path, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(made / "config.yaml", tmp_path / name)
    told = command(f"report {tmp_path}/a {tmp_path}/b --out {tmp_path}/both.html")
    assert told.exit_code == 0, told.output
    assert "not scored" in (tmp_path / "both.html").read_text()
    assert command(f"report {tmp_path}/a {tmp_path}/b").exit_code == 0  # by itself, in the folder of all
    assert (tmp_path / "report.html").read_text() == (tmp_path / "both.html").read_text()
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "within")  # where a page would take the place of the run's own
    told = command(f"report {tmp_path}/a/within {tmp_path}/a/within")
    assert told.exit_code == 2 and "Expected --out FILE" in told.stderr


def test_a_pipe_in_a_stranger_s_folder_is_not_waited_for(run: Path):
    for file in (run / "nearest.safetensors", next((run / "snapshots").iterdir())):
        file.unlink()
        os.mkfifo(file)
    seen = reading.read(run)
    assert sum("is no file" in problem for problem in seen.problems) == 2
    assert page.render(seen)


def test_what_a_page_does_not_show_is_said_with_the_flag_that_adds_it(made: Path):
    seen = dataclasses.replace(reading.read(made), source="pictures", name="my run")
    said = " ".join(Page(page.render(seen)).text("p"))
    assert "Not asked for so far: herding, the whole set, other networks" in said
    advice = "accdd evaluate 'my run' --baselines random,herding --whole --networks NAMES --keep"
    assert advice in html.unescape(page.render(seen))
    default = page.render(dataclasses.replace(seen, given={}))
    assert "Not asked for so far" in default and "accdd distill pictures --out again" in html.unescape(default)
    shard = {"settings": {**seen.settings, "shard": [1, 2]}}
    for without in ({"finished": False}, {"source": None}, {"given": None}, shard):  # arrays are not found again
        assert "Not asked for" not in page.render(dataclasses.replace(seen, **without))


def test_what_a_run_sees_of_fitting_its_bank_too_closely_is_on_its_page(tmp_path: Path):
    tiny = "--set pool.networks=1 --set pool.epochs=0.1 --set network.width=4 --set score.seeds=0"
    flags = "--targets 10 --set targets.real_batch=4 --set targets.refresh=0.5 --steps 20"
    told = command(f"distill digits {flags} {tiny} --out {tmp_path}/run")
    assert told.exit_code == 0, told.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line["overfit"] for line in lines if "overfit" in line][-1]
    said = " ".join(Page((tmp_path / "run" / "report.html").read_text()).text("p"))
    assert f"At sweep 20 the loss on targets that were never used was {last:.2f} times" in said


def test_networks_of_a_run_that_were_evaluated_again_are_shown_once(run: Path):
    own, random = json.loads((run / "evaluation.json").read_text())["scores"]
    more = [each | {"accuracies": [*each["accuracies"], 50.0], "set": name}
            for each, name in ((own, str(run)), (random, "random"))]  # fmt: skip
    change(run, "evaluation.json", kept=[*more, own | {"set": str(run)}, own | {"set": str(run), "protocol": "idc"}])
    rows = reading.read(run).rows
    assert [(row.protocol, len(row.accuracies)) for row in rows if row.set == str(run)] == [
        (own["protocol"], 3), ("idc", 2)
    ]  # fmt: skip
    assert [len(row.accuracies) for row in rows if row.set == "random"] == [3] and len(rows) == 3


def test_what_was_foretold_stands_beside_what_it_took(run: Path):
    assert "foretold" not in Page((run / "report.html").read_text()).text("th")
    told = json.loads((run / "env.json").read_text())
    told["foretold"] = {"pool": 0.0, "distilling": 61.0, "scoring": "soon", NASTY: 3}
    (run / "env.json").write_text(json.dumps(told))
    shown = Page(page.render(reading.read(run)))
    assert "foretold" in shown.text("th") and "1 min 01 s" in shown.text("td")
    told["foretold"] = "soon"
    (run / "env.json").write_text(json.dumps(told))
    assert "foretold" not in Page(page.render(reading.read(run))).text("th")


def test_accuracy_by_class_adds_up_to_the_whole(made: Path):
    for score in json.loads((made / "evaluation.json").read_text())["scores"]:
        assert sum(score["per_class"]) / 2 == pytest.approx(score["mean"], abs=0.02)  # both classes are tested alike


def test_a_class_without_test_images_is_left_out_of_the_table_by_class(made: Path, tmp_path: Path):
    shutil.copytree(made, tmp_path / "run")
    for file in (tmp_path / "run" / "evaluation.json", tmp_path / "run" / "distilled" / "distilled.json"):
        record = json.loads(file.read_text())
        record.pop("checksum", None)
        for score in record["scores"] if "scores" in record else record["info"]["scores"]:
            score["per_class"][0] = None
        file.write_text(json.dumps(record))
    shown = Page(report.write(tmp_path / "run", tmp_path / "page.html").read_text())
    whole = Page((made / "report.html").read_text())
    names = accdd.load(made).class_names
    listed = [[text for text in each.text("th") if text in names] for each in (whole, shown)]
    assert sorted(listed[0]) == sorted(names) and listed[1] == [names[1]]


# What the page never does -------------------------------------------------------------------------------------


def test_the_content_policy_allows_the_page_s_own_style_and_script_and_nothing_else(made: Path):
    text = (made / "report.html").read_text()
    shown = Page(text)
    policy = next(meta["content"] for meta in shown.all("meta") if "http-equiv" in meta)
    assert policy and policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = shown.text(tag)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for tag, attributes, _, _ in shown.elements:
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes), tag
        assert tag not in ("link", "iframe", "form", "object", "embed")
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:image/webp;base64,", "#"))
    assert not re.search(r"https?:", text)


def test_names_from_the_folder_are_text_and_never_markup(run: Path):
    stranger = artifact.load(run)
    shutil.rmtree(run / "distilled")
    info = stranger.info | {"source": {"name": NASTY, "path": NASTY, "fingerprint": NASTY}}
    dataclasses.replace(stranger, class_names=(NASTY, '" onload="x'), info=info).save(run / "distilled")
    change(run, "evaluation.json", verdict=NASTY)
    change(run, "env.json", machine=NASTY, **{NASTY: NASTY})
    text = page.render(reading.read(run))
    shown = Page(text)
    assert len(shown.all("script")) == 1 and "\x1b" not in text and "\u202e" not in text
    assert shown.text("figcaption")[0] == NASTY.replace("\x1b", "\\x1b").replace("\u202e", "\\x202e")
    assert not any(name.startswith("on") for _, attributes, _, _ in shown.elements for name in attributes)


def test_a_hundred_classes_of_ten_fit_two_megabytes(tmp_path: Path):
    images = 0.5 + 0.3 * helpers.noise(1000, 3, 32, 32)  # noise compresses worse than anything learned
    distilled = Distilled(
        images=images.clamp(0, 1), labels=torch.arange(100).repeat_interleave(10), factor=2,
        class_names=tuple(f"a class with a name of some length, {label}" for label in range(100)),
        mean=(0.5,) * 3, std=(0.2,) * 3,
    )  # fmt: skip
    distilled.save(tmp_path / "run" / "distilled")
    (tmp_path / "run" / "snapshots").mkdir()
    for sweep in range(9):
        RunFolder(tmp_path / "run").snapshot(sweep, 1.0, distilled.images.unflatten(0, (100, 10)))
    row = {"network": "convnet/width=128/depth=3", "protocol": "idc, 300 epochs", "epochs": 300, "bytes": 1,
           "accuracies": [1.5] * 5, "per_class": [1.5] * 100}  # fmt: skip
    scores = [row | {"set": name} for name in ("distilled", "random", "herding", "kmeans", "whole")]
    scores += [row | {"set": f"distilled@{sweep}@{sweep}.0s"} for sweep in range(9)]
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps({"scores": scores, "verdict": "It is done."}))
    lines = [{"sweep": sweep, "seconds": float(sweep), "loss": 1 / (1 + sweep)} for sweep in range(20_000)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = (distilled.images * 255).to(torch.uint8)
    zeros, far = torch.zeros(1000, dtype=torch.int64), torch.ones(1000)
    nearest.save(nearest.Nearest(zeros, zeros.clone(), far, pairs, far.clone()), tmp_path / "run")
    written = report.write(tmp_path / "run")
    assert written.stat().st_size <= 2_000_000
    shown = Page(written.read_text())
    assert {img["data-view"] for img in shown.all("img")} >= {"stored", "nearest", "step"}
    assert "By class" in shown.text("h3") and "Over time" in shown.text("h3") and "Loss" in shown.text("h3")
    assert sum(img["data-view"] == "stored" for img in shown.all("img")) == 100


# Readable by all ----------------------------------------------------------------------------------------------


def pages(made: Path) -> list[Page]:
    seen = reading.read(made)
    return [Page(page.render(seen)), Page(comparison.render(["a", "b"], [seen, seen]))]


def test_headings_landmarks_alternatives_and_labels(made: Path):
    for shown in pages(made):
        assert shown.all("html")[0]["lang"] == "en" and shown.text("title")[0].strip()
        assert [len(shown.all(tag)) for tag in ("main", "header", "footer", "h1")] == [1, 1, 1, 1]
        levels = [int(tag[1]) for tag, _, _, _ in shown.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and all(later <= level + 1 for level, later in itertools.pairwise(levels))
        assert all(img["alt"] and img["width"] and img["height"] for img in shown.all("img"))
        assert all(svg["role"] == "img" and svg["aria-label"] for svg in shown.all("svg"))
        names = [attributes["id"] for _, attributes, _, _ in shown.elements if "id" in attributes]
        assert len(names) == len(set(names))
        for tag, attributes, text, within in shown.elements:
            if tag in ("input", "select"):
                assert "label" in within
            if tag == "button":
                named = "title" in attributes  # by the alternative of the image within
                assert named or attributes.get("aria-label") or "".join(text).strip()
            if tag == "section":
                assert attributes["aria-labelledby"] in names
            if tag == "th":
                assert attributes.get("scope") in ("col", "row")


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_colour_stands_out_from_every_ground():
    assert luminance("#ffffff") == pytest.approx(1) and luminance("#000000") == 0
    style = (Path(page.__file__).parent / "page.css").read_text()
    blocks = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r"\{([^{}]*)\}", style)]
    palettes = [block for block in blocks if block]
    assert len(palettes) == 4  # light, dark by the system, dark by hand, paper
    assert palettes[1] == palettes[2]
    for palette in palettes:
        for ground in ("paper", "raised"):
            for ink in ("ink", "quiet", "accent", "warn"):
                bright, dark = sorted((luminance(palette[ground]), luminance(palette[ink])), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ground, ink, palette)


# Folders that are not whole -----------------------------------------------------------------------------------


MISSING = [
    ("env.json", "env.json is missing."),
    ("metrics.jsonl", "metrics.jsonl is missing: there is no loss to show."),
    ("evaluation.json", "evaluation.json is missing: the run is not finished."),
    ("nearest.safetensors", "nearest.safetensors is missing: the nearest real images were not looked for."),
    ("distilled", "distilled/ is missing: the images shown are those of the newest snapshot."),
    ("config.yaml", "config.yaml is missing."),
]


@pytest.mark.parametrize(("name", "sentence"), MISSING)
def test_what_is_missing_is_named_and_the_rest_is_shown(run: Path, name: str, sentence: str):
    shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    seen = reading.read(run)
    assert seen.problems == (sentence,)
    assert sentence in html.unescape(page.render(seen)) and Page(page.render(seen)).all("img")


DAMAGED = ["config.yaml", "env.json", "evaluation.json", "nearest.safetensors", "distilled/images.safetensors"]


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("damage", [b"", b"\x00\xff\xfe", b"[1, 2", b"[" * 100_000, b"5"])
def test_what_is_damaged_is_named_and_the_rest_is_shown(run: Path, name: str, damage: bytes):
    (run / name).write_bytes(damage)
    seen = reading.read(run)
    assert len(seen.problems) == 1 and Path(name).name in seen.problems[0]
    Page(page.render(seen))
    watching.stand(run, 0.0)


def test_damaged_lines_are_counted_and_a_torn_last_one_is_normal(run: Path):
    whole = reading.read(run).lines
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + '{"sweep": 3, "sec')
    assert reading.read(run).lines == whole and not reading.read(run).problems
    bad = ['{"sweep": 1}', "[]", '{"sweep": 1, "seconds": 1, "loss": NaN}', '{"sweep": "1", "seconds": 1, "loss": 1}']
    (run / "metrics.jsonl").write_text("\n".join(bad) + "\n" + text)
    seen = reading.read(run)
    assert seen.lines == whole
    assert seen.problems == (f"metrics.jsonl: 4 of {len(whole) + 4} lines are damaged and left out.",)


def test_a_restored_run_is_sound_and_lines_are_in_order(run: Path):
    lines = [{"sweep": 2, "seconds": 1, "loss": 1.0}, {"sweep": 1, "not finite": 3, "halvings": 1},
             {"sweep": 1, "seconds": 2, "loss": 3.0}]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen = reading.read(run)
    assert [line.sweep for line in seen.lines] == [1, 2] and seen.problems == ()


@pytest.mark.parametrize("loss", [10**400, 1e308, -1e308])
def test_what_cannot_be_drawn_is_damaged(run: Path, loss: float):
    lines = [{"sweep": n, "seconds": 1, "loss": loss if n == 2 else 1.0} for n in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = {"network": "convnet", "protocol": "idc", "epochs": 1, "accuracies": [50.0]}
    change(run, "evaluation.json", kept=[row | {"set": f"a@{'9' * n}@{'9' * n}s"} for n in (5, 400, 5000)])
    seen = reading.read(run)
    assert [line.sweep for line in seen.lines] == [1, 3] and len(seen.problems) == 1 and len(seen.course) == 1
    Page(page.render(seen))


@pytest.mark.parametrize("resolved", ["&a {b: *a}", "{b: 2026-01-01}", "{1: 2}", "{b: 0x" + "f" * 5000 + "}"])
def test_what_yaml_can_say_and_json_cannot_is_damaged(run: Path, resolved: str):
    (run / "config.yaml").write_text(f"resolved: {resolved}\n")
    seen = reading.read(run)
    assert len(seen.problems) == 1 and seen.problems[0].startswith("config.yaml cannot be read")
    Page(page.render(seen))


def test_aliases_that_blow_a_file_up_are_refused():
    bomb: Any = "x"
    for _ in range(10):
        bomb = [bomb] * 9
    with pytest.raises(ValueError, match="too many"):
        reading._check_plain({"a": bomb})
    reading._check_plain({"a": (shared := ["color", "crop"]), "b": shared})


def test_the_slider_ends_with_what_was_chosen(made: Path):
    seen = reading.read(made)
    assert seen.distilled
    last = seen.snapshots[-1][0].sweep
    chosen = dataclasses.replace(seen.distilled, info=seen.distilled.info | {"chosen": {"sweep": 0}})
    _, notes, labels = gallery.gallery(dataclasses.replace(seen, distilled=chosen))
    assert labels[-1].startswith("sweep 0, ") and labels[-1].endswith(": the result")
    assert labels[-2].startswith(f"sweep {last}, ") and "after sweep 0, chosen by" in notes[-1]


def test_names_in_charts_are_shown_and_not_obeyed():
    chart = str(charts.intervals([("a\x1b\u202e", Point(0, 1))], "t\x1b"))
    assert "\x1b" not in chart and "\u202e" not in chart and "a\\x1b" in chart


def test_keeping_is_refused_before_anything_is_scored(run: Path):
    for options in ({"test": "other.npz"}, {"data": "other.npz"}):
        with pytest.raises(InputError, match="Expected no --keep, or neither"):
            report.check_keeping([run], **options)
    for damage in ("{", "[]", '{"kept": [{"set": 1}]}'):
        (run / "evaluation.json").write_text(damage)
        with pytest.raises(InputError, match="is damaged"):
            report.check_keeping([run])


def test_a_damaged_or_foreign_snapshot_is_left_out(run: Path):
    first, *_ = sorted((run / "snapshots").iterdir())
    first.write_bytes(b"\x08")
    RunFolder(run).snapshot(9, 1.0, torch.zeros(3, 1, 3, 8, 8))
    seen = reading.read(run)
    assert len(seen.snapshots) == len(list((run / "snapshots").iterdir())) - 2
    assert [first.name in problem for problem in seen.problems] == [True, False]
    assert seen.problems[1] == "1 snapshots are not of the set's shape and left out."


def test_a_set_without_its_run_has_a_page(made: Path, tmp_path: Path):
    shutil.copytree(made / "distilled", tmp_path / "set")
    seen = reading.read(tmp_path / "set")
    assert [score.set for score in seen.rows] == ["distilled", "random"] and seen.settings["loop.steps"] == 2
    assert seen.problems == ("This is a distilled set without its run: no loss, no snapshots, no environment.",)
    assert Page(page.render(seen)).all("img")


def test_a_run_that_was_just_begun_has_a_page(run: Path):
    for name in ("distilled", "snapshots", "checkpoints"):
        shutil.rmtree(run / name)
    for name in ("metrics.jsonl", "evaluation.json", "nearest.safetensors"):
        (run / name).unlink()
    text = page.render(reading.read(run))
    assert "Unfinished: no sweep is done yet. Nothing has been scored." in text
    assert "There are no images to show." in text and not Page(text).all("img")


# What is refused ----------------------------------------------------------------------------------------------


REFUSED = [
    ("report {run}/nowhere", "'{run}/nowhere' does not exist"),
    ("report {run}/config.yaml", "'{run}/config.yaml' is a file"),
    ("report {run}/snapshots", "is no run: it holds neither config.yaml nor distilled/"),
    ("report {run} --out {run}/env.json", "'{run}/env.json' exists, is no report, and is not written over"),
    ("report {run} --out {run}", "'{run}' is a folder. Expected a file to write, as in {run}/report.html"),
    ("report {run} --out {run}/none/a.html", "'{run}/none' is no folder"),
    ("report {run} {run}/snapshots --out {run}/a.html", "is no run"),
    ("watch {run}/nowhere --once", "it does not exist"),
    ("watch {run}/config.yaml --once", "it is a file"),
    ("watch {run}/snapshots --once", "it holds no config.yaml"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED)
def test_wrong_input_is_refused_with_one_message_and_nothing_is_written(made: Path, line: str, words: str):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    told = command(line.format(run=made))
    assert told.exit_code == 2 and told.stdout == ""
    assert words.format(run=made) in told.stderr and told.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_a_report_is_written_over_and_told(run: Path):
    told = command(f"report {run} --out {run}/mine.html")
    assert told.exit_code == 0 and "kB" in told.stdout
    assert command(f"report {run} --out {run}/mine.html").exit_code == 0
    told = json.loads(command(f"report {run} --json").stdout)
    assert told == {"path": f"{run}/report.html", "bytes": (run / "report.html").stat().st_size}


def test_a_pipe_in_the_place_of_a_page_is_refused_and_not_waited_for(made: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no report"):
        report.write(made, tmp_path / "pipe")


# Several runs -------------------------------------------------------------------------------------------------


def test_runs_are_compared_best_first_with_the_real_images_beside(made: Path, run: Path, tmp_path: Path):
    better = Path(shutil.copytree(run, tmp_path / "better"))
    scores = json.loads((made / "evaluation.json").read_text())["scores"]
    change(better, "evaluation.json", scores=[scores[0] | {"accuracies": [99.0, 97.0]}, scores[1]])
    change(run, "evaluation.json", scores=[])
    written = report.compare([run, made, better], tmp_path / "all.html")
    shown = Page(written.read_text())
    same = [f"{path.parent.name}/run" for path in (made, run)]
    names = [name for name in shown.text("th") if name in ("run", "better", *same)]
    assert names == ["run", "better", *same]  # the head of the column; unscored last
    assert {"98.0 ± 1.4", "88.8 to 100.0", "not scored"} <= set(shown.text("td"))
    assert "random, %" in shown.text("th")


def test_protocols_are_not_mixed(made: Path, run: Path, tmp_path: Path):
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    change(run, "evaluation.json", scores=[score | {"protocol": "idc"} for score in scores])
    with pytest.raises(InputError, match=r"by the protocol 'quick, 1 epochs' and '.*' by 'idc', so .* do not compare"):
        report.compare([made, run], tmp_path / "all.html")
    assert not (tmp_path / "all.html").exists()


def test_runs_are_called_by_as_much_of_their_paths_as_tells_them_apart():
    paths = ["s/idc/seed-0/run", "s/dsa/seed-0/run", "s/dsa/seed-1/run", "other"]
    assert comparison.apart(paths) == ["idc/seed-0/run", "dsa/seed-0/run", "seed-1/run", "other"]
    assert comparison.apart(["a/run", "a/run"]) == ["run", "run"] and comparison.apart(["/"]) == ["/"]


def rescored(seen: reading.Seen, *protocols: str, data: str | None = None) -> reading.Seen:
    """The same run with scores by other protocols, on other data if it is named."""
    rows = tuple(dataclasses.replace(row, protocol=each) for each in protocols for row in seen.rows)
    assert seen.distilled
    source = {"name": data, "fingerprint": data} if data else seen.origin
    distilled = dataclasses.replace(seen.distilled, info=seen.distilled.info | {"source": source})
    return dataclasses.replace(seen, rows=rows, distilled=distilled)


def test_the_last_protocol_common_to_all_is_compared(made: Path):
    seen = reading.read(made)
    both, last = rescored(seen, "quick", "idc"), rescored(seen, "idc")
    assert comparison.protocols(["a", "b"], [both, last]) == {seen.key: "idc"}
    assert comparison.protocols(["a", "b"], [both, both]) == {seen.key: "idc"}
    assert comparison.protocols(["a", "b"], [both, rescored(seen, "dc", "quick")]) == {seen.key: "quick"}
    assert comparison.protocols([], []) == {}
    with pytest.raises(InputError, match="'a' was scored by the protocol 'idc' and 'b' by 'idc, 5 epochs'"):
        comparison.protocols(["a", "b"], [last, rescored(seen, "idc, 5 epochs")])


def test_across_data_sets_a_protocol_may_be_suited_to_each(made: Path):
    seen = rescored(reading.read(made), "quick")
    suited = rescored(seen, "quick, no flip", data="digits")
    assert comparison.protocols(["a", "b"], [seen, suited]) == {seen.key: "quick", "digits": "quick, no flip"}
    with pytest.raises(InputError, match="do not compare"):
        comparison.protocols(["a", "b"], [seen, rescored(seen, "idc, no flip", data="digits")])


def test_the_whole_set_and_the_network_s_shape_stand_beside_each_run(made: Path):
    seen = rescored(reading.read(made), "quick, no flip")
    whole = dataclasses.replace(seen.others[0], set="whole", protocol="whole, no flip")
    shown = Page(comparison.render(["a"], [dataclasses.replace(seen, rows=(*seen.rows, whole))]))
    assert "whole, by a protocol of its own, %" in shown.text("th")
    assert any(cell.startswith("convnet/width=4") for cell in shown.text("td"))


# The copy check -----------------------------------------------------------------------------------------------


def test_the_nearest_real_image_is_the_one_of_a_plain_search():
    real = helpers.stripes()
    distilled = Distilled(
        images=(helpers.noise(4, 3, 8, 8) * 0.2 + 0.5).clamp(0, 1), labels=torch.tensor([1, 0, 1, 0]), factor=2,
        class_names=real.class_names, mean=real.mean, std=real.std,
    )  # fmt: skip
    found = nearest.find(distilled, real)
    decoded, labels = distilled.decode()
    apart = (decoded[:, None].double() - real.images / 255).square().mean((2, 3, 4)).sqrt()  # (m, real)
    apart[labels[:, None] != real.labels] = torch.inf
    for place in range(4):
        own = apart[place::4]  # of the stored image's decoded ones
        expected = own.min()
        assert found.distances[place].item() == pytest.approx(expected.item(), abs=1e-6)
        assert own[found.decoded[place], found.rows[place]] == expected
        helpers.assert_same(found.images[place], real.images[found.rows[place]])
    pixels = real.images.double().flatten(1) / 255
    between = torch.cdist(pixels, pixels, compute_mode="donot_use_mm_for_euclid_dist") / pixels.shape[1] ** 0.5
    between[real.labels[:, None] != real.labels] = torch.inf
    between.fill_diagonal_(torch.inf)
    expected = torch.cat([between.min(1).values[rows] for rows in real.class_index])
    torch.testing.assert_close(found.reference.double(), expected, rtol=0, atol=1e-6)


def test_a_copy_is_at_no_distance_and_counted():
    real = helpers.stripes()
    rows = torch.stack([each[3] for each in real.class_index])
    images = torch.stack([real.images[rows[0]] / 255, (helpers.noise(3, 8, 8) * 0.3 + 0.5).clamp(0, 1)])
    distilled = Distilled(
        images=images, labels=torch.tensor([0, 1]), class_names=real.class_names, mean=real.mean, std=real.std
    )
    found = nearest.find(distilled, real)
    assert found.distances[0] == 0 and found.rows[0] == rows[0] and found.copies >= 1
    assert found.distances[1] > 0
    twins = dataclasses.replace(real, images=torch.cat([real.images] * 2), labels=torch.cat([real.labels] * 2))
    found = nearest.find(distilled, twins)
    assert found.usual == 0 and found.copies == 1, "an exact copy is one, also where every real image has a twin"


def test_a_class_of_one_image_has_a_nearest_and_no_reference():
    real = dataclasses.replace(helpers.stripes(), images=helpers.stripes().images[:3], labels=torch.tensor([0, 0, 1]))
    images = torch.full((2, 3, 8, 8), 0.5)
    distilled = Distilled(
        images=images, labels=torch.tensor([0, 1]), class_names=real.class_names, mean=real.mean, std=real.std
    )
    found = nearest.find(distilled, real)
    assert found.rows[1] == 2 and len(found.reference) == 2
    alone = dataclasses.replace(real, images=real.images[1:], labels=torch.tensor([0, 1]))
    found = nearest.find(dataclasses.replace(distilled, images=alone.images / 255), alone)
    assert len(found.reference) == 0 and found.copies == 2


# Pictures and charts ------------------------------------------------------------------------------------------


def test_a_sheet_shows_the_images_to_the_bit_row_by_row():
    images = torch.rand(3, 3, 4, 4, generator=helpers.generator())
    drawn, count = pictures.draw(images, columns=2)
    pixels = torch.tensor(list(drawn.get_flattened_data()), dtype=torch.uint8).view(9, 9, 4).permute(2, 0, 1)
    expected = (images * 255).round().to(torch.uint8)
    assert count == 3
    helpers.assert_same(pixels[:3, :4, 5:], expected[1])
    helpers.assert_same(pixels[:3, 5:, :4], expected[2])
    assert not pixels[3, 5:, 5:].any() and not pixels[3, 4].any()  # the empty place and the gap are transparent


def test_views_give_up_quality_then_images_then_classes():
    images = torch.rand(30, 10, 3, 8, 8, generator=helpers.generator())

    def view(budget: int) -> pictures.View:
        return pictures.view(30, lambda label, count: images[label, :count], 10, budget)

    whole = view(10**9)
    assert (whole.quality, whole.shown, len(whole.sheets)) == (None, 10, 30)
    budgets = [whole.bytes * percent // 100 for percent in (60, 20, 12, 4)]
    smaller = [view(budget) for budget in budgets]
    assert smaller[0].quality is not None and smaller[0].shown == 10
    assert smaller[1].shown < 10 and smaller[2].shown <= smaller[1].shown
    assert all(
        made.bytes <= whole.bytes * percent // 100 for made, percent in zip(smaller, (60, 20, 12, 4), strict=True)
    )
    assert view(100) == pictures.View((), None, 0)


def test_a_chart_puts_values_where_they_belong():
    text = str(charts.lines([Point(0, 1), Point(10, 3)], "x <b>", "y", "rising"))
    (points,) = re.findall(r'polyline class="line" points="([^"]*)"', text)
    (left, low), (right, high) = ([float(n) for n in point.split(",")] for point in points.split())
    assert left < right and low > high and "x &lt;b&gt;" in text  # y of SVG points downwards
    many = str(charts.lines([Point(x, 1) for x in range(5000)], "x", "y", "flat"))
    assert many.count(",") <= charts.POINTS + 1 and "nan" not in many
    assert "nan" not in str(charts.lines([Point(1, 5), Point(1, 5)], "x", "y", "a point", log=True))


# Watching -----------------------------------------------------------------------------------------------------


def test_watch_once_tells_of_a_finished_run(made: Path):
    told = command(f"watch {made} --once")
    assert told.exit_code == 0 and told.stdout.startswith("run: finished\n")
    assert "2 of 2" in told.stdout and "accuracy of random" in told.stdout and "▀" not in told.stdout
    told = json.loads(command(f"watch {made} --json").stdout)
    assert (told["phase"], told["finished"], told["done"]) == ("finished", True, 1.0)
    assert told["facts"]["sweep"].startswith("2 of 2")
    (first, *_) = json.loads((made / "evaluation.json").read_text())["scores"]
    assert told["facts"]["accuracy"].startswith(f"{first['mean']:.1f}")


def test_watching_loses_no_score_of_several_networks_and_ends_with_the_outcome(run: Path):
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    change(run, "evaluation.json", scores=scores + [score | {"network": "mlp"} for score in scores])
    facts = json.loads(command(f"watch {run} --json").stdout)["facts"]
    assert {"accuracy on convnet", "accuracy of random on mlp", "accuracy on mlp"} <= {*facts}

    outcome = (run / "evaluation.json").read_text()
    (run / "evaluation.json").unlink()
    console = Console(file=io.StringIO(), force_terminal=True, width=100)

    def ended_meanwhile(*arguments: Any) -> Any:
        found = shown(*arguments)
        (run / "evaluation.json").write_text(outcome)
        return found

    shown = watching.shown
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watching, "shown", ended_meanwhile)
        watching.watch(run, every=0.01, console=console)
    assert "finished" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_at_work_says_how_far_it_is_and_that_it_is_safe_to_stop(run: Path):
    shutil.rmtree(run / "distilled")
    (run / "evaluation.json").unlink()
    told = yaml.safe_load((run / "config.yaml").read_text())
    told["resolved"]["loop"] |= {"steps": 100, "inner_steps": 2}
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    lines = [{"sweep": 10 * n, "seconds": float(n), "loss": 8.0 / n} for n in (1, 2, 4)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    saved = max((run / "checkpoints").iterdir()) / "manifest.json"
    damaged = run / "checkpoints" / "sweep-0000000.damaged-1"  # was set aside
    damaged.mkdir()
    (damaged / "manifest.json").touch()
    standing = watching.stand(run, saved.stat().st_mtime + 12)
    facts = dict(standing.facts)
    assert standing.phase == "distilling" and standing.done == 0.2
    assert facts["sweep"].startswith("40 of 200, 4.0 s") and facts["loss"] == "2, from 8"
    assert facts["time left"].startswith("about 16 s")  # 160 sweeps at 10 a second
    assert facts["safe to stop"].startswith("saved 12 s ago")
    later = watching.stand(run, (run / "metrics.jsonl").stat().st_mtime + 500)
    assert later.phase == "distilling, or stopped" and f"--resume {run}" in dict(later.facts)["silent"]
    told["resolved"]["loop"] |= {"budget": 10}
    (run / "config.yaml").write_text(yaml.safe_dump(told))
    assert watching.stand(run, 0.0).done == 0.4  # what comes first ends it


def test_phases_follow_from_the_folder(run: Path):
    (run / "evaluation.json").unlink()
    assert watching.stand(run, 0.0).phase == "scoring"
    shutil.rmtree(run / "distilled")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["resolved"]["score"]["choose"] = "validation"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert watching.stand(run, 0.0).phase == "choosing a snapshot"
    (run / "metrics.jsonl").unlink()
    assert watching.stand(run, 0.0).phase == "distilling"
    shutil.rmtree(run / "snapshots")
    assert watching.stand(run, 0.0).phase.startswith("before the first sweep")


@pytest.fixture
def at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on a file that seems to have two snapshots and no end yet."""
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "cache"))
    stripes = helpers.stripes()
    np.savez(tmp_path / "stripes.npz", images=stripes.images.numpy(), labels=stripes.labels.numpy())
    accdd.distill(tmp_path / "stripes.npz", ipc=2, out=tmp_path / "run", settings={**SCORED, "score.seeds": 0})
    (tmp_path / "run/evaluation.json").unlink()
    shutil.rmtree(tmp_path / "run/distilled")
    return tmp_path / "run"


def test_interim_scores_are_on_training_images_beside_random_ones(at_work: Path, monkeypatch: pytest.MonkeyPatch):
    scored: list[tuple[Any, ...]] = []
    score = evaluation.score

    def watched(*args: Any, **options: Any) -> Any:
        scored.append((*args, options["rows"]))
        return score(*args, **options)

    monkeypatch.setattr(evaluation, "score", watched)
    before = {path: path.read_bytes() for path in at_work.rglob("*") if path.is_file()}
    interim = accdd.run.InterimScores(at_work)
    first = interim.newest()
    assert first and first.sweep == 2 and first.protocol == "quick, 1 epochs"
    assert interim.newest() is first and len(scored) == 2  # no network more
    (_, learned, labels, real, *_, none), (_, images, _, _, *_, rows) = scored
    assert len(learned) == len(labels) == 2 * 2 * 4 and none is None and rows.shape == (1, 2 * 2)
    source = np.load(at_work.parent / "stripes.npz")["images"]
    everything = {image.tobytes() for image in source}
    tested, known = ({image.numpy().tobytes() for image in each} for each in (real.test_images, images))
    assert first.images == len(real.test_images) and tested | known < everything and not tested & known
    max((at_work / "snapshots").iterdir()).unlink()
    earlier = interim.newest()
    assert earlier and earlier.sweep < 2 and earlier.random == first.random and len(scored) == 3
    shutil.rmtree(at_work / "snapshots")
    assert interim.newest() is None
    assert all(path.read_bytes() == bytes for path, bytes in before.items() if path.exists())


def test_interim_scores_of_a_run_that_is_tested_on_held_out_images_are_on_these(at_work: Path):
    source, out = at_work.parent / "stripes.npz", at_work.parent / "held"
    accdd.distill(source, out=out, settings={**SCORED, "score.seeds": 0, "data.held_out": 0.25})
    first = accdd.run.InterimScores(out).newest()
    real = accdd.data.load(source, accdd.config.Data(held_out=0.25))
    assert first and first.images == len(real.test_images) and first.protocol == "quick, 1 epochs, held out"


def test_watching_shows_an_interim_score(at_work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accdd.execution, "stand_back", lambda: None)  # it is for good
    told = command(f"watch {at_work} --once --score")
    assert told.exit_code == 0 and re.search(r"accuracy +\d+\.\d % after sweep 2, random \d+\.\d %", told.stdout)
    told = json.loads(command(f"watch {at_work} --score --json").stdout)
    assert "protocol quick, 1 epochs, on" in told["facts"]["accuracy"]
    assert "accuracy" not in json.loads(command(f"watch {at_work} --json").stdout)["facts"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": None}, "was given as arrays"),
        ({"fingerprint": "another"}, "has changed"),
        ({"shard": [1, 2]}, "some of the classes alone"),
        ({"network": "mine:net"}, "which is code"),
        ({"ipc": 9}, "has only 8 training images"),
    ],
)
def test_what_cannot_be_scored_yet_is_refused(at_work: Path, change: dict[str, Any], words: str):
    told = yaml.safe_load((at_work / "config.yaml").read_text())
    if "network" in change:
        told["resolved"]["network"]["name"] = change["network"]
    elif "shard" in change or "ipc" in change:
        told["resolved"] |= change
    else:
        told |= change
    (at_work / "config.yaml").write_text(yaml.safe_dump(told))
    told = command(f"watch {at_work} --once --score")
    assert told.exit_code == 2 and words in told.stderr and "Expected no --score" in told.stderr


class Endless:
    """Scores that would take for ever."""

    begun = False

    def newest(self, report: Any) -> None:
        self.begun = True
        while True:
            report(0.5)
            time.sleep(0.01)


class Broken:
    def newest(self, report: Any) -> None:
        raise OSError("the data is gone")


def until(true: Any) -> bool:
    """Wait for something, for a while."""
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


def test_interim_scores_end_with_the_watching_and_do_not_end_it():
    console, scores = Console(file=io.StringIO()), Endless()
    before = set(threading.enumerate())
    with watching._beside(scores, console) as interim:  # pyright: ignore[reportArgumentType]
        assert until(lambda: scores.begun) and interim() is None
    assert set(threading.enumerate()) == before
    with watching._beside(Broken(), console) as interim:  # pyright: ignore[reportArgumentType]
        assert until(lambda: interim() == "not known: the data is gone")
    with watching._beside(None, console) as interim:
        assert interim() is None and set(threading.enumerate()) == before


def test_a_snapshot_that_cannot_be_read_is_passed_over(at_work: Path):
    newest = max((at_work / "snapshots").iterdir())
    newest.write_bytes(newest.read_bytes()[:100])
    found = accdd.run.newest_snapshot(at_work)
    assert found and found[0].sweep < 2 and found[1].shape[:2] == (2, 2)
    for file in (at_work / "snapshots").iterdir():
        file.unlink()
    os.mkfifo(newest)
    assert accdd.run.newest_snapshot(at_work) is None


def test_networks_that_would_score_the_result_are_not_imported_to_watch_it(at_work: Path):
    told = yaml.safe_load((at_work / "config.yaml").read_text())
    told["resolved"]["score"]["networks"] = ["mine:net"]
    told["resolved"] |= {"precision": "bf16", "compile": "always"}  # as on a GPU
    (at_work / "config.yaml").write_text(yaml.safe_dump(told))
    scores = accdd.run.InterimScores(at_work)
    settings = scores._settings
    assert (settings.score.networks, settings.precision, settings.compile) == ((), "auto", "auto")


def test_images_become_half_blocks_of_their_colours(made: Path):
    images = torch.zeros(2, 3, 2, 2)
    images[0, 0, 0] = 1.0  # red above
    images[0, 2, 1] = 1.0  # blue below
    text = watching.blocks(images, 80)
    assert text.plain == "▀▀ ▀▀ \n"
    style = text.spans[0].style
    assert str(style) == "#ff0000 on #0000ff"
    assert watching.blocks(images, 2).plain == "▀▀ \n"
    console = Console(force_terminal=True, color_system="truecolor", width=80, record=True, file=io.StringIO())
    watching.watch(made, once=True, console=console)
    assert "▀" in console.export_text()


# Trackers -----------------------------------------------------------------------------------------------------


class Raises:
    """A tracker that fails at its second message."""

    def __init__(self, folder: Path, first: int) -> None:
        self.told = 0

    def scalars(self, sweep: int, values: Any) -> None:
        self.told += 1
        raise OSError("the server is gone")

    def images(self, sweep: int, images: Any) -> None: ...
    def close(self) -> None: ...


class Keeps:
    """A tracker that keeps what it is told."""

    told: list[tuple[Any, ...]]

    def __init__(self, folder: Path, first: int) -> None:
        Keeps.told = [("begin", first)]

    def scalars(self, sweep: int, values: Any) -> None:
        Keeps.told.append(("scalars", sweep, values))

    def images(self, sweep: int, images: torch.Tensor) -> None:
        Keeps.told.append(("images", sweep, tuple(images.shape)))

    def close(self) -> None:
        Keeps.told.append(("close",))


def distil(out: Path, notes: list[str], track: str) -> None:
    stripes, quiet = helpers.stripes(), Quiet()
    quiet.note = notes.append  # type: ignore[method-assign]
    arrays = (stripes.images.numpy(), stripes.labels.numpy())
    settings = {**TINY, "score.seeds": 1, "score.epochs": 1}
    accdd.distill(arrays, out=out, settings=settings, track=track, reporter=quiet)


def test_a_tracker_that_raises_changes_nothing_and_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(tracking.TRACKERS, "fragile", Raises)
    notes: list[str] = []
    distil(tmp_path / "run", notes, "fragile")
    assert (tmp_path / "run" / "report.html").exists()
    said = [note for note in notes if note.startswith("--track fragile")]
    assert said == ["--track fragile: OSError: the server is gone. It is told nothing more; the run goes on."]


def test_a_tracker_is_told_of_losses_images_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(tracking.TRACKERS, "keeps", Keeps)
    distil(tmp_path / "run", [], "keeps")
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["scores"]
    assert [each for each in Keeps.told if each[0] == "scalars"] == [
        *(("scalars", line["sweep"], {"loss": line["loss"]}) for line in losses),
        ("scalars", 2, {f"{score['set']}, convnet, {score['protocol']}, %": score["mean"] for score in scores}),
    ]
    assert ("images", 0, (2, 1, 3, 8, 8)) in Keeps.told
    assert Keeps.told[0] == ("begin", None) and Keeps.told[-1] == ("close",)


def test_a_tracker_that_is_behind_is_closed_all_the_same(monkeypatch: pytest.MonkeyPatch):
    """Its queue is full when the run ends: it misses messages, but not the last one, which lets it write them out."""
    monkeypatch.setattr(tracking, "PATIENCE", 5)
    told, go_on = [], threading.Event()

    class Slow:
        def scalars(self, sweep: int, values: object) -> None:
            go_on.wait()
            told.append(sweep)

        def close(self) -> None:
            told.append("close")

    follower = tracking.Follower(Slow, lambda text: None)  # type: ignore[arg-type]
    for sweep in range(3 * tracking.WAITING):
        follower.scalars(sweep, {"loss": 1.0})
    threading.Timer(0.2, go_on.set).start()
    follower.close()
    assert told[-1] == "close" and tracking.WAITING <= len(told) < 3 * tracking.WAITING


def test_a_tracker_that_hangs_does_not_slow_the_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    hang = threading.Event()
    follower = tracking.Follower(lambda: hang.wait() and Keeps(Path(), 0), lambda text: None)  # type: ignore[arg-type]
    began = time.monotonic()
    for sweep in range(10 * tracking.WAITING):
        follower.scalars(sweep, {"loss": 1.0})
    follower.close()
    assert time.monotonic() - began < 2
    hang.set()


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told = command(f"distill digits --out {tmp_path}/run --track tensorbord")
    assert told.exit_code == 2 and "Did you mean 'tensorboard'?" in told.stderr
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    told = command(f"distill digits --out {tmp_path}/run --track tensorboard")
    assert told.exit_code == 2 and "pip install tensorboard" in told.stderr
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_a_run_wrote(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import (  # pyright: ignore[reportMissingImports]
        EventAccumulator,
    )

    notes: list[str] = []
    distil(tmp_path / "run", notes, "tensorboard")
    assert not [note for note in notes if note.startswith("--track")]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [
        (line["sweep"], pytest.approx(line["loss"], rel=1e-6)) for line in lines
    ]
    assert events.Images("learned")[0].step == 0
