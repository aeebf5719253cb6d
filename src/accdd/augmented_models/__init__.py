"""The paper: early-stage models and parameter perturbation (Zhang et al., CVPR 2023)."""

from accdd.augmented_models.perturb import direction, perturb
from accdd.augmented_models.pool import EarlyStageModel, ModelPool, load_or_build
from accdd.augmented_models.sources import EarlyStage, Fresh, Perturbed, Source, source

__all__ = [
    "EarlyStage",
    "EarlyStageModel",
    "Fresh",
    "ModelPool",
    "Perturbed",
    "Source",
    "direction",
    "load_or_build",
    "perturb",
    "source",
]
