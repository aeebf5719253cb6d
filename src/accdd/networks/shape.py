"""What of a network can be chosen, and what it is where nothing is."""

import dataclasses
from typing import Any

from accdd.config import InputError

OPTIONS = ("norm", "activation", "pooling")
"""Choices by name. None is a network's own, so that naming that changes nothing: no cache key, no record."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Settings of a network; None is what the network itself says."""

    width: int | None = None
    depth: int | None = None
    norm: str | None = None
    activation: str | None = None
    pooling: str | None = None

    def __str__(self) -> str:
        """As in 'depth 3, width 128 and batch norm'; empty where there is nothing to choose."""
        words = [f"{name} {value}" for name in ("depth", "width") if (value := getattr(self, name)) is not None]
        words += [f"{value} {name}" for name in OPTIONS if (value := getattr(self, name)) is not None]
        return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def settle(name: str, given: Shape, own: Shape) -> Shape:
    """`given`, with the width and depth of `own` where it leaves them open, and no option that `own` has anyway.

    Raises:
        InputError: something is given that is None in `own`: the network has no such choice.
    """
    settled: dict[str, Any] = {}
    for field, value in dataclasses.asdict(given).items():
        usual = getattr(own, field)
        if value is not None and usual is None:
            raise InputError(
                f"network.{field} is {value}, but a {name} has no choice of it. "
                f"Expected no network.{field}: leave it out, or choose --network convnet."
            )
        if field in OPTIONS:
            settled[field] = None if value == usual else value
        else:
            settled[field] = usual if value is None else value
    return Shape(**settled)


def refuse_smaller(size: int, least: int, name: str) -> None:
    """Refuse with an `InputError` images that the network would shrink to less than what it works on."""
    if size < least:
        raise InputError(
            f"A {name} shrinks {size}-pixel images to single pixels or to nothing. "
            f"Expected at least {least}: --set data.size={least} enlarges them, or choose --network convnet."
        )
