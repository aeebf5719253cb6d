"""Honest scores: last epoch, n fresh networks, a protocol with a name."""

from accdd.evaluation.protocols import PROTOCOLS, Protocol, suited
from accdd.evaluation.scores import Score, beside_random, network_keys, score
from accdd.evaluation.sets import origin, recorded, test_data

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Score",
    "beside_random",
    "network_keys",
    "origin",
    "recorded",
    "score",
    "suited",
    "test_data",
]
