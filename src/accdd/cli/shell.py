"""What every verb does: read settings, tell progress, print, end with a message and an exit code."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from accdd.text import printable, quantity


def guard(body: Callable[[], None], debug: bool) -> None:
    """Run a verb; the user's mistakes end with one message and exit code 2, interruptions with 130."""
    from accdd.config import InputError

    try:
        with contextlib.nullcontext() if debug else _plain_notices():
            body()
    except InputError as error:
        if debug:
            raise
        if not _said_elsewhere(error):
            typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(2)
    except (OSError, ArithmeticError) as error:  # the disk refuses, or the run diverged
        if isinstance(error, BrokenPipeError):
            typer.echo()  # fails, too, where whoever read the output is gone, as `head` is: typer ends without a word
        if debug:
            raise
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(1)
    except RuntimeError as error:
        import torch

        from accdd import parallel

        if debug or not isinstance(error, parallel.Lost | torch.OutOfMemoryError):
            raise
        typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(1)
    except KeyboardInterrupt as stop:  # or SIGTERM, while a run learns
        if not _said_elsewhere(stop):
            typer.echo(printable(str(stop)) or "interrupted", err=True)
        sys.exit(128 + getattr(stop, "number", signal.SIGINT))


@contextlib.contextmanager
def _plain_notices() -> Iterator[None]:
    """accdd's own warnings in the form of its errors; those of other packages say where they come from, as ever."""
    from accdd.config import Notice

    usual = warnings.formatwarning

    def plain(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, Notice):
            return f"warning: {printable(str(message))}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _said_elsewhere(error: BaseException) -> bool:
    """Whether another of several processes says it."""
    if os.environ.get("RANK", "0") == "0":
        return False
    from accdd import parallel, run

    return isinstance(error, parallel.Everywhere | run.Stopped) and not parallel.leads()


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Any]:
    """Progress on standard error for the length of a block."""
    from accdd.run import reporter

    telling = reporter(quiet)
    try:
        yield telling
    finally:
        telling.close()


def settings_from(config: Path | None, assignments: list[str] | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings from a file, then --set, then flags: the later wins."""
    import yaml

    from accdd.config import InputError, flatten

    merged: dict[str, Any] = {}
    if config is not None:
        try:
            tree = yaml.safe_load(config.read_text()) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise InputError(f"The configuration '{config}' cannot be read: {error}") from None
        if not isinstance(tree, dict):
            raise InputError(f"The configuration '{config}' is a {type(tree).__name__}. Expected keys and values.")
        given = tree["given"] if {"given", "resolved"} <= tree.keys() else tree
        if not isinstance(given, dict):
            raise InputError(f"The configuration '{config}' gives a {type(given).__name__}. Expected keys and values.")
        merged |= flatten(given)
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment} has no '='. Expected KEY=VALUE, as in --set pool.epochs=5.")
        try:
            merged[key.strip()] = yaml.safe_load(value)
        except (ValueError, RecursionError, yaml.YAMLError):  # ValueError: what looks like a date and is none
            raise InputError(
                f"--set {assignment}: the value is not YAML. Expected, as in --set pool.epochs=5."
            ) from None
    return merged | {key: value for key, value in flags.items() if value is not None}


def seconds_of(text: str) -> float:
    """'90s', '10m', '1.5h' or plain seconds to seconds."""
    from accdd.config import InputError

    seconds = quantity(text, {"": 1, "s": 1, "m": 60, "h": 3600})
    if seconds is None:
        raise InputError(f"--budget {text} is not a duration. Expected a number with s, m or h, as in 10m.")
    return seconds


def gigabytes_of(text: str) -> float:
    """'800MB', '8GB', '1TB' or plain gigabytes to gigabytes of 10^9 bytes."""
    from accdd.config import InputError

    size = quantity(text, {"": 1, "mb": 1e-3, "gb": 1, "tb": 1e3})
    if size is None:
        raise InputError(f"--max-memory {text} is not a size. Expected a number with MB, GB or TB, as in 8GB.")
    return size


def command() -> str:
    """How to type this command again: its path where it is not on the search path."""
    if shutil.which("accdd"):
        return "accdd"
    own = shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m accdd" if own.endswith("__main__.py") else own


def print_json(**record: Any) -> None:
    typer.echo(json.dumps(record, indent=1))
