"""What settings become where they leave something to the data or the method: stated rules, no guesses at run time."""

import dataclasses
import math

from accdd import augment, methods, networks
from accdd.config import LARGEST, SMALLEST, Images, InputError, Loop, Match, Settings
from accdd.data import Dataset
from accdd.methods import Method

NORMALISED_LR = 0.01
"""Chosen at 32 pixels and one image per class, and best at ten, too (RESULTS.md); other sizes are not measured."""
TARGETS = 300
"""Fewer are fitted too closely; more were better by no more than the noise, or not at all (RESULTS.md)."""
EPOCHS = 2.0
"""Of training early-stage models, as in the paper on CIFAR. With gradient steps, ten digits learned from models of 20
epochs are worse than random ones (RESULTS.md)."""
EARLY_STEPS, MOST_EPOCHS = 800, 20
"""The same where steps on images are normalised: steps of training count, not epochs; but 40 epochs of 1,000 digits,
which are 640 steps, were worse than 20, if at a falling rate (RESULTS.md)."""
STEPS, BUDGET = 2000, 600.0
"""Where a run ends, in outer steps or seconds, when nothing is said."""
BOUNDED_FROM = 20
"""Images per class from which on IDC bounds how many they are decoded into, at factor 3."""
TRAIN_IMAGES = 2000
"""Real images between two sweeps, for methods that train networks on those: IDC's number on CIFAR."""


def resolve(settings: Settings, data: Dataset) -> Settings:
    """Fill in what the settings leave to the data or the method.

    Raises:
        InputError: the settings cannot work with this data.
    """
    method = methods.named(settings.method)
    for names in (settings.match.augment or (), settings.train.augment, *settings.pool.augment):
        augment.check(names)
    _check_images(settings, data)
    match = _match(settings.match, method, data)
    loop = _loop(settings, method)
    _check_shard(settings, loop, data)
    real_batch = min(settings.targets.real_batch, max(len(rows) for rows in data.class_index))
    count = _targets(settings, loop, match, real_batch)
    bank = dataclasses.replace(settings.targets, count=count, real_batch=real_batch)
    images = _images(settings, method, match, data, on_targets=bool(bank.count))
    epochs = settings.pool.epochs or (_epochs(settings, images, data),)
    _check_drawn(settings.pool.draw or (), epochs)
    pool = dataclasses.replace(settings.pool, use=early_stage(settings), epochs=epochs)
    shape = networks.architecture(settings.network, data.channels, data.size, data.num_classes).shape
    network = dataclasses.replace(settings.network, **dataclasses.asdict(shape))
    pixels = dataclasses.replace(
        settings.data, size=data.size, mean=settings.data.mean or data.mean, std=settings.data.std or data.std
    )
    score = settings.score
    score = dataclasses.replace(score, networks=(network.name,) if score.networks is None else score.networks)
    return dataclasses.replace(
        settings, data=pixels, pool=pool, network=network, images=images, match=match, targets=bank, loop=loop,
        score=score,
    )  # fmt: skip


def early_stage(settings: Settings) -> bool:
    """Whether networks are drawn from early-stage models."""
    return methods.named(settings.method).early_stage if settings.pool.use is None else settings.pool.use


def _epochs(settings: Settings, images: Images, data: Dataset) -> float:
    """After how many epochs early-stage models are kept."""
    if images.step == "gradient":  # whose size is stated for models of a certain age
        return EPOCHS
    per_epoch = math.ceil(len(data.images) / settings.train.batch)
    return float(min(max(round(EARLY_STEPS / per_epoch), 1), MOST_EPOCHS))


def factor_for(size: int) -> int:
    """IDC's: 3 for photographs (it used 224 pixels), 2 for small images; below 16 pixels a tile shows nothing."""
    return 3 if size >= 128 else 2 if size >= 16 else 1


def _check_images(settings: Settings, data: Dataset) -> None:
    smallest = min(len(rows) for rows in data.class_index)
    if smallest < settings.ipc:
        short = data.class_names[[len(rows) for rows in data.class_index].index(smallest)]
        raise InputError(
            f"Class '{short}' has {smallest} training images, fewer than --ipc {settings.ipc}. "
            f"Expected at least as many images as are to be learned: lower --ipc to {smallest} or less."
        )
    if not SMALLEST <= data.size <= LARGEST:
        small = f"at least {SMALLEST} x {SMALLEST}: --set data.size={2 * SMALLEST} enlarges them"
        raise InputError(
            f"The images have {data.size} x {data.size} pixels. Expected "
            f"{small if data.size < SMALLEST else f'at most {LARGEST} x {LARGEST}'}."
        )


def _check_drawn(drawn: tuple[float, ...], epochs: tuple[float, ...]) -> None:
    if missing := [epoch for epoch in drawn if epoch not in epochs]:
        kept = ", ".join(f"{epoch:g}" for epoch in epochs)
        raise InputError(
            f"pool.draw has {missing[0]:g}, but networks are kept at {kept} epochs. Expected some of these, or "
            f"{missing[0]:g} among pool.epochs."
        )


def _match(match: Match, method: Method, data: Dataset) -> Match:
    return dataclasses.replace(
        match,
        distance=match.distance or method.distance,
        real_batch=match.real_batch or method.real_batch,
        augment=augment.suited(method.siamese, data.name) if match.augment is None else match.augment,
        one_of=method.one_of if match.one_of is None else match.one_of,
    )


def _loop(settings: Settings, method: Method) -> Loop:
    """Where a run ends, and what its networks are trained on between sweeps, if there is a between."""
    loop = settings.loop
    steps, budget = loop.steps, loop.budget
    if steps is None and budget is None:
        steps, budget = STEPS, BUDGET
    images, epochs = loop.train_images, loop.train_epochs
    if images and epochs:
        raise InputError(
            f"loop.train_images is {images} and loop.train_epochs {epochs}: networks are trained on real images or on "
            "the synthetic ones between two sweeps. Expected one of the two to be 0."
        )
    again = loop.inner_steps > 1
    if images is None:
        images = TRAIN_IMAGES if again and method.trains_on == "real" and not epochs else 0
    if epochs is None:
        _, published = methods.sweeps_and_epochs(settings.ipc)
        usual = published or round(500 / settings.ipc)  # at IPC 1 the published loop is a single sweep
        epochs = usual if again and method.trains_on == "synthetic" and not images else 0
    warm_up = 0.0 if early_stage(settings) else loop.warm_up
    return dataclasses.replace(
        loop, steps=steps, budget=budget, warm_up=warm_up, train_images=images, train_epochs=epochs
    )


def _fits(factor: int, size: int) -> bool:
    """Whether tiles are of 4 pixels at least, and the last begins within the image."""
    tile = math.ceil(size / factor)
    return tile >= 4 and (factor - 1) * tile < size


def _images(settings: Settings, method: Method, match: Match, data: Dataset, *, on_targets: bool) -> Images:
    given = settings.images
    factor = given.factor or method.factor or factor_for(data.size)
    formation = _formation(settings, method, factor)
    smaller = formation in ("multi", "bounded")  # which use every smaller factor, too
    fitting = [f for f in range(1, 9) if all(_fits(each, data.size) for each in range(1 if smaller else f, f + 1))]
    if factor not in fitting:
        raise InputError(
            f"images.factor {factor} cuts {data.size}-pixel images into tiles below 4 pixels, or some of them wholly "
            f"outside of the image. Expected one of {', '.join(map(str, fitting))} (--factor)."
        )
    step = given.step or ("normalised" if on_targets else "gradient")
    start = given.start or ("mixed" if factor > 1 else method.start or "random")
    return dataclasses.replace(
        given,
        factor=factor,
        formation=formation,
        start=start,
        step=step,
        lr=given.lr or (NORMALISED_LR if step == "normalised" else _gradient_lr(method, match, data)),
        schedule=given.schedule or ("cosine" if step == "normalised" else "constant"),
    )


def _formation(settings: Settings, method: Method, factor: int) -> str | None:
    """IDC's: bounded where there are many images of many tiles; None is left where the method brings its own."""
    given, ipc, bound = settings.images.formation, settings.ipc, settings.match.synthetic_batch
    if given == "bounded" and ipc > bound:
        raise InputError(
            f"images.formation bounded with match.synthetic_batch {bound}: {ipc} images per class do not fit. "
            f"Expected --set match.synthetic_batch={ipc} or more, or --set images.formation=uniform."
        )
    if given or method.formation:
        return given
    return "bounded" if factor >= 3 and BOUNDED_FROM <= ipc <= bound else "uniform"


def _gradient_lr(method: Method, match: Match, data: Dataset) -> float:
    assert match.distance
    if match.distance not in method.lr:
        raise InputError(
            f"There is no step size for this method with the distance '{match.distance}'. "
            f"Expected --set images.lr=NUMBER, or one of the distances {', '.join(method.lr)}."
        )
    return method.lr[match.distance] * (method.small if data.size < 28 else 1)


def _check_shard(settings: Settings, loop: Loop, data: Dataset) -> None:
    """A part of the classes is learned alone only where it needs to know nothing of the others."""
    if settings.shard is None:
        return
    part, parts = settings.shard
    if not 1 <= part <= parts <= data.num_classes:
        raise InputError(
            f"--shard {part}/{parts} of {data.num_classes} classes. Expected k/n with k from 1 to n, and n at most "
            f"{data.num_classes}, so that every part has a class."
        )
    if loop.inner_steps > 1 and loop.train_epochs:
        raise InputError(
            "--shard: this method trains its networks on the images of all classes between sweeps, and a shard has "
            "only some. Expected --inner-steps 1, or the same command with torchrun and without --shard."
        )
    if settings.targets.refresh is not None:
        raise InputError(
            "--shard: targets.refresh follows the loss of all classes. Expected a run without one of the two."
        )
    if settings.score.choose != "last":
        raise InputError(
            "--shard: score.choose = 'validation' trains networks on all classes, and each shard would choose another "
            "sweep. Expected a run without one of the two."
        )


def _targets(settings: Settings, loop: Loop, match: Match, real_batch: int) -> int:
    """How many targets: none where networks are trained between sweeps, or where a bank costs more than it saves."""
    wanted = settings.targets.count
    trained = loop.inner_steps > 1 or loop.warm_up > 0
    if wanted and trained:
        raise InputError(
            f"--targets {wanted} with loop.inner_steps {loop.inner_steps} and loop.warm_up {loop.warm_up:g}: "
            "targets are for networks that are used as drawn. Expected --targets 0, or --inner-steps 1 and "
            "--set loop.warm_up=0."
        )
    own = settings.targets.folder is not None or settings.targets.refresh is not None
    if own and (trained or wanted == 0):
        raise InputError(
            "targets.folder and targets.refresh are for runs on targets. Expected --inner-steps 1, "
            "--set loop.warm_up=0 and no --targets 0; or neither of the two."
        )
    if wanted is not None:
        return wanted
    if own:
        return TARGETS
    # Where sweeps are so few that drawing anew in each costs less than a bank, there is none.
    assert match.real_batch
    worth = TARGETS * real_batch / match.real_batch
    return 0 if trained or (loop.steps is not None and loop.steps <= worth) else TARGETS
