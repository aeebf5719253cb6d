"""Metrics by hand, intervals against what is known of them, and tables that can be read again."""

import csv
import math

import numpy as np
import pytest
import torch

from accdd.config import InputError
from accdd.evaluation import (
    STYLES,
    Score,
    augmentation_robustness,
    comparisons,
    interval,
    label_robustness,
    network_names,
    paired,
    storage,
    table,
)
from accdd.evaluation.metrics import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    normalised,
)
from accdd.keys import Key

KEY = Key(0)


def made(name: str, *accuracies: float, beside: str | None = None, **changes: object) -> Score:
    values = {"set": name, "network": "convnet", "protocol": "idc", "epochs": 1000, "seconds": 1.0, "seed": 0} | changes
    return Score(accuracies=accuracies, beside=beside, **values)  # pyright: ignore[reportArgumentType]


def test_recovery_improvement_and_their_scores_by_hand():
    assert hard_label_recovery(0.85, 0.65) == pytest.approx(0.2)
    assert improvement_over_random(0.65, 0.35) == pytest.approx(0.3)
    expected = (math.exp(0.05) - math.exp(-1)) / (math.exp(1) - math.exp(-1))  # 0.5 * 0.3 - 0.5 * 0.2
    assert label_robust_score(0.2, 0.3) == pytest.approx(expected) == pytest.approx(0.29075, abs=1e-5)
    assert label_robust_score(0.2, 0.3, weight=1) == pytest.approx(normalised(0.3))
    assert label_robust_score(0.2, 0.3, weight=0) == pytest.approx(normalised(-0.2))
    assert augmentation_robust_score(0.3, 0.1) == pytest.approx(normalised(0.2))
    assert augmentation_robust_score(0.3, 0.1, weight=0.75) == pytest.approx(normalised(0.25))


def test_the_scale_ends_at_0_and_1_and_rises():
    assert (normalised(-1), normalised(1)) == pytest.approx((0, 1))
    assert normalised(0) == pytest.approx(0.2689, abs=1e-4)
    values = [normalised(x) for x in np.linspace(-1, 1, 21)]
    assert values == sorted(values)


def test_percent_is_refused_where_fractions_are_expected():
    with pytest.raises(InputError, match="65 is no fraction"):
        improvement_over_random(65, 0.35)
    with pytest.raises(InputError, match="Expected a number from -1 to 1"):
        label_robust_score(20, 30)


def test_storage_counts_pixels_and_labels():
    assert storage(torch.zeros(10, 3, 4, 4), torch.zeros(10, dtype=torch.int64)) == 10 * (48 * 4 + 8)
    assert storage(torch.zeros(10, 3, 4, 4, dtype=torch.uint8), torch.zeros(10, 100)) == 10 * (48 + 400)


def test_an_interval_is_keyed_holds_the_mean_and_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).normal(50, 4, 400).tolist()
    found = interval(values, KEY)
    assert found == interval(values, KEY) != interval(values, Key(1))
    assert found.mean == pytest.approx(np.mean(values)) and found.n == 400
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(values) / 20, rel=0.05)
    narrow = interval(values, KEY, level=0.5)
    assert found.low < narrow.low < found.mean < narrow.high < found.high


def test_an_interval_of_two_values_by_hand():
    """Means of two draws from {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4; both sides are stretched."""
    stretch = 2**0.5 * 12.7062 / 1.95996  # Student's t of one degree of freedom, and the normal's
    assert interval([0, 1], KEY)[:3] == pytest.approx((0.5, 0.5 - stretch / 2, 0.5 + stretch / 2), abs=1e-3)
    assert interval([0, 1], KEY, level=0.4)[:3] == (0.5, 0.5, 0.5)
    assert interval([0, 1], KEY, within=(-1, 2))[:3] == (0.5, -1, 2)


@pytest.mark.parametrize(("n", "least"), [(2, 0.9), (3, 0.925), (5, 0.925), (10, 0.925)])
def test_intervals_of_few_cover_what_they_say(n: int, least: float):
    """By themselves bootstrap intervals cover 50, 75, 83 and 90 %."""
    generator = np.random.default_rng(n)
    found = [interval(generator.normal(size=n).tolist(), KEY, draws=500) for _ in range(1000)]
    assert least < np.mean([each.low <= 0 <= each.high for each in found]) < 0.98


def test_pairs_take_out_what_networks_have_in_common():
    first, second = made("a", 50, 60, 70), made("b", 48, 58, 68)
    assert paired(first, second, KEY) == (2, 2, 2, 3)
    assert interval(first.accuracies, KEY).low < interval(second.accuracies, KEY).high  # unpaired, they overlap


def test_what_was_scored_otherwise_is_not_paired():
    with pytest.raises(InputError, match="by idc, one by dc"):
        paired(made("a", 50, 60), made("b", 50, 60, protocol="dc"), KEY)
    with pytest.raises(InputError, match="tested on different images"):
        paired(made("a", 50, 60, tested="some"), made("b", 50, 60, tested="others"), KEY)


def test_networks_of_one_name_and_several_shapes_are_told_apart():
    wide, narrow, plain = (
        made(name, 50, shape=shape)
        for name, shape in (("w", "depth=3/width=128"), ("n", "depth=3/width=32"), ("p", "depth=3"))
    )
    assert set(network_names([wide]).values()) == {"convnet"}
    names = network_names([wide, narrow, plain, made("m", 50, network="mlp")])
    assert list(names.values()) == ["convnet/width=128", "convnet/width=32", "convnet", "mlp"]
    _, *lines = csv.reader(table([wide, narrow], "csv").splitlines())
    assert [line[1] for line in lines] == ["convnet/width=128", "convnet/width=32"]


@pytest.mark.parametrize(
    "other", [made("b", 50, 60), made("b", 50, 60, 70, network="mlp"), made("b", 50, 60, 70, seed=1)]
)
def test_what_is_not_paired_is_refused(other: Score):
    with pytest.raises(InputError, match="Expected the same networks, begun alike"):
        paired(made("a", 50, 60, 70), other, KEY)
    with pytest.raises(InputError, match="n = 1"):
        interval([50], KEY)


def test_scores_of_networks_that_began_nobody_knows_how_are_not_paired():
    with pytest.raises(InputError, match="do not say from which seed"):
        paired(made("a", 50, 60, seed=None), made("b", 50, 60, seed=None), KEY)


def test_sets_are_compared_with_what_stands_beside_them_and_with_nothing_else():
    scores = [
        made("a", 60, 62), made("random", 30, 33, beside="a"),
        made("whole", 80, 80, beside="a", protocol="whole"),
        made("b", 50, 50), made("random", 40, 40, beside="b"),
    ]  # fmt: skip
    found = comparisons(scores, KEY)
    assert [(each.set, each.other, each.difference) for each in found] == [
        ("a", "random", 29.5), ("a", "whole", -19), ("b", "random", 10), ("a", "b", 11)
    ]  # fmt: skip
    assert found[-1].interval == pytest.approx((11 - 9.17, 11 + 9.17), abs=0.01)
    assert found[1].protocol == "idc against whole"
    assert str(found[0]) == "a - random: +29.5 points [+24.9, +34.1] (convnet, n = 2, protocol idc)"
    (robust,) = label_robustness(scores)  # b has no whole set beside it
    assert robust.protocol == "idc against whole"
    assert (robust.hlr, robust.ior) == (0.19, 0.295)
    assert robust.lrs == pytest.approx(label_robust_score(0.19, 0.295), abs=1e-4)


def test_a_set_is_compared_within_each_protocol_and_both_of_dd_rankings_tell_its_robustness():
    scores = [
        made("a", 50, 60, protocol="ddranking-hard, 9 epochs"),
        made("random", 20, 30, beside="a", protocol="ddranking-hard, 9 epochs"),
        made("whole", 80, 80, beside="a", protocol="whole"),
        made("a", 30, 40, protocol="ddranking-plain, 9 epochs"),
        made("random", 20, 30, beside="a", protocol="ddranking-plain, 9 epochs"),
        made("b", 45, 55, protocol="ddranking-plain, 9 epochs"),
    ]  # fmt: skip
    assert [(each.set, each.other, each.difference) for each in comparisons(scores, KEY)] == [
        ("a", "random", 30), ("a", "whole", -25), ("a", "whole", -45), ("a", "random", 10), ("a", "b", -15)
    ]  # fmt: skip
    (robust,) = augmentation_robustness(scores)  # b was scored by one of the two, and beside nothing
    assert (robust.set, robust.n, robust.with_augmentation, robust.without) == ("a", 2, 0.3, 0.1)
    assert robust.ars == pytest.approx((math.exp(0.2) - math.exp(-1)) / (math.e - math.exp(-1)), abs=1e-4)
    facts = "(convnet, n = 2, protocol ddranking-hard, 9 epochs)"
    assert str(robust) == f"a: IOR 0.300 with augmentation, 0.100 without, ARS 0.363 {facts}"
    assert augmentation_robustness(scores[:3]) == []


def test_what_a_protocol_is_suited_to_does_not_keep_sets_apart():
    scores = [
        made("a", 50, protocol="idc, no CutMix"), made("whole", 80, beside="a", protocol="whole, no flip"),
        made("b", 40, protocol="idc"), made("b", 30, protocol="dsa"),
    ]  # fmt: skip
    assert [(each.set, each.other, each.protocol) for each in comparisons(scores, KEY)] == [
        ("a", "whole", "idc, no CutMix against whole, no flip"), ("a", "b", "idc, no CutMix against idc")
    ]  # fmt: skip


def test_networks_of_unlike_shapes_are_not_compared():
    scores = [made("a", 50, shape="width=32"), made("b", 40, shape="width=128"), made("c", 30, shape="width=128")]
    assert [(each.set, each.other) for each in comparisons(scores, KEY)] == [("b", "c")]


def test_networks_of_unlike_shapes_are_no_pairs():
    with pytest.raises(InputError, match="Expected the same networks"):
        paired(made("a", 50, 60, shape="width=32"), made("b", 40, 50, shape="width=128"), KEY)


def test_of_snapshots_the_last_is_compared_and_sets_on_other_networks_are_not():
    scores = [
        made("a@0@0.0s", 20, 20), made("a@8@1.5s", 60, 60), made("random", 40, 40, beside="a"),
        made("b", 30, 30, network="mlp"), made("c", 30, 30, tested="other images"),
    ]  # fmt: skip
    (found,) = comparisons(scores, KEY)
    assert (found.set, found.other, found.difference) == ("a@8@1.5s", "random", 20)


def test_one_network_has_a_difference_without_an_interval():
    (found,) = comparisons([made("a", 60), made("random", 30, beside="a")], KEY)
    assert (found.difference, found.interval, found.n) == (30, None, 1)
    assert str(found) == "a - random: +30.0 points (convnet, n = 1, protocol idc)"


NAMED = [made('a, "b" | 5_%', 50, 60, best_on_test=(55.0, 70.0)), made("plain", 51, bytes=100)]


def test_a_csv_is_read_again_as_it_was():
    header, first, second = csv.reader(table(NAMED, "csv").splitlines())
    assert header == [
        "set", "network", "protocol", "epochs", "n", "accuracy, last epoch", "deviation", "95 % interval",
        "best on test", "its deviation", "bytes",
    ]  # fmt: skip
    assert first == [
        'a, "b" | 5_%', "convnet", "idc", "1000", "2", "55.00", "7.07", "9.16 to 100.00", "62.50", "10.61", "",
    ]  # fmt: skip
    assert second == ["plain", "convnet", "idc", "1000", "1", "51.00", "", "", "", "", "100"]


def test_markdown_and_latex_show_what_means_something_to_them():
    lines = table(NAMED, "markdown").splitlines()
    assert lines[2].startswith('| a, "b" \\| 5_% | convnet | idc | 1000 | 2 | 55.00 | 7.07 |')
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1 and len(lines) == 4
    latex = table(NAMED, "latex")
    assert 'a, "b" | 5\\_\\% & convnet & idc & 1000 & 2 & 55.00 & 7.07 &' in latex
    assert latex.count("&") == 3 * 10 and latex.count(r"\\" + "\n") == 3
    # After a rule and after the end of a line, a bracket or a star would be taken for an argument.
    assert STYLES["latex"]([["*"], ["[0.1,0.2]"]]).splitlines()[2:5] == [r"{}* \\", r"\midrule", r"{}[0.1,0.2] \\"]


def test_every_table_says_protocol_n_and_deviation_whatever_is_in_it():
    header = table([made("a", 50)], "csv").splitlines()[0].split(",")
    assert {"protocol", "n", "deviation"} <= set(header) and "best on test" not in header


def test_an_unknown_table_is_refused():
    with pytest.raises(InputError, match=r"Unknown table 'markdwon'\. Did you mean 'markdown'"):
        table(NAMED, "markdwon")
