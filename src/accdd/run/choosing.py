"""Which of a run's snapshots becomes its result: by training images that were held out, never by the test set."""

import dataclasses

from accdd import evaluation
from accdd.artifact import Distilled
from accdd.config import Settings
from accdd.data import Dataset
from accdd.evaluation import Protocol, Way
from accdd.keys import Key, digest
from accdd.networks import Architecture
from accdd.run.folder import RunFolder
from accdd.run.progress import Reporter
from accdd.run.snapshot_files import read_snapshot, snapshots

NETWORKS = 3
"""Trained on each snapshot to choose by; others than those that score the result."""


def best_on_validation(
    distilled: Distilled,
    real: Dataset,
    architecture: Architecture,
    protocol: Protocol,
    settings: Settings,
    folder: RunFolder,
    reporter: Reporter,
) -> Distilled:
    """The set as it was at the snapshot with the highest mean accuracy on `real.validation`; of equals, the latest.

    What was looked at is recorded as `chosen` in the set's `info`.

    Args:
        distilled: the set as it was at the end, which is the last snapshot.
        real: with images held out.
        architecture, protocol: of the networks that are trained.
        settings: resolved.
        folder: of the run, with its snapshots.
        reporter: told of progress.
    """
    reporter.phase("choosing a snapshot")
    held, versions, scores = real.validating, snapshots(folder.path), []
    keys = evaluation.network_keys(Key(settings.seed).at("validation"), NETWORKS)
    for number, version in enumerate(versions):
        stored = dataclasses.replace(distilled, images=read_snapshot(version).flatten(0, 1))
        images, labels = stored.decode()
        score = evaluation.score(
            "snapshot", images, labels, held, architecture, protocol, Way.of(settings),
            mean=real.mean, std=real.std, keys=keys, content=digest(images, labels),
            report=lambda share, number=number: reporter.update((number + share) / len(versions)),
        )  # fmt: skip
        scores.append(score)
    looks = [
        {"sweep": version.sweep, "accuracy": round(score.mean, 2)}
        for version, score in zip(versions, scores, strict=True)
    ]
    best = max(range(len(looks)), key=lambda number: (looks[number]["accuracy"], number))
    record = {"sweep": looks[best]["sweep"], "images": len(held.test_labels), "networks": NETWORKS, "looks": looks}
    reporter.note(
        f"Chosen is the snapshot after sweep {record['sweep']}: {scores[best]} of {record['images']} training images "
        "that were held out."
    )
    # A snapshot is rounded to 16 bits, and the end is there as it was.
    last = best + 1 == len(versions)
    images = distilled.images if last else read_snapshot(versions[best]).flatten(0, 1)
    return dataclasses.replace(distilled, images=images, info=distilled.info | {"chosen": record})
