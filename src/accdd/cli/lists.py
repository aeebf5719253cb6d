"""Verbs that list what there is: cache, settings, presets."""

import json
import time
from typing import Annotated

import typer

from accdd.cli.options import DebugOption, JsonOption
from accdd.cli.shell import guard, print_json
from accdd.text import printable


def cache(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="ls (list) or prune (remove the longest unused).")],
    max_size: Annotated[str | None, typer.Option("--max-size", help="prune: what may stay, as in 10GB.")] = None,
    older_than: Annotated[str | None, typer.Option("--older-than", help="prune: what goes, as in 30d or 12h.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="prune: everything goes.")] = False,
    in_use: Annotated[bool, typer.Option("--in-use", help="prune: also what may be in use.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List what accdd's cache holds (pools, targets, decoded data, scores, compiled code), or remove some of it."""

    def body() -> None:
        from accdd import cache as kept
        from accdd import files
        from accdd.config import InputError, choose

        choose("action", action, {"ls": None, "prune": None})
        told = max_size is not None or older_than is not None or everything or in_use
        if action == "ls" and told:
            raise InputError("accdd cache ls removes nothing. Expected accdd cache prune with these flags.")
        if action == "ls":
            found = kept.entries()
        else:
            found = kept.prune(
                max_size=None if max_size is None else kept.parse_size(max_size),
                older_than=None if older_than is None else kept.parse_age(older_than),
                everything=everything, in_use=in_use,
            )  # fmt: skip
        total = sum(entry.bytes for entry in found)
        if as_json:
            rows = [entry._asdict() | {"path": str(entry.path)} for entry in found]
            print_json(cache=str(files.cache_folder()), entries=rows, bytes=total)
            return
        for entry in found:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            typer.echo(printable(f"{entry.kind:<9} {entry.bytes / 1e6:>10.1f} MB  {used}  {entry.name}  {entry.path}"))
        word = "removed from" if action == "prune" else "in"
        typer.echo(f"{len(found)} entries, {total / 1e6:.1f} MB, {word} {files.cache_folder()}")

    guard(body, debug)


def settings(as_json: JsonOption = False) -> None:
    """List every setting with its default and its meaning."""
    from accdd.config import Settings, describe

    rows = describe(Settings())
    if as_json:
        print_json(settings=[{"key": key, "default": default, "meaning": doc} for key, default, doc in rows])
        return
    for key, default, doc in rows:
        typer.echo(f"{key} = {json.dumps(default)}\n    {doc}")


def presets(as_json: JsonOption = False) -> None:
    """List every preset with its source, the accuracy published for it by images per class, and what that cost."""
    from accdd.presets import PRESETS

    if as_json:
        rows = [
            {"name": name, "source": row.source, "published": dict(row.published), "cost": row.cost, "about": row.about}
            for name, row in PRESETS.items()
        ]
        print_json(presets=rows)
        return
    for name, row in PRESETS.items():
        published = ", ".join(f"IPC {ipc}: {accuracy} %" for ipc, accuracy in row.published.items())
        typer.echo(f"{name}: {row.about}\n    " + "; ".join(each for each in (row.source, published, row.cost) if each))
