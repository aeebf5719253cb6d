"""Studies: what is made, that they go on where they were stopped, what is refused, and tables by hand."""

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from helpers import Notes, stripes
from PIL import Image
from typer.testing import CliRunner

import accdd
from accdd import api, evaluation, files, presets, scoring
from accdd.cli import app
from accdd.config import InputError
from accdd.evaluation import STYLES, Score
from accdd.methods import METHODS
from accdd.presets import PRESETS
from accdd.run import RunFolder
from accdd.studies import NAMED, ablate, aligned, compare, grids, pictures, reproduce, rows
from accdd.studies.cells import Outcome, folder_name, text
from accdd.studies.reproduce import Reproduction, _is_data, _percent
from accdd.studies.rows import Row

TINY: Mapping[str, Any] = {
    "pool.networks": 1, "pool.epochs": 1, "network.width": 4, "network.depth": 2, "train.batch": 8, "loop.steps": 2,
    "score.epochs": 6, "score.seeds": 2, "precision": "fp32", "compile": "never",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stripes in a file, with a test split."""
    data, file = stripes(), tmp_path_factory.mktemp("source") / "stripes.npz"
    np.savez(
        file, images=data.images.numpy(), labels=data.labels.numpy(),
        test_images=data.test_images.numpy(), test_labels=data.test_labels.numpy(),
    )  # fmt: skip
    return str(file)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is distilled (or gone on with) and scored from now on."""
    done: list[str] = []
    for home, name in ((api, "distill"), (api, "resume"), (scoring, "evaluate")):
        real = getattr(home, name)
        monkeypatch.setattr(
            home, name, lambda *args, real=real, name=name, **options: done.append(name) or real(*args, **options)
        )
    return done


def tiny(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**TINY, **changes}.items() if value is not None}


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        return picture.size[0] > 100 and len(picture.convert("L").getcolors(256) or []) > 2


def command(line: str) -> Any:
    return CliRunner().invoke(app, shlex.split(line))


# Ablation -----------------------------------------------------------------------------------------------------


def test_a_grid_becomes_a_row_per_combination_with_seeds_as_replicates(source: str, tmp_path: Path, made: list[str]):
    over = {"perturb.magnitude": [0, 0.1], "perturb.directions": [2]}
    notes = Notes()
    found = ablate(source, tmp_path / "out", over, seeds=2, settings=TINY, reporter=notes)
    assert made == ["distill", "evaluate"] * 4
    told = [line.removeprefix("  learned on convnet: ") for line in notes.said if "  learned on" in line]
    assert [float(line.split()[0]) for line in told] == pytest.approx(
        [row.values[seed] for seed in range(2) for row in found.rows], abs=0.06
    )
    assert [dict(row.what) for row in found.rows] == [
        {"perturb.magnitude": m, "perturb.directions": 2} for m in (0, 0.1)
    ]
    assert all((row.sets, row.networks, row.network, len(row.values)) == (2, 2, "convnet", 2) for row in found.rows)
    cell = tmp_path / "out" / "perturb.magnitude=0.1,perturb.directions=2"
    scores = [
        json.loads((cell / f"seed-{seed}" / "scores.json").read_text())["scores"][0]["accuracies"] for seed in (0, 1)
    ]
    assert found.rows[1].values == pytest.approx([np.mean(each) for each in scores])
    assert found.rows[1].differences == pytest.approx(np.subtract(found.rows[1].values, found.rows[0].values))
    for seed in (0, 1):
        settings = accdd.load(cell / f"seed-{seed}" / "run").info["settings"]
        assert (settings["seed"], settings["perturb"]["magnitude"], settings["perturb"]["directions"]) == (
            seed, [0.1, 0.1], 2
        )  # fmt: skip
        scored = json.loads((cell / f"seed-{seed}" / "scores.json").read_text())["scores"][0]
        assert scored["seed"] == seed, "networks are drawn anew for every set, as deviations over sets should have it"
    for style, suffix in rows.SUFFIXES.items():
        assert (tmp_path / "out" / f"table.{suffix}").read_text() == STYLES[style](rows.lines(found.rows))
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == [row.to_dict() for row in found.rows]
    assert found.pictures == [tmp_path / "out" / "ablation.png"] and is_picture(found.pictures[0])


def test_independent_sets_have_early_stage_models_of_their_own_and_a_study_may_score_on_held_out_images(
    source: str, tmp_path: Path
):
    line = f"ablate {source} --over perturb.magnitude=0,0.1 --seeds 2 --held-out 0.2 --out {tmp_path}/out "
    line += " ".join(f"--set {key}={json.dumps(value)}" for key, value in TINY.items())
    told = command(f"{line} --independent")
    assert told.exit_code == 0 and "Sets share" not in told.stdout, told.stderr
    assert told.stdout.count(", 6 epochs, held out") == 2
    runs = [accdd.load(tmp_path / "out" / "perturb.magnitude=0.1" / f"seed-{seed}" / "run") for seed in (0, 1)]
    assert [run.info["settings"]["pool"]["seed"] for run in runs] == [0, 1]
    refused = command(line)
    assert refused.exit_code == 2 and "pool.seed: 0 there, None wanted" in refused.stderr
    refused = command(f"{line.replace('/out', '/new')} --independent --set pool.seed=3")
    assert refused.exit_code == 2 and "Independent sets each have the pool of their seed" in refused.stderr
    shared = command(line.replace("/out", "/shared"))
    assert shared.exit_code == 0 and "Sets share early-stage models or targets" in shared.stdout
    tables = [(tmp_path / name / "table.csv").read_text().splitlines()[1].split(",") for name in ("out", "shared")]
    assert "own" in tables[0] and "shared" in tables[1]


def test_cells_with_scores_that_cannot_be_read_are_handed_out_again(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    over, handed = {"perturb.magnitude": [0, 0.1]}, []
    first = ablate(source, tmp_path / "out", over, settings=TINY)
    (tmp_path / "out" / "perturb.magnitude=0" / "seed-0" / "scores.json").write_text("[]")
    monkeypatch.setattr(
        accdd.executor, "run", lambda tasks, *rest: handed.extend(task.name for task in tasks if not task.done.exists())
    )
    assert ablate(source, tmp_path / "out", over, settings=TINY, executor="local:2") == first
    assert handed == ["perturb.magnitude=0/seed-0"]


def test_a_study_goes_on_where_it_was_stopped_and_makes_damaged_cells_again(
    source: str, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
):
    class Stop(Exception):
        pass

    def study(values: list[float], seeds: int = 1) -> list[Row]:
        del made[:]
        return ablate(source, tmp_path / "out", {"perturb.magnitude": values}, seeds=seeds, settings=TINY).rows

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "storage", lambda *tensors: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            study([0, 0.1])
    assert made == ["distill", "evaluate"]  # distilled, and stopped while it was scored
    first = study([0, 0.1])
    assert made == ["evaluate", "distill", "evaluate"]
    assert study([0, 0.1]) == first and made == []
    more = study([0, 0.1, 0.2], seeds=2)
    assert made == ["distill", "evaluate"] * 4 and [row.sets for row in more] == [2, 2, 2]

    cell = tmp_path / "out" / "perturb.magnitude=0.1" / "seed-0"
    whole = (cell / "scores.json").read_text()
    # Half-written, and scored otherwise.
    for damaged in (whole[:40], whole.replace('"version": ', '"version": 9'), whole.replace('"seed": 0', '"seed": 7')):
        (cell / "scores.json").write_text(damaged)
        assert study([0, 0.1]) == first and made == ["evaluate"]
    images = cell / "run" / "distilled" / "images.safetensors"
    images.write_bytes(images.read_bytes()[:-1])
    assert study([0, 0.1])[0] == first[0] and made == ["distill", "evaluate"]  # what is learned anew is scored anew
    assert (cell / "run.damaged-1" / "distilled" / "images.safetensors").exists()
    (cell / "run" / "evaluation.json").unlink()
    study([0, 0.1])
    assert made == ["resume"]
    shutil.rmtree(cell / "run" / "distilled")
    study([0, 0.1])
    assert made == ["distill", "evaluate"] and (cell / "run.damaged-2").is_dir()
    (cell / "run" / "config.yaml").unlink()
    (cell / "run" / "evaluation.json").unlink()
    study([0, 0.1])
    assert made == ["distill", "evaluate"] and RunFolder.open(cell / "run") and (cell / "run.damaged-3").is_dir()


def test_the_folder_of_another_study_or_cell_is_refused_with_what_differs(source: str, tmp_path: Path):
    out = tmp_path / "out"
    ablate(source, out, {"perturb.magnitude": [0]}, settings=tiny(**{"loop.steps": 1}))
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def refused(words: str, over: Mapping[str, Any], settings: Mapping[str, Any], data: str = source) -> None:
        with pytest.raises(InputError, match=words):
            ablate(data, out, over, settings=settings)

    one = {"perturb.magnitude": [0]}
    refused(r"another study \(loop.steps: 1 there, 2 wanted\)", one, TINY)
    refused(r"study: ablate over perturb.magnitude there, ablate over perturb.directions wanted",
            {"perturb.directions": [1]}, tiny(**{"loop.steps": 1}))  # fmt: skip
    refused("data: .* there, digits wanted", one, tiny(**{"loop.steps": 1}), "digits")
    with pytest.raises(InputError, match=r"ablate over .* there, compare wanted"):
        compare(source, out, hosts=["dm"], baselines=[], settings=tiny(**{"loop.steps": 1}))
    file = out / "perturb.magnitude=0" / "seed-0" / "cell.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 7'))
    refused(r"another cell \(seed: 7 there, 0 wanted\)", one, tiny(**{"loop.steps": 1}))
    file.write_text("{")
    refused("cell.json' cannot be read", one, tiny(**{"loop.steps": 1}))
    file.write_bytes(kept[file])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match="is not empty, and is not written over"):
        ablate(source, tmp_path / "mine", one, settings=TINY)


def test_a_study_over_the_data_takes_further_values_anywhere(tmp_path: Path, made: list[str]):
    data = stripes()
    source, out = tmp_path / "stripes.npz", tmp_path / "out"

    def write(images: np.ndarray) -> None:
        np.savez(source, images=images, labels=data.labels.numpy())

    write(data.images.numpy())
    ablate(str(source), out, {"data.size": [8]}, settings=TINY)
    del made[:]
    found = ablate(str(source), out, {"data.size": [12, 8]}, settings=TINY)
    assert made == ["distill", "evaluate"] and [row.what["data.size"] for row in found.rows] == [12, 8]
    write(data.images.numpy()[:, :, ::-1])
    with pytest.raises(InputError, match=r"another cell \(fingerprint: "):
        ablate(str(source), out, {"data.size": [8]}, settings=TINY)


def test_one_pool_serves_all_lengths_of_pre_training(source: str, tmp_path: Path):
    small = {"pool.epochs": [0, 0.5, 1], "pool.networks": 2}
    found = ablate(source, tmp_path / "out", {"pool.draw": [0, 0.5, 1]}, settings=tiny(**small))
    assert [row.what["pool.draw"] for row in found.rows] == [0, 0.5, 1]
    assert len(list((files.cache_folder() / "pools").iterdir())) == 1


# Named studies and grids ----------------------------------------------------------------------------------------


def test_the_paper_s_studies_are_those_of_the_paper():
    assert list(NAMED) == ["pre-training", "models", "magnitude", "directions", "normalisation", "where", "factor"]
    grid, common = grids.joined("pre-training", {}, {"ipc": 1})
    assert grid["pool.draw"] == [0, 0.5, 1, 2, 5, 10, 20]
    assert common == {"ipc": 1, "pool.epochs": (*grid["pool.draw"],), "pool.schedule": "falling", "pool.use": True}
    assert grids.joined("models", {}, {})[0] == {"pool.networks": [1, 2, 5, 10]}
    magnitudes = grids.joined("magnitude", {}, {})[0]["perturb.magnitude"]
    assert (magnitudes[0], magnitudes[-1]) == (0, 0.3)
    for name, study in NAMED.items():
        assert name in command("ablate --help").stdout
        for values in grids.combinations(study.over):
            accdd.config.override(accdd.Settings(), {**study.changes, **values})  # pyright: ignore


def test_a_study_can_be_joined_with_more():
    grid, _ = grids.joined("models", {"perturb.magnitude": [0, 0.1]}, {})
    assert len(grids.combinations(grid)) == 8
    assert grids.combinations({"a": [1, 2], "b": [3, 4]}) == [
        {"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("over", "settings", "used"),
    [("pool.networks", {}, True), ("pool.use", {}, None), ("pool.seed", {}, None), ("ipc", {}, None),
     ("perturb.magnitude", {}, True), ("perturb.use", {}, None), ("perturb.magnitude", {"perturb.use": True}, True)],
)  # fmt: skip
def test_what_is_varied_of_an_augmentation_is_varied_for_every_method(
    over: str, settings: dict[str, Any], used: bool | None
):
    _, common = grids.joined(None, {over: [1]}, {"method": "dsa", **settings})
    assert common.get(f"{over.partition('.')[0]}.use") is used


def test_values_are_yaml():
    assert grids.parse(["pool.epochs=0.5,[0, 1]", "pool.use=true,false"]) == {
        "pool.epochs": [0.5, [0, 1]], "pool.use": [True, False]
    }  # fmt: skip
    assert folder_name({"pool.epochs": [0, 1], "network.name": "../a b"}) == "pool.epochs=_0,1_,network.name=.._a_b"
    long = [folder_name({"network.name": "a" * 200 + end}) for end in "xy"]
    assert long[0] != long[1] and len(long[0]) == 150
    assert [text(value) for value in (0.5, True, "filter", [0, 1], None)] == ["0.5", "true", "filter", "[0,1]", "null"]


# What is wrong, the command after DATA, and words the message must have.
WRONG = [
    ("nothing to vary", "", "Nothing is varied; --study pre-training|models"),
    ("an unknown key", "--over pool.network=1,2", "Unknown setting 'pool.network'; mean 'pool.networks'?"),
    ("an unknown study", "--study model", "Unknown study 'model'; Did you mean 'models'?"),
    ("a key beside", "--over ipc=1,2 pool.network=1,2", "Unknown setting 'pool.network'; mean 'pool.networks'?"),
    ("a key beside twice", "--over ipc=1,2 ipc=3", "--over has 'ipc' twice"),
    ("no values", "--over pool.networks=", "--over pool.networks= lists no values; pool.networks=1,2,5"),
    ("no =", "--over pool.networks", "lists no values; KEY=VALUE,VALUE"),
    ("no YAML", "--over pool.networks=[1,2", "lists no values; KEY=VALUE,VALUE"),
    ("a key twice", "--over ipc=1 --over ipc=2", "--over has 'ipc' twice"),
    ("a key of the study", "--study models --over pool.networks=3", "--over pool.networks and --study models both"),
    ("a key that is set", "--over ipc=1,2 --ipc 1", "'ipc' is both set and varied"),
    ("a value twice", "--over pool.networks=1,2,1", "Two cells are called 'pool.networks=1/seed-0'; each once"),
    ("an unknown device", "--over ipc=1 --device tpu", "Device 'tpu' is not available here"),
    ("an unknown method", "--over method=idc,icd", "Unknown method 'icd'; mean 'idc'?"),
    ("a wrong value", "--over pool.networks=1,0", "'pool.networks' = 0; greater than or equal to 1"),
    ("a date that is none", "--over data.name=2020-13-40", "lists no values; KEY=VALUE,VALUE"),
    ("nothing of a pool", "--over pool.networks=1,2 --set pool.use=false", "'pool.use' is false; vary nothing"),
    ("nothing moved", "--study magnitude --set perturb.use=false", "'perturb.use' is false; vary nothing"),
    ("a shard", "--over ipc=1 --set shard=[1,2]", "shard = [1, 2]; Expected all of them"),
    ("seeds varied", "--over seed=1,2", "Seeds are replicates; --seeds NUMBER"),
    ("a seed set", "--over ipc=1 --set seed=1", "Seeds are replicates; no setting 'seed'"),
    ("no seeds", "--over ipc=1 --seeds 0", "--seeds 0; at least 1"),
    ("n = 0", "--over ipc=1 --set score.seeds=0", "score.seeds = 0; --set score.seeds=1"),
    ("an unknown protocol", "--over ipc=1 --set score.protocol=quik", "Unknown protocol 'quik'; mean 'quick'?"),
    ("an unknown preset", "--over ipc=1 --preset papr", "Unknown preset 'papr'; mean 'paper'?"),
    ("too many images in one", "--over images.factor=1,3", "images.factor 3 cuts 8-pixel images into tiles below 4"),
    ("too few images", "--over ipc=1,13", "Class '0' has 12 training images"),
    ("a network too small", "--over ipc=1 --set score.networks=[vgg11]", "A vgg11 shrinks 8-pixel images; data.size="),
    (
        "a choice among nothing",
        "--over ipc=1 --set score.choose=validation --set loop.snapshots=0",
        "chooses among the snapshots",
    ),
    (
        "one bank for several",
        "--over perturb.magnitude=0.1,0.2 --set targets.folder=bank",
        "'perturb.magnitude=0.2/seed-0' needs another (perturb.magnitude)",
    ),
    ("an epoch not kept", "--over pool.draw=1,2", "pool.draw has 1, but networks are kept at 20 epochs"),
]


@pytest.mark.parametrize(("flags", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_with_an_ablation_is_said_before_anything_is_written(
    source: str, tmp_path: Path, flags: str, words: str
):
    told = command(f"ablate {source} --out {tmp_path}/out {flags}")
    assert told.exit_code == 2 and told.stdout == "" and told.stderr.count("\n") <= 2, told.stderr
    assert [word for word in words.split("; ") if word not in told.stderr] == [], told.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--methods idc,dmm", "Unknown method 'dmm'"),
        ("--methods idc,idc", "named twice"),
        ("--methods ''", "0 methods, 1 seeds"),
        ("--seeds 0", "0 seeds: there is nothing to distil"),
        ("--baselines random,hurding", "Unknown baseline 'hurding'. Did you mean 'herding'?"),
        ("--budget soon", "--budget soon is not a duration"),
        ("--set method=idc", "A comparison sets 'method' itself"),
        ("--set loop.snapshots=0", "loop.snapshots = 0 leaves nothing to draw"),
        ("--set score.seeds=0", "a study without scores says nothing"),
    ],
)
def test_what_is_wrong_with_a_comparison_is_said_before_anything_is_written(
    source: str, tmp_path: Path, flags: str, words: str
):
    told = command(f"compare {source} --out {tmp_path}/out {flags}")
    assert told.exit_code == 2 and words in told.stderr and not (tmp_path / "out").exists(), told.stderr


def test_a_heat_map_shows_what_a_network_was_scored_on_and_no_more():
    from matplotlib.figure import Figure

    def row(ipc: int, network: str, *values: float) -> Row:
        return Row({"ipc": ipc, "score.networks": [network]}, network, "quick", 1, len(values), values, {})

    found = [row(1, "convnet", 50, 52), row(1, "mlp", 40), row(2, "convnet", 60, 61), row(2, "mlp", 45)]
    figure = Figure()
    pictures.heat_maps(figure, found, ["ipc", "score.networks"])
    left, right = (axis for axis in figure.axes if axis.get_title())
    assert [text.get_text() for text in left.texts] == ["51.0\n± 1.4", "60.5\n± 0.7"]
    assert [text.get_text() for text in right.texts] == ["40.0", "45.0"]


# Comparison -----------------------------------------------------------------------------------------------------


def test_hosts_and_baselines_stand_in_one_table_with_a_picture_over_time(source: str, tmp_path: Path, made: list[str]):
    def run() -> Any:
        settings = {**TINY, "score.networks": ["convnet", "mlp/width=8"]}
        return compare(source, tmp_path / "out", hosts=["dm", "idc"], baselines=["random", "kmeans"], settings=settings)

    found = run()
    assert made == ["distill", "evaluate", "evaluate"] * 2
    assert [row.what["method"] for row in found.rows] == ["dm"] * 2 + ["idc"] * 2 + ["random", "kmeans"] * 2
    assert [row.sets for row in found.rows] == [1] * 4 + [0] * 4 and all(row.interval for row in found.rows)
    assert all(row.protocol == "quick, 6 epochs" and row.networks == 2 for row in found.rows)
    assert [len(row.differences) for row in found.rows] == [0, 0] + [2] * 6
    assert is_picture(tmp_path / "out" / "over-time.png")
    curve = json.loads((tmp_path / "out" / "dm" / "seed-0" / "curve.json").read_text())["scores"]
    assert {each["network"] for each in curve} == {"convnet"}  # the one that is drawn
    shown = [pictures.seconds(Score(**(each | {"accuracies": tuple(each["accuracies"])}))) for each in curve]
    assert shown[0] == 0 and shown == sorted(shown) and len(shown) >= 2
    del made[:]
    assert run() == found and made == []


def test_hosts_whose_protocols_differ_are_shown_apart_and_it_is_said(tmp_path: Path, made: list[str]):
    """On MNIST in tiles, IDC's protocol mixes no images; a host with whole images keeps it."""
    data, notes = stripes(), Notes()
    larger = data.images[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3)  # large enough for tiles
    tiled = {**TINY, "data.name": "mnist"}
    np.savez(tmp_path / "x.npz", images=larger.numpy(), labels=data.labels.numpy())
    found = compare(
        str(tmp_path / "x.npz"), tmp_path / "out", hosts=["dm", "idc"], baselines=["random"], settings=tiled,
        reporter=notes,
    )  # fmt: skip
    protocols = {row.what["method"]: row.protocol for row in found.rows if row.what["method"] != "random"}
    assert protocols["dm"] != protocols["idc"] and "no CutMix" in protocols["idc"]
    beside = [row.protocol for row in found.rows if row.what["method"] == "random"]
    assert sorted(beside) == sorted(protocols.values()), "random images by each of them"
    assert any("were scored by different protocols" in note for note in notes.said)


def test_a_published_row_is_reproduced_with_one_network(source: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"score.networks has 2, and a published row is of one"):
        reproduce("idc-mnist", source, tmp_path / "out", settings={"score.networks": ["convnet", "mlp"]})
    assert not (tmp_path / "out").exists()


def test_one_value_that_diverges_is_named_and_the_others_are_made(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = api.distill

    def diverging(*args: Any, settings: Mapping[str, Any], **options: Any) -> Any:
        if settings["images.lr"] == 9.0:
            raise ArithmeticError("The loss became nan.")
        return real(*args, settings=settings, **options)

    monkeypatch.setattr(api, "distill", diverging)
    out = tmp_path / "out"
    with pytest.raises(ArithmeticError, match=r"1 of 2 cells failed, .*images\.lr=9\.0/seed-0: The loss became nan\."):
        ablate(source, out, {"images.lr": [9.0, 0.01]}, settings=TINY)
    assert (out / "images.lr=0.01" / "seed-0" / "scores.json").exists()
    monkeypatch.setattr(api, "distill", lambda *args, **options: pytest.fail("made again"))
    assert len(ablate(source, out, {"images.lr": [0.01]}, settings=TINY).rows) == 1


def test_a_curve_of_damaged_snapshots_is_made_again_with_its_run(source: str, tmp_path: Path, made: list[str]):
    def run() -> Any:
        del made[:]
        return compare(source, tmp_path / "out", hosts=["dm"], baselines=[], settings=TINY).rows

    first, cell = run(), tmp_path / "out" / "dm" / "seed-0"
    newest = max((cell / "run" / "snapshots").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    assert run() == first and made == []  # the curve is there
    (cell / "curve.json").unlink()
    assert [row.values for row in run()] == [row.values for row in first]
    assert made == ["distill", "evaluate", "evaluate"] and (cell / "run.damaged-1").is_dir()


def test_compare_and_ablate_tell_the_table_or_one_json_object(source: str, tmp_path: Path):
    flags = " ".join(f"--set {key}={value}" for key, value in TINY.items()) + " --quiet"
    told = command(f"compare {source} --out {tmp_path}/c --methods dm --baselines '' --budget 0.2s {flags}")
    assert told.exit_code == 0, told.stderr
    head, row, *_ = told.stdout.splitlines()
    assert head.split()[:2] == ["method", "network"] and row.split()[:2] == ["dm", "convnet"]
    assert f"{tmp_path}/c/over-time.png" in told.stdout and "Differences" not in told.stdout
    told = command(f"ablate {source} --out {tmp_path}/b --over perturb.use=true,false {flags}")
    assert "Differences are from the first row of the network, network by network." in told.stdout
    told = command(f"ablate {source} --out {tmp_path}/a --over perturb.use=true,false --json {flags}")
    about = json.loads(told.stdout)
    assert [row["what"] for row in about["rows"]] == [{"perturb.use": True}, {"perturb.use": False}]
    assert about["pictures"] == [f"{tmp_path}/a/ablation.png"]


def test_the_defaults_of_compare_exist():
    parameters = {each.name: each for each in typer.main.get_command(app).commands["compare"].params}  # pyright: ignore
    assert set(parameters["methods"].default.split(",")) <= set(METHODS)
    assert set(parameters["baselines"].default.split(",")) <= set(evaluation.BASELINES)


def test_workers_fill_the_same_table_and_train_early_stage_models_once(source: Path, tmp_path: Path):
    over = {"perturb.magnitude": [0.1, 0.3]}
    settings = {**TINY, "score.seeds": 1, "pool.seed": 7}
    before = set(files.cache_folder().glob("pools/*"))
    shared = ablate(source, tmp_path / "shared", over, settings=settings, executor="local:2")
    assert len(set(files.cache_folder().glob("pools/*")) - before) == 1
    alone = ablate(source, tmp_path / "alone", over, settings=settings)
    known = set(files.cache_folder().glob("pools/*"))
    assert [(row.what, row.values) for row in shared.rows] == [(row.what, row.values) for row in alone.rows]
    grown = {key: value for key, value in settings.items() if key != "pool.networks"} | {"pool.seed": 8}
    ablate(source, tmp_path / "grown", {"pool.networks": [1, 3]}, settings=grown, executor="local:2")
    (whole,) = set(files.cache_folder().glob("pools/*")) - known
    assert len(list(whole.glob("0*"))) == 3, "a pool of three holds that of one"
    with pytest.raises(InputError, match="local:0 is unknown"):
        ablate(source, tmp_path / "none", over, settings=settings, executor="local:0")
    assert not (tmp_path / "none").exists()


# Rows by hand -----------------------------------------------------------------------------------------------------


def row(*values: float, what: Mapping[str, Any] | None = None, sets: int = 1, network: str = "convnet") -> Row:
    return Row(what or {"key": 1}, network, "idc", sets, 2, values, {"distilling": 3.0})


def scores_of(*accuracies: float, network: str = "convnet", beside: str | None = None) -> Score:
    return Score("set", network, "idc", 1000, accuracies, 1.0, beside=beside)


def test_sets_count_by_their_means_and_a_single_set_by_its_networks():
    def outcome(*accuracies: float, seconds: float) -> Outcome:
        scores = [scores_of(*accuracies), scores_of(9, network="mlp"), scores_of(1, 2, beside="set")]
        return Outcome(scores, [], 5, {"pool": 0.0, "distilling": seconds})

    one, other = outcome(10, 20, seconds=2), outcome(30, 50, seconds=4)
    (single, _), (both, mlp) = rows.summary({"k": 1}, [one]), rows.summary({"k": 1}, [one, other])
    assert (single.values, single.sets, single.networks, single.seconds["distilling"]) == ((10, 20), 1, 2, 2)
    assert (both.values, both.sets, both.networks, both.seconds["distilling"]) == ((15, 40), 2, 2, 3)
    assert both.mean == 27.5 and both.deviation == pytest.approx(25 / 2**0.5)
    assert both.interval == (0, 100)  # two values say next to nothing, and no accuracy is further away
    assert (mlp.network, mlp.values) == ("mlp", (9, 9))
    (real,) = rows.beside("method", one.scores)
    assert (real.what, real.sets, real.values, real.seconds) == ({"method": "set"}, 0, (1, 2), {})
    assert row(5).deviation is None and row(5).interval is None
    (uneven, _) = rows.summary({"k": 1}, [one, other._replace(seconds={"targets": 4.0, "distilling": 2.0})])
    assert uneven.seconds == {"pool": 0.0, "distilling": 2.0, "targets": 2.0}  # one had to do without
    assert (single.replicates, both.replicates) == ("n = 2 networks on one set", "n = 2 sets, each by 2 networks")
    (early, _) = rows.summary({"k": 1}, [each._replace(prepared=True) for each in (one, other)])  # in no time at all
    assert early.replicates == "n = 2 sets of one pool, each by 2 networks"


def test_rows_are_compared_with_the_first_of_their_network_seed_by_seed():
    first, other = row(10, 20, 30), row(11, 20, 32)
    elsewhere, later = row(1, 2, 3, network="mlp"), row(2, 1, 2.999, network="mlp")
    real = row(9, 19, 29, sets=0)
    without = [row(9), *(first._replace(**unlike) for unlike in ({"protocol": "dc"}, {"networks": 1}, {"tested": "x"}))]
    found = rows.with_differences([first, other, elsewhere, later, real, *without])
    assert [each.differences for each in found[:3]] == [(), (1, 0, 2), ()]
    assert found[4].differences == (-1, -1, -1) and found[5:] == without
    record = found[1].to_dict()
    assert record["differences"] == [1, 0, 2] and record["difference_interval"] == [-1.69, 3.69]
    head, *lines = rows.lines(found)
    places = [head.index(name) for name in ("from the first", "its deviation", "its 95 % interval")]
    assert [[line[place] for place in places] for line in lines[:5]] == [
        ["", "", ""], ["+1.00", "1.00", "-1.69 to +3.69"], ["", "", ""], ["+0.00", "1.00", "-2.69 to +2.69"],
        ["-1.00", "0.00", "-1.00 to -1.00"],
    ]  # fmt: skip
    several = rows.with_differences([each._replace(sets=3) for each in (first, other)] + [real])
    assert [each.differences for each in several] == [(), (1, 0, 2), ()]


def test_a_table_is_aligned_and_leaves_out_what_there_is_not():
    head, first, second = aligned([row(5, what={"k": True}), row(10, 20, what={"k": "filter"})]).splitlines()
    assert head.startswith("k       network  protocol  sets")
    assert first.split() == ["true", "convnet", "idc", "1", "2", "5.00", "3"]
    assert first.index("3") == second.rindex("3") == head.index("distilling, s")
    assert "0.00 to 60.84" in second and "7.07" in second and "models" not in head


def test_a_table_says_deviation_where_there_is_none_and_what_models_and_targets_took():
    taken = row(5)._replace(seconds={"pool": 7.0, "targets": 0.0, "distilling": 3.0})
    head, line = rows.lines([taken])
    assert head[-3:] == ["deviation", "models, s", "distilling, s"] and line[-3:] == ["", "7", "3"]


def test_pictures_are_drawn_of_one_key_and_of_two_and_of_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    reporter: Any = type("Recorder", (), {"note": lambda self, text: said.append(text)})()
    one = [row(10, 20, what={"k": k}, network=n) for k in (1, 2) for n in ("convnet", "mlp")]
    words = [row(10, what={"k": k}) for k in (True, [1, 2])]
    two = [row(10 + a + b, what={"a": a, "b": b}) for a in (1, 2) for b in (3, 4, 5)]
    for number, (keys, given) in enumerate(((["k"], one), (["k"], words), (["a", "b"], two))):
        draw = pictures.grid(given, keys)
        assert draw
        file = pictures.save(tmp_path / f"{number}.png", draw, reporter)
        assert file and is_picture(file)
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda name: None)
            assert pictures.save(tmp_path / "none.png", draw, reporter) is None
    assert pictures.grid(two, ["a", "b", "c"]) is None
    assert not (tmp_path / "none.png").exists() and len(said) == 3 and "pip install matplotlib" in said[0]


@pytest.mark.parametrize("values, scale", [((0, 0.5, 20), "symlog"), ((0.1, 1.9), "linear"), ((0,), "linear")])
def test_what_was_measured_is_marked_also_where_numbers_lie_wide_apart(values: tuple[float, ...], scale: str):
    from matplotlib.figure import Figure

    figure = Figure()
    shown = [row(10, 20, what={"k": value}, network=name) for name in ("convnet", "mlp") for value in values]
    pictures.lines(figure, shown, ["k"])
    (axis,) = figure.axes
    assert axis.get_xscale() == scale and tuple(axis.get_xticks()) == values
    assert [label.get_text() for label in axis.get_xticklabels()] == [text(value) for value in values]


def test_values_that_yaml_takes_for_text_are_numbers_where_their_setting_is_one():
    over = grids.parse(["images.lr=1e-3,0.1", "perturb.magnitude=1e-2", "network.name=convnet"])
    grid, _ = grids.joined(None, over, {})
    assert grid == {"images.lr": [0.001, 0.1], "perturb.magnitude": [0.01], "network.name": ["convnet"]}


def test_a_picture_of_several_protocols_names_them_all():
    both = [row(10, what={"k": 1}), row(20, what={"k": 2})._replace(protocol="idc, no flip")]
    assert pictures._conditions(both).startswith("protocol idc; idc, no flip\nn = ")


# Reproduction -----------------------------------------------------------------------------------------------------


def reproduction(*values: float, share: float = 1.0, changed: tuple[str, ...] = (), sets: int = 1) -> Reproduction:
    return Reproduction(
        "idc-cifar10", 10, "IDC", 67.5, "22.4 hours", "cifar10", row(*values, sets=sets), share, {"distilling": 5.0},
        "bf16", changed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (reproduction(67.4, 67.6, 67.5, sets=3), "Reproduced: the published accuracy lies within our interval."),
        (
            reproduction(67, 68, sets=2),
            "No verdict: the published accuracy lies within our interval, which is 9.2 points wide. Expected more "
            "--seeds.",
        ),
        (reproduction(60, 61, sets=2), "Not reproduced: our interval lies below the published accuracy."),
        (reproduction(77, 78, sets=2), "Not reproduced: our interval lies above the published accuracy."),
        (
            reproduction(67, 68),
            "No verdict: one set does not say how far others are from it. Expected --seeds 3.",
        ),
        (
            reproduction(67.5),
            "No verdict: one set does not say how far others are from it. Expected --seeds 3.",
        ),
        (reproduction(67, 68, share=0.05), "No reproduction: cut short at 5 % of the published steps."),
        (reproduction(67, 68, share=0.99999), "No reproduction: cut short at 99.999 % of the published steps."),
        (reproduction(67, 68, share=2), "No reproduction: gone on to 200 % of the published steps."),
        (reproduction(67, 68, changed=("ipc",)), "No reproduction: not the published settings (ipc)."),
    ],
)
def test_only_a_complete_run_with_the_published_settings_is_judged(found: Reproduction, words: str):
    assert found.verdict == words
    told = str(found)
    assert told.splitlines()[1].startswith("published  67.5 %") and told.endswith(words)
    assert f"difference {found.row.mean - 67.5:+.1f} points, at {_percent(found.share)}" in told
    assert found.to_dict()["difference"] == pytest.approx(found.row.mean - 67.5)


def test_a_reproduction_cut_short_says_so_and_what_else_is_not_as_published(tmp_path: Path, made: list[str]):
    data = stripes()
    grey = tmp_path / "fashion.npz"
    np.savez(grey, images=data.images[:, :1].numpy(), labels=data.labels.numpy())
    changes = {"network.width": 4, "network.depth": 2, "loop.steps": 1, "loop.inner_steps": 3, "score.epochs": 1,
               "loop.train_images": 8, "precision": "bf16", "compile": "never", "max_memory": 8.0}  # fmt: skip

    def run() -> Reproduction:
        return reproduce("idc-mnist", str(grey), tmp_path / "out", seeds=2, settings=changes)

    found = run()
    assert (found.ipc, found.published, found.data) == (1, 94.2, "fashion")
    assert found.share == 3 / (2000 * 100)
    assert found.changed == (
        "network.width", "network.depth", "loop.inner_steps", "score.epochs", "loop.train_images",
        "data fashion instead of mnist",
    )  # fmt: skip
    assert found.row.protocol == "idc, 1 epochs" and set(found.seconds) == {"pool", "distilling"}
    assert "protocol idc, 1 epochs, bf16)" in str(found)
    runs = [accdd.load(tmp_path / "out" / f"seed-{seed}" / "run").info["settings"] for seed in (0, 1)]
    assert [run["pool"]["seed"] for run in runs] == [0, 1] and not found.row.shared
    record = json.loads((tmp_path / "out" / "reproduction.json").read_text())
    assert record["verdict"].startswith("No reproduction: cut short at 0.0015 % of the published steps, and not")
    del made[:]
    assert run() == found and made == []


@pytest.mark.parametrize(
    ("called", "known", "same"),
    [
        ("cifar10", "cifar10", True), ("uoft-cs/cifar10", "cifar10", True), ("cifar10-jpeg", "cifar10", False),
        ("imagenet-100", "imagenet-10", False), ("mnist-half", "mnist", False),
        ("zalando-datasets/fashion_mnist", "fashion-mnist", True),
    ],
)  # fmt: skip
def test_only_the_published_data_is_that_data(called: str, known: str, same: bool):
    assert _is_data(called, known) is same


def test_every_published_row_says_where_it_ends_and_how_it_is_scored():
    protocols = {"dc-cifar10": "dc", "dsa-cifar10": "dsa", "dm-cifar10": "dsa", "accdd-cifar10": "idc"}
    assert {name: PRESETS[name].protocol for name in protocols} == protocols
    for preset in PRESETS.values():
        assert preset.protocol in evaluation.PROTOCOLS
        for ipc in preset.published:
            assert preset.changes(ipc)["loop.steps"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("idc-cifar", "Unknown preset 'idc-cifar'; mean 'idc-cifar10'?"),
        ("fast", "Nothing is published for 'fast'; accdd-cifar10, accdd-cifar10-10x"),
        ("idc-mnist --ipc 7", "Nothing is published for 'idc-mnist' at IPC 7; Expected --ipc 1 or 10 or 50"),
        ("idc-mnist --seeds 0", "--seeds 0; at least 1"),
        ("idc-mnist --set ipc=1", "A reproduction sets 'ipc' itself; --ipc"),
        ("idc-mnist --set pool.seed=1", "A reproduction sets 'pool.seed' itself; --seeds"),
        ("idc-mnist", "data.mean has 1 numbers. Expected 3"),
        ("idc-cifar10 --set score.networks=[vgg11]", "A vgg11 shrinks 8-pixel images"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(source: str, tmp_path: Path, arguments: str, words: str):
    told = command(f"reproduce {arguments} --data {source} --out {tmp_path}/out")
    assert told.exit_code == 2 and not (tmp_path / "out").exists(), told.stderr
    assert [word for word in words.split("; ") if word not in told.stderr] == [], told.stderr


def test_the_preset_s_settings_are_those_of_a_distillation(source: str):
    del source
    assert presets.given(None, {"ipc": 2}) == {"ipc": 2}
    given = presets.given("dc-cifar10", {"ipc": 10, "images.lr": 1.0})
    assert (given["loop.inner_steps"], given["images.lr"], given["ipc"]) == (10, 1.0, 10)
