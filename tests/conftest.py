"""Fixtures: data and a pool small enough for seconds, and a cache that no test shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
import torch

from accdd.augmented_models import EarlyStageModel
from accdd.data import Dataset


def pytest_configure(config: pytest.Config) -> None:
    """On every machine the tests are those of a CPU, here and in what they start; those of a GPU have a run of their
    own, `pytest -m gpu`."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Tensors are too small here to be shared out: more threads only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "accdd-cache"))


@pytest.fixture(scope="session", autouse=True)
def own_compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests compile is kept to the end of the session, unless the caller keeps it for the next one.

    PyTorch fixes the folder at its first compilation, so it cannot be one of each test.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(autouse=True)
def named_accdd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command calls itself `accdd` also where the tests run without it on the search path."""
    monkeypatch.setattr("accdd.cli.shell.shutil.which", lambda name: name)


@pytest.fixture(scope="session")
def data() -> Dataset:
    return helpers.stripes()


@pytest.fixture(scope="session")
def early_models(data: Dataset) -> tuple[EarlyStageModel, ...]:
    """Three networks after one epoch."""
    return helpers.trained(data, helpers.network(), helpers.settings({"pool.networks": 3}))


@pytest.fixture(scope="session")
def waves() -> Dataset:
    """Five classes."""
    return helpers.several(5)


@pytest.fixture(scope="session")
def wave_models(waves: Dataset) -> tuple[EarlyStageModel, ...]:
    """Three networks for the waves after one epoch."""
    return helpers.trained(waves, helpers.network(num_classes=5), helpers.settings({"pool.networks": 3}))
