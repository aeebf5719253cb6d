"""How the arithmetic is done: what work is counted, what is worth compiling for it, and what is refused."""

import functools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, network, noise
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from accdd import data as real_data
from accdd import defaults, execution, methods, networks, planning, recording
from accdd.config import InputError, Settings, override
from accdd.data import Dataset, build
from accdd.execution import Cost, Plan, chunk, chunks, count, worth_compiling
from accdd.keys import Key
from accdd.networks import Architecture, Forward, Parameters
from accdd.run import words

CUDA = torch.device("cuda")
WIDE = Architecture("convnet", width=128, depth=3, channels=3, size=32, num_classes=10)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has all that compiling needs; nothing is compiled here."""
    monkeypatch.setattr(execution, "can_compile", lambda where: True)


def cifar_like() -> Dataset:
    """The shape of CIFAR-10, without its weight."""
    labels = torch.arange(1000) % 10
    images = torch.zeros(1, dtype=torch.uint8).expand(1000, 3, 32, 32)
    return build("cifar-like", (images, labels), (images[:10], labels[:10]), class_names=tuple("abcdefghij"))


# Counting -----------------------------------------------------------------------------------------------------


def gigaflops(function: Any, *args: Any) -> float:
    return count(function, *args)[0].flops / 1e9


def test_convnet_3_of_width_128_costs_0_10_gflop_an_image_and_0_30_with_its_backward():
    forward, parameters = Forward(WIDE), WIDE.initialise(Key(0))
    images, labels = torch.zeros(10, 3, 32, 32), torch.zeros(10, dtype=torch.int64)

    def loss(parameters: Parameters) -> Tensor:
        return F.cross_entropy(forward(parameters, images), labels)

    assert gigaflops(forward, parameters, images) / 10 == pytest.approx(0.101, rel=0.03)
    images, labels = images.to("meta"), labels.to("meta")
    assert gigaflops(torch.func.grad(loss), parameters) / 10 == pytest.approx(0.30, rel=0.03)


def half_costs(changes: dict[str, Any]) -> tuple[Cost, Cost]:
    data = cifar_like()
    settings = defaults.resolve(override(Settings(), changes), data)
    architecture = networks.architecture(settings.network, data.channels, data.size, data.num_classes)
    return planning.half_costs(methods.problem(settings, data, architecture), settings)


def test_a_synthetic_image_costs_0_79_gflop_and_a_real_one_what_its_gradient_costs():
    real, synthetic = half_costs({"ipc": 10, "targets.count": 0, "match.real_batch": 64, "match.synthetic_batch": 40})
    assert synthetic.flops / 40 == pytest.approx(0.79e9, rel=0.03)
    assert real.flops / 64 == pytest.approx(0.30e9, rel=0.03)


@pytest.mark.timeout(20)
def test_what_is_counted_is_not_computed_and_needs_no_memory():
    images = torch.zeros(1).expand(10**9, 3, 32, 32)  # 12 TB, and its feature maps 500 TB
    cost, result = count(Forward(WIDE), WIDE.initialise(Key(0)), images)
    assert (result.shape, result.device.type) == ((10**9, 10), "meta")
    assert cost.flops > 1e17 and cost.bytes > 5e14


def test_costs_are_counted_by_hand():
    def function(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b).relu()

    cost, _ = count(function, torch.zeros(3, 5), torch.zeros(5, 7))
    assert cost == Cost(flops=2 * 3 * 5 * 7, operations=2, bytes=2 * 4 * 3 * 7)
    assert cost + cost == Cost(2 * cost.flops, 4, 2 * cost.bytes)
    assert cost.side_by_side(3) == Cost(3 * cost.flops, 2, 3 * cost.bytes)


# Compiling ----------------------------------------------------------------------------------------------------

STEP = Cost(flops=2 * 10**9, operations=500, bytes=10**8)


@pytest.mark.parametrize("where", [CPU, CUDA], ids=str)
def test_never_and_always_decide_by_themselves(compiler: None, where: torch.device):
    for calls, budget in ((0, None), (math.inf, None), (math.inf, 1.0)):
        assert not worth_compiling("never", where, STEP, calls, budget)
        assert worth_compiling("always", where, STEP, calls, budget)


@pytest.mark.parametrize("where", [CPU, CUDA], ids=str)
def test_auto_compiles_from_some_number_of_calls_on(compiler: None, where: torch.device):
    decided = [worth_compiling("auto", where, STEP, 2.0**power) for power in range(30)]
    assert decided == sorted(decided) and not decided[0] and decided[-1]
    assert worth_compiling("auto", where, STEP, math.inf)
    # Two functions to compile need twice the calls, and a lighter step more of them.
    enough = 2.0 ** decided.index(True)
    assert not worth_compiling("auto", where, STEP, enough, functions=3)
    assert not worth_compiling("auto", where, Cost(STEP.flops // 4, STEP.operations // 4, STEP.bytes // 4), enough)


def test_what_a_cpu_writes_makes_compiling_worth_it_and_products_do_not(compiler: None):
    products, written = Cost(STEP.flops, 0, 0), Cost(0, 0, 20 * STEP.bytes)
    assert not worth_compiling("auto", CPU, products, 1e9)
    assert worth_compiling("auto", CPU, written, 1000)
    eager, compiled = execution.guessed(STEP, CPU, "fp32")
    assert compiled < eager and execution.seconds(STEP, CPU, "fp32") == compiled


@pytest.mark.parametrize("where", [CPU, CUDA], ids=str)
def test_a_budget_limits_the_calls(compiler: None, where: torch.device):
    decided = [worth_compiling("auto", where, STEP, math.inf, budget) for budget in (1.0, 20.0, 1e4, 1e6)]
    assert decided == [False, False, True, True]
    assert not worth_compiling("auto", where, STEP, 1, 1e6)  # and the calls limit the budget


def test_where_the_compiler_fails_the_function_runs_as_it_is(monkeypatch: pytest.MonkeyPatch):
    def compile(function: Any, **options: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise BackendCompilerFailed(function, RuntimeError("conflicting declaration"), None)

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    doubled = execution.compiled(lambda x: 2 * x, CPU)
    with pytest.warns(UserWarning, match="conflicting declaration"):
        assert doubled(torch.ones(2)).tolist() == [2, 2]
    assert doubled(torch.ones(1)).tolist() == [2]  # and is not said again
    with pytest.raises(TypeError):
        doubled("mistake", 1)  # a mistake in the function itself is not hidden


def test_auto_compiles_nothing_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "can_compile", lambda where: False)
    assert not worth_compiling("auto", CPU, STEP, math.inf)


@pytest.mark.parametrize(("where", "missing"), [(CPU, "cpu.*clang\\+\\+"), (CUDA, "cuda.*Triton")], ids=str)
def test_compiling_always_is_refused_where_nothing_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch, where: torch.device, missing: str
):
    monkeypatch.setattr(execution, "can_compile", lambda where: False)
    with pytest.raises(InputError, match=f"{missing}.*otherwise --compile auto or never"):
        execution.check("always", where)
    execution.check("auto", where)
    execution.check("never", where)
    monkeypatch.setattr(execution, "can_compile", lambda where: True)
    execution.check("always", where)


# Plans --------------------------------------------------------------------------------------------------------


def plan(data: Dataset, changes: dict[str, Any]) -> Plan:
    settings = defaults.resolve(override(Settings(), changes), data)
    architecture = networks.architecture(settings.network, data.channels, data.size, data.num_classes)
    return planning.choose_plan(methods.problem(settings, data, architecture), data, settings)


def test_nothing_is_compiled_for_300_sweeps_over_the_digits_and_their_classes_are_matched_at_once(compiler: None):
    found = plan(real_data.load("digits"), {"ipc": 5, "loop.steps": 300, "precision": "fp32"})
    assert found == Plan(classes=10)


def test_matching_and_training_are_compiled_for_2000_sweeps_over_cifar_10_one_class_at_a_time(compiler: None):
    changes = {"ipc": 10, "loop.steps": 20, "loop.inner_steps": 100, "loop.train_images": 2000, "precision": "fp32"}
    assert plan(cifar_like(), changes) == Plan(compile_matching=True, compile_training=True)
    assert plan(cifar_like(), changes | {"loop.train_images": 0}) == Plan(compile_matching=True)
    # After the last sweep with a network it is not trained, so where that is the first it never is.
    drawn = changes | {"loop.steps": 2000, "loop.inner_steps": 1}
    assert plan(cifar_like(), drawn) == Plan(compile_matching=True)
    assert plan(cifar_like(), changes | {"compile": "never"}) == Plan()
    assert plan(cifar_like(), changes | {"loop.budget": 10.0}) == Plan()


@pytest.mark.parametrize(("room", "at_once"), [(1e12, 10), (40e6, 4), (1, 1)])
def test_small_classes_are_matched_at_once_as_far_as_memory_is_granted(room: float, at_once: int):
    cost = Cost(flops=1, bytes=10_000_000, operations=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "PART_BYTES", room)
        assert execution.at_once(10, cost, CPU) == at_once


def test_photographs_that_would_take_much_memory_are_matched_in_parts():
    images, labels = torch.zeros(1, dtype=torch.uint8).expand(128, 3, 128, 128), torch.arange(128) % 2
    photographs = build("photographs", (images, labels), (images[:2], labels[:2]), class_names=("a", "b"))
    changes = {"ipc": 10, "network.name": "resnet_ap10", "loop.steps": 1, "targets.count": 0, "compile": "never"}
    found = [plan(photographs, {**changes, "images.factor": factor}).parts for factor in (1, 2, 3)]
    assert found[0] == 1 < found[1] < found[2]
    assert "one by one, their synthetic images in 3 parts," in words.describe_plan(Plan(parts=3), CPU)
    assert plan(photographs, {**changes, "images.factor": 3, "network.norm": "batch"}).parts == 1


def test_settings_decide_what_they_name(compiler: None):
    changes = {"loop.steps": 1, "compile": "always", "precision": "bf16", "match.classes": 4}
    changes |= {"loop.train_images": 8, "loop.inner_steps": 2}
    # Ten classes, at most four at once, are three chunks of four.
    assert plan(cifar_like(), changes) == Plan("bf16", compile_matching=True, compile_training=True, classes=4)
    assert plan(cifar_like(), changes | {"match.classes": 9}).classes == 5
    assert plan(cifar_like(), changes | {"match.classes": 99}).classes == 10


def test_the_plan_follows_from_the_settings_and_not_from_a_clock(data: Dataset):
    assert len({plan(data, {"loop.steps": 1000}) for _ in range(3)}) == 1


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 24, 100])
@pytest.mark.parametrize("largest", [1, 2, 3, 5, 8, 100])
def test_chunks_are_equal_cover_all_once_and_are_padded_with_the_last(total: int, largest: int):
    size = chunk(total, largest)
    found = list(chunks(total, size))
    assert 1 <= size <= min(total, largest)
    assert {len(part) for part in found} == {size}
    flat = [index for part in found for index in part]
    assert flat[:total] == list(range(total)) and set(flat[total:]) <= {total - 1}
    # As few chunks as the bound allows, and no smaller size would do with so many.
    assert len(found) == math.ceil(total / min(largest, total))
    assert size == 1 or (size - 1) * len(found) < total


def test_a_bound_below_1_is_one_at_a_time():
    assert chunk(10, 0) == 1


def test_on_a_gpu_as_many_overlap_as_fit_in_its_memory_and_are_worth_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(execution, "free_memory", lambda where: 8 * 10**9)
    large = Cost(flops=10**10, operations=100, bytes=10**9)
    assert execution.at_once(10, large, CUDA) == 1
    assert execution.overlapping(10, large, CUDA) == 4 == execution.overlapping(4, large, CUDA)
    small = Cost(flops=10**9, operations=100, bytes=10**8)
    assert (execution.at_once(10, small, CUDA), execution.overlapping(10, small, CUDA)) == (10, 5)


def test_elsewhere_nothing_is_recorded_and_work_is_done_in_its_order():
    def double(x: Tensor) -> Tensor:
        return 2 * x

    assert recording.recorded(double, CPU) is double
    done: list[int] = []
    works = [functools.partial(lambda n: done.append(n) or n, n) for n in range(7)]
    assert recording.branches(works, CPU) == done == list(range(7))


# Precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_auto_is_bf16_on_a_cpu_that_multiplies_it(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert execution.precision("auto", CPU) == ("bf16" if avx512 or amx else "fp32")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_a_gpu_that_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert execution.precision("auto", CUDA) == expected


def test_auto_is_fp32_elsewhere_and_a_precision_that_is_named_is_taken():
    assert execution.precision("auto", torch.device("mps")) == "fp32"
    assert [execution.precision(name, where) for name in ("fp32", "bf16") for where in (CPU, CUDA)] == [
        "fp32", "fp32", "bf16", "bf16",
    ]  # fmt: skip


def test_what_is_compiled_is_kept_in_the_cache_of_the_user(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    execution.prepare(torch.device("meta"))
    assert execution.os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "accdd-cache" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    execution.prepare(torch.device("meta"))
    assert execution.os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def test_what_is_compiled_is_kept_beside_a_cache_whose_name_the_compiler_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ACCDD_CACHE", str(tmp_path / "of John Smith"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    execution.prepare(torch.device("cpu"))
    folder = Path(execution.os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert " " not in str(folder) and folder.is_dir() and folder.stat().st_mode & 0o077 == 0
    execution.prepare(torch.device("cpu"))
    assert execution.os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder), "one of a process"


def test_on_a_cpu_freed_memory_is_kept_without_changing_a_result():
    before = noise(64, 64) @ noise(64, 64, seed=1)
    execution.prepare(CPU)
    assert torch.equal(noise(64, 64) @ noise(64, 64, seed=1), before)


def test_an_unknown_device_is_refused_and_auto_is_one_that_exists():
    with pytest.raises(InputError, match="Device 'tpu' is not available here"):
        execution.device("tpu")
    assert execution.device("auto").type in ("cpu", "cuda", "mps")
    assert network().initialise(Key(0), execution.device("cpu"))["convs.0.weight"].device == CPU


@pytest.mark.parametrize(("workers", "limit", "share"), [("1", None, 1.0), ("3", None, 0.5), ("4", 20.0, 0.2)])
def test_workers_share_the_memory_of_a_gpu(
    workers: str, limit: float | None, share: float, monkeypatch: pytest.MonkeyPatch
):
    told: list[float] = []
    monkeypatch.setenv(execution.WORKERS, workers)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (0, 100 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, where: told.append(share))
    execution.prepare(torch.device("cuda", 0), limit)
    assert told == [share]


def test_who_only_watches_leaves_the_processor_to_others():
    """In a process of its own, because it is for good."""
    code = (
        "import os, torch\n"
        "from accdd import execution\n"
        "low = min(19, os.nice(0) + 10)\n"
        "execution.stand_back()\n"
        "print(torch.get_num_threads(), os.nice(0) - low)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["1", "0"], told.stderr
