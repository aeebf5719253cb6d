"""The estimator: scikit-learn's own checks, and that what comes out is of the kind that went in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

import accdd
from accdd import Distiller
from accdd.config import InputError

TINY = {
    "pool.networks": 1, "pool.epochs": 0, "network.width": 2, "network.depth": 1, "loop.steps": 1, "targets.count": 0,
    "images.factor": 1, "precision": "fp32", "compile": "never",
}  # fmt: skip


@parametrize_with_checks([Distiller(settings=TINY, random_state=0)])
def test_scikit_learns_checks(estimator: BaseEstimator, check: Any):
    check(estimator)


def shaped(*shape: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (12, *shape)).astype(dtype), np.array(["ant", "bee", "cat"] * 4)


@pytest.mark.parametrize("shape", [(64,), (10,), (8, 8), (3, 8, 8), (8, 8, 3), (8, 8, 1), (1, 8, 8)])
def test_what_comes_out_is_shaped_as_what_went_in(shape: tuple[int, ...]):
    X, y = shaped(*shape)
    made = Distiller(2, settings={**TINY, "images.start": "random", "loop.steps": 0}, random_state=1).fit(X, y)
    assert made.X_.shape == (6, *shape) and made.X_.dtype == np.float32
    assert sorted(made.y_) == ["ant", "ant", "bee", "bee", "cat", "cat"]
    # The start is real images, and no step was taken.
    for row, name in zip(made.X_, made.y_, strict=True):
        assert np.abs(X[y == name] - row).reshape(4, -1).max(1).min() <= 0.51 * (X.max() - X.min()) / 255


def test_what_it_learns_classifies_digits_better_than_as_many_random_ones():
    X, y = load_digits(return_X_y=True)
    X, y, tested, truth = X[:1200], y[:1200], X[1200:], y[1200:]
    settings = {**TINY, "network.width": 32, "network.depth": 2, "loop.steps": 60, "pool.use": False}
    few, labels = Distiller(settings=settings, random_state=0).fit_resample(X, y)
    assert len(few) == 10 and 0 <= few.min() and few.max() <= 16
    draw = np.random.default_rng(0)
    random = [
        KNeighborsClassifier(1).fit(X[rows], y[rows]).score(tested, truth)
        for rows in (np.array([draw.choice(np.flatnonzero(y == each)) for each in range(10)]) for _ in range(20))
    ]
    assert KNeighborsClassifier(1).fit(few, labels).score(tested, truth) > np.mean(random) + 0.1


def test_the_same_seed_gives_the_same_and_none_another():
    X, y = shaped(64)

    def made(random_state: int | None, **settings: int) -> np.ndarray:
        return Distiller(settings={**TINY, **settings}, random_state=random_state).fit(X, y).X_

    assert np.array_equal(made(3), made(3))
    assert not np.array_equal(made(3), made(3, seed=5))
    assert not np.array_equal(made(None), made(None))


def test_a_run_folder_is_kept_where_it_is_asked_for(tmp_path: Path):
    X, y = shaped(8, 8, dtype="uint8")
    made = Distiller(settings=TINY, out=tmp_path / "run", random_state=0).fit(X, y)
    assert np.array_equal(accdd.load(tmp_path / "run").to_numpy()[0], made.distilled_.to_numpy()[0])


@pytest.mark.parametrize(
    ("X", "y", "why"),
    [
        (np.zeros((4, 8, 9)), [0, 0, 1, 1], "images of 8 x 9; expected square ones"),
        (np.zeros((4, 2, 8, 8)), [0, 0, 1, 1], r"shape \(4, 2, 8, 8\); expected \(n, features\)"),
        (np.zeros((4, 64)), [0, 0, 0, 0], "one class; expected two or more"),
        (np.zeros((4, 64)), [0.5, 0.1, 0.2, 0.3], "Unknown label type"),
        (np.full((4, 64), np.nan), [0, 0, 1, 1], "contains NaN"),
        (np.zeros((4, 64)), [0, 1], "inconsistent numbers of samples"),
    ],
)
def test_wrong_input_is_a_value_error(X: np.ndarray, y: list[float], why: str):
    with pytest.raises(ValueError, match=why):
        Distiller(settings=TINY).fit(X, y)


def test_wrong_settings_are_said_at_fit():
    X, y = shaped(64)
    with pytest.raises(InputError, match="would keep images of X from being learned from"):
        Distiller(settings={"data.held_out": 0.1}).fit(X, y)
    with pytest.raises(InputError, match=r"Unknown setting 'loop\.step'"):
        Distiller(settings={"loop.step": 3}).fit(X, y)
