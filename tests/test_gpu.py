"""On a GPU: what runs there agrees with the CPU, compiled or not, and a whole run does everything there.

`pytest -m gpu tests/test_gpu.py`; skipped where there is no CUDA. Convolutions multiply in TF32 there, hence the
tolerances.
"""

import gc
import itertools
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, Pool, assert_same, network, settings, trained
from torch import Tensor
from torch.utils._pytree import tree_map_only

import accdd
from accdd import defaults, engine, evaluation, execution, executor, files, loop, networks, recording, training
from accdd.augmented_models import EarlyStage
from accdd.config import Train
from accdd.data import Dataset, build
from accdd.engine import Problem, Sweep
from accdd.evaluation import PROTOCOLS, Way
from accdd.execution import Plan
from accdd.executor import Task
from accdd.keys import Key
from accdd.methods import METHODS
from accdd.targets import Bank

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here"),
    pytest.mark.timeout(600),
    # PyTorch's compiler warns of this and that; that it failed is still an error.
    pytest.mark.filterwarnings("ignore", "error:PyTorch cannot compile"),
]

TINY = {
    "pool.networks": 2, "pool.epochs": 1, "network.width": 8, "train.batch": 8, "loop.steps": 3,
    "score.seeds": 2, "score.epochs": 2, "targets.real_batch": 6, "match.real_batch": 6,
}  # fmt: skip


def moved(tensors: Any) -> Any:
    return tree_map_only(Tensor, lambda value: value.cuda(), tensors)


def calls(waves: Dataset, wave_models: Pool, count: int) -> tuple[Problem, list[tuple[Any, ...]]]:
    """A problem and what its sweeps are called with, on the CPU."""
    problem = helpers.problem(waves, factor=2)
    given = defaults.resolve(settings({"ipc": 2, "match.real_batch": 6, "loop.inner_steps": count}), waves)
    drawn: list[Sweep] = loop.draw(waves, problem, given, Key(0).at("step", 0))
    random = torch.Generator().manual_seed(0)
    shape = (waves.num_classes, 2, 3, waves.size, waves.size)
    stored = [torch.rand(shape, generator=random) for _ in drawn]
    return problem, [(wave_models[n % 3].parameters, waves.images, stored[n], drawn[n]) for n in range(count)]


def assert_agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], cosine: float, losses: float) -> None:
    torch.testing.assert_close(found[0].cpu(), expected[0].cpu(), rtol=losses, atol=0)
    cosines = F.cosine_similarity(found[1].cpu().flatten(1), expected[1].cpu().flatten(1))
    assert cosines.min() > cosine, cosines


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("classes", [1, 3, 5])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_sweep_agrees_with_that_of_the_cpu(
    waves: Dataset, wave_models: Pool, compiled: bool, classes: int, precision: str
):
    problem, arguments = calls(waves, wave_models, 4)
    sweep = engine.sweeper(moved(problem), Plan(precision, compile_matching=compiled, classes=classes))
    close = {"fp32": (0.999, 1e-2), "bf16": (0.9, 0.2)}[precision]
    for given in arguments:
        assert_agree(sweep(*moved(given)), engine.sweep(problem, *given), *close)


def test_two_compiled_sweeps_do_not_share_their_results(waves: Dataset, wave_models: Pool):
    problem, arguments = calls(waves, wave_models, 4)
    real = waves.images.cuda()  # one for all: a recording is kept for the images it reads
    arguments = [(moved(model), real, moved(stored), moved(drawn)) for model, _, stored, drawn in arguments]
    compiled = engine.sweeper(moved(problem), Plan(compile_matching=True))
    for _ in range(3):
        compiled(*arguments[0])  # graphs are recorded in the first calls and replayed from then on
    results = [compiled(*given) for given in arguments]
    copies = [[each.clone() for each in result] for result in results]
    for given in arguments:
        compiled(*given)
    for result, copy in zip(results, copies, strict=True):
        assert_same(list(result), copy)
    for one, other in itertools.combinations(results, 2):
        assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize("compiled", [None, 8], ids=["eager", "compiled"])
@pytest.mark.parametrize(("count", "mapped"), [(1, False), (3, False), (3, True)])
def test_training_steps_agree_with_those_of_the_cpu(waves: Dataset, compiled: int | None, count: int, mapped: bool):
    recipe = Train(batch=8, augment=("flip", "crop"), cutmix=0.5)
    order = torch.randperm(len(waves.images))[None].expand(count, -1)
    losses = []
    for where, plan in ((CPU, None), (execution.device("cuda"), compiled)):
        real, shape = waves.to(where), network(num_classes=5, width=8)
        step = training.make_step(
            shape, recipe, waves.mean, waves.std, where, count=count, mapped=mapped, compiled_for=plan
        )
        began = training.begin([shape.initialise(Key(n), where) for n in range(count)])
        keys = [Key(n) for n in range(count)]
        steps = training.train(
            step, began, real.images, real.labels, order, recipe=recipe, lr=0.01, num_classes=5, keys=keys
        )
        losses.append(torch.stack([loss.cpu() for _, loss in steps]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("targets", [0, 10])
@pytest.mark.parametrize("method", METHODS)
def test_the_first_sweeps_of_every_method_agree_with_those_of_the_cpu(
    method: str, targets: int, waves: Dataset, tmp_path: Path
):
    loops = {"loop.inner_steps": 1, "loop.train_images": 0} if targets else {}
    given = {**TINY, **loops, "method": method, "targets.count": targets, "precision": "fp32", "compile": "never",
             "score.seeds": 0, "ipc": 2}  # fmt: skip
    given |= {"images.factor": 2} if method == "idc" else {}
    arrays = (waves.images.numpy(), waves.labels.numpy())
    start, here, there = (
        accdd.distill(arrays, settings=given | {"device": device, "loop.steps": steps}).distilled.images
        for device, steps in (("cpu", 0), ("cpu", 3), ("cuda", 3))
    )
    change = (here - start).abs().max()
    assert change > 0
    assert (here - there).abs().max() < 0.1 * change + 1e-4


def test_a_pool_is_the_same_networks_side_by_side_as_on_the_cpu(waves: Dataset):
    given = settings({"pool.networks": 3, "precision": "fp32"})
    one, other = (trained(waves.to(where), network(num_classes=5), given) for where in (CPU, execution.device("cuda")))
    for left, right in zip(one, other, strict=True):
        assert right.parameters["convs.0.weight"].is_cuda
        assert_close = torch.testing.assert_close
        assert_close({n: v.cpu() for n, v in right.parameters.items()}, left.parameters, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["convnet", "resnet10", "resnet_ap10", "densenet121", "vit_tiny"])
def test_networks_are_scored(name: str, waves: Dataset):
    pixels, test = (images.repeat(1, 1, 2, 2) for images in (waves.images, waves.test_images))
    large = build("waves", (pixels, waves.labels), (test, waves.test_labels)).to(execution.device("cuda"))
    shape = networks.architecture(helpers.tiny(name), 3, 16, 5)
    found = evaluation.score(
        "real", pixels, waves.labels, large, shape, PROTOCOLS["quick"],
        Way(2, compile="never", precision="bf16"), mean=waves.mean, std=waves.std,
        keys=evaluation.network_keys(Key(0), 2),
    )  # fmt: skip
    assert len(found.accuracies) == 2


@pytest.mark.parametrize("targets", [0, 10])
def test_a_whole_run_with_everything_compiled(targets: int, waves: Dataset, tmp_path: Path):
    """Networks, targets, sweeps, and scores, all as one compiled graph each."""
    arrays = tmp_path / "data.npz"
    save(arrays, waves)
    given: dict[str, Any] = {**TINY, "compile": "always", "device": "cuda", "targets.count": targets, "ipc": 1}
    given |= {"loop.train_images": 0 if targets else 16, "loop.inner_steps": 1 if targets else 3}
    out = tmp_path / "run"
    result = accdd.distill(arrays, out=out, settings=given)
    assert result.distilled.images.isfinite().all() and len(result.scores) == 2
    assert (out / "distilled").is_dir()
    loaded = accdd.load(out)
    assert_same(loaded.images, result.distilled.images)


def test_the_forecast_of_a_run(waves: Dataset, tmp_path: Path):
    arrays = tmp_path / "data.npz"
    save(arrays, waves)
    expected = accdd.forecast(arrays, settings={**TINY, "device": "cuda", "targets.count": 10})
    assert expected.memory > 0 and expected.seconds["distilling"] > 0


def test_a_gpus_memory_is_kept_within_the_limit():
    where = execution.device("cuda")
    assert where.index is not None
    execution.prepare(where, max_memory=2.0)
    try:
        assert execution.free_memory(where) <= 2.0e9
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(3 * 10**9, dtype=torch.uint8, device=where)
    finally:
        execution.prepare(where)
    assert execution.machine(where) and execution.precision("auto", where) in ("bf16", "fp32")


def test_targets_stay_on_the_gpu(waves: Dataset, wave_models: Pool):
    where = execution.device("cuda")
    changes = {"targets.count": 10, "targets.real_batch": 6, "loop.train_images": 0, "loop.inner_steps": 1}
    given = defaults.resolve(settings(changes), waves)
    bank = Bank(waves.to(where), moved(helpers.problem(waves)), lambda key: moved(EarlyStage(wave_models)(key)), given)
    first = bank[3]
    assert first.parameters["convs.0.weight"].is_cuda and bank[3] is first


def test_what_recordings_shared_is_free_once_they_have_gone():
    where = execution.device("cuda")

    def reserved() -> int:
        training.make_step.cache_clear()
        recording.forget()
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(where)

    before = reserved()
    run = recording.recorded(lambda tensor: (tensor.expand(2**27) * 2).sum(), where)
    assert run(torch.ones(1, device=where)).item() == 2**28
    assert reserved() >= before + 2**29
    del run
    assert reserved() < before + 2**29


def add(file: Path) -> None:
    files.write_text(file, str(int(torch.ones(3, device="cuda").sum())))


def test_workers_of_this_machine_use_the_gpu_also_once_it_is_in_use_here(tmp_path: Path):
    torch.ones(1, device="cuda")
    tasks = [Task(name, add, (tmp_path / name,), tmp_path / name) for name in ("one", "other")]
    executor.run(tasks, "local:2")
    assert [task.done.read_text() for task in tasks] == ["3", "3"]


def save(path: Path, waves: Dataset) -> None:
    np.savez(path, images=waves.images.numpy(), labels=waves.labels.numpy())
