"""What a run says before it begins and after it ended."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from accdd import execution
from accdd.config import Settings
from accdd.data import Dataset
from accdd.evaluation import Score
from accdd.execution import Plan
from accdd.networks import Architecture
from accdd.parallel import Ranks
from accdd.targets import Bank
from accdd.text import printable


def unused(told: Mapping[str, Any], settings: Settings) -> list[str]:
    """What was given, as dotted settings, and comes to nothing: early-stage models of a run that draws none, a warm-up
    of one that does, training of networks that take part in one sweep alone."""
    notes = []
    of_models = [key for key in told if key.startswith("pool.") and key != "pool.seed"]
    if of_models and not settings.pool.use and "pool.use" not in told:
        notes.append(f"{', '.join(of_models)}: but {settings.method} draws fresh networks unless told --early-stage.")
    if told.get("loop.warm_up") and settings.pool.use:
        notes.append("loop.warm_up: but early-stage models are drawn, which have none; --no-early-stage has.")
    between = [key for key in ("loop.train_images", "loop.train_epochs") if told.get(key)]
    if between and settings.loop.inner_steps == 1:
        notes.append(f"{', '.join(between)}: but networks are trained between sweeps with --inner-steps of 2 or more.")
    return notes


def describe(real: Dataset, settings: Settings, architecture: Architecture) -> list[str]:
    """What was understood, before anything long begins."""
    about = (
        f"{real.name}: {real.num_classes} classes, {len(real.images):,} training and {len(real.test_images):,} "
        f"{'held-out' if real.tests_on_held_out else 'test'} images of {real.channels} x {real.size} x {real.size}"
    )
    pool = f"{settings.pool.networks} early-stage models" if settings.pool.use else "fresh networks"
    factor, loop_ = settings.images.factor, settings.loop
    formation = settings.images.formation or "a formation of its own"
    each = f"networks of {loop_.inner_steps} sweeps each" if loop_.inner_steps > 1 else "sweeps"
    limits = [f"{loop_.steps} {each}"] if loop_.steps is not None else []
    limits += [f"{loop_.budget:g} s"] if loop_.budget is not None else []
    ends = " or ".join(limits)
    plan = (
        f"{settings.method}, {pool}{', perturbed' if settings.perturb.use else ''}: {architecture}, "
        f"{formation}, factor {factor}; ends after {ends}, not counting what is made before, and scores."
    )
    images, match = settings.images, settings.match
    falling = "falling" if images.schedule == "cosine" else "constant"
    chosen = (
        f"Images start as {images.start}; {images.step} steps of {images.lr:g}, {falling}; {match.distance} distance, "
        f"{settings.targets.real_batch if settings.targets.count else match.real_batch} real images a class."
    )
    return ["; ".join([about, *_sizes(real), *real.notes]) + ".", plan, chosen]


def _sizes(real: Dataset) -> list[str]:
    """How many training images classes have, where some have more than others."""
    sizes = [len(rows) for rows in real.class_index]
    if min(sizes) == max(sizes):
        return []
    fewest = printable(real.class_names[sizes.index(min(sizes))])
    return [f"{min(sizes):,} to {max(sizes):,} of a class for training, fewest of '{fewest}'"]


def describe_plan(plan: Plan, where: torch.device) -> str:
    """How the arithmetic will be done, in one line."""
    compiled = {
        (False, False): "nothing compiled",
        (True, False): "matching compiled at its first sweep",
        (False, True): "training compiled at its first step",
        (True, True): "matching and training compiled when they begin",
    }[plan.compile_matching, plan.compile_training]
    many = plan.classes * plan.overlapping
    at_once = "classes one by one" if many == 1 else f"{many} classes at once"
    parts = f", their synthetic images in {plan.parts} parts" if plan.parts > 1 else ""
    return f"On {execution.machine(where)}: {plan.precision}, {at_once}{parts}, {compiled}."


def describe_bank(bank: Bank, count: int) -> str:
    """How large the target bank is and what of it is there, in one line."""
    missing = min(bank.missing(count), count)
    there = "all there" if not missing else f"{missing} to be made"
    return f"{count} targets, {count * bank.bytes_per_target / 1e9:.2f} GB, in {bank.folder}, {there}."


def verdict(
    real: Dataset, settings: Settings, scores: Sequence[Score], sweeps: int, seconds: Mapping[str, float],
    halvings: int | None = None,
) -> str:  # fmt: skip
    """The outcome in one sentence; `scores` are pairs of the set's and of random images', one for each network."""
    part, parts = settings.shard or (1, 1)
    classes = range(real.num_classes)[Ranks(part - 1, parts).share(real.num_classes)]
    count = f"{settings.ipc * len(classes)} images ({settings.ipc} per class) of {real.name}"
    count += f", shard {part}/{parts}" if settings.shard else ""
    cost = f"{sweeps} sweeps in {seconds['distilling']:.0f} s"
    before = [
        f"{seconds[phase]:.0f} s for {name}"
        for phase, name in (("pool", "the early-stage models"), ("targets", "the targets"))
        if seconds.get(phase)
    ]
    cost += f", after {' and '.join(before)}" if before else ""
    if halvings:
        cost += f"; its numbers were not finite, so the step size was halved {halvings} x"
    if not scores:
        return f"{count} learned in {cost}; not scored."
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    (own, random), *others = pairs
    trained = own.network if others else "a network"
    tested = "accuracy on training images that were held out" if real.tests_on_held_out else "test accuracy"
    comparison = f"{count} train {trained} to {own} {tested}, random real images to {random}"
    comparison += "".join(f"; {own.network} to {own}, random to {random}" for own, random in others) + f"; {cost}."
    if not (lost := [own.network for own, random in pairs if own.mean <= random.mean]):
        return comparison
    where = f" on {', '.join(lost)}" if others else ""
    return f"NO BETTER THAN RANDOM IMAGES{where}: {comparison}"
