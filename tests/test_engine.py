"""Plans: whatever is compiled, batched or in bf16, a sweep is `engine.sweep` up to rounding, and plain ones to the bit.

Gradients are compared by their cosine per class over several random batches, because rounding may turn single ReLUs.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, DISTANCES, FACTORS, FORMATIONS, Pool, assert_same, compiles, network, settings, several
from helpers import problem as problem_of
from torch import Tensor
from torch._dynamo.utils import counters

from accdd import defaults, engine, loop, planning, training
from accdd.augmented_models import EarlyStage
from accdd.config import Train
from accdd.data import Dataset
from accdd.engine import Problem, Sweep, Sweeper
from accdd.execution import PLAIN, Plan
from accdd.keys import Key
from accdd.matching import DISTANCES as BY_NAME
from accdd.methods import METHODS
from accdd.networks import Forward, Parameters

distances = pytest.mark.parametrize("distance", DISTANCES)
factors = pytest.mark.parametrize("factor", FACTORS)
chunked = pytest.mark.parametrize("classes", [2, 3, 5])  # of five: padded by one, padded by one, all at once


def draws(
    waves: Dataset, problem: Problem, count: int, ipc: int = 2, real_batch: int = 6
) -> list[tuple[Sweep, Tensor]]:
    """The draws of some sweeps, each with stored images of its own."""
    changes = {"ipc": ipc, "match.real_batch": real_batch, "loop.inner_steps": count, "match.synthetic_batch": 7}
    given = defaults.resolve(settings(changes), waves)
    drawn = loop.draw(waves, problem, given, Key(0).at("step", 0))
    random = torch.Generator().manual_seed(0)
    shape = (waves.num_classes, ipc, 3, waves.size, waves.size)
    return [(sweep, torch.rand(shape, generator=random)) for sweep in drawn]


def assert_agree(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], *, cosine: float = 0.9999, losses: float = 1e-4
) -> None:
    """Losses to a relative tolerance, and for each class the cosine of its gradient."""
    torch.testing.assert_close(found[0], expected[0], rtol=losses, atol=0)
    cosines = F.cosine_similarity(found[1].flatten(1), expected[1].flatten(1))
    assert found[1].shape == expected[1].shape and cosines.min() > cosine, cosines


# Several classes at once --------------------------------------------------------------------------------------


@distances
@factors
@chunked
def test_classes_at_once_are_matched_as_one_by_one(
    waves: Dataset, wave_models: Pool, distance: str, factor: int, classes: int
):
    """Measured over eight batches: gradients within 1e-6 of their largest entry, losses within 3e-7 of themselves."""
    problem = problem_of(waves, distance=distance, factor=factor)
    sweep = engine.sweeper(problem, Plan(classes=classes))
    for index, (drawn, stored) in enumerate(draws(waves, problem, 4)):
        parameters = wave_models[index % 3].parameters
        expected = engine.sweep(problem, parameters, waves.images, stored, drawn)
        found = sweep(parameters, waves.images, stored, drawn)
        assert_agree(found, expected)
        largest = expected[1].abs().max().item()
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize(("share", "chunks"), [(10, [10]), (5, [5]), (4, [4]), (1, [1])])
def test_a_share_of_the_classes_is_not_padded_to_all_of_them(share: int, chunks: list[int]):
    assert [len(rows) for rows in engine.row_chunks(share, Plan(classes=10), torch.device("cpu"))] == chunks
    assert [len(rows) for rows in engine.row_chunks(share, Plan(classes=4), torch.device("cpu"))] == {
        10: [4, 4, 4], 5: [3, 3], 4: [4], 1: [1]
    }[share]  # fmt: skip


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("formation", FORMATIONS)
def test_every_formation_is_matched_at_once_as_one_by_one(
    waves: Dataset, wave_models: Pool, formation: str, factor: int, classes: int
):
    problem = problem_of(waves, factor=factor, formation=formation, bound=7)  # (7 - 2) // 4 = 1 image at factor 2
    sweep = engine.sweeper(problem, Plan(classes=classes))
    for index, (drawn, stored) in enumerate(draws(waves, problem, 4)):
        assert drawn.subset.shape == (5, 5 if formation == "bounded" else 7)
        given = (wave_models[index % 3].parameters, waves.images, stored, drawn)
        expected, found = engine.sweep(problem, *given), sweep(*given)
        assert_agree(found, expected)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5 * expected[1].abs().max().item())
        assert expected[1].abs().flatten(2).sum(2).min() > 0 or formation != "bounded"  # no image is left out


@distances
def test_images_after_20_sweeps_are_the_same_for_any_number_of_classes_at_once(
    waves: Dataset, wave_models: Pool, distance: str
):
    """Measured: at most 1.1e-5 of how far the images moved (l1)."""
    changes = {"match.distance": distance, "images.factor": 2, "loop.steps": 5, "loop.inner_steps": 4}
    given = defaults.resolve(settings(changes | {"loop.train_images": 16}), waves)
    problem = problem_of(waves, distance=distance, factor=2)
    plans = [PLAIN, *(Plan(classes=classes) for classes in (2, 5))]
    runs = [list(loop.distill(waves, problem, EarlyStage(wave_models), given, plan)) for plan in plans]
    start, learned = runs[0][0].images, runs[0][-1].images
    moved = (learned - start).abs().max().item()
    assert moved > 1e-3
    for states in runs[1:]:
        assert [state.sweep for state in states] == list(range(21))
        assert_same(states[0].images, start)
        torch.testing.assert_close(states[-1].images, learned, rtol=0, atol=1e-4 * moved)


def test_a_plain_plan_is_the_definition_to_the_last_bit(waves: Dataset, wave_models: Pool):
    problem = problem_of(waves, factor=2)
    for drawn, stored in draws(waves, problem, 3):
        given = (wave_models[0].parameters, waves.images, stored, drawn)
        assert_same(engine.sweeper(problem, PLAIN)(*given), engine.sweep(problem, *given))


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_plan_without_compilation_gives_the_same_bytes_twice(waves: Dataset, wave_models: Pool, classes: int):
    problem, plan = problem_of(waves), Plan(classes=classes)
    given = defaults.resolve(settings({"loop.train_images": 16, "loop.inner_steps": 3}), waves)
    first, second = (list(loop.distill(waves, problem, EarlyStage(wave_models), given, plan)) for _ in range(2))
    assert_same(first, second)


def test_the_last_chunk_is_padded_and_what_pads_it_is_dropped(waves: Dataset):
    found = [rows.tolist() for rows in engine.row_chunks(5, Plan(classes=3), CPU)]
    assert found == [[0, 1, 2], [3, 4, 4]]
    problem = problem_of(waves)
    ((drawn, stored),) = draws(waves, problem, 1)
    losses, slopes = engine.sweeper(problem, Plan(classes=3))(
        network(num_classes=5).initialise(Key(0)), waves.images, stored, drawn
    )
    assert losses.shape == (5,) and slopes.shape == stored.shape


# A class in parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 7])  # of seven images: in fours and threes, in threes and twos, one by one
@pytest.mark.parametrize("method", ["idc", "dsa", "dm"])
def test_a_class_in_parts_is_matched_as_in_one(waves: Dataset, wave_models: Pool, method: str, parts: int):
    given = METHODS[method]
    problem = problem_of(waves, distance=given.distance, factor=2)._replace(summary=given.summary)
    assert planning.most_parts(problem, settings({"ipc": 2, "match.synthetic_batch": 7})) == 7
    for plan in (Plan(parts=parts), Plan(parts=parts, classes=2), Plan(parts=99)):
        sweep = engine.sweeper(problem, plan)
        for index, (drawn, stored) in enumerate(draws(waves, problem, 2)):
            arguments = (wave_models[index % 3].parameters, waves.images, stored, drawn)
            expected, found = engine.sweep(problem, *arguments), sweep(*arguments)
            assert_agree(found, expected)
            torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-5 * expected[1].abs().max().item())


def test_what_is_no_mean_over_images_stays_in_one_part(waves: Dataset):
    problem, given = problem_of(waves, factor=2), settings({"ipc": 2, "match.synthetic_batch": 100})
    assert planning.most_parts(problem, given) == 8 == 2 * 4  # images stored, decoded by factor 2

    @functools.wraps(problem.summary)
    def moments(forward: Forward, parameters: Parameters, images: Tensor, labels: Tensor) -> Parameters:
        return problem.summary(forward, parameters, images, labels)

    assert planning.most_parts(problem._replace(summary=moments), given) == 1
    batch_norm = problem._replace(forward=Forward(network(num_classes=5, norm="batch")))
    assert [planning.most_parts(batch_norm._replace(frozen=frozen), given) for frozen in (False, True)] == [1, 8]


def test_frozen_batchnorm_in_parts_is_that_in_one(waves: Dataset):
    forward = Forward(network(num_classes=5, norm="batch"))
    problem = problem_of(waves)._replace(forward=forward, frozen=True)
    parameters = engine.freeze(problem, forward.architecture.initialise(Key(0)), waves, Key(0).at("frozen"))
    ((drawn, stored),) = draws(waves, problem, 1, ipc=4)
    arguments = (parameters, waves.images, stored, drawn)
    assert_agree(engine.sweeper(problem, Plan(parts=3))(*arguments), engine.sweep(problem, *arguments))


@chunked
def test_halves_take_and_give_what_begins_with_the_classes(waves: Dataset, classes: int):
    problem, plan = problem_of(waves), Plan(classes=classes)
    parameters = network(num_classes=5).initialise(Key(0))
    ((drawn, stored),) = draws(waves, problem, 1)
    real, synthetic = engine.halves(problem, plan)
    labels = torch.arange(classes)
    siamese = {name: value[labels] for name, value in drawn.siamese.items()}
    target = real(parameters, waves.images[drawn.real[labels]], labels, siamese)
    assert {name: value.shape for name, value in target.items()} == {
        name: (classes, *value.shape) for name, value in parameters.items() if value.ndim == 4
    }
    loss, slope = synthetic(parameters, target, stored[labels], labels, siamese, drawn.subset[labels])
    assert loss.shape == (classes,) and slope.shape == (classes, *stored.shape[1:])


# bf16 ---------------------------------------------------------------------------------------------------------


def wide(waves: Dataset, distance: str) -> Problem:
    """Rounding averages out over filters and images; with four filters it would turn too many ReLUs."""
    shape = network(num_classes=waves.num_classes, width=32)
    return problem_of(waves, distance=distance)._replace(forward=Forward(shape))


@distances
@pytest.mark.parametrize("classes", [1, 3])
def test_bf16_points_where_fp32_points(distance: str, classes: int):
    """Measured over four batches of three classes: cosines from 0.996 (l1, for mse and cosine 0.997), losses 1.2 %."""
    waves = several(3, per_class=32)
    problem = wide(waves, distance)
    sweep = engine.sweeper(problem, Plan(precision="bf16", classes=classes))
    for index, (drawn, stored) in enumerate(draws(waves, problem, 2, ipc=8, real_batch=32)):
        parameters = problem.forward.architecture.initialise(Key(index))
        expected = engine.sweep(problem, parameters, waves.images, stored, drawn)
        found = sweep(parameters, waves.images, stored, drawn)
        assert not torch.equal(found[1], expected[1])
        assert {value.dtype for value in found} == {torch.float32}
        assert_agree(found, expected, cosine=0.99, losses=0.05)


def test_in_bf16_what_is_compared_and_how_stays_fp32(waves: Dataset, wave_models: Pool):
    seen: list[torch.dtype] = []

    def watching(real: Parameters, synthetic: Parameters) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        value = BY_NAME["cosine"](real, synthetic)
        seen.extend(each.dtype for each in (*real.values(), *synthetic.values(), value))
        return value

    problem = problem_of(waves)._replace(distance=watching)
    ((drawn, stored),) = draws(waves, problem, 1)
    losses, slopes = engine.sweeper(problem, Plan(precision="bf16"))(
        wave_models[0].parameters, waves.images, stored, drawn
    )
    assert set(seen) == {losses.dtype, slopes.dtype} == {torch.float32}
    logits = Forward(network(), "bf16")(network().initialise(Key(0)), torch.rand(2, 3, 8, 8))
    assert logits.dtype == torch.float32


# Compiled -----------------------------------------------------------------------------------------------------


def graphs() -> int:
    """How many have been compiled so far."""
    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def compiled(waves: Dataset) -> Sweeper:
    """Two graphs, compiled at the first sweep."""
    return engine.sweeper(problem_of(waves, factor=2), Plan(compile_matching=True))


@compiles
def test_a_compiled_sweep_agrees_with_the_plain_one_and_is_compiled_once(
    waves: Dataset, wave_models: Pool, compiled: Sweeper
):
    problem = problem_of(waves, factor=2)
    for index, (drawn, stored) in enumerate(draws(waves, problem, 6)):
        given = (wave_models[index % 3].parameters, waves.images, stored, drawn)
        assert_agree(compiled(*given), engine.sweep(problem, *given))
        if index == 0:
            after_the_first = graphs()
    assert graphs() == after_the_first  # other classes, images, draws and networks of these shapes


@compiles
def test_a_compiled_half_decodes_by_several_factors(waves: Dataset, wave_models: Pool):
    problem = problem_of(waves, factor=2, formation="bounded", bound=7)
    plain, graph = (engine.halves(problem, Plan(compile_matching=now)) for now in (False, True))
    label = torch.arange(1)
    for drawn, stored in draws(waves, problem, 3):
        siamese = {name: value[label] for name, value in drawn.siamese.items()}
        target = plain.real(wave_models[0].parameters, waves.images[drawn.real[label]], label, siamese)
        given = (wave_models[0].parameters, target, stored[label], label, siamese, drawn.subset[label])
        assert_agree(graph.synthetic(*given), plain.synthetic(*given))


@compiles
def test_what_a_compiled_sweep_returned_is_not_written_over_by_the_next(
    waves: Dataset, wave_models: Pool, compiled: Sweeper
):
    problem = problem_of(waves, factor=2)
    (first_drawn, first), (drawn, stored) = draws(waves, problem, 2)
    results = compiled(wave_models[0].parameters, waves.images, first, first_drawn)
    before = [result.clone() for result in results]
    compiled(wave_models[1].parameters, waves.images, stored, drawn)
    assert_same(list(results), before)


@compiles
def test_a_compiled_half_of_several_classes_agrees_with_the_plain_one(waves: Dataset, wave_models: Pool):
    problem = problem_of(waves)
    labels = torch.arange(2)
    plain, graph = (engine.halves(problem, Plan(compile_matching=now, classes=2)) for now in (False, True))
    for drawn, stored in draws(waves, problem, 3):
        siamese = {name: value[labels] for name, value in drawn.siamese.items()}
        target = plain.real(wave_models[0].parameters, waves.images[drawn.real[labels]], labels, siamese)
        given = (wave_models[0].parameters, target, stored[labels], labels, siamese, drawn.subset[labels])
        assert_agree(graph.synthetic(*given), plain.synthetic(*given))


@compiles
def test_a_compiled_class_in_parts_agrees_with_the_plain_one(waves: Dataset, wave_models: Pool):
    problem = problem_of(waves, factor=2)
    sweep = engine.sweeper(problem, Plan(compile_matching=True, parts=4))  # of eight images
    for drawn, stored in draws(waves, problem, 2):
        given = (wave_models[0].parameters, waves.images, stored, drawn._replace(subset=torch.arange(8).expand(5, -1)))
        assert_agree(sweep(*given), engine.sweep(problem, *given))


@compiles
def test_a_compiled_training_step_agrees_with_the_plain_one_and_leaves_a_short_batch_uncompiled(waves: Dataset):
    recipe = Train(batch=8, augment=("color", "crop"), cutmix=0.5)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))[None, :19]  # batches of 8, 8 and 3

    def train(compiled_for: int | None, lr: float) -> list[tuple[Parameters, Tensor, int]]:
        step = training.make_step(network(num_classes=5), recipe, waves.mean, waves.std, CPU, compiled_for=compiled_for)
        steps = training.train(
            step, training.begin([network(num_classes=5).initialise(Key(0))]), waves.images, waves.labels, order,
            recipe=recipe, lr=lr, num_classes=5, keys=[Key(0)],
        )  # fmt: skip
        return [(trained.parameters, loss, graphs()) for trained, loss in steps]

    before = graphs()
    for lr in (0.01, 0.05, 0.002):
        plain, found = train(None, lr), train(8, lr)
        for (parameters, loss, _), (expected, expected_loss, _) in zip(found, plain, strict=True):
            torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(parameters, expected, rtol=1e-4, atol=1e-6)
        # One graph, made at the first step: none for the short batch, and none for another learning rate.
        assert [made - before for _, _, made in found] == [1, 1, 1]
