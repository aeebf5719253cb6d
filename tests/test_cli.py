"""The command as a user types it: what is refused, in which words, and that nothing is left behind by a refusal."""

import json
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_hub
import numpy as np
import pytest
import typer.main
import yaml
from PIL import Image
from typer.testing import CliRunner

from accdd.cli import app, shell
from accdd.config import InputError
from accdd.networks import NETWORKS

README = Path(__file__).parents[1] / "README.md"
TINY = "--steps 1 --set pool.networks=1 --set pool.epochs=0.1 --set network.width=4 --set score.seeds=0"


def accdd(command: str) -> Any:
    """The result of a command in this process: exit_code, stdout, stderr, exception."""
    return CliRunner().invoke(app, shlex.split(command))


def process(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "accdd", *shlex.split(command)], cwd=folder, capture_output=True, text=True, timeout=60
    )


def write_pictures(root: Path, counts: dict[str, int]) -> None:
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


def write_arrays(path: Path, **changes: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    arrays = {"images": images, "labels": np.arange(24) % 2} | changes
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data, good and bad, and a finished run; no test may change any of it."""
    root = tmp_path_factory.mktemp("place")
    write_pictures(root / "pictures", {"ant": 12, "bee": 5})
    write_pictures(root / "one", {"ant": 4})
    write_pictures(root / "broken", {"ant": 6, "bee": 6})
    picture = root / "broken" / "bee" / "3.png"
    picture.write_bytes(picture.read_bytes()[:-60])
    (root / "empty").mkdir()
    (root / "full").mkdir()
    (root / "full" / "thesis.txt").write_text("the only copy")

    write_arrays(root / "good.npz")
    floats = np.random.default_rng(0).random((24, 8, 8), dtype=np.float32)
    with_nan = floats.copy()
    with_nan[3, 2, 1] = np.nan
    write_arrays(root / "nan.npz", images=with_nan)
    write_arrays(root / "small.npz", images=floats[:, :3, :3])
    write_arrays(root / "range.npz", images=floats * 255)
    write_arrays(root / "flat.npz", images=np.zeros((24, 64), dtype=np.uint8))
    write_arrays(root / "last.npz", images=np.zeros((24, 8, 8, 3), dtype=np.uint8))
    write_arrays(root / "negative.npz", labels=np.arange(24) % 2 - 1)
    write_arrays(root / "gaps.npz", labels=np.arange(24) % 2 * 2)
    write_arrays(root / "matrix.npz", labels=np.eye(24, dtype=np.int64))
    write_arrays(root / "short.npz", labels=np.arange(23) % 2)
    write_arrays(root / "three.npz", labels=np.arange(24) % 3)
    np.savez(root / "unnamed.npz", np.zeros(3))
    (root / "junk.npz").write_text("not an archive")

    (root / "malformed.yaml").write_text("pool: [1\n")
    (root / "list.yaml").write_text("- ipc\n- 1\n")
    (root / "unknown.yaml").write_text("pool:\n  epoch: 3\n")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(root / "cache"))
        assert accdd(f"distill {root}/good.npz --out {root}/run {TINY}").exit_code == 0
    yield root


def contents(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.fixture
def untouched(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether nothing was written so far: not in the working folder, not beside the data, not in the cache.

    Data that was read in full before something else was refused may be kept for the next command.
    """
    monkeypatch.chdir(tmp_path)  # the cache of a test lies in it too
    before, decoded = contents(place), tmp_path / "accdd-cache" / "data"

    def is_untouched() -> bool:
        written = [path for path in tmp_path.rglob("*") if path not in (decoded, decoded.parent)]
        kept = {path.parent for path in written if path.name == "manifest.json" and path.parent.parent == decoded}
        return all(path in kept or path.parent in kept for path in written) and contents(place) == before

    return is_untouched


# What is wrong, the arguments, and words the message must have. {p} is the fixture `place`; --out is new.
DISTILL = [
    ("no such data", "{p}/nowhere", "No data at; {p}/nowhere; digits; .npz; hf:owner/name"),
    ("no data of that name", "digit", "No data at 'digit'; digits"),
    ("an empty folder", "{p}/empty", "No class folders in '{p}/empty'; one folder of pictures per class"),
    ("one class", "{p}/one", "Only one class folder ('ant'); at least 2"),
    ("a class below ipc", "{p}/pictures --ipc 5", "Class 'bee' has 4 training images; --ipc 5; lower --ipc to 4"),
    ("a truncated picture", "{p}/broken", "{p}/broken/bee/3.png; runcated; --set data.skip_unreadable=true"),
    ("negative labels", "{p}/negative.npz", "Training labels are -1, 0; expected 0 to 1; np.unique"),
    ("labels with gaps", "{p}/gaps.npz", "Training labels are 0, 2; without gaps; np.unique"),
    ("labels of rank 2", "{p}/matrix.npz", "labels is int64 (24, 24); (n,); argmax(1)"),
    ("too few labels", "{p}/short.npz", "labels has 23 entries for 24 images"),
    ("NaN pixels", "{p}/nan.npz", "images has 1 pixels that are NaN; expected floats in [0, 1]"),
    ("pixels out of range", "{p}/range.npz", "outside [0, 1]; Divide by 255"),
    ("images of rank 2", "{p}/flat.npz", "images is uint8 (24, 64); (n, c, h, w); (n, h, w)"),
    ("channels last", "{p}/last.npz", "images is uint8 (24, 8, 8, 3); images.transpose(0, 3, 1, 2)"),
    ("arrays without names", "{p}/unnamed.npz", "holds the arrays arr_0; expected images and labels"),
    ("no archive", "{p}/junk.npz", "{p}/junk.npz; not a readable .npz file; np.savez"),
    ("ipc 0", "{p}/good.npz --ipc 0", "'ipc' = 0; greater than or equal to 1"),
    ("a negative seed", "{p}/good.npz --seed -1", "'seed' = -1; greater than or equal to 0"),
    ("negative steps", "{p}/good.npz --steps -1", "'loop.steps' = -1; greater than or equal to 0"),
    ("an unknown method", "{p}/good.npz --method icd", "Unknown method 'icd'; Did you mean 'idc'?; one of: idc"),
    ("an unknown network", "{p}/good.npz --network convet", "Unknown network 'convet'; Did you mean 'convnet'?"),
    ("an unknown device", "{p}/good.npz --device tpu", "Device 'tpu' is not available here; auto or one of:; cpu"),
    ("an unknown precision", "{p}/good.npz --precision fp16", "'precision' = 'fp16'; 'auto', 'fp32' or 'bf16'"),
    ("compiling sometimes", "{p}/good.npz --compile maybe", "'compile' = 'maybe'; 'auto', 'always' or 'never'"),
    ("an unknown precision to set", "{p}/good.npz --set precision=tf32", "'precision' = 'tf32'; 'fp32' or 'bf16'"),
    ("no classes at once", "{p}/good.npz --set match.classes=0", "'match.classes' = 0; greater than or equal to 1"),
    ("an unknown preset", "{p}/good.npz --preset idc-cifar", "Unknown preset 'idc-cifar'; mean 'idc-cifar10'?"),
    ("a colour preset on grey data", "{p}/good.npz --preset idc-cifar10", "data.mean has 3 numbers. Expected 1"),
    ("an unknown protocol", "{p}/good.npz --set score.protocol=quik", "Unknown protocol 'quik'; mean 'quick'?; idc"),
    ("an unknown network to score", "{p}/good.npz --set score.networks=[convnet,resnet]", "Unknown network 'resnet'"),
    ("a misspelt setting", "{p}/good.npz --set pool.epoch=3", "Unknown setting 'pool.epoch'; mean 'pool.epochs'?"),
    ("a foreign setting", "{p}/good.npz --set perturb.v_max=1", "Unknown setting 'perturb.v_max'; accdd settings"),
    ("a group for a setting", "{p}/good.npz --set pool=3", "Unknown setting 'pool'; accdd settings"),
    ("text for a number", "{p}/good.npz --set pool.networks=many", "'pool.networks' = 'many'; integer"),
    ("text for numbers", "{p}/good.npz --set pool.epochs=soon", "'pool.epochs' = 'soon'; number"),
    ("text for a list", "{p}/good.npz --set match.augment=color", "'match.augment' = 'color'; a list, as in [a, b]"),
    ("a negative rate", "{p}/good.npz --set train.lr=-1", "'train.lr' = -1; greater than 0"),
    ("a scale of no rate", "{p}/good.npz --set pool.lr_scales=[1,0]", "'pool.lr_scales'; expected numbers above 0"),
    ("a range upside down", "{p}/good.npz --set perturb.magnitude=[0.2,0.1]", "'perturb.magnitude'; low <= high"),
    ("no value", "{p}/good.npz --set novalue", "--set novalue has no '='; KEY=VALUE"),
    ("half a value", "{p}/good.npz --set pool.epochs=[1", "--set pool.epochs=[1; not YAML"),
    ("an unknown siamese augmentation", "{p}/good.npz --set match.augment=[color,crp]", "'crp'; color, crop, scale"),
    ("an unknown augmentation", "{p}/good.npz --set train.augment=[crp]", "'crp'; color, crop, scale"),
    ("one in the pool", "{p}/good.npz --set pool.augment=[[color],[crp]]", "'crp'; color, crop, scale"),
    ("a bad budget", "{p}/good.npz --budget 10x", "--budget 10x is not a duration; s, m or h, as in 10m"),
    ("no budget", "{p}/good.npz --budget 0s", "'loop.budget' = 0; greater than 0"),
    ("a missing configuration", "{p}/good.npz --config {p}/no.yaml", "'{p}/no.yaml' cannot be read; No such file"),
    ("a malformed configuration", "{p}/good.npz --config {p}/malformed.yaml", "malformed.yaml' cannot be read; line"),
    ("a list for a configuration", "{p}/good.npz --config {p}/list.yaml", "is a list; keys and values"),
    ("a folder for a configuration", "{p}/good.npz --config {p}", "'{p}' cannot be read"),
    ("an unknown key in it", "{p}/good.npz --config {p}/unknown.yaml", "'pool.epoch'; Did you mean 'pool.epochs'?"),
    ("targets below 0", "{p}/good.npz --targets -1", "'targets.count' = -1; greater than or equal to 0"),
    ("targets in words", "{p}/good.npz --targets many", "--targets many is no number; --targets 300, or auto"),
    ("targets and training", "{p}/good.npz --targets 9 --inner-steps 5", "--targets 9; inner_steps 5; --targets 0"),
    ("a folder that is no bank", "{p}/good.npz --set targets.folder={p}/full", "'{p}/full' is no target bank; new"),
    ("a schedule of its own", "{p}/good.npz --set images.schedule=step", "'constant' or 'cosine'"),
    ("images too small", "{p}/small.npz", "3 x 3 pixels; at least 4 x 4; --set data.size=8"),
    ("tiles too small", "{p}/good.npz --factor 3", "images.factor 3; 8-pixel images; Expected one of 1, 2 (--factor)"),
    ("a factor beyond all", "{p}/good.npz --factor 9", "'images.factor' = 9; less than or equal to 8"),
    ("a network too deep", "{p}/good.npz --set network.depth=4", "depth 4; 8-pixel images; network.depth at most 3"),
    ("an unknown norm", "{p}/good.npz --set network.norm=bach", "'network.norm' = 'bach'; 'batch'; or 'none'"),
    ("a norm where there is none", "{p}/good.npz --network mlp --set network.norm=batch", "norm is batch; mlp has no"),
    ("images too small for it", "{p}/good.npz --network resnet10", "A resnet10 shrinks 8-pixel; --set data.size=16"),
    ("a network that is not there", "{p}/good.npz --network no_net:build", "Importing 'no_net'; ModuleNotFoundError"),
    ("constants for RGB", "{p}/good.npz --set data.mean=[0.5,0.5,0.5]", "data.mean has 3 numbers. Expected 1"),
    ("a deviation of 0", "{p}/good.npz --set data.std=[0]", "'data.std'; above 0"),
]  # fmt: skip

OTHERS = [
    ("an out that holds a run", "distill {p}/good.npz --out {p}/run", "{p}/run' holds a finished run; --out {p}/run-2"),
    ("an out that is full", "distill {p}/good.npz --out {p}/full", "'{p}/full' is not empty; use --out {p}/full-2"),
    ("an out that is a file", "distill {p}/good.npz --out {p}/junk.npz", "{p}/junk.npz' is a file; {p}/junk.npz-2"),
    ("an out in its data", "distill {p}/pictures --out {p}/pictures/a/b", "'{p}/pictures/a/b' lies in; --out outside"),
    ("an out in its data, by a name with dots", "distill {p}/pictures --out {p}/run/../pictures/b", "b' lies in"),
    ("a study in its data", "ablate {p}/pictures --over ipc=1 --out {p}/pictures/s", "'{p}/pictures/s' lies in the"),
    ("an out in dots", "distill {p}/good.npz --out {p}/run/..", "is not empty; use --out {p}-2"),
    ("evaluating nothing", "evaluate {p}/nowhere", "{p}/nowhere does not exist; distilled.json"),
    ("evaluating pictures", "evaluate {p}/pictures", "{p}/pictures is no distilled set; distilled.json"),
    ("a second set that is none", "evaluate {p}/run {p}/nowhere --epochs 1", "{p}/nowhere does not exist"),
    ("unknown network", "evaluate {p}/run --networks convnet,rsenet", "Unknown network 'rsenet'; one of: convnet"),
    ("unknown protocol", "evaluate {p}/run --protocol icd", "Unknown protocol 'icd'; mean 'idc'?; quick"),
    ("device of an evaluation", "evaluate {p}/run --device cuda:99", "Device 'cuda:99' is not available here; cpu"),
    ("precision of an evaluation", "evaluate {p}/run --precision half", "'precision' = 'half'; 'fp32' or 'bf16'"),
    ("compiling an evaluation", "evaluate {p}/run --compile yes", "'compile' = 'yes'; 'auto', 'always' or 'never'"),
    ("precision of a pool", "pool {p}/good.npz --precision half", "'precision' = 'half'; 'auto', 'fp32' or 'bf16'"),
    ("compiling a pool", "pool {p}/good.npz --compile yes", "'compile' = 'yes'; 'auto', 'always' or 'never'"),
    ("targets of nothing", "targets {p}/nowhere", "No data at '{p}/nowhere'"),
    ("no targets", "targets {p}/good.npz --count 0", "--count 0; at least 1"),
    ("seed of an evaluation", "evaluate {p}/run --seed -1", "'seed' = -1; greater than or equal to 0"),
    ("other classes to test on", "evaluate {p}/run --test {p}/three.npz", "3 classes of 1 x 8 x 8; the set 2 of 1 x 8"),
    ("no data to test on", "evaluate {p}/run --test {p}/nowhere", "No data at '{p}/nowhere'"),
    ("snapshots of a set", "evaluate {p}/run/distilled --snapshots", "no snapshots; a run folder"),
    ("info on nothing", "info {p}/nowhere", "{p}/nowhere does not exist; distilled.json"),
    ("info on pictures", "info {p}/pictures", "{p}/pictures is no distilled set"),
    ("exporting over a file", "export {p}/run {p}/good.npz", "{p}/good.npz exists already; not overwritten; another"),
    ("exporting to anything", "export {p}/run mine.zip --to zip", "Unknown export format 'zip'; one of: npz"),
    ("exporting nothing", "export {p}/nowhere mine.npz", "{p}/nowhere does not exist"),
    ("measuring what rounds nothing", "export {p}/run mine.npz --measure", "npz rounds nothing; --to png or hf"),
    ("measuring not at all", "export {p}/run mine --to png --seeds 2", "--network and --seeds say; --measure beside"),
    ("measuring on nothing", "export {p}/run mine --to png --measure --test {p}/no", "No data at '{p}/no'"),
    ("importing nothing", "import {p}/nowhere.pt mine --from idc", "{p}/nowhere.pt: there is no such file"),
    ("importing arrays", "import {p}/good.npz mine --from idc", "{p}/good.npz: ; not of torch.save; Nothing"),
    ("importing what", "import {p}/pictures mine --from folders", "Did you mean 'folder'; idc, dc, mtt, folder"),
    ("a mean of words", "import {p}/x.pt mine --from dc --mean a,b --std 1", "--mean a,b: expected numbers; 0.4914,"),
    ("no names", "import {p}/pictures mine --from folder --classes {p}/no", "'{p}/no' cannot be read as text"),
    ("importing onto data", "import {p}/pictures {p}/full --from folder", "{p}/full exists already; another folder"),
    ("a pool for nothing", "pool {p}/nowhere", "No data at '{p}/nowhere'"),
    ("a pool of no networks", "pool {p}/good.npz --set pool.networks=0", "'pool.networks' = 0; than or equal to 1"),
    ("a pool with an unknown augmentation", "pool {p}/good.npz --set train.augment=[crp]", "'crp'; color, crop"),
]  # fmt: skip

WRONG = [(what, f"distill {arguments} --out out", words) for what, arguments, words in DISTILL] + OTHERS


@pytest.mark.parametrize(("command", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_input_ends_with_one_message_and_leaves_nothing(
    place: Path, untouched: Callable[[], bool], command: str, words: str
):
    command = command.replace("{p}", str(place))
    result = accdd(command)
    assert result.exit_code == 2, result.stderr or result.exception
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr and "pydantic" not in result.stderr
    for word in words.replace("{p}", str(place)).split("; "):
        assert word in result.stderr
    assert untouched()

    debugged = accdd(f"{command} --debug")
    assert isinstance(debugged.exception, InputError) and debugged.exit_code != 2
    assert untouched()


@pytest.mark.parametrize(
    ("command", "words"),
    [("distill digits", "expected DATA and --out NEW_FOLDER"),
     ("distill --out out", "expected DATA and --out NEW_FOLDER"),
     ("distill digits --out out --ipc two", "'--ipc'; integer"),
     ("distill digits --out out --inner-step 2", "No such option: --inner-step; --inner-steps"),
     ("evaluate run --seeds 0", "Invalid value for '--seeds'; 1"), ("condense digits", "No such command 'condense'"),
     ("evaluate run --epochs 0", "Invalid value for '--epochs'; 1")],
    ids=str,
)  # fmt: skip
def test_wrong_flags_show_the_usage_and_leave_nothing(untouched: Callable[[], bool], command: str, words: str):
    result = accdd(command)
    assert result.exit_code == 2 and result.stdout == ""
    assert "Usage: " in result.stderr
    for word in words.split("; "):
        assert word in result.stderr
    assert untouched()


def test_the_setting_that_an_unreadable_picture_suggests_skips_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    refused = accdd(f"distill {place}/broken --out out {TINY}")
    suggested = re.search(r"--set \S+=true", refused.stderr)
    assert refused.exit_code == 2 and suggested
    accepted = accdd(f"distill {place}/broken --out out {TINY} {suggested[0]}")
    assert accepted.exit_code == 0
    assert "unreadable pictures skipped: 1" in accepted.stderr and "3.png" in accepted.stderr


def test_ctrl_c_outside_of_the_loop_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("accdd.augmented_models.load_or_build", interrupted)
    told = CliRunner().invoke(app, ["distill", "digits", "--targets", "0", "--out", str(tmp_path / "run")])
    assert told.exit_code == 130 and f"Go on with: accdd distill --resume {tmp_path}/run\n" in told.stderr
    assert "evaluate" not in told.stdout
    monkeypatch.undo()
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("accdd.report.finish", interrupted)
    few = "--steps 1 --no-early-stage --set network.width=4 --set score.seeds=0".split()
    told = CliRunner().invoke(app, ["distill", "digits", *few, "--out", str(tmp_path / "done")])
    assert told.exit_code == 130 and f"All but the page is there: accdd report {tmp_path}/done\n" in told.stderr
    told = CliRunner().invoke(app, ["distill", "digits", "--method", "nothing", "--out", str(tmp_path / "none")])
    assert told.exit_code == 2 and "--resume" not in told.stderr


@pytest.mark.parametrize(
    ("line", "called", "told"),
    [
        ("pool digits --targets 60 --steps 9 --budget 2m", "accdd.ahead.build_pool",
         {"settings": {"targets.count": 60, "loop.steps": 9, "loop.budget": 120.0}}),
        ("pool digits --targets auto", "accdd.ahead.build_pool", {"settings": {"targets.count": None}}),
        ("evaluate {p}/run --max-memory 8GB", "accdd.scoring.evaluate", {"max_memory": 8.0}),
        ("export {p}/run {t}/out --to png --measure --network mlp", "accdd.scoring.measure_rounding",
         {"network": "mlp"}),
    ],
)  # fmt: skip
def test_flags_reach_what_they_are_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, called: str, told: dict[str, Any]
):
    seen: dict[str, Any] = {}

    def asked(*_: object, **options: Any) -> None:
        seen.update(options)
        raise InputError("that is enough")

    monkeypatch.setattr(called, asked)
    assert "that is enough" in accdd(line.format(p=place, t=tmp_path)).stderr
    assert {name: seen[name] for name in told} == told


def test_the_setting_that_small_images_suggest_enlarges_them(place: Path, tmp_path: Path):
    told = accdd(f"distill {place}/small.npz --out {tmp_path}/out {TINY} --set data.size=8")
    assert told.exit_code == 0 and "resized to 8 x 8" in told.stderr


def test_the_working_folder_serves_as_out(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    told = accdd(f"distill {place}/good.npz --out . {TINY}")
    assert told.exit_code == 0 and "accdd export . --to npz mine.npz" in told.stdout
    assert "use --out" in accdd(f"distill {place}/good.npz --out . {TINY} --ipc 2").stderr


def test_the_command_of_a_finished_run_typed_again_gives_its_result(place: Path):
    again = accdd(f"distill {place}/good.npz --out {place}/run {TINY} --json")
    assert again.exit_code == 0 and "is finished: nothing is made again" in again.stderr
    assert json.loads(again.stdout)["out"] == str(place / "run")


def test_settings_of_early_stage_models_that_are_not_drawn_are_named(place: Path, tmp_path: Path):
    told = accdd(f"distill {place}/good.npz --out {tmp_path}/fresh --method dsa {TINY}")
    assert "pool.networks, pool.epochs: but dsa draws fresh networks unless told --early-stage." in told.stderr
    told = accdd(f"distill {place}/good.npz --out {tmp_path}/early --method dsa --early-stage {TINY}")
    assert told.exit_code == 0 and "draws fresh" not in told.stderr
    told = accdd(f"distill {place}/good.npz --out {tmp_path}/warm --early-stage {TINY} --set loop.warm_up=0.1")
    assert told.exit_code == 0 and "loop.warm_up: but early-stage models are drawn, which have none" in told.stderr
    told = accdd(f"distill {place}/good.npz --out {tmp_path}/once {TINY} --set loop.train_images=8 --inner-steps 1")
    assert "loop.train_images: but networks are trained between sweeps with --inner-steps of 2 or more" in told.stderr


def test_the_folder_that_a_taken_one_suggests_is_free(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for taken in ("mine", "mine-2"):
        (tmp_path / taken).mkdir()
        (tmp_path / taken / "thesis.txt").touch()
    refused = accdd(f"distill {place}/good.npz --out mine {TINY}")
    assert "use --out mine-3," in refused.stderr
    assert accdd(f"distill {place}/good.npz --out mine-3 {TINY}").exit_code == 0


def test_an_empty_folder_is_accepted_as_out(place: Path, tmp_path: Path):
    (tmp_path / "new").mkdir()
    assert accdd(f"distill {place}/good.npz --out {tmp_path}/new {TINY}").exit_code == 0
    assert (tmp_path / "new" / "distilled").is_dir()


def test_numbers_that_yaml_takes_for_text_are_numbers(place: Path, tmp_path: Path):
    command = f"distill {place}/good.npz --out {tmp_path}/run {TINY} --set perturb.magnitude=1e-2 --set images.lr=1e-3"
    assert accdd(f"{command} --set pool.epochs=5e-1").exit_code == 0
    config = (tmp_path / "run" / "config.yaml").read_text().split("resolved:")[1]
    assert re.search(r"magnitude:\n\s+- 0.01\n\s+- 0.01\n", config) and "lr: 0.001\n" in config
    assert re.search(r"epochs:\n\s+- 0.5\n", config)


def test_flags_win_over_settings_settings_over_the_file_and_the_file_over_the_preset(place: Path, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("pool: {networks: 1, epochs: 0.1}\nseed: 1\nloop: {steps: 9, inner_steps: 2}")
    command = (
        f"distill {place}/pictures --out {tmp_path}/run --preset accdd-cifar10 --config {tmp_path}/mine.yaml "
        "--set network.width=4 --set loop.steps=8 --set seed=2 --set score.seeds=0 --seed 3 --steps 1"
    )
    assert accdd(command).exit_code == 0
    config = (tmp_path / "run" / "config.yaml").read_text().split("resolved:")[1]
    assert "seed: 3\n" in config and " steps: 1\n" in config and "inner_steps: 2\n" in config
    assert " networks: 1\n" in config and "train_images: 2000\n" in config


@pytest.mark.parametrize("command", ["distill {p}/good.npz --out out", "evaluate {p}/run", "pool {p}/good.npz"])
def test_compiling_always_is_refused_where_nothing_can_be_compiled(
    place: Path, untouched: Callable[[], bool], monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setattr("accdd.execution.can_compile", lambda where: False)
    refused = accdd(f"{command.replace('{p}', str(place))} --compile always")
    assert refused.exit_code == 2 and refused.stdout == ""
    assert refused.stderr.startswith(
        "error: --compile always: cannot compile for cpu here. Expected Linux with g++ or clang++"
    )
    assert "otherwise --compile auto or never" in refused.stderr
    assert untouched()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_how_the_arithmetic_is_to_be_done_is_told_by_flags_and_recorded(place: Path, tmp_path: Path, precision: str):
    told = accdd(f"distill {place}/good.npz --out {tmp_path}/run {TINY} --compile never --precision {precision}")
    assert told.exit_code == 0, told.stderr
    assert f": {precision}, 2 classes at once, nothing compiled." in told.stderr
    expected = {
        "precision": precision,
        "compile_matching": False,
        "compile_training": False,
        "classes": 2,
        "overlapping": 1,
        "parts": 1,
    }
    assert json.loads((tmp_path / "run" / "env.json").read_text())["plan"] == expected
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["given"]["precision"], config["given"]["compile"]) == (precision, "never")
    about = json.loads(accdd(f"info {tmp_path}/run --json").stdout)
    assert about["plan"] == expected and about["settings"]["compile"] == "never"
    scored = accdd(f"evaluate {tmp_path}/run --seeds 1 --epochs 1 --compile never --precision {precision}")
    pooled = accdd(f"pool {place}/good.npz {TINY.partition('--steps 1')[2]} --compile never --precision {precision}")
    assert (scored.exit_code, pooled.exit_code) == (0, 0)


def test_targets_of_a_preset_can_be_left_to_accdd_again(place: Path, tmp_path: Path):
    flags = f"{TINY} --targets auto"
    made = accdd(f"distill {place}/good.npz --preset fast --out {tmp_path}/run {flags}")
    assert made.exit_code == 0, made.stderr
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["resolved"]
    assert resolved["targets"]["count"] == 0  # a single sweep is not worth a bank


def test_targets_made_ahead_serve_runs_with_other_images(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flags = f"{TINY.partition('--steps 1')[2]} --set targets.real_batch=4"
    made = accdd(f"targets {place}/good.npz --count 10 {flags} --json")
    assert made.exit_code == 0, made.stderr
    assert re.search(r"10 targets, 0\.\d\d GB, in \S+, 10 to be made", made.stderr)
    about = json.loads(made.stdout)
    assert about["targets"] == 10 and about["bytes"] > 0 and Path(about["bank"]).is_dir()
    monkeypatch.setattr("accdd.targets.Bank.make", None)  # nothing more is made
    again = accdd(f"targets {place}/good.npz --count 10 {flags}")
    assert again.exit_code == 0 and f"{about['bank']}: 10 targets" in again.stdout
    command = f"distill {place}/good.npz --ipc 2 --seed 3 --steps 4 --targets 10 --out {tmp_path}/run {flags} --json"
    learned = accdd(command)
    assert learned.exit_code == 0, learned.stderr
    assert {"pool", "targets", "distilling"} <= json.loads(learned.stdout)["seconds"].keys()
    assert "10 targets" in learned.stderr and "all there" in learned.stderr


def test_terminal_escapes_in_names_are_shown_and_not_obeyed(tmp_path: Path):
    result = accdd(f"distill '{tmp_path}/\x1b[2Jgone' --out {tmp_path}/out")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr and "\\x1b[2Jgone" in result.stderr


def test_warnings_are_sentences_unless_a_traceback_is_asked_for(tmp_path: Path):
    command = "pool digits --set pool.networks=1 --set pool.epochs=0.1 --set network.width=4"
    assert accdd(command).exit_code == 0

    def warned(flag: str = "") -> str:
        (file,) = (tmp_path / "accdd-cache").glob("pools/*/000000/0.safetensors")
        file.write_bytes(file.read_bytes()[:-1])
        ran = process(f"{command} {flag}", tmp_path)
        assert ran.returncode == 0
        return ran.stderr

    plain = warned()
    assert re.search(r"^warning: The cache entry .* is damaged .* can be deleted\.$", plain, re.MULTILINE)
    assert "Notice" not in plain
    assert re.search(r"\.py:\d+: Notice: The cache entry .* is damaged", warned("--debug"))


def test_warnings_of_other_packages_say_where_they_come_from():
    found: list[str] = []
    usual = warnings.formatwarning("slow", UserWarning, "elsewhere.py", 7, "")
    shell.guard(lambda: found.append(warnings.formatwarning("slow", UserWarning, "elsewhere.py", 7, "")), debug=False)
    assert found == [usual] and "elsewhere.py:7" in usual


def test_a_process_tells_mistakes_on_standard_error_and_tracebacks_only_when_asked(tmp_path: Path):
    refused = process("distill digits --out out --json --set novalue", tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: --set novalue has no '='") and refused.stderr.count("\n") == 1
    debugged = process("distill digits --out out --json --set novalue --debug", tmp_path)
    assert debugged.returncode not in (0, 2) and debugged.stdout == ""
    assert "Traceback (most recent call last)" in debugged.stderr and "InputError: --set novalue" in debugged.stderr
    assert not list(tmp_path.iterdir())


HEAVY = ("torch", "datasets", "sklearn", "pyarrow", "matplotlib", "PIL", "numpy")


@pytest.mark.parametrize(
    ("code", "status"),
    [("import accdd", 0), ("import accdd.cli", 0), ("from accdd.cli import main; main()", 2)],
    ids=["import", "cli", "wrong flag"],
)
def test_importing_and_wrong_flags_do_not_wait_for_heavy_packages(code: str, status: int):
    told = "import atexit, sys; atexit.register(lambda: print('loaded', *set(sys.modules) & set(sys.argv[2:])))\n"
    ran = subprocess.run(
        [sys.executable, "-c", told + "sys.argv[1:1] = ['--wrong']\n" + code, *HEAVY], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout.split()) == (status, ["loaded"]), ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes there do not say that the reader is gone")
def test_a_reader_that_stops_listening_ends_a_command_without_a_word(place: Path):
    command = [sys.executable, "-m", "accdd", "info", str(place / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout and running.stderr
        running.stdout.close()
        assert (running.stderr.read(), running.wait()) == ("", 1)


@pytest.mark.parametrize("command", ["distill --help", "evaluate --help", "ablate --help", "pool --help", "settings"])
def test_every_network_is_named_where_one_is_chosen(command: str):
    words = re.split(r"[\s,;:.]+", accdd(command).stdout)
    assert {*NETWORKS, "module", "timm"} <= set(words)


VERBS = ("distill", "evaluate", "ablate", "compare", "reproduce", "pool", "targets", "info", "export", "import",
         "settings", "presets")  # fmt: skip


def test_help_answers_without_heavy_packages():
    code = "import atexit, sys; sys.argv[1:] = ['--help']; from accdd.cli import main; "
    code += f"atexit.register(lambda: print('loaded', *set(sys.modules) & set({HEAVY}), file=sys.stderr)); main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.split()) == (0, ["loaded"])
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", ran.stdout, re.MULTILINE)


def test_the_public_names_of_the_package_can_be_had():
    import accdd as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'condense'"):
        _ = package.condense


# README -------------------------------------------------------------------------------------------------------

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def blocks(language: str) -> list[str]:
    """The fenced blocks of README.md in a language."""
    if not README.exists():
        pytest.skip("README.md is not written yet")
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_every_command_in_the_readme_parses():
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("accdd ")]
    verbs = set()
    for line in lines:
        _, verb, *arguments = shlex.split(line, comments=True)
        COMMANDS[verb].make_context(verb, arguments)  # reads every argument and runs nothing
        verbs.add(verb)
    assert verbs == set(COMMANDS)


@pytest.mark.timeout(300)  # a minute and a half on a slow machine
def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with fake_hub.serving(monkeypatch) as hub:
        run_the_commands_of_the_readme(tmp_path, monkeypatch)
    assert "distilled.json" in hub.repositories["you/mine"]


def run_the_commands_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pool = TINY.partition("--steps 1")[2]
    study = f"--seeds 1 --set loop.steps=1 {pool.replace('seeds=0', 'seeds=1')} --set score.epochs=1"
    tiny = {"distill": TINY, "pool": pool, "targets": f"{pool} --set targets.real_batch=8", "evaluate": "--epochs 1"}
    tiny |= dict.fromkeys(("ablate", "compare", "reproduce"), f"{study} --set loop.inner_steps=1")
    made: set[str] = set()
    for line in (line for block in blocks("sh") for line in block.splitlines() if line.startswith("accdd ")):
        verb, *arguments = shlex.split(line, comments=True)[1:]
        words = ["digits" if word in ("DATA", "my_images/") else word for word in arguments]
        if verb == "distill" and ("--resume" in words or made & {word for word in words if word.startswith("runs/")}):
            continue  # shown twice; tests/test_resume.py resumes
        made |= set(words)
        result = CliRunner().invoke(app, [verb, *words, *tiny.get(verb, "").split()])
        assert result.exit_code == 0, (line, result.stderr)


def test_every_flag_that_the_readme_mentions_exists():
    assert blocks("sh")
    flags = {
        flag
        for command in COMMANDS.values()
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README.read_text()))
    assert mentioned and mentioned <= flags


def test_every_command_takes_json():
    assert all("--json" in [flag for each in command.params for flag in each.opts] for command in COMMANDS.values())


def test_python_in_the_readme_compiles_and_uses_public_names():
    import accdd as package

    code = blocks("python")
    for block in code:
        compile(block, str(README), "exec")
    used = set(re.findall(r"accdd\.(\w+)", "\n".join(code)))
    assert used and used <= set(package.__all__)
