"""What is refused before any data is read, and whose code is not run."""

import shlex
from pathlib import Path

import torch

from accdd import config, data, execution, methods
from accdd.config import InputError, Settings
from accdd.evaluation import PROTOCOLS, Protocol
from accdd.networks import find, runs_code, settings_for


def check(settings: Settings) -> tuple[torch.device, Protocol]:
    """The device and the protocol that settings name, of a process that is made ready for that device.

    Raises:
        InputError: no such method, network, protocol or device, or nothing can be compiled for it; all that can be
            found wrong before any data is read.
    """
    methods.named(settings.method)
    find(settings.network.name)
    for name in settings.score.networks or ():
        settings_for(name, settings.network)
    where, protocol = execution.device(settings.device), config.choose("protocol", settings.score.protocol, PROTOCOLS)
    execution.check(settings.compile, where)
    execution.prepare(where, settings.max_memory)
    return where, protocol


def check_choosing(settings: Settings, *, kept: bool) -> None:
    """Refuse to choose among snapshots where there will be none; `kept` says whether the run has a folder."""
    if settings.score.choose == "validation" and not (kept and settings.loop.snapshots):
        raise InputError(
            "score.choose = 'validation' chooses among the snapshots of a run folder. "
            "Expected --out FOLDER (out=... in Python) and loop.snapshots above 0."
        )


def refuse_inside(out: Path, source: str | None) -> None:
    """Refuse a folder for results that would become a part of the data, where that is at a path."""
    if source is None or data.is_name(source) or not out.resolve().is_relative_to(Path(source).resolve()):
        return
    if data.holds_all_below(Path(source)):
        raise InputError(
            f"'{out}' lies in the folder of the data, '{source}', and what is written there would become a part of it. "
            "Expected --out outside of the data."
        )


def refuse_recorded_code(name: str, flag: str) -> None:
    """Refuse to import what only a file of results names."""
    if runs_code(name):
        raise InputError(
            f"What was made names the network {name!r}, which is code to be imported. "
            f"Expected {flag} {shlex.quote(name)} if you trust it."
        )
