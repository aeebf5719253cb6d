"""Verbs that look at a run: report, watch, check."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from accdd.cli.options import DebugOption, JsonOption
from accdd.cli.shell import guard, print_json
from accdd.text import printable


def report(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders of runs; several are compared.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Page to write (default: report.html in OUT, or in the folder of all)."
        ),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a run on one page that opens anywhere, or several on one, side by side."""

    def body() -> None:
        from accdd import report

        page = report.write(outs[0], out) if len(outs) == 1 else report.compare(outs, out or _beside(outs))
        if as_json:
            print_json(path=str(page), bytes=page.stat().st_size)
            return
        typer.echo(f"{page}: {page.stat().st_size / 1000:,.0f} kB. Open it in any browser; it needs nothing else.")

    guard(body, debug)


def _beside(outs: list[Path]) -> Path:
    """A page beside several runs; not one run's own, nor one at the root."""
    from accdd.config import InputError

    parents = {each.resolve().parent for each in outs}
    above = Path(os.path.commonpath(parents)) if len({each.anchor for each in parents}) == 1 else None
    if above is None or above == above.parent or (above / "config.yaml").exists():
        raise InputError("These runs have no folder of their own for a page. Expected --out FILE, as in all.html.")
    return above / "report.html"


def watch(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run, at work or not.")],
    once: Annotated[bool, typer.Option("--once", help="Print how it stands, and end.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    score: Annotated[
        bool,
        typer.Option(
            "--score",
            help="Also train a network on the newest images and one on random real ones, and test both on training "
            "images, with what processor time the run leaves.",
        ),
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Watch a run from another terminal: how far it is, whether it is safe to stop, and its images."""

    def body() -> None:
        from accdd.report import watching

        finished = watching.stand(out, time.time()).finished  # and it is a run
        scores = None
        if score and not finished:
            from accdd import execution, run

            execution.stand_back()
            scores = run.InterimScores(out)
        if as_json:
            standing = watching.stand(out, time.time(), scores.newest() if scores else None)
            print_json(**standing._asdict() | {"facts": dict(standing.facts)})
            return
        watching.watch(out, once=once, every=every, scores=scores)

    guard(body, debug)


def check(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run, a set, an export, a pool or targets.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what of OUT is whole, damaged, missing or unknown, by its checksums; exit status 1 if not all is well."""

    def body() -> None:
        from accdd import run

        found = run.check(out)
        if as_json:
            print_json(kind=found.kind, sound=found.sound, parts=[part._asdict() for part in found.parts])
        else:
            typer.echo(printable(f"{out}: {found.kind}"))
            width = max((len(part.name) for part in found.parts), default=0)
            for part in found.parts:
                typer.echo(printable(f"  {part.state:<7}  {part.name:<{width}}  {part.detail}"))
        if not found.sound:
            sys.exit(1)

    guard(body, debug)
