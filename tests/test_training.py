"""Training: against torch's own SGD on a module, step by step; the schedule; and what a step depends on."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import SIZE, assert_same, copied, generator, network
from torch import Tensor

from accdd import training
from accdd.config import Train
from accdd.data import Dataset
from accdd.keys import Key
from accdd.networks import Forward, Parameters

PLAIN = Train(batch=8, augment=(), cutmix=0.0)
RICH = Train(batch=8, augment=("flip", "color", "crop", "scale", "rotate", "cutout"), cutmix=0.5)

Run = tuple[Parameters, torch.optim.SGD]


def begin(recipe: Train) -> Run:
    parameters = network().initialise(Key(0))
    return parameters, training.optimiser(parameters, recipe)


def train(data: Dataset, run: Run, order: Tensor, recipe: Train, *, steps: int | None = None, **changes: Any) -> Tensor:
    """The losses of the first `steps` steps, by default of all."""
    given = {"images": data.images, "labels": data.labels, "key": Key(0).at("epoch", 0)} | changes
    losses = training.train(
        Forward(network()), *run, given["images"], given["labels"], order,
        recipe=recipe, mean=data.mean, std=data.std, num_classes=2, key=given["key"],
    )  # fmt: skip
    return torch.stack(list(itertools.islice(losses, steps)))


def shuffled(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(24, generator=generator(seed))[:count]


@pytest.mark.parametrize("count", [8, 24, 19, 3])
@pytest.mark.parametrize("recipe", [PLAIN, Train(batch=8, augment=(), cutmix=0, lr=0.1, momentum=0, weight_decay=0)])
def test_training_is_torch_s_sgd_and_uses_a_short_last_batch(data: Dataset, recipe: Train, count: int):
    order, run = shuffled(count), begin(recipe)
    module = network().build()
    module.load_state_dict(run[0])
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
    losses = train(data, run, order, recipe)
    assert len(losses) == -(-count // 8)
    torch.testing.assert_close(losses, torch.stack(expected))
    torch.testing.assert_close(copied(run[0]), dict(module.state_dict()))


def rates(epochs: int, schedule: int) -> list[float]:
    """Learning rates of `epochs` epochs, as multiples of the recipe's."""
    _, sgd = begin(PLAIN)
    found = []
    for epoch in range(epochs):
        training.decay(sgd, PLAIN, epoch, schedule)
        found.append(sgd.param_groups[0]["lr"] / PLAIN.lr)
    return found


def test_the_rate_of_a_pool_of_2_epochs_never_falls():
    assert rates(2, 3) == pytest.approx([1, 1])


def test_the_rate_of_a_pool_of_10_epochs_falls_after_7_and_9():
    assert rates(10, 11) == pytest.approx([1] * 7 + [0.2] * 2 + [0.04])


def test_the_rate_of_an_evaluation_of_1000_epochs_falls_at_666_and_833():
    found = rates(1000, 1000)
    assert found == pytest.approx([1] * 666 + [0.2] * (833 - 666) + [0.04] * (1000 - 833))


def test_the_rate_belongs_to_the_epoch_and_not_to_the_calls_before():
    _, sgd = begin(PLAIN)
    for epoch in (9, 0, 7):
        training.decay(sgd, PLAIN, epoch, 11)
    assert sgd.param_groups[0]["lr"] == pytest.approx(0.2 * PLAIN.lr)


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_the_first_steps_are_the_same_whether_or_not_more_follow(data: Dataset, recipe: Train):
    whole, part = begin(recipe), begin(recipe)
    losses = train(data, whole, shuffled(24), recipe)
    assert_same(train(data, part, shuffled(24), recipe, steps=2), losses[:2])
    assert not torch.equal(part[0]["convs.0.weight"], whole[0]["convs.0.weight"])


def test_a_short_last_batch_is_augmented_and_leaves_the_steps_before_it_as_they_are(data: Dataset):
    short, full = (train(data, begin(RICH), shuffled(24)[:count], RICH) for count in (19, 24))
    assert len(short) == len(full) == 3 and short.isfinite().all()
    assert_same(short[:2], full[:2])
    assert short[2] != full[2]


def test_the_optimiser_keeps_its_momentum_between_calls(data: Dataset):
    once, twice = begin(PLAIN), begin(PLAIN)
    order = shuffled(24)
    losses = train(data, once, order, PLAIN)
    parts = [train(data, twice, part, PLAIN) for part in (order[:16], order[16:])]
    torch.testing.assert_close(torch.cat(parts), losses)
    torch.testing.assert_close(copied(twice[0]), copied(once[0]))


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_training_twice_with_the_same_key_gives_the_same_bytes(data: Dataset, recipe: Train):
    first, second = begin(recipe), begin(recipe)
    assert_same(train(data, first, shuffled(24), recipe), train(data, second, shuffled(24), recipe))
    assert_same(copied(first[0]), copied(second[0]))


def test_another_key_changes_augmented_training_and_not_plain_training(data: Dataset):
    for recipe, same in ((PLAIN, True), (RICH, False)):
        losses = [train(data, begin(recipe), shuffled(24), recipe, key=Key(0).at("epoch", i)) for i in (0, 1)]
        assert torch.equal(*losses) == same


@pytest.mark.parametrize("recipe", [PLAIN, RICH], ids=["plain", "augmented"])
def test_bytes_and_floats_train_alike(data: Dataset, recipe: Train):
    as_floats = train(data, begin(recipe), shuffled(24), recipe, images=data.images.float() / 255)
    torch.testing.assert_close(as_floats, train(data, begin(recipe), shuffled(24), recipe))


def test_cutmix_alone_changes_the_loss_and_cutmix_of_0_does_not(data: Dataset):
    plain = train(data, begin(PLAIN), shuffled(24), PLAIN)
    always = Train(batch=8, augment=(), cutmix=1.0)
    assert not torch.equal(train(data, begin(always), shuffled(24), always), plain)


def test_training_changes_no_images(data: Dataset):
    before = data.images.clone()
    train(data, begin(RICH), shuffled(24), RICH)
    assert_same(data.images, before)


def test_the_loss_falls_on_separable_data(data: Dataset):
    run, losses = begin(PLAIN), []
    for epoch in range(30):
        losses.append(train(data, run, shuffled(24, seed=epoch), PLAIN).mean())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("batch", [1, 5, 500])
def test_accuracy_is_the_share_of_largest_logits_that_are_right(data: Dataset, batch: int):
    parameters = network().initialise(Key(0))
    images, labels = data.test_images, data.test_labels
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    right = 0
    for image, label in zip(images, labels, strict=True):
        logits = Forward(network())(parameters, ((image.float() / 255 - mean) / std)[None])[0]
        right += int(logits.tolist().index(max(logits.tolist())) == label)
    found = training.accuracy(Forward(network()), parameters, images, labels, mean=data.mean, std=data.std, batch=batch)
    assert found == pytest.approx(100 * right / len(labels))


def test_accuracy_of_a_network_that_is_always_right_is_100_and_of_one_that_never_is_0():
    labels = torch.tensor([0, 1, 1])
    images = torch.zeros(3, 3, SIZE, SIZE) + labels[:, None, None, None]

    def oracle(parameters: Parameters, batch: Tensor) -> Tensor:
        ones = batch.mean((1, 2, 3))
        return parameters["sign"] * torch.stack([1 - ones, ones], 1)

    for sign, expected in ((1.0, 100.0), (-1.0, 0.0)):
        found = training.accuracy(
            oracle,  # pyright: ignore[reportArgumentType]
            {"sign": torch.tensor(sign)}, images, labels, mean=(0, 0, 0), std=(1, 1, 1), batch=2,
        )  # fmt: skip
        assert found == expected
