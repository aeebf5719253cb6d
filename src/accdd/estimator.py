"""Distillation in the habits of scikit-learn: `Distiller().fit(X, y)`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from accdd import api
from accdd.artifact import Distilled
from accdd.config import InputError

SMALLEST = 4
"""Pixels per side of the smallest image that rows are laid out in."""


class Distiller(BaseEstimator):
    """Turns labelled rows or images into a few learned ones per class, as a scikit-learn estimator.

    Values are stretched from their range over the whole of X to 8 bits, as pixels have; images of uint8 are taken as
    they are. Rows of features are laid out in the smallest square image that holds them, which suits rows of pixels;
    for others there is `network.name=mlp`.

    Args:
        ipc: learned images per class.
        preset: a name from `accdd.presets.PRESETS`.
        settings: dotted keys, as for `accdd.distill`, as in {"loop.steps": 500}. Nothing is scored.
        out: a new folder for the run, or that of the same run, finished; None keeps everything in memory.
        random_state: decides every draw, as scikit-learn has it: a number, a generator, or None for another each time.

    Attributes:
        distilled_: the learned set (`accdd.Distilled`), in pixels from 0 to 1.
        X_: what it decodes into, in the shape and units of X, float32 (m, ...).
        y_: their classes, from y.
        classes_: the distinct values of y.
        n_features_in_: columns of X, where it is rows.
    """

    distilled_: Distilled
    X_: np.ndarray
    y_: np.ndarray
    classes_: np.ndarray

    def __init__(
        self,
        ipc: int = 1,
        *,
        preset: str | None = None,
        settings: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        random_state: Any = None,
    ) -> None:
        self.ipc = ipc
        self.preset = preset
        self.settings = settings
        self.out = out
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Learn the images.

        Args:
            X: numbers (n, features); or square images (n, h, w), (n, c, h, w) or (n, h, w, c) with c 1 or 3.
            y: a class of each, (n,), of two or more.

        Raises:
            ValueError: X or y are of another kind, or a setting is wrong (an `InputError`, which is one).
            ArithmeticError: the images diverged.
        """
        X, y = validate_data(self, X, y, allow_nd=True, ensure_min_samples=2)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError("y has one class; expected two or more.")
        images, low, high = _pixels(X)
        settings = dict(self.settings or {})
        if settings.get("data.held_out"):
            raise InputError("'data.held_out' would keep images of X from being learned from. Expected it left out.")
        settings |= {"data.size": images.shape[-1], "score.seeds": 0}
        if "seed" not in settings:
            settings["seed"] = int(check_random_state(self.random_state).randint(2**31))
        # All of it is learned from: the test images, which nobody looks at, are the same.
        source = (images, labels, images, labels)
        learned = api.distill(source, self.ipc, preset=self.preset, settings=settings, out=self.out)
        decoded, of_class = learned.distilled.to_numpy()
        self.distilled_, self.classes_, self.y_ = learned.distilled, classes, classes[of_class]
        self.X_ = _units(decoded, X.shape[1:], low, high)
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Learn the images and return them with their classes, as imbalanced-learn's samplers do: `X_` and `y_`."""
        self.fit(X, y)
        return self.X_, self.y_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.three_d_array = True
        return tags


def _pixels(X: np.ndarray) -> tuple[np.ndarray, float, float]:
    """uint8 (n, c, size, size) of what X holds, and which values became 0 and 255."""
    if X.dtype == np.uint8 and X.ndim > 2:
        low, high = 0.0, 255.0
    else:
        low, high = float(X.min()), float(X.max())
    stretched = (X.astype(np.float64) - low) * (255 / (high - low or 1.0))
    images = _laid_out(stretched.round().astype(np.uint8))
    if images.shape[-1] != images.shape[-2]:
        raise InputError(f"X holds images of {images.shape[-2]} x {images.shape[-1]}; expected square ones.")
    return images, low, high


def _laid_out(X: np.ndarray) -> np.ndarray:
    """X as images (n, c, h, w), of its dtype; rows in the smallest square, padded with 0."""
    match X.shape:
        case (_, features):
            side = max(SMALLEST, math.isqrt(features - 1) + 1)
            padded = np.pad(X, ((0, 0), (0, side * side - features)))
            return padded.reshape(len(X), 1, side, side)
        case (_, _, _):
            return X[:, None]
        case (_, 1 | 3, _, _):
            return X
        case (_, _, _, 1 | 3):
            return np.ascontiguousarray(X.transpose(0, 3, 1, 2))
    raise InputError(
        f"X has the shape {X.shape}; expected (n, features), (n, h, w), (n, c, h, w) or (n, h, w, c) with c 1 or 3."
    )


def _units(decoded: np.ndarray, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Images float (m, c, h, w) in [0, 1] in the shape and units of X."""
    match shape:
        case (features,):
            rows = decoded.reshape(len(decoded), -1)[:, :features]
        case (_, _, 1 | 3) if shape[0] not in (1, 3):
            rows = decoded.transpose(0, 2, 3, 1)
        case _:
            rows = decoded.reshape(len(decoded), *shape)
    return (low + rows * (high - low)).astype(np.float32)
