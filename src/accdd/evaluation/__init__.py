"""Honest scores: last epoch, n fresh networks, a protocol with a name."""

from accdd.evaluation.protocols import PROTOCOLS, Protocol, suited
from accdd.evaluation.scores import Score, merge, score

__all__ = ["PROTOCOLS", "Protocol", "Score", "merge", "score", "suited"]
