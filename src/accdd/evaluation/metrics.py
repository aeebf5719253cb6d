"""What says more than an accuracy: recovery, improvement over random, robustness, storage, and how sure one may be.

DD-Ranking's scores (Li et al., 2025, arXiv 2505.13300) are written for accuracies as fractions from 0 to 1:
only then do LRS and ARS lie between 0 and 1. Its released code (0.2.0) puts percent into the same exponentials.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from accdd.config import InputError
from accdd.evaluation.protocols import DDRANKING_HARD, DDRANKING_PLAIN, WHOLE
from accdd.evaluation.scores import Score
from accdd.keys import Key


def hard_label_recovery(whole: float, distilled: float) -> float:
    """HLR: how much accuracy is lost against the whole real set with hard labels; lower is better.

    Args:
        whole, distilled: accuracies with hard labels, fractions from 0 to 1.

    Returns:
        `whole - distilled`, from -1 to 1.

    Raises:
        InputError: an accuracy is no fraction.
    """
    _check_fractions(whole, distilled)
    return whole - distilled


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR: how much accuracy is gained over as many random real images, trained on alike; higher is better.

    Args, raises: fractions, as for `hard_label_recovery`.

    Returns:
        `distilled - random`, from -1 to 1.
    """
    _check_fractions(distilled, random)
    return distilled - random


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """LRS: IOR and HLR in one number, `normalised(w IOR - (1 - w) HLR)`; higher is better.

    Args:
        hlr, ior: from -1 to 1, of fractions.
        weight: w, from 0 to 1; the leaderboard's is 0.5.

    Returns:
        From 0 to 1; 0.27 for a set that is as good as the whole and no better than random images.
    """
    return normalised(weight * ior - (1 - weight) * hlr)


def augmentation_robust_score(with_augmentation: float, without: float, weight: float = 0.5) -> float:
    """ARS: improvement over random with and without augmentation, `normalised(g with + (1 - g) without)`.

    Args:
        with_augmentation, without: `improvement_over_random`, networks being trained with augmentation and without.
        weight: g, from 0 to 1.

    Returns:
        From 0 to 1; higher is better, 0.27 for a set that is no better than random images.
    """
    return normalised(weight * with_augmentation + (1 - weight) * without)


def normalised(value: float) -> float:
    """DD-Ranking's scale: (e^x - e^-1) / (e - e^-1), which takes -1 to 0 and 1 to 1.

    Raises:
        InputError: not from -1 to 1.
    """
    if not -1 <= value <= 1:
        raise InputError(f"{value:g} is to be put on the scale of LRS and ARS. Expected a number from -1 to 1.")
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def storage(*tensors: Tensor) -> int:
    """Bytes of images and labels as they are held: a learned pixel takes 4, a real one 1, a hard label 8."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Interval(NamedTuple):
    """A mean and where it may lie."""

    mean: float
    low: float
    high: float
    n: int
    """Values behind it."""


PERCENT = (0.0, 100.0)
"""Between which accuracies lie."""


def interval(
    values: Sequence[float],
    key: Key,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The percentile bootstrap interval of a mean (Efron, 1979), widened for few values.

    By itself, where it says 95 %, it covers the mean of normal values in 50 % for n = 2 and in 75 % for n = 3:
    resampling does not see that the spread of few is uncertain, and too small by sqrt((n - 1) / n). Both sides are
    therefore stretched by sqrt(n / (n - 1)) t / z, the quantiles of Student's and the normal distribution (Hesterberg,
    2015, who moves the percentiles instead, which cannot reach beyond the values): 93 % for n = 2, 94 to 95 % beyond.

    Args:
        values: one per network, in any unit.
        key: decides the draws.
        level: share of resampled means that lie inside.
        draws: how often the values are drawn again, with repetition.
        within: where a mean can lie at all.

    Returns:
        In the values' unit.

    Raises:
        InputError: fewer than 2 values.
    """
    if len(values) < 2:
        raise InputError(f"An interval from n = {len(values)} says nothing. Expected at least 2: --seeds 2 or more.")
    from scipy.special import ndtri, stdtrit  # a third of a second that most starts do not need

    generator = np.random.default_rng(key.generator("bootstrap").initial_seed())
    given = np.asarray(values, dtype=np.float64)
    means = given[generator.integers(len(given), size=(draws, len(given)))].mean(1)
    quantiles = np.array([(1 - level) / 2, (1 + level) / 2])
    ratio = stdtrit(len(given) - 1, quantiles[1]) / ndtri(quantiles[1])
    mean, stretch = given.mean(), math.sqrt(len(given) / (len(given) - 1)) * ratio
    low, high = (mean + stretch * (np.quantile(means, quantiles) - mean)).clip(*within)
    return Interval(float(mean), float(low), float(high), len(given))


def paired(first: Score, second: Score, key: Key) -> Interval:
    """The difference first - second, network by network, both having begun alike, and its interval.

    Args:
        first, second: scores of one network, in one shape, n and (known) seed, by one `Score.rule` (that of the whole
            set goes with any), tested on the same images, as far as they say.
        key: as for `interval`.

    Returns:
        In points of percent.

    Raises:
        InputError: the scores differ in one of these, or are of one network.
    """
    if first.rule != second.rule and WHOLE.name not in (first.rule, second.rule):
        raise InputError(f"One score is by {first.protocol}, one by {second.protocol}. Expected one protocol.")
    if None not in (first.tested, second.tested) and first.tested != second.tested:
        raise InputError(f"'{first.set}' and '{second.set}' were tested on different images. Expected the same.")
    if None in (first.seed, second.seed):
        raise InputError("Scores that do not say from which seed their networks began. Expected the same, known seed.")
    if (first.network, first.shape, first.n, first.seed) != (second.network, second.shape, second.n, second.seed):
        mine, theirs = (f"'{s.set}' by {s.n} of {s.network} from seed {s.seed}" for s in (first, second))
        raise InputError(f"Scored are {mine} and {theirs}. Expected the same networks, begun alike.")
    return interval([a - b for a, b in zip(first.accuracies, second.accuracies, strict=True)], key)


class Comparison(NamedTuple):
    """A set against a baseline beside it, or against another set."""

    set: str
    network: str
    other: str
    protocol: str
    """The set's; and the other's, where it has another."""
    difference: float
    """Points of percent, set - other, mean over networks."""
    interval: tuple[float, float] | None
    """The difference's, 95 %; None for one network."""
    n: int

    def __str__(self) -> str:
        """As in 'runs/a - herding: +12.3 points [+11.0, +13.1] (convnet, n = 5, protocol idc)'."""
        within = "" if self.interval is None else " [{:+.1f}, {:+.1f}]".format(*self.interval)
        return f"{self.set} - {self.other}: {self.difference:+.1f} points{within} {_facts(self)}"


def comparisons(scores: Sequence[Score], key: Key) -> list[Comparison]:
    """Every set against every baseline that stands beside it, then any two sets that were tested on the same images,
    all paired by network and of one protocol, but for the whole set, which has its own; of a set's snapshots the last.
    """
    sets = _sets(scores)
    pairs = [(own, other) for own in sets for other in _beside(own, scores)]
    pairs += [
        (one, other) for one, other in itertools.combinations(sets, 2)
        if (one.network, one.shape, one.rule, one.tested) == (other.network, other.shape, other.rule, other.tested)
    ]  # fmt: skip
    found = []
    for own, other in pairs:
        given = paired(own, other, key) if own.n > 1 else None
        rule = own.protocol if own.protocol == other.protocol else f"{own.protocol} against {other.protocol}"
        within = (round(given.low, 2), round(given.high, 2)) if given else None
        difference = round(own.mean - other.mean, 2)
        found.append(Comparison(own.set, own.network, other.set, rule, difference, within, own.n))
    return found


class LabelRobustness(NamedTuple):
    """DD-Ranking's scores of a set, as fractions: set and random images by `protocol`, which is theirs where it is
    `ddranking-hard`, and the whole set by accdd's own `whole`."""

    set: str
    network: str
    protocol: str
    n: int
    hlr: float
    ior: float
    lrs: float

    def __str__(self) -> str:
        """As in 'runs/a: HLR 0.212, IOR 0.301, LRS 0.306 (convnet, n = 5, protocol ddranking-hard against whole)'."""
        return f"{self.set}: HLR {self.hlr:.3f}, IOR {self.ior:.3f}, LRS {self.lrs:.3f} {_facts(self)}"


def label_robustness(scores: Sequence[Score]) -> list[LabelRobustness]:
    """HLR, IOR and LRS of every set beside which random images and the whole set were scored."""
    found = []
    for own in _sets(scores):
        others = {each.set: each for each in _beside(own, scores)}
        if {"random", "whole"} <= others.keys():
            hlr = hard_label_recovery(others["whole"].mean / 100, own.mean / 100)
            ior = improvement_over_random(own.mean / 100, others["random"].mean / 100)
            rounded = [round(value, 4) for value in (hlr, ior, label_robust_score(hlr, ior))]
            protocol = f"{own.protocol} against {others['whole'].protocol}"
            found.append(LabelRobustness(own.set, own.network, protocol, own.n, *rounded))
    return found


class AugmentationRobustness(NamedTuple):
    """DD-Ranking's score of a set that was trained on with augmentation and without: as fractions."""

    set: str
    network: str
    protocol: str
    """`ddranking-hard`, with what was suited to the data and the epochs where they are not its own."""
    n: int
    with_augmentation: float
    """Improvement over random by `protocol`."""
    without: float
    """By `ddranking-plain`."""
    ars: float

    def __str__(self) -> str:
        """As in 'runs/a: IOR 0.301 with augmentation, 0.210 without, ARS 0.393 (convnet, n = 5, protocol ...)'."""
        over_random = f"IOR {self.with_augmentation:.3f} with augmentation, {self.without:.3f} without"
        return f"{self.set}: {over_random}, ARS {self.ars:.3f} {_facts(self)}"


def augmentation_robustness(scores: Sequence[Score]) -> list[AugmentationRobustness]:
    """ARS of every set that was scored by both of DD-Ranking's protocols, beside random images."""
    gains = {
        (own.set, own.network, own.rule): improvement_over_random(own.mean / 100, other.mean / 100)
        for own in _sets(scores) for other in _beside(own, scores) if other.set == "random"
    }  # fmt: skip
    found = []
    for own in _sets(scores):
        augmented = gains.get((own.set, own.network, DDRANKING_HARD.name))
        plain = gains.get((own.set, own.network, DDRANKING_PLAIN.name))
        if own.rule == DDRANKING_HARD.name and augmented is not None and plain is not None:
            values = augmented, plain, augmentation_robust_score(augmented, plain)
            rounded = [round(value, 4) for value in values]
            found.append(AugmentationRobustness(own.set, own.network, own.protocol, own.n, *rounded))
    return found


def _facts(told: Comparison | LabelRobustness | AugmentationRobustness) -> str:
    """What no number is told without."""
    return f"({told.network}, n = {told.n}, protocol {told.protocol})"


def _sets(scores: Sequence[Score]) -> list[Score]:
    """Those of sets, on each network by each protocol; of a set's snapshots the last."""
    own = [score for score in scores if score.beside is None]
    return list({(score.of, score.network, score.rule): score for score in own}.values())


def _beside(own: Score, scores: Sequence[Score]) -> list[Score]:
    """Of the same protocol, but for the whole set, which has its own."""
    beside = [score for score in scores if (score.beside, score.network) == (own.of, own.network)]
    return [score for score in beside if score.rule in (own.rule, WHOLE.name)]


def _check_fractions(*accuracies: float) -> None:
    for accuracy in accuracies:
        if not 0 <= accuracy <= 1:
            raise InputError(f"The accuracy {accuracy:g} is no fraction. Expected 0 to 1: percent divided by 100.")
