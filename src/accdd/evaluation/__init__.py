"""Honest scores: last epoch, n fresh networks, a protocol with a name, real images beside learned ones."""

from accdd.evaluation.baselines import BASELINES, Real, beside, check_enough, chosen, whole
from accdd.evaluation.kept import VERSION
from accdd.evaluation.metrics import (
    PERCENT,
    Interval,
    augmentation_robustness,
    comparisons,
    interval,
    label_robustness,
    paired,
    storage,
)
from accdd.evaluation.protocols import PROTOCOLS, WHOLE, Case, Protocol, rule_of, suited
from accdd.evaluation.scores import Score, network_keys, score
from accdd.evaluation.sets import apart, origin, recorded, test_data, training_data
from accdd.evaluation.tables import STYLES, network_names, table
from accdd.evaluation.trials import Way

__all__ = [
    "BASELINES",
    "PERCENT",
    "PROTOCOLS",
    "STYLES",
    "VERSION",
    "WHOLE",
    "Case",
    "Interval",
    "Protocol",
    "Real",
    "Score",
    "Way",
    "apart",
    "augmentation_robustness",
    "beside",
    "check_enough",
    "chosen",
    "comparisons",
    "interval",
    "label_robustness",
    "network_keys",
    "network_names",
    "origin",
    "paired",
    "recorded",
    "rule_of",
    "score",
    "storage",
    "suited",
    "table",
    "test_data",
    "training_data",
    "whole",
]
