"""One set of several that were learned apart, each of some of the classes."""

from collections.abc import Mapping
from typing import Any

import torch

from accdd import config
from accdd.artifact.distilled import Distilled
from accdd.config import InputError

_OF_A_MACHINE = frozenset(
    f"settings.{name}"
    for name in ("device", "compile", "max_memory", "data.root", "targets.folder", "loop.checkpoint", "loop.snapshots")
)
"""Settings that decide where and how a shard was made, and nothing of what it became."""
_OF_SCORES = "settings.score."
"""Shards are not scored."""


def merge(shards: Mapping[str, Distilled]) -> Distilled:
    """Put the shards of one run together.

    Args:
        shards: what each is called, and the set: in any order, each of them once.

    Returns:
        The set of all classes. Its seconds are those of all shards together, its sweeps the fewest of any.

    Raises:
        InputError: one is no shard, they were made with other data, versions or settings that decide images, one is
            there twice, or one is missing.
    """
    if not shards:
        raise InputError("There is nothing to merge. Expected the folders of all shards of a run.")
    facts = {name: _facts(name, each) for name, each in shards.items()}
    (first, expected), *others = facts.items()
    for name, found in others:
        differing = [key for key in {**expected, **found} if expected.get(key) != found.get(key)]
        if differing:
            listed = "; ".join(f"{key}: {expected.get(key)} and {found.get(key)}" for key in sorted(differing)[:5])
            raise InputError(f"'{first}' and '{name}' are no shards of one run ({listed}). Expected the same of both.")
    parts = {name: each.info["settings"]["shard"] for name, each in shards.items()}
    by_part: dict[int, str] = {}
    for name, (part, count) in parts.items():
        if part in by_part:
            raise InputError(f"'{by_part[part]}' and '{name}' are both shard {part}/{count}. Expected each once.")
        by_part[part] = name
    count = next(iter(parts.values()))[1]
    if missing := [str(part) for part in range(1, count + 1) if part not in by_part]:
        raise InputError(
            f"Of {count} shards, these are missing: {', '.join(missing)}. Expected all (--shard k/{count})."
        )
    ordered = [shards[by_part[part]] for part in range(1, count + 1)]
    return _joined(ordered)


def _facts(name: str, shard: Distilled) -> dict[str, Any]:
    """What all shards of a run have in common."""
    try:
        settings, info = dict(shard.info["settings"]), shard.info
        part, count = map(int, settings.pop("shard"))
        known = isinstance(info["sweeps"], int) and all(isinstance(s, int | float) for s in info["seconds"].values())
        if not known or not 1 <= part <= count <= shard.num_classes:
            raise ValueError
        # Of the plan, which follows the machine, precision alone is more than rounding.
        common = {"versions": info["versions"], "precision": info["plan"]["precision"]}
        data = info["source"]["fingerprint"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"'{name}' is no shard. Expected a set that was learned with --shard k/n.") from None
    own = {name: getattr(shard, name) for name in ("class_names", "mean", "std", "factor", "formation")}
    facts = config.flatten({"data": data, "shards": count, **common, **own, "settings": settings})
    return {key: value for key, value in facts.items() if key not in _OF_A_MACHINE and not key.startswith(_OF_SCORES)}


def _joined(shards: list[Distilled]) -> Distilled:
    """Shards in their order, which is that of the classes."""
    first, every = shards[0], [shard.info for shard in shards]
    halvings = max(info.get("halvings") or 0 for info in every)
    # Each shard tells what networks and targets took, whoever made them: usually one of them, for all.
    cost = {name: max if name in ("pool", "targets") else sum for name in every[0]["seconds"]}
    seconds = {name: round(of(info["seconds"].get(name, 0) for info in every), 2) for name, of in cost.items()}
    return Distilled(
        images=torch.cat([shard.images for shard in shards]),
        labels=torch.cat([shard.labels for shard in shards]),
        class_names=first.class_names, mean=first.mean, std=first.std, factor=first.factor, formation=first.formation,
        info={name: value for name, value in first.info.items() if name != "kept"} | {
            "settings": first.info["settings"] | {"shard": None},
            "sweeps": min(info["sweeps"] for info in every),
            "seconds": seconds,
            **({"halvings": halvings} if halvings else {}),
        },
    )  # fmt: skip
