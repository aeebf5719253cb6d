"""How a sweep over the classes is executed. Every function here is pure: tensors in, tensors out.

Classes are independent within a sweep, and the real half of a class's step does not see the learned images.
`sweep` is the definition: one class after the other, uncompiled. `sweeper` makes the same sweep as a plan executes
it, whose results agree with the definition up to rounding.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from accdd import augment, execution, formation, recording, selection
from accdd.augment import Draw
from accdd.config import Train
from accdd.data import Dataset
from accdd.execution import Plan
from accdd.formation import Decode
from accdd.keys import Key
from accdd.matching import Distance, Summary
from accdd.networks import Forward, Parameters, calibrated


class Problem(NamedTuple):
    """What stays the same over a run; its functions can be hashed, as functions are."""

    forward: Forward
    summary: Summary
    distance: Distance
    decode: Decode
    """Formation: stored images of a class (ipc, c, h, w) -> training images."""
    mean: Tensor
    """(c,), of real and synthetic pixels in [0, 1]."""
    std: Tensor
    """(c,)."""
    frozen: bool = False
    """Whether BatchNorm uses frozen statistics (see `freeze`) and not those of each batch."""
    recipe: Train = Train()
    """How a network is trained on the synthetic set between sweeps, where it is."""


class Sweep(NamedTuple):
    """What is drawn for one sweep; leading dimension: the classes that take part, those of the images."""

    labels: Tensor
    """int64 (classes,): which they are."""
    real: Tensor
    """int64 (classes, real_batch): indices into the real images."""
    siamese: Draw
    """One augmentation per class, shapes (classes, 1, ...)."""
    subset: Tensor
    """int64 (classes, m): which decoded synthetic images take part."""


def decoded(problem: Problem, ipc: int) -> int:
    """Training images of a class with `ipc` stored ones."""
    shape = problem.forward.architecture
    return formation.count(problem.decode, (ipc, shape.channels, shape.size, shape.size))


FROZEN_ON = 16
"""Real images of each class whose statistics BatchNorm is frozen at: DC's and DSA's number."""


def freeze(problem: Problem, parameters: Parameters, data: Dataset, key: Key) -> Parameters:
    """The network as it is matched: with BatchNorm frozen on some real images, where the method does that."""
    if not problem.frozen or not problem.forward.batch_norms:
        return parameters
    rows = selection.random(data, FROZEN_ON, key).flatten()
    batch = augment.normalise(execution.gather(data.images, rows, data.device), problem.mean, problem.std)
    return calibrated(problem.forward, parameters, [batch])


def real_half(problem: Problem, parameters: Parameters, images: Tensor, label: Tensor, drawn: Draw) -> Parameters:
    """What a class's real images do to the network.

    Args:
        problem: the fixed pieces.
        parameters: the network.
        images: uint8 or float in [0, 1], (n, c, h, w), of one class.
        label: int64 scalar.
        drawn: one augmentation, shapes (1, ...).

    Returns:
        The summary that the synthetic half is compared with.
    """
    batch = augment.augmented(images, drawn, problem.mean, problem.std)
    return problem.summary(problem.forward, parameters, batch, label.expand(len(batch)))


def synthetic_half(
    problem: Problem,
    parameters: Parameters,
    target: Parameters,
    stored: Tensor,
    label: Tensor,
    drawn: Draw,
    subset: Tensor,
) -> tuple[Tensor, Tensor]:
    """How far a class's synthetic images are from the target, and which way they should go.

    Args:
        problem, parameters, label, drawn: as for `real_half`, with the same draw.
        target: what `real_half` returned, in any floating format.
        stored: float (ipc, c, h, w), in [0, 1] or near it.
        subset: int64 (m,), indices into the decoded images.

    Returns:
        The loss, a scalar, and its gradient, (ipc, c, h, w).
    """

    def loss(stored: Tensor) -> Tensor:
        return _apart(problem, target, synthetic_summary(problem, parameters, stored, label, drawn, subset))

    slope, value = torch.func.grad_and_value(loss)(stored)
    return value, slope


def synthetic_summary(
    problem: Problem, parameters: Parameters, stored: Tensor, label: Tensor, drawn: Draw, subset: Tensor
) -> Parameters:
    """What a class's synthetic images do to the network; arguments as for `synthetic_half`."""
    return real_half(problem, parameters, problem.decode(stored)[subset], label, drawn)  # both are seen alike


def synthetic_slope(
    problem: Problem,
    parameters: Parameters,
    pull: Parameters,
    stored: Tensor,
    label: Tensor,
    drawn: Draw,
    subset: Tensor,
) -> Tensor:
    """Which way the stored images move their summary along `pull`, which is like it; of the shape of `stored`."""

    def along(stored: Tensor) -> Tensor:
        own = synthetic_summary(problem, parameters, stored, label, drawn, subset)
        return torch.stack([(pull[name] * value).sum() for name, value in own.items()]).sum()

    return torch.func.grad(along)(stored)


def _pull(problem: Problem, parameters: Parameters, target: Parameters, own: Parameters) -> tuple[Parameters, Tensor]:
    """The gradient of the distance in the synthetic summary, and the distance; of a half's form."""
    del parameters
    return torch.func.grad_and_value(functools.partial(_apart, problem, target))(own)


def _apart(problem: Problem, target: Parameters, own: Parameters) -> Tensor:
    """The distance of a summary from the target, in the summary's format."""
    return problem.distance({name: value.to(own[name].dtype) for name, value in target.items()}, own)


def sweep(
    problem: Problem, parameters: Parameters, real_images: Tensor, stored: Tensor, drawn: Sweep
) -> tuple[Tensor, Tensor]:
    """Match every class once.

    Args:
        problem, parameters: as for `real_half`.
        real_images: uint8 (n, c, h, w), the whole real set.
        stored: float (classes, ipc, c, h, w).
        drawn: this sweep's draws.

    Returns:
        Losses (classes,) and gradients of the shape of `stored`.
    """
    losses, slopes = [], []
    for row, images in enumerate(stored):
        siamese, label = augment.at(drawn.siamese, row), drawn.labels[row]
        real = execution.gather(real_images, drawn.real[row], stored.device)
        target = real_half(problem, parameters, real, label, siamese)
        loss, slope = synthetic_half(problem, parameters, target, images, label, siamese, drawn.subset[row])
        losses.append(loss)
        slopes.append(slope)
    return torch.stack(losses), torch.stack(slopes)


Sweeper = Callable[[Parameters, Tensor, Tensor, Sweep], tuple[Tensor, Tensor]]
"""`sweep` without its first argument."""


def sweeper(problem: Problem, plan: Plan) -> Sweeper:
    """`sweep` as `plan` executes it: halves compiled or not, classes one by one, several at once or in parts.

    Args:
        problem: the fixed pieces, in fp32.
        plan: how; see `accdd.planning`.
    """
    where = problem.mean.device
    plain = not plan.compile_matching and plan.classes == plan.parts == 1
    if plain and where.type != "cuda":  # there the plain one is recorded, too
        executed = _executed(problem, plan)
        return lambda *args: sweep(executed, *args)
    real, synthetic = halves(problem, plan)

    def match_all(
        parameters: Parameters, pictures: Pictures, stored: Tensor, labels: Tensor, siamese: Draw, subset: Tensor
    ) -> tuple[Tensor, Tensor]:
        def match(rows: Tensor) -> tuple[Tensor, Tensor]:
            own, drawn = labels[rows], augment.at(siamese, rows)
            target = real(parameters, pictures(rows), own, drawn)
            return synthetic(parameters, target, stored[rows], own, drawn, subset[rows])

        return _over_chunks(match, len(stored), plan, where)

    matching = _given_pictures(match_all, where)

    def planned(parameters: Parameters, real_images: Tensor, stored: Tensor, drawn: Sweep) -> tuple[Tensor, Tensor]:
        given = (stored, drawn.labels, drawn.siamese, drawn.subset)
        return matching(real_images, drawn.real, parameters, *given)

    return planned


Pictures = Callable[[Tensor], Tensor]
"""(places of classes among those that take part) -> their real batches, on the device."""


def _given_pictures(matched: Callable[..., Any], where: torch.device) -> Callable[..., Any]:
    """(images, rows of every class, parameters, *rest) -> `matched(parameters, pictures, *rest)`.

    The batches of a chunk are gathered when it is their turn. That can be recorded for a GPU where the images are, too;
    from the CPU, batches of all classes are brought first.
    """

    def from_batches(batch: Tensor, parameters: Parameters, *rest: Any) -> Any:
        return matched(parameters, lambda chosen: batch[chosen], *rest)

    @functools.lru_cache(maxsize=1)  # a run has one set of images, which its recording reads where they lie
    def from_rows(images: Tensor) -> Callable[..., Any]:
        def on_device(rows: Tensor, parameters: Parameters, *rest: Any) -> Any:
            return matched(parameters, lambda chosen: images[rows[chosen]], *rest)

        return recording.recorded(on_device, where)

    brought = recording.recorded(from_batches, where)

    def given(images: Tensor, rows: Tensor, parameters: Parameters, *rest: Any) -> Any:
        if where.type != "cuda":
            return matched(parameters, lambda chosen: execution.gather(images, rows[chosen], where), *rest)
        if images.device == where:
            return from_rows(images)(rows, parameters, *rest)
        return brought(execution.gather(images, rows, where), parameters, *rest)

    return given


def real_sweeper(problem: Problem, plan: Plan) -> Callable[[Parameters, Tensor, Tensor, Draw], Parameters]:
    """The real half of a sweep alone: (parameters, real images, rows, siamese draw) -> what to match, of all classes.

    `rows` are int64 (classes, real_batch); shapes are otherwise those of `sweep`, results begin with the classes.
    """
    where = problem.mean.device
    real, _ = halves(problem, plan)

    def match_all(parameters: Parameters, pictures: Pictures, labels: Tensor, siamese: Draw) -> Parameters:
        def half(own: Tensor) -> Parameters:
            return real(parameters, pictures(own), labels[own], augment.at(siamese, own))

        return _over_chunks(half, len(labels), plan, where)

    matching = _given_pictures(match_all, where)

    def planned(parameters: Parameters, real_images: Tensor, rows: Tensor, siamese: Draw) -> Parameters:
        return matching(real_images, rows, parameters, torch.arange(len(rows), device=where), siamese)

    return planned


def synthetic_sweeper(
    problem: Problem, plan: Plan
) -> Callable[[Parameters, Parameters, Tensor, Tensor, Draw, Tensor], tuple[Tensor, Tensor]]:
    """The synthetic half of a sweep alone.

    It is called with (parameters, what to match, stored, labels, siamese draw, subset), of which all but the first
    begin with the classes that take part, and returns what `sweep` does. What to match is as `real_sweeper` returns
    it, in any floating format.
    """
    where = problem.mean.device
    _, synthetic = halves(problem, plan)

    def match_all(
        parameters: Parameters, target: Parameters, stored: Tensor, labels: Tensor, siamese: Draw, subset: Tensor
    ) -> tuple[Tensor, Tensor]:
        def half(rows: Tensor) -> tuple[Tensor, Tensor]:
            own, drawn = augment.at(target, rows), augment.at(siamese, rows)
            return synthetic(parameters, own, stored[rows], labels[rows], drawn, subset[rows])

        return _over_chunks(half, len(stored), plan, where)

    return recording.recorded(match_all, where)


class Halves(NamedTuple):
    """`real_half` and `synthetic_half` without their problem, for a chunk of classes of one network.

    All arguments and results but the network's parameters begin with the classes.
    """

    real: Callable[[Parameters, Tensor, Tensor, Draw], Parameters]
    synthetic: Callable[[Parameters, Parameters, Tensor, Tensor, Draw, Tensor], tuple[Tensor, Tensor]]


@functools.lru_cache(maxsize=4)  # a forecast and its run, which have one problem, compile it once
def halves(problem: Problem, plan: Plan) -> Halves:
    """The halves of a matching step as `plan` executes them; `problem` is in fp32."""
    executed, where = _executed(problem, plan), problem.mean.device

    def over_classes(half: Callable[..., Any], arguments: int) -> Callable[..., Any]:
        if plan.classes > 1:  # one network for all: its forward convolutions stay plain ones, over all images
            chunk = torch.func.vmap(half, in_dims=(None, *[0] * arguments))
        else:
            chunk = _one_class(half)
        return execution.compiled(chunk, where) if plan.compile_matching else chunk

    real = over_classes(functools.partial(real_half, executed), 3)
    if plan.parts == 1:
        return Halves(real, over_classes(functools.partial(synthetic_half, executed), 5))
    summary = over_classes(functools.partial(synthetic_summary, executed), 4)
    slope = over_classes(functools.partial(synthetic_slope, executed), 5)
    pull = over_classes(functools.partial(_pull, executed), 2)

    def in_parts(
        parameters: Parameters, target: Parameters, stored: Tensor, labels: Tensor, drawn: Draw, subset: Tensor
    ) -> tuple[Tensor, Tensor]:
        # A summary is a mean over images: s = sum of s_k n_k / n, so dD/dx = sum of n_k / n D'(s) ds_k/dx. The graph
        # through which it is differentiated is there for one part at a time, at the price of computing s before.
        count = subset.shape[1]
        shares = subset.tensor_split(min(plan.parts, count), dim=1)
        weights = [share.shape[1] / count for share in shares]
        own = _weighted(weights, (summary(parameters, stored, labels, drawn, share) for share in shares))
        pulls, losses = pull(parameters, target, own)
        slopes = (slope(parameters, pulls, stored, labels, drawn, share) for share in shares)
        return losses, _weighted(weights, slopes)

    return Halves(real, in_parts)


def _weighted(weights: Sequence[float], values: Iterable[Any]) -> Any:
    """The sum of tensors, or of dictionaries of tensors, each with its weight."""
    total = None
    for weight, value in zip(weights, values, strict=True):
        scaled = tree_map(functools.partial(torch.mul, other=weight), value)
        total = scaled if total is None else tree_map(torch.add, total, scaled)
    return total


def _over_chunks(half: Callable[[Tensor], Any], classes: int, plan: Plan, device: torch.device) -> Any:
    """`half` of the rows of each chunk, put together again; tensors begin with the classes."""
    works = [functools.partial(half, rows) for rows in row_chunks(classes, plan, device)]
    parts = recording.branches(works, device, plan.overlapping)
    return tree_map(lambda *pieces: torch.cat(pieces)[:classes], *parts)


@functools.cache
def row_chunks(classes: int, plan: Plan, device: torch.device) -> list[Tensor]:
    """Places of classes in the plan's chunks, or in smaller ones where they are a share of them. All are of one size:
    what the last repeats is to be dropped."""
    size = execution.chunk(classes, plan.classes)
    return [torch.tensor(rows, device=device) for rows in execution.chunks(classes, size)]


def _executed(problem: Problem, plan: Plan) -> Problem:
    """The problem with the network in the plan's precision and layout."""
    channels_last = plan.compile_matching and plan.classes == 1
    return problem._replace(forward=Forward(problem.forward.architecture, plan.precision, channels_last))


def _one_class(half: Callable[..., Any]) -> Callable[..., Any]:
    """A half for chunks of one class by hand: vmap would make grouped convolutions, even of one group."""

    def single(parameters: Parameters, *chunk: Any) -> Any:
        results = half(parameters, *tree_map_only(Tensor, lambda tensor: tensor[0], chunk))
        return tree_map_only(Tensor, lambda tensor: tensor[None], results)

    return single


def matched(problem: Problem) -> Parameters:
    """What the real half returns for one class, without values."""
    shape, where = problem.forward.architecture, torch.device("meta")
    problem = problem._replace(mean=problem.mean.to(where), std=problem.std.to(where))
    images, label = torch.empty(2, shape.channels, shape.size, shape.size), torch.tensor(0)
    _, found = execution.count(functools.partial(real_half, problem), shape.initialise(Key(0)), images, label, {})
    return found
