"""Verbs of a distilled set: info, export, push, import."""

import contextlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from accdd.cli.options import DebugOption, JsonOption, SetArgument
from accdd.cli.shell import command, guard, print_json, progress
from accdd.text import printable


def info(out: SetArgument, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Say what a distilled set is, after verifying it. Never runs code from a file."""

    def body() -> None:
        from accdd import api

        distilled = api.load(out)
        verified: dict[str, Any] = {
            "images": list(distilled.images.shape),
            "ipc": distilled.ipc,
            "factor": distilled.factor,
            "formation": distilled.formation,
            "class_names": list(distilled.class_names),
            "mean": list(distilled.mean),
            "std": list(distilled.std),
        }
        about = verified | distilled.info | verified  # in this order, and what the set claims replaces nothing verified
        if as_json:
            print_json(**about)
            return
        from accdd.config import flatten

        about["class_names"] = ", ".join(distilled.class_names)
        with contextlib.suppress(KeyError, TypeError):  # a stranger's file may hold anything; it is then shown as it is
            about["scores"] = "; ".join(
                f"{s['set']} {s['network']} {s['mean']} % (n = {s['n']}, std {s['std']}, protocol {s['protocol']})"
                for s in about["scores"]
            )
        for key, value in flatten(about).items():
            typer.echo(printable(f"{key}: {value}"))
        typer.echo("verified: tensors match their checksum")

    guard(body, debug)


def export(
    out: SetArgument,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="New file; for png and hf a new folder.")],
    to: Annotated[
        str,
        typer.Option("--to", help="npz (arrays), pt (as IDC's code reads), png (class folders), hf (parquet)."),
    ] = "npz",
    measure: Annotated[
        bool, typer.Option("--measure", help="Also say what rounding to 8 bits costs in accuracy; takes minutes.")
    ] = False,
    test: Annotated[
        str | None, typer.Option("--test", help="DATA to measure on (default: what the set came from).")
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Network to measure with (default: that of the set).")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Networks trained to measure, before and after (default: 3).")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a distilled set in another format: decoded images and labels, ready to train on (pt: as stored)."""

    def body() -> None:
        from accdd import api, artifact, scoring
        from accdd.config import InputError

        distilled = api.load(out)
        artifact.refuse_taken(to, dest)
        if measure and to not in artifact.PICTURES:
            raise InputError(f"--measure: {to} rounds nothing. Expected --to {' or '.join(artifact.PICTURES)}.")
        if not measure and (test is not None or network is not None or seeds is not None):
            raise InputError("--test, --network and --seeds say how to measure. Expected --measure beside them.")
        scores = []
        if measure:
            with progress(as_json) as reporter:
                own = {} if seeds is None else {"seeds": seeds}
                scores = scoring.measure_rounding(distilled, test=test, network=network, reporter=reporter, **own)
        made = artifact.export(distilled, to, dest)
        off = made.rounding
        if as_json:
            rounding = None if off is None else {"largest": off.largest, "mean": off.mean}
            told = {"scores": [score.to_dict() for score in scores]} if measure else {}
            print_json(path=str(dest), images=made.images, rounding=rounding, **told)
            return
        typer.echo(f"{dest}: {made.images} images, {off or 'float32 in [0, 1]'}")
        if to == "pt" and distilled.factor > 1:
            typer.echo(f"stored images: a reader has to decode them (IDC's code: factor {distilled.factor})")
        for score in scores:
            typer.echo(f"{score.set}  {score.network}  {score}")
        if off and not measure:
            typer.echo("What that costs in accuracy is measured with --measure.")

    guard(body, debug)


def push(
    out: SetArgument,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Data set of the Hugging Face hub.")],
    licence: Annotated[
        str, typer.Option("--license", help="Of the data that the set was made from, as in cc-by-4.0, mit or other.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish a distilled set on the hub with a data set card; anybody loads it as hf:OWNER/NAME."""

    def body() -> None:
        from accdd import api

        pushed = api.push(out, repository, licence=licence, private=private)
        if as_json:
            print_json(url=pushed.url, files=pushed.files)
            return
        typer.echo(f"{pushed.url}: {len(pushed.files)} files, licence of the source: {licence}")
        typer.echo("Learned images can resemble real ones closely: this is not a privacy guarantee.")
        typer.echo(f'\nAnybody loads it with accdd.load("hf:{repository}").')

    guard(body, debug)


def import_(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="File of another program, or folder of class folders.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the distilled set.")],
    kind: Annotated[
        str,
        typer.Option("--from", help="idc (also AccDD), dc (also DSA, DM), mtt (also DATM), or folder (pictures)."),
    ],
    labels: Annotated[Path | None, typer.Option("--labels", help="mtt: labels_*.pt (default: beside OLD).")] = None,
    index: Annotated[int | None, typer.Option("--index", help="dc: which experiment (default 0).")] = None,
    factor: Annotated[
        int | None, typer.Option("--factor", help="One image holds factor x factor images (default 1; idc: 2).")
    ] = None,
    classes: Annotated[Path | None, typer.Option("--classes", help="Text file of class names, one a line.")] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="Of the real data, as in 0.4914,0.4822,0.4465.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Likewise. dc and mtt were normalised by them.")] = None,
    zca: Annotated[Path | None, typer.Option("--zca", help="mtt: .pt of mean_vector and transform_inv.")] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="mtt: keep whitened images.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a distilled set of one that another program made. Never runs code from a file."""

    def body() -> None:
        from accdd import api

        distilled = api.import_set(
            old, kind, labels=labels, index=index, factor=factor, class_names=_lines(classes),
            mean=_floats("--mean", mean), std=_floats("--std", std), zca=zca, as_is=as_is,
        )  # fmt: skip
        distilled.save(out)
        notes = distilled.info["notes"]
        if as_json:
            print_json(path=str(out), images=list(distilled.images.shape), factor=distilled.factor, notes=notes)
            return
        for note in notes:
            typer.echo(printable(f"note: {note}"))
        count, classes_found = len(distilled.labels), distilled.num_classes
        typer.echo(f"{out}: {count} stored images of {classes_found} classes, factor {distilled.factor}")
        typer.echo(f"\nLook at {out / 'preview.png'}. Next:")
        typer.echo(f"  {command()} evaluate {shlex.quote(str(out))} --test DATA")

    guard(body, debug)


def _floats(flag: str, text: str | None) -> tuple[float, ...] | None:
    """'0.49,0.48,0.45' to numbers."""
    from accdd.config import InputError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{flag} {text}: expected numbers with commas between, as in 0.4914,0.4822,0.4465.") from None


def _lines(path: Path | None) -> list[str] | None:
    """The lines of a text file, without those that are empty."""
    from accdd.config import InputError

    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as text: {error}. Expected one class name a line.") from None
