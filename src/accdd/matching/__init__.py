"""Matching losses. Each is a summary of a batch and a distance between summaries.

The loss of a class is distance(summary(real), summary(synthetic)). Its real half does not depend on the
learned images, so the two halves are called separately.
"""

from accdd.matching.distances import DISTANCES, Distance, cosine, l1, mse
from accdd.matching.distribution import embedding
from accdd.matching.gradient import Summary, averages, averaging, convolutions, gradient, weights

__all__ = [
    "DISTANCES",
    "Distance",
    "Summary",
    "averages",
    "averaging",
    "convolutions",
    "cosine",
    "embedding",
    "gradient",
    "l1",
    "mse",
    "weights",
]
