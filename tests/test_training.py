"""Training: against torch's own SGD on a module, step by step; networks side by side; and what a step depends on."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, SIZE, assert_same, copied, generator, network
from torch import Tensor

from accdd import execution, training
from accdd.config import Train
from accdd.data import Dataset
from accdd.keys import Key
from accdd.networks import Forward, Parameters
from accdd.training import Trained

PLAIN = Train(batch=8, augment=(), cutmix=0.0)
RICH = Train(batch=8, augment=("flip", "color", "crop", "scale", "rotate", "cutout"), cutmix=0.5)


def begin(networks: int = 1) -> Trained:
    return training.begin([network().initialise(Key(seed)) for seed in range(networks)])


def train(
    data: Dataset, trained: Trained, order: Tensor, recipe: Train, *, steps: int | None = None, **changes: Any
) -> tuple[Trained, Tensor]:
    """The networks after the first `steps` steps, by default all, and their losses, (steps, n).

    `order` is (m,) for one network or (n, m).
    """
    order = order if order.ndim == 2 else order[None]
    keys = [Key(seed).at("epoch", 0) for seed in range(len(order))]
    given = {"images": data.images, "labels": data.labels, "lr": recipe.lr, "keys": keys} | changes
    mapped = given.pop("mapped", True)
    step = training.make_step(network(), recipe, data.mean, data.std, CPU, count=len(order), mapped=mapped)
    done = training.train(
        step, trained, given["images"], given["labels"], order,
        recipe=recipe, lr=given["lr"], num_classes=2, keys=given["keys"],
    )  # fmt: skip
    states, losses = zip(*itertools.islice(done, steps), strict=True)
    return states[-1], torch.stack(losses)


def shuffled(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(24, generator=generator(seed))[:count]


@pytest.mark.parametrize("count", [8, 24, 19, 3])
@pytest.mark.parametrize("recipe", [PLAIN, Train(batch=8, augment=(), cutmix=0, lr=0.1, momentum=0, weight_decay=0)])
def test_training_is_torch_s_sgd_and_uses_a_short_last_batch(data: Dataset, recipe: Train, count: int):
    order, before = shuffled(count), begin()
    module = network().build()
    module.load_state_dict(training.networks(before)[0])
    sgd = torch.optim.SGD(module.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    expected = []
    for first in range(0, count, 8):
        rows = order[first : first + 8]
        loss = F.cross_entropy(module((data.images[rows].float() / 255 - mean) / std), data.labels[rows])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        expected.append(loss.detach())
    after, losses = train(data, before, order, recipe)
    assert losses.shape == (-(-count // 8), 1)
    torch.testing.assert_close(losses[:, 0], torch.stack(expected))
    torch.testing.assert_close(training.networks(after)[0], dict(module.state_dict()))


def rates(epochs: int, schedule: int) -> list[float]:
    """Learning rates of `epochs` epochs, as multiples of the recipe's."""
    return [training.rate(PLAIN, epoch, schedule) / PLAIN.lr for epoch in range(epochs)]


def test_the_rate_of_a_pool_of_2_epochs_never_falls():
    assert rates(2, 3) == pytest.approx([1, 1])


def test_the_rate_of_a_pool_of_10_epochs_falls_after_7_and_9():
    assert rates(10, 11) == pytest.approx([1] * 7 + [0.2] * 2 + [0.04])


def test_the_rate_of_an_evaluation_of_1000_epochs_falls_at_666_and_833():
    found = rates(1000, 1000)
    assert found == pytest.approx([1] * 666 + [0.2] * (833 - 666) + [0.04] * (1000 - 833))


def test_the_rate_belongs_to_the_epoch_and_not_to_the_calls_before():
    found = [training.rate(PLAIN, epoch, 11) for epoch in (9, 0, 7)]
    assert found == pytest.approx([0.04 * PLAIN.lr, PLAIN.lr, 0.2 * PLAIN.lr])


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_the_rate_that_is_given_is_the_one_that_is_used(data: Dataset, recipe: Train):
    once, twice = (train(data, begin(), shuffled(24), recipe, steps=1, lr=lr)[0] for lr in (0.01, 0.02))
    for name, start in begin().parameters.items():
        moved, further = once.parameters[name] - start, twice.parameters[name] - start
        torch.testing.assert_close(2 * moved, further, rtol=1e-3, atol=1e-6)
    assert_same(once.velocity, twice.velocity)


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_the_first_steps_are_the_same_whether_or_not_more_follow(data: Dataset, recipe: Train):
    whole, losses = train(data, begin(), shuffled(24), recipe)
    part, first_losses = train(data, begin(), shuffled(24), recipe, steps=2)
    assert_same(first_losses, losses[:2])
    assert not torch.equal(part.parameters["convs.0.weight"], whole.parameters["convs.0.weight"])


def test_a_short_last_batch_is_augmented_and_leaves_the_steps_before_it_as_they_are(data: Dataset):
    short, full = (train(data, begin(), shuffled(24)[:count], RICH)[1] for count in (19, 24))
    assert len(short) == len(full) == 3 and short.isfinite().all()
    assert_same(short[:2], full[:2])
    assert short[2] != full[2]


def test_the_momentum_is_kept_between_calls(data: Dataset):
    order = shuffled(24)
    once, losses = train(data, begin(), order, PLAIN)
    twice, first_losses = train(data, begin(), order[:16], PLAIN)
    assert all(value.abs().max() > 0 for value in twice.velocity.values())
    twice, last_losses = train(data, twice, order[16:], PLAIN)
    torch.testing.assert_close(torch.cat([first_losses, last_losses]), losses)
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_training_twice_with_the_same_key_gives_the_same_bytes(data: Dataset, recipe: Train):
    assert_same(train(data, begin(), shuffled(24), recipe), train(data, begin(), shuffled(24), recipe))


def test_another_key_changes_augmented_training_and_not_plain_training(data: Dataset):
    for recipe, same in ((PLAIN, True), (RICH, False)):
        losses = [train(data, begin(), shuffled(24), recipe, keys=[Key(0).at("epoch", i)])[1] for i in (0, 1)]
        assert torch.equal(*losses) == same


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_bytes_and_floats_train_alike(data: Dataset, recipe: Train):
    as_floats = train(data, begin(), shuffled(24), recipe, images=data.images.float() / 255)
    torch.testing.assert_close(as_floats, train(data, begin(), shuffled(24), recipe))


def test_cutmix_alone_changes_the_loss_and_cutmix_of_0_does_not(data: Dataset):
    _, plain = train(data, begin(), shuffled(24), PLAIN)
    always = Train(batch=8, augment=(), cutmix=1.0)
    assert not torch.equal(train(data, begin(), shuffled(24), always)[1], plain)


def test_training_changes_no_images_and_not_what_it_began_with(data: Dataset):
    start = begin(2)
    before = data.images.clone(), copied(start.parameters), copied(start.velocity)
    train(data, start, torch.stack([shuffled(24), shuffled(24, seed=1)]), RICH)
    assert_same((data.images, start.parameters, start.velocity), before)


def test_the_loss_falls_on_separable_data(data: Dataset):
    trained, means = begin(), []
    for epoch in range(30):
        trained, losses = train(data, trained, shuffled(24, seed=epoch), PLAIN)
        means.append(losses.mean())
    assert means[-1] < 0.5 * means[0]


# Side by side -------------------------------------------------------------------------------------------------


def test_networks_begin_at_rest_and_are_found_again_one_by_one():
    singles = [network().initialise(Key(seed)) for seed in range(3)]
    trained = training.begin(singles)
    assert_same(training.networks(trained), singles)
    assert all(not value.any() for value in trained.velocity.values())
    for alone, (name, value) in zip(training.networks(trained), trained.parameters.items(), strict=False):
        assert alone[name].untyped_storage().data_ptr() == value.untyped_storage().data_ptr()  # no copies


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "each by itself"])
@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_networks_side_by_side_train_as_each_would_alone(data: Dataset, recipe: Train, mapped: bool):
    """Three networks with their own orders, keys and learning rates, over two epochs with a short last batch."""
    lr = torch.tensor([0.01, 0.03, 0.002])
    together, alone = begin(3), [training.begin([each]) for each in training.networks(begin(3))]
    for epoch in range(2):
        orders = torch.stack([shuffled(19, seed=10 * epoch + index) for index in range(3)])
        keys = [Key(index).at("epoch", epoch) for index in range(3)]
        together, losses = train(data, together, orders, recipe, lr=lr, keys=keys, mapped=mapped)
        assert losses.shape == (3, 3)
        for index in range(3):
            changes = {"lr": lr[index].item(), "keys": [keys[index]]}
            alone[index], own = train(data, alone[index], orders[index], recipe, **changes)
            torch.testing.assert_close(losses[:, index], own[:, 0], rtol=1e-4, atol=1e-6)
    for found, expected in zip(training.networks(together), alone, strict=True):
        torch.testing.assert_close(found, training.networks(expected)[0], rtol=1e-4, atol=1e-6)


def test_networks_side_by_side_do_not_see_one_another(data: Dataset):
    """What one draws and learns is the same, to rounding, whoever is trained beside it."""
    orders = torch.stack([shuffled(24), shuffled(24, seed=1)])
    _, losses = train(data, begin(2), orders, RICH)
    other = orders.clone()
    other[1] = orders[1].flip(0)
    _, beside_another = train(data, begin(2), other, RICH, keys=[Key(0).at("epoch", 0), Key(7)])
    torch.testing.assert_close(beside_another[:, 0], losses[:, 0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(beside_another[:, 1], losses[:, 1])


def test_what_is_left_after_all_steps_is_the_last_of_them(data: Dataset):
    step = training.make_step(network(), RICH, data.mean, data.std, CPU)

    def steps():
        return training.train(
            step, begin(), data.images, data.labels, shuffled(24)[None],
            recipe=RICH, lr=RICH.lr, num_classes=2, keys=[Key(0)],
        )  # fmt: skip

    *_, (expected, _) = steps()
    assert_same(training.last(steps()), expected)


def test_a_step_is_made_once_for_the_same_recipe(data: Dataset):
    def make(recipe: Train, **options: Any) -> training.Step:
        return training.make_step(network(), recipe, data.mean, data.std, CPU, **options)

    assert make(RICH) is make(Train(**vars(RICH)))
    assert len({make(RICH), make(PLAIN), make(RICH, count=2), make(RICH, precision="bf16")}) == 4


def test_only_networks_whose_steps_are_small_are_trained_side_by_side_on_a_cpu():
    small, large = (
        training.step_cost(network(name="convnet", width=width, depth=2), PLAIN, batch)
        for width, batch in ((4, 8), (64, 512))
    )
    assert small.flops < execution.SMALL_FLOPS < large.flops
    assert (execution.at_once(5, small, CPU), execution.at_once(5, large, CPU)) == (5, 1)
    assert execution.overlapping(5, large, CPU) == 1


# Testing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 500, None])
def test_a_prediction_is_correct_where_the_largest_logit_is_that_of_the_label(data: Dataset, batch: int | None):
    parameters = network().initialise(Key(0))
    images, labels = data.test_images, data.test_labels
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    right = []
    for image, label in zip(images, labels, strict=True):
        logits = Forward(network())(parameters, ((image.float() / 255 - mean) / std)[None])[0]
        right.append(logits.tolist().index(max(logits.tolist())) == label)
    found = training.correct(Forward(network()), parameters, images, labels, mean=data.mean, std=data.std, batch=batch)
    assert found.tolist() == right


def test_a_network_that_is_always_right_and_one_that_never_is():
    labels = torch.tensor([0, 1, 1])
    images = torch.zeros(3, 3, SIZE, SIZE) + labels[:, None, None, None]

    def oracle(parameters: Parameters, batch: Tensor) -> Tensor:
        ones = batch.mean((1, 2, 3))
        return parameters["sign"] * torch.stack([1 - ones, ones], 1)

    for sign, expected in ((1.0, True), (-1.0, False)):
        found = training.correct(
            oracle,  # pyright: ignore[reportArgumentType]
            {"sign": torch.tensor(sign)}, images, labels, mean=(0, 0, 0), std=(1, 1, 1), batch=2,
        )  # fmt: skip
        assert found.tolist() == [expected] * 3
