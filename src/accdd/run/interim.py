"""How well a run's images train a network so far, beside random real ones: for who watches it, in a process of theirs.

The run is not touched. What is tested on are training images, never the test set, so that who stops a run early has not
chosen by it.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from accdd import config, evaluation, formation
from accdd.config import InputError, Settings
from accdd.evaluation import PROTOCOLS, Score, Way
from accdd.keys import Key
from accdd.networks import runs_code
from accdd.run import course
from accdd.run.folder import RunFolder
from accdd.run.progress import Quiet
from accdd.run.snapshot_files import newest_snapshot
from accdd.training import Report

TESTED = 1000
"""Training images that are tested on, about."""


class Interim(NamedTuple):
    """One network trained on a snapshot's images, one on as many random real ones."""

    sweep: int
    """Of the snapshot."""
    learned: float
    """Percent of `images` that the first has right."""
    random: float
    """Percent that the second has right."""
    protocol: str
    images: int
    """How many training images both were tested on. The second was trained on others; the run has seen them, unless it
    holds some out, to choose a snapshot or settings by."""

    def __str__(self) -> str:
        """As in '46.1 % after sweep 640, random 24.0 % (one network each, protocol quick, on 999 training images)'."""
        return (
            f"{self.learned:.1f} % after sweep {self.sweep}, random {self.random:.1f} % "
            f"(one network each, protocol {self.protocol}, on {self.images:,} training images)"
        )


class InterimScores:
    """Of the snapshots of a run, as they come; on the processor, whatever the run is on."""

    def __init__(self, path: str | Path) -> None:
        """Read the run's data again.

        Args:
            path: the run's folder.

        Raises:
            InputError: it is no run, or one that cannot be scored yet: it learns a shard, its network is code that only
                the folder names, or its data is not found as it was.
        """
        folder, record = RunFolder.open(path)
        # What fits the run's device need not fit the processor; networks that score the result are not used here.
        own = {"device": "cpu", "precision": "auto", "compile": "auto", "score.networks": ()}
        settings = config.override(Settings(), config.flatten(record.resolved) | own)
        if settings.shard:
            raise InputError(f"'{path}' learns some of the classes alone. Expected no --score before it is merged.")
        if runs_code(settings.network.name):
            raise InputError(
                f"'{path}' names the network {settings.network.name!r}, which is code to import. Expected no --score."
            )
        if record.source is None:
            raise InputError(f"The data of '{path}' was given as arrays and cannot be found. Expected no --score.")
        real, self._settings = course.read(record.source, settings, Quiet())
        if real.fingerprint != record.fingerprint:
            raise InputError(f"The data of '{path}' ({record.source}) has changed. Expected no --score.")
        held = real.validation or real.tests_on_held_out
        apart = real if held else real.held_out(min(0.2, TESTED / len(real.images)))
        evaluation.check_enough(apart, settings.ipc, "no --score")
        self._path, self._real = folder.path, apart.validating if apart.validation else apart
        self._last: Interim | None = None
        self._random: float | None = None

    def newest(self, report: Report = lambda share: None) -> Interim | None:
        """Of the newest snapshot that can be read, which takes a while unless it was scored before; None without one.

        Args:
            report: told of progress; what it raises ends the scoring.
        """
        there = newest_snapshot(self._path)
        if there is None:
            return None
        version, stored = there
        if self._last is None or self._last.sweep != version.sweep:
            settings, real = self._settings, self._real
            decode = formation.decoder(settings.images.formation, settings.images.factor or 1)
            decoded = decode(stored.flatten(0, 1)).clamp(0, 1)
            labels = torch.arange(real.num_classes).repeat_interleave(settings.ipc)
            learned = self._score(decoded, labels.repeat(len(decoded) // len(labels)), None, report)
            if self._random is None:
                looking = evaluation.Real(real, course.architecture_for(settings.network, real), settings)
                drawn = evaluation.chosen("random", looking, settings.ipc, Key(settings.seed), 1)
                self._random = self._score(real.images, real.labels, drawn, report).mean
            self._last = Interim(version.sweep, learned.mean, self._random, learned.protocol, len(real.test_labels))
        return self._last

    def _score(self, images: Tensor, labels: Tensor, rows: Tensor | None, report: Report) -> Score:
        """Of a network trained on all of some images, or on some rows of them."""
        settings, real = self._settings, self._real
        network = course.architecture_for(settings.network, real)
        case = course.case(real, settings)._replace(network=network.name)
        return evaluation.score(
            "interim", images, labels, real, network, evaluation.suited(PROTOCOLS["quick"], case),
            Way.of(settings), mean=real.mean, std=real.std, rows=rows,
            keys=evaluation.network_keys(Key(settings.seed), 1), report=report,
        )  # fmt: skip
