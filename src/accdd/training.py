"""The one loop that trains classifiers: the pool, the network inside the loop, and evaluation all use it.

A step is a pure function of tensors, so that it can be compiled whole, and mapped over n networks that are
trained side by side.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from accdd import augment, execution, recording
from accdd.augment import Draw
from accdd.config import Train
from accdd.execution import Cost
from accdd.keys import Key
from accdd.networks import Architecture, Forward, Parameters
from accdd.parallel import ALONE, Ranks

DECAY = 0.2
"""Factor on the learning rate at two thirds and again at five sixths of a schedule."""

Report = Callable[[float], None]
"""Called with the share of some work that is done, 0 to 1."""


class Trained(NamedTuple):
    """n networks of one shape in training, side by side: every tensor begins with n."""

    parameters: Parameters
    velocity: Parameters
    """Of SGD with momentum, shapes as the parameters'."""


Step = Callable[[Trained, Tensor, Tensor, Draw, Draw, Tensor], tuple[Trained, Tensor]]
"""(trained, images (n, b, c, h, w), soft_labels (n, b, classes), augmentation, CutMix, learning rates (n,)) ->
(trained, losses (n,)). Draws begin with n, too; CutMix is empty where it is not used."""


def begin(networks: Sequence[Parameters]) -> Trained:
    """Networks of one shape before the first step."""
    parameters = {name: torch.stack([each[name] for each in networks]) for name in networks[0]}
    return Trained(parameters, {name: torch.zeros_like(value) for name, value in parameters.items()})


def contiguous(trained: Trained) -> Trained:
    """The same numbers as they lie after being saved and read, so that a run that goes on computes with the same."""
    return Trained(*({name: value.contiguous() for name, value in values.items()} for values in trained))


def networks(trained: Trained) -> list[Parameters]:
    """The networks one by one, as views."""
    singles = zip(*(value.unbind() for value in trained.parameters.values()), strict=True)
    return [dict(zip(trained.parameters, values, strict=True)) for values in singles]


def fifth_twice(epoch: int, epochs: int) -> float:
    """Factor on the learning rate in `epoch` (from 0) of a schedule of `epochs`: IDC's when scoring, AccDD's of pools.

    The first epoch has all of it, also where it is the only one.
    """
    return DECAY ** ((epoch >= max(1, 2 * epochs // 3)) + (epoch >= max(1, 5 * epochs // 6)))


def rate(recipe: Train, epoch: int, schedule: int) -> float:
    """The learning rate of `epoch` (from 0) of a `schedule` of that many epochs."""
    return recipe.lr * fifth_twice(epoch, schedule)


def single_step(forward: Forward, recipe: Train, mean: Tensor, std: Tensor, ranks: Ranks = ALONE) -> Step:
    """One step of SGD with momentum and weight decay of one network: a `Step` whose tensors do not begin with n.

    `mean` and `std` are (c,). Several ranks share every batch that has an image for each of them.
    """

    def step(
        trained: Trained, images: Tensor, soft_labels: Tensor, drawn: Draw, mixed: Draw, lr: Tensor
    ) -> tuple[Trained, Tensor]:
        batch = augment.augmented(images, drawn, mean, std)
        if mixed:
            batch, soft_labels = augment.apply_cutmix(batch, soft_labels, mixed)
        if len(batch) == 1 and forward.batch_norms:
            # The same mean and variance, and the same mean loss, also where the image is one value per channel by
            # then: PyTorch refuses that.
            batch, soft_labels = batch.repeat(2, 1, 1, 1), soft_labels.repeat(2, 1)

        divided = not ranks.alone and len(batch) >= ranks.count
        own = ranks.share(len(batch)) if divided else slice(0, len(batch))

        def loss(parameters: Parameters) -> Tensor:
            share = (own.stop - own.start) / len(batch)
            return share * F.cross_entropy(forward(parameters, batch[own]), soft_labels[own])

        parameters, velocity = trained
        slopes, value = torch.func.grad_and_value(loss)(parameters)
        if divided:
            slopes = ranks.summed({**slopes, "loss": value})
            value = slopes.pop("loss")
        velocity = {
            name: recipe.momentum * velocity[name] + (slopes[name] + recipe.weight_decay * parameters[name])
            for name in parameters
        }
        return Trained({name: parameters[name] - lr * velocity[name] for name in parameters}, velocity), value

    return step


@functools.lru_cache(maxsize=16)  # what is compiled or recorded is so once in a process
def make_step(
    architecture: Architecture,
    recipe: Train,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    where: torch.device,
    *,
    count: int = 1,
    mapped: bool = True,
    precision: str = "fp32",
    compiled_for: int | None = None,
    ranks: Ranks = ALONE,
) -> Step:
    """The step of `count` networks side by side, as it is executed.

    Args:
        architecture, recipe: what is trained, and how.
        mean, std: normalisation per channel.
        where: the device.
        count: networks.
        mapped: whether all of them are one function (`vmap`), or each is one that on a GPU overlaps
            the others; elsewhere they come one after the other.
        precision: `fp32` or `bf16`.
        compiled_for: images of a batch for which it is one compiled graph; other shapes, such as a short last batch
            or fewer networks, run uncompiled. None compiles nothing.
        ranks: those that share every batch, of one network; nothing is compiled or recorded then.
    """
    mapped = mapped and count > 1
    forward = Forward(architecture, precision, channels_last=bool(compiled_for) and not mapped)
    shift, scale = (torch.tensor(each, device=where) for each in (mean, std))
    single = single_step(forward, recipe, shift, scale, ranks)

    def alone(*stacked: Any) -> Any:  # vmap would make grouped convolutions, even of one group
        results = single(*tree_map_only(Tensor, lambda tensor: tensor[0], stacked))
        return tree_map_only(Tensor, lambda tensor: tensor[None], results)

    step = torch.func.vmap(single) if mapped else alone
    if not ranks.alone:
        return step
    graph = execution.compiled(step, where) if compiled_for else step
    of_a_call = count if mapped else 1

    def run(*args: Any) -> tuple[Trained, Tensor]:
        return (graph if args[1].shape[:2] == (of_a_call, compiled_for) else step)(*args)

    def in_branches(*args: Any) -> tuple[Trained, Tensor]:
        own = [tree_map_only(Tensor, lambda tensor, n=n: tensor[n : n + 1], args) for n in range(len(args[1]))]
        results = recording.branches([functools.partial(run, *each) for each in own], where)
        return tree_map(lambda *parts: torch.cat(parts), *results)

    return recording.recorded(run if mapped or count == 1 else in_branches, where)


def planned_step(
    architecture: Architecture,
    recipe: Train,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    where: torch.device,
    *,
    networks: int,
    batch: int,
    steps: float,
    compile: str,
    precision: str,
) -> tuple[Step, int]:
    """The step of some networks, as many side by side as is fast and compiled where that pays, and how many that is.

    Args:
        architecture, recipe, mean, std, where: as for `make_step`.
        networks: how many are to be trained, each for so many `steps` on `batch` images.
        compile, precision: as in the settings.
    """
    cost = step_cost(architecture, recipe, batch)
    mapped = execution.at_once(networks, cost, where)
    at_once = max(mapped, execution.overlapping(networks, cost, where))
    resolved = execution.precision(precision, where)
    pays = execution.worth_compiling(
        compile, where, cost.side_by_side(mapped), steps * networks / mapped, precision=resolved
    )
    step = make_step(
        architecture, recipe, mean, std, where, count=at_once, mapped=mapped > 1, precision=resolved,
        compiled_for=batch if pays else None,
    )  # fmt: skip
    return step, at_once


@functools.lru_cache(maxsize=64)  # asked several times of every run, and it takes longer than a small step
def step_cost(architecture: Architecture, recipe: Train, batch: int) -> Cost:
    """What one plain step of one network on `batch` images costs."""
    generator = torch.Generator()
    parameters = architecture.initialise(Key(0))
    images = torch.empty(batch, architecture.channels, architecture.size, architecture.size)
    drawn = augment.draw(recipe.augment, (batch,), architecture.size, generator, one_of=recipe.one_of)
    mixed = augment.at(augment.draw_cutmix(recipe.cutmix, 1, batch, architecture.size, generator), 0)
    soft_labels = torch.empty(batch, architecture.num_classes)
    ones = torch.ones(architecture.channels, device="meta")
    step = single_step(Forward(architecture), recipe, ones, ones)
    cost, _ = execution.count(step, Trained(parameters, parameters), images, soft_labels, drawn, mixed, torch.ones(()))
    return cost


def train(
    step: Step,
    trained: Trained,
    images: Tensor,
    labels: Tensor,
    order: Tensor,
    *,
    recipe: Train,
    lr: float | Tensor,
    num_classes: int,
    keys: Sequence[Key],
) -> Iterator[tuple[Trained, Tensor]]:
    """Train each network on `images[order]` in batches, one SGD step each.

    Args:
        step: from `make_step`, for as many networks and with the same recipe.
        trained: n networks, not changed.
        images: uint8 or float in [0, 1], (count, c, h, w); on the networks' device or the CPU.
        labels: int64 (count,), on the networks' device.
        order: int64 (n, m), indices into images in the order each network sees them; a short last batch is used too.
        recipe: batch size, augmentation and CutMix.
        lr: the learning rate, or one for each network, (n,).
        num_classes: width of the soft labels.
        keys: one for each network, where its draws come from: they are what they would be if it were alone.

    Yields:
        The networks after each step, and their losses, (n,).
    """
    device, size = labels.device, images.shape[-1]
    # Drawn for the whole call at once, so they depend on the key and on the number of batches, and nothing else; and
    # before anything goes to a GPU, which may still be at work.
    shape = (len(order.split(recipe.batch, dim=1)), recipe.batch)
    drawn = _side_by_side(
        [augment.draw(recipe.augment, shape, size, key.generator("augment"), one_of=recipe.one_of) for key in keys]
    )
    mixed: Draw = {}
    if recipe.cutmix > 0:
        mixed = _side_by_side(
            [augment.draw_cutmix(recipe.cutmix, *shape, size, key.generator("cutmix")) for key in keys]
        )
    drawn, mixed = augment.to(drawn, device), augment.to(mixed, device)
    batches, chosen = (order.to(each).split(recipe.batch, dim=1) for each in (device, images.device))
    rates = torch.as_tensor(lr, dtype=torch.float32).expand(len(keys)).to(device)
    for number, (rows, pictures) in enumerate(zip(batches, chosen, strict=True)):
        soft_labels = F.one_hot(labels[rows], num_classes).to(torch.float32)
        own_drawn = augment.at(drawn, number, slice(None), slice(rows.shape[1]))
        batch = images[pictures].to(device)
        trained, losses = step(trained, batch, soft_labels, own_drawn, augment.at(mixed, number), rates)
        yield trained, losses


def last(steps: Iterator[tuple[Trained, Tensor]]) -> Trained:
    """The networks after all steps, of which there is at least one."""
    ((trained, _),) = collections.deque(steps, maxlen=1)
    return trained


def _side_by_side(draws: Sequence[Draw]) -> Draw:
    """The draws of n networks for several batches: each tensor (batches, n, ...)."""
    return {name: torch.stack([each[name] for each in draws], dim=1) for name in draws[0]}


@torch.no_grad()
def correct(
    forward: Forward,
    parameters: Parameters,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch: int | None = None,
) -> Tensor:
    """Which predictions are correct, bool (n,), on images uint8 or float in [0, 1], (n, c, h, w).

    `batch` images at a time; None is 500 of 32 pixels or as many as fill the same memory.
    """
    batch = batch or max(1, 500 * 32**2 // images.shape[-1] ** 2)
    device = labels.device
    shift, scale = (torch.tensor(each, device=device) for each in (mean, std))
    right = []
    for pictures, truth in zip(images.split(batch), labels.split(batch), strict=True):
        logits = forward(parameters, augment.normalise(pictures.to(device), shift, scale))
        right.append(logits.argmax(1) == truth)
    return torch.cat(right)
