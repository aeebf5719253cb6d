"""Baselines: what each rule chooses, by hand and by search; what it looks at; and scores beside a distilled set."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from helpers import generator, network, noise, stripes
from torch import Tensor
from typer.testing import CliRunner

import accdd
from accdd import evaluation, selection, training
from accdd.cli import app, options
from accdd.config import InputError, Train
from accdd.data import Dataset
from accdd.evaluation import BASELINES, Protocol, Real, Score, Way, network_keys
from accdd.evaluation import baselines as rules
from accdd.keys import Key
from accdd.networks import Forward
from accdd.run import Quiet

KEY = Key(0)
FEW = Protocol(name="few", epochs=2, recipe=Train(lr=0.05, batch=8, augment=("crop",)), source="these tests")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stripes, seen by a pool of two small networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = Real(stripes(), network(), helpers.settings({"perturb.use": False}))
        assert len(found.networks) == 2 and len(found.course) == rules.FORGETTING_EPOCHS
        yield found


def looking(values: Tensor) -> selection.Look:
    return lambda rows: values[rows]


# Rules --------------------------------------------------------------------------------------------------------


def test_herding_by_hand():
    """The mean of 0, 1, 4, 11 is 4; with 4, the next best mean is (4 + 1) / 2, nearer than (4 + 11) / 2 and 2."""
    values = torch.tensor([0.0, 1.0, 4.0, 11.0])[:, None]
    rows = (torch.tensor([0, 1, 2, 3]),)
    assert selection.herding(rows, 3, KEY, looking(values)).tolist() == [[2, 1, 3]]


def test_herding_is_greedy_mean_matching():
    features = noise(23, 5, dtype=torch.float64)
    rows = (torch.arange(0, 23, 2), torch.arange(1, 23, 2))
    found = selection.herding(rows, 6, KEY, looking(features))
    for own, chosen in zip(rows, found, strict=True):
        mean, before = features[own].mean(0), []
        for row in chosen.tolist():
            free = [each for each in own.tolist() if each not in before]
            away = [float((features[[*before, each]].mean(0) - mean).norm()) for each in free]
            assert row == free[int(np.argmin(away))]
            before.append(row)


def test_herding_of_all_images_is_all_of_them():
    found = selection.herding((torch.arange(7),), 7, KEY, looking(noise(7, 3)))
    assert sorted(found[0].tolist()) == list(range(7))


def test_kcenter_by_hand():
    """5 is nearest to the mean of 0, 1, 5, 9, 9 (4.8); then 0, of distance 5; then 9, of distance 4; a copy last."""
    values = torch.tensor([0.0, 1.0, 5.0, 9.0, 9.0])[:, None]
    assert selection.kcenter((torch.arange(5),), 5, KEY, looking(values)).tolist() == [[2, 0, 3, 1, 4]]


def test_kcenter_covers_within_twice_the_best_radius():
    """Gonzalez 1985: greedy farthest points are at most twice as far from some image as the best choice is."""
    features = noise(12, 2)
    distances = torch.cdist(features, features)
    chosen = selection.kcenter((torch.arange(12),), 3, KEY, looking(features))[0]
    best = min(float(distances[:, list(few)].amin(1).max()) for few in torch.combinations(torch.arange(12), 3).tolist())
    assert float(distances[:, chosen].amin(1).max()) <= 2 * best + 1e-6


def test_the_highest_are_taken_and_equal_ones_drawn():
    values = torch.tensor([1.0, 3.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    rows = (torch.arange(4), torch.arange(4, 8))
    first, second = selection.highest(rows, 2, KEY, looking(values)).tolist()
    assert sorted(first) == [1, 3] and set(second) < set(range(4, 8))
    others = {tuple(selection.highest(rows, 2, Key(seed), looking(values))[1].tolist()) for seed in range(20)}
    assert len(others) > 3


def test_forgetting_is_counted_by_hand():
    right = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]]).bool()
    assert selection.forgotten(right).tolist() == [2, 1, 4, 0]  # the third was never right


def test_el2n_by_hand():
    probabilities = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]])
    root = 2**0.5
    expected = torch.tensor([(0 + root) / 2, (root / 2 + root) / 2])
    torch.testing.assert_close(selection.error_norm(probabilities, torch.tensor([0, 1])), expected)


# What they look at --------------------------------------------------------------------------------------------


def test_features_are_those_of_all_networks_of_the_pool(real: Real):
    rows, forward = torch.tensor([3, 1]), Forward(real.architecture)
    images = (real.data.images[rows] / 255 - torch.tensor(real.data.mean)[:, None, None]) / torch.tensor(real.data.std)[
        :, None, None
    ]
    expected = torch.cat([forward.embed(one, images) for one in real.networks], 1)
    torch.testing.assert_close(rules.embeddings(real)(rows), expected)
    torch.testing.assert_close(rules.pixels(real)(rows), images.flatten(1))


def test_looks_do_not_depend_on_the_images_beside(real: Real):
    batch = Real(real.data, network(norm="batch"), real.settings)
    for seen in (rules.embeddings, rules.errors, rules.forgetting):
        look = seen(batch)
        together = look(torch.arange(24))
        alone = torch.cat([look(rows) for rows in torch.arange(24).split(5)])
        torch.testing.assert_close(together, alone)


def test_what_is_mislabelled_has_the_largest_errors_and_is_forgotten_most(real: Real, monkeypatch: pytest.MonkeyPatch):
    labels = real.data.labels.clone()
    labels[[4, 5]] = 1 - labels[[4, 5]]
    data = dataclasses.replace(real.data, labels=labels)
    settings = helpers.settings({"train.lr": 0.05, "pool.epochs": 4})
    wrong = Real(data, network(), settings)
    for name in ("el2n", "forgetting"):
        assert set(rules.chosen(name, wrong, 1, KEY, 1)[0].tolist()) == {4, 5}


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_chooses_as_many_of_each_class_and_none_twice(real: Real, name: str):
    rows = rules.chosen(name, real, 5, KEY, 3)
    assert rows.shape == (3, 10) and rows.dtype == torch.int64
    for own in rows:
        assert len(set(own.tolist())) == 10
        assert real.data.labels[own].tolist() == [0] * 5 + [1] * 5
    assert (len(rows.unique(dim=0)) > 1) == BASELINES[name].drawn
    assert torch.equal(rows, rules.chosen(name, real, 5, KEY, 3))


# Scores -------------------------------------------------------------------------------------------------------


def score_of(name: str, real: Real, **options: Any) -> Score:
    own: dict[str, Any] = {name: options.pop(name) for name in Way._fields if name in options}
    way = Way(**{"precision": "fp32", **own})
    rows = rules.chosen(name, real, 2, KEY, 2)
    given: dict[str, Any] = {"keys": network_keys(KEY, 2), **options}
    return evaluation.beside(name, real.data, rows, real.data, network(), FEW, way, **given)


def test_a_baseline_s_networks_begin_as_the_set_s_do(real: Real):
    found = score_of("herding-pixels", real)
    rows = rules.chosen("herding-pixels", real, 2, KEY, 1)[0]
    expected = evaluation.score(
        "same", real.data.images[rows], real.data.labels[rows], real.data, network(), FEW,
        Way(precision="fp32"), mean=real.data.mean, std=real.data.std, keys=network_keys(KEY, 2),
    )  # fmt: skip
    assert found.accuracies == expected.accuracies
    assert (found.set, found.protocol, found.n) == ("herding-pixels", "few", 2)
    assert found.bytes == 4 * (3 * 8 * 8 + 8)  # an image's pixels and its label


def test_the_whole_set_is_scored_once_and_then_found(real: Real, monkeypatch: pytest.MonkeyPatch):
    def whole(seeds: int = 1, **options: Any) -> Score:
        return evaluation.whole(real.data, real.data, network(), Way(**options), keys=network_keys(KEY, seeds))

    first = whole()
    assert (first.set, first.protocol, first.epochs, first.n) == ("whole", "whole", 30, 1)
    assert first.bytes == 24 * (3 * 8 * 8 + 8)
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_step", lambda *args, **options: pytest.fail("trained again"))
        assert whole() == first
    assert (whole(2).n, whole(2).accuracies[0]) == (2, first.accuracies[0])
    assert whole(best_on_test=True).best_on_test is not None


def test_the_whole_set_learns_separable_data():
    data = stripes(per_class=60, tested=20)
    assert min(evaluation.whole(data, data, network(), keys=network_keys(KEY, 2)).accuracies) >= 90


# Through the command and the function -------------------------------------------------------------------------

TINY = {"pool.networks": 1, "pool.epochs": 1, "network.width": 4, "train.batch": 8, "loop.steps": 1, "score.seeds": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on stripes kept in a file, without a test split of its own."""
    root = tmp_path_factory.mktemp("baselines")
    data = stripes()
    np.savez(root / "stripes.npz", images=data.images.numpy(), labels=data.labels.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCDD_CACHE", str(root / "cache"))
        accdd.distill(root / "stripes.npz", ipc=2, out=root / "run", settings=TINY)
    return root / "run"


def evaluate(run: Path, flags: str) -> Any:
    return CliRunner().invoke(app, ["evaluate", str(run), "--epochs", "1", "--compile", "never", *shlex.split(flags)])


def test_evaluate_scores_baselines_and_the_whole_set_beside_each_set(run: Path):
    told = evaluate(run, "--baselines random,herding,kcenter,el2n,forgetting --whole --seeds 2 --json")
    assert told.exit_code == 0, told.stderr
    record = json.loads(told.stdout)
    own, *others = record["scores"]
    names = ["random", "herding", "kcenter", "el2n", "forgetting", "whole"]
    assert [each["set"] for each in others] == names
    assert all(each["beside"] == own["set"] == str(run) and each["n"] == 2 for each in others)
    assert [each["protocol"] for each in others] == ["idc, 1 epochs"] * 5 + ["whole"] and "beside" not in own
    assert own["bytes"] == 4 * (4 * 192 + 8) and others[0]["bytes"] == 4 * (192 + 8)
    assert [each["other"] for each in record["comparisons"]] == names
    assert record["comparisons"][0]["difference"] == pytest.approx(own["mean"] - others[0]["mean"], abs=0.02)
    (robust,) = record["label_robustness"]
    assert robust["hlr"] == pytest.approx((others[-1]["mean"] - own["mean"]) / 100, abs=1e-3)


def test_beside_a_set_that_records_no_settings_networks_look_that_are_trained_by_default(run: Path):
    bare = dataclasses.replace(accdd.load(run / "distilled"), info={})
    source = run.parent / "stripes.npz"
    found = accdd.evaluate(bare, data=source, test=source, networks="mlp", baselines=["herding"], seeds=1, epochs=1)
    assert [each.set for each in found] == ["distilled", "herding"]


def test_evaluate_scores_by_several_protocols_and_the_whole_set_once(run: Path):
    told = evaluate(run, "--protocol ddranking-hard,ddranking-plain --baselines random --whole --seeds 2 --json")
    assert told.exit_code == 0, told.stderr
    record = json.loads(told.stdout)
    assert [(Path(each["set"]).name, each["protocol"]) for each in record["scores"]] == [
        ("run", "ddranking-hard, 1 epochs"), ("random", "ddranking-hard, 1 epochs"), ("whole", "whole"),
        ("run", "ddranking-plain, 1 epochs"), ("random", "ddranking-plain, 1 epochs"),
    ]  # fmt: skip
    assert [each["other"] for each in record["comparisons"]] == ["random", "whole", "whole", "random"]
    assert len(record["label_robustness"]) == 2 and len(record["augmentation_robustness"]) == 1
    snapshots = evaluate(run, "--protocol dsa,idc,dsa --snapshots --seeds 1 --json")
    found = [each["protocol"] for each in json.loads(snapshots.stdout)["scores"]]
    assert found and found == [f"{name}, 1 epochs" for name in ("dsa", "idc") for _ in found[::2]]
    for given in ([], None, ["idc", 3]):
        with pytest.raises(InputError, match=r"Expected one of idc, quick, .* or a list of some"):
            accdd.evaluate(run, protocol=given)  # pyright: ignore[reportArgumentType]


def test_evaluate_tells_a_line_per_score_and_per_difference_with_protocol_and_n(run: Path):
    told = evaluate(run, "--baselines random --seeds 2 --quiet --best-on-test").stdout.splitlines()
    assert [line.split("  ")[0] for line in told] == [str(run), "random", *told[2:]] and len(told) == 3
    assert all("(n = 2, protocol idc, 1 epochs); best on test" in line for line in told[:2])
    assert told[2].startswith(f"{run} - random: ") and told[2].endswith("n = 2, protocol idc, 1 epochs)")


def test_the_command_names_every_baseline_and_finds_the_networks_of_the_run(run: Path, monkeypatch: pytest.MonkeyPatch):
    assert options.BASELINES.strip(".").split(", ") == list(BASELINES)
    monkeypatch.setenv("ACCDD_CACHE", str(run.parent / "cache"))
    kept = sorted(run.parent.glob("cache/pools/*/*"))
    accdd.evaluate(run, baselines=["herding"], seeds=1, epochs=1)
    assert sorted(run.parent.glob("cache/pools/*/*")) == kept and kept


def test_evaluate_prints_a_table(run: Path):
    told = evaluate(run, "--baselines random --seeds 1 --quiet --table csv").stdout.splitlines()
    assert told[0] == 'set,beside,network,protocol,epochs,n,"accuracy, last epoch",deviation,bytes'
    assert told[1].startswith(f'{run},,convnet,"idc, 1 epochs",1,1,') and told[2].startswith(f"random,{run},")


def test_baselines_never_learn_from_what_they_are_tested_on(run: Path, monkeypatch: pytest.MonkeyPatch):
    """Test data without a test split is tested on whole, unless baselines choose from the same images."""
    distilled = accdd.load(run)
    source = run.parent / "copy.npz"
    data = stripes()
    np.savez(source, images=255 - data.images.numpy(), labels=data.labels.numpy())
    whole = evaluation.test_data(distilled, source)
    real = evaluation.training_data(distilled, source)
    assert len(whole.test_images) == 24 and len(evaluation.apart(real, whole).test_images) == 4
    other = evaluation.training_data(distilled, None)
    assert evaluation.apart(other, whole) is whole
    tested: list[int] = []

    def correct(forward: Any, parameters: Any, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        tested.append(len(labels))
        return torch.ones(len(labels), dtype=torch.bool)

    monkeypatch.setattr(training, "correct", correct)
    for chosen_from in (source, None):
        accdd.evaluate(run, test=source, data=chosen_from, baselines=["random"], seeds=1, epochs=1)
    assert tested == [4, 4, 24, 24]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--baselines random,hurding", "Unknown baseline 'hurding'. Did you mean 'herding'?"),
        ("--table word", "Unknown table 'word'"),
        ("--protocol idc,ddranking-easy", "Unknown protocol 'ddranking-easy'. Did you mean 'ddranking-hard'?"),
        ("--protocol idc,", "Unknown protocol ''. Expected one of: idc, "),
        ("--table csv --json", "--json and --table csv both say what to print"),
        ("--baselines random --data {p}/nowhere", "No data at"),
        ("--baselines random --data {p}/few.npz", "stores 2 images per class, and class '1' has only 1 training"),
        ("--baselines random --data {p}/three.npz", "has 3 classes of 3 x 8 x 8, the set 2"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(run: Path, flags: str, words: str):
    data = stripes()
    few = [*range(0, 24, 2), 1, 3]
    np.savez(run.parent / "few.npz", images=data.images.numpy()[few], labels=data.labels.numpy()[few])
    np.savez(run.parent / "three.npz", images=data.images.numpy(), labels=np.arange(24) % 3)
    told = evaluate(run, flags.format(p=run.parent))
    assert told.exit_code == 2 and words in told.stderr and told.stdout == ""


def test_a_set_from_memory_asks_for_real_data(data: Dataset):
    result = accdd.distill(data, settings=TINY)
    with pytest.raises(InputError, match=r"no real images to choose from.*--data DATA"):
        accdd.evaluate(result.distilled, test=data, baselines=["random"], seeds=1, epochs=1)
    scores = accdd.evaluate([result.distilled] * 2, test=data, data=data, baselines=["random"], seeds=1, epochs=1)
    assert [each.beside for each in scores] == [None, "distilled", None, "distilled-2"]


def test_an_evaluation_with_baselines_tells_how_far_it_is(run: Path):
    told: list[tuple[str, list[float]]] = []

    class Recorder(Quiet):
        def phase(self, name: str) -> None:
            told.append((name, []))

        def update(self, share: float, detail: str = "") -> None:
            told[-1][1].append(share)

    accdd.evaluate(run, baselines=["random", "el2n"], whole=True, seeds=2, epochs=2, reporter=Recorder())
    assert [name for name, _ in told] == [
        "choosing, random", "choosing, el2n", "run on convnet", "random on convnet", "el2n on convnet",
        "the whole set on convnet",
    ]  # fmt: skip
    assert all(shares == sorted(shares) and shares[-1] == 1 for _, shares in told)


def test_generators_are_untouched_by_choosing(real: Real):
    before = torch.get_rng_state()
    rules.chosen("random", real, 2, KEY, 2)
    assert torch.equal(before, torch.get_rng_state()) and generator().initial_seed() == 0


def test_a_network_that_fits_no_set_is_refused_before_any_is_trained(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("accdd.evaluation.trials.run", None)  # whoever trains fails
    told = evaluate(run, "--networks convnet,vgg11 --seeds 1")
    assert told.exit_code == 2 and "A vgg11 shrinks 8-pixel images" in told.stderr, told.stderr


def test_a_table_leaves_differences_to_standard_error_and_says_what_was_tested_on(run: Path):
    told = evaluate(run, "--baselines random --seeds 2 --table csv")
    assert told.exit_code == 0, told.stderr
    assert len(told.stdout.splitlines()) == 3 and f"{run} - random: " not in told.stdout
    assert f"{run} - random: " in told.stderr and "Tested on " not in told.stderr


def test_a_name_given_to_a_set_s_own_data_is_not_that_of_other_data(run: Path, tmp_path: Path):
    """Protocols make exceptions by name."""
    made = accdd.load(run)
    settings = made.info["settings"] | {"data": made.info["settings"]["data"] | {"name": "mnist"}}
    named = dataclasses.replace(made, info=made.info | {"settings": settings})
    own = np.load(run.parent / "stripes.npz")
    np.savez(tmp_path / "others.npz", images=255 - own["images"], labels=own["labels"])
    assert evaluation.test_data(named, run.parent / "stripes.npz").name == "mnist"
    assert evaluation.test_data(named, tmp_path / "others.npz").name == "others"
    assert evaluation.training_data(named, tmp_path / "others.npz").name == "others"


def test_a_score_names_the_images_it_was_tested_on(run: Path):
    record = json.loads(evaluate(run, "--baselines random --whole --seeds 1 --json").stdout)
    assert len({each["tested"] for each in record["scores"]}) == 1
    assert {each["precision"] for each in record["scores"]} <= {"bf16", "fp32"}
