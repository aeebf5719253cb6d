"""Verbs that learn: distill, pool, targets, merge."""

import contextlib
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from accdd.cli.options import (
    DATA_HELP,
    BudgetOption,
    CompileOption,
    ConfigOption,
    DataArgument,
    DebugOption,
    DeviceOption,
    ExecutorOption,
    IpcOption,
    JsonOption,
    NetworkOption,
    PrecisionOption,
    PresetOption,
    QuietOption,
    SeedOption,
    SetOption,
    StepsOption,
    TargetsOption,
)
from accdd.cli.shell import command, gigabytes_of, guard, print_json, progress, seconds_of, settings_from
from accdd.text import printable


def distill(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for everything this run makes.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="OUT", help="Go on with the run in this folder.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run will take: time, memory, disk; without --out.")
    ] = False,
    ipc: IpcOption = None,
    method: Annotated[str | None, typer.Option("--method", help="Host method.")] = None,
    early_stage: Annotated[
        bool | None,
        typer.Option(
            "--early-stage/--no-early-stage",
            help="Networks from a pool of early-stage models. Default: on for idc, idc-i.",
        ),
    ] = None,
    perturb: Annotated[bool | None, typer.Option("--perturb/--no-perturb", help="Perturb every drawn network.")] = None,
    factor: Annotated[int | None, typer.Option("--factor", help="One image holds factor x factor images.")] = None,
    network: NetworkOption = None,
    steps: StepsOption = None,
    targets: TargetsOption = None,
    inner_steps: Annotated[int | None, typer.Option("--inner-steps", help="Sweeps with each network.")] = None,
    budget: BudgetOption = None,
    seed: SeedOption = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="k/n", help="Only part k of n of the classes; see merge.")
    ] = None,
    device: DeviceOption = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Refuse a run that a probe finds to take more, as in 8GB.")
    ] = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    track: Annotated[
        str | None, typer.Option("--track", help="tensorboard: also write its events, into the run's folder.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Distil DATA into --ipc images per class, score them beside random real images, and keep all of it in --out."""

    def body() -> None:
        assignments = _assignments(set_, targets)
        flags = {
            "ipc": ipc, "method": method, "pool.use": early_stage, "perturb.use": perturb, "images.factor": factor,
            "network.name": network, "loop.steps": steps, "loop.inner_steps": inner_steps,
            "targets.count": _count(targets), "loop.budget": None if budget is None else seconds_of(budget),
            "seed": seed, "device": device, "precision": precision, "compile": compile,
            "shard": None if shard is None else _part(shard),
            "max_memory": None if max_memory is None else gigabytes_of(max_memory),
        }  # fmt: skip
        if resume is not None:
            _refuse_beside_resume(
                {"--dry-run": dry_run, "--out": out, "--preset": preset, "--config": config, "--set": assignments},
                flags,
            )
        elif data is None or (out is None and not dry_run):
            raise typer.BadParameter("expected DATA and --out NEW_FOLDER, or --resume OUT")
        settings = settings_from(config, assignments, flags)
        from accdd import api, parallel, run

        if dry_run:
            with progress(quiet) as reporter:
                expected = api.forecast(data, preset=preset, settings=settings, reporter=reporter)
            if as_json:
                print_json(**expected._asdict())
                return
            for name, seconds in expected.seconds.items():
                typer.echo(f"{name:<10}  {seconds / 60:.1f} min")
            typer.echo(f"memory      {expected.memory / 1e9:.2f} GB at the peak")
            typer.echo(f"disk        {expected.disk / 1e9:.3f} GB, in --out and in the cache")
            typer.echo("Not counted: reading data, and compiling, which is done now and found again.")
            return
        folder = resume or out
        assert folder is not None
        with progress(quiet or not parallel.leads()) as reporter, _going_on(folder):
            if resume is not None:
                allowed = network.split(",") if network else None
                result = api.resume(resume, data, network=allowed, track=track, reporter=reporter)
            else:
                result = api.distill(data, out=out, preset=preset, settings=settings, track=track, reporter=reporter)
        if not parallel.leads():
            return
        if as_json:
            scores = [score.to_dict() for score in result.scores]
            print_json(verdict=result.verdict, out=str(folder), scores=scores, seconds=dict(result.seconds))
            return
        typer.echo(printable(result.verdict))
        typer.echo(f"\n{folder}/")
        present = run.tree(folder)
        width = max(len(name) for name, _ in present)
        for name, word in present:
            typer.echo(f"  {name:<{width}}  {word}")
        again, run_folder = command(), shlex.quote(str(folder))
        page = folder / "report.html"
        typer.echo(f"\nLook at {page if page.exists() else folder / 'distilled' / 'preview.png'}. Next:")
        if result.distilled.info["settings"]["shard"]:
            typer.echo(f"  {again} merge {run_folder} OTHERS --out FOLDER")
            return
        typer.echo(f"  {again} evaluate {run_folder} --seeds 5")
        typer.echo(f"  {again} export {run_folder} --to npz {shlex.quote(folder.resolve().name)}.npz")

    guard(body, debug)


def pool(
    data: DataArgument,
    network: NetworkOption = None,
    targets: TargetsOption = None,
    steps: StepsOption = None,
    budget: BudgetOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    executor: ExecutorOption = "inline",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train the early-stage models for DATA ahead of time; later runs find them in the cache.

    Say here what the run will be told of --targets, --steps, --budget and its method (--set): where sweeps are few or
    time is short it does without targets, and without them models are trained for another number of epochs.
    """

    def body() -> None:
        flags = {
            "network.name": network, "targets.count": _count(targets), "loop.steps": steps,
            "loop.budget": None if budget is None else seconds_of(budget), "device": device, "precision": precision,
            "compile": compile,
        }  # fmt: skip
        settings = settings_from(config, _assignments(set_, targets), flags)
        from accdd import ahead

        with progress(quiet) as reporter:
            models = ahead.build_pool(data, preset=preset, settings=settings, executor=executor, reporter=reporter)
        rows = [{"network": m.network, "epoch": m.epoch, "loss": m.loss} for m in models.models]
        if as_json:
            print_json(pool=str(models.folder), seconds=models.seconds, models=rows)
            return
        for row in rows:
            loss = "untrained" if row["loss"] is None else f"training loss {row['loss']:.3f}"
            typer.echo(f"network {row['network']}  epoch {row['epoch']:g}  {loss}")
        typer.echo(f"{models.folder}: trained in {models.seconds:.0f} s")

    guard(body, debug)


def targets(
    data: DataArgument,
    count: Annotated[int | None, typer.Option("--count", help="How many; more can be added later.")] = None,
    network: NetworkOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    executor: ExecutorOption = "inline",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make the target bank for DATA ahead of time; later runs find it in the cache."""

    def body() -> None:
        flags = {
            "targets.count": count, "network.name": network, "device": device, "precision": precision,
            "compile": compile,
        }  # fmt: skip
        settings = settings_from(config, set_, flags)
        from accdd import ahead

        with progress(quiet) as reporter:
            bank, number = ahead.build_targets(
                data, preset=preset, settings=settings, executor=executor, reporter=reporter
            )
        seconds, size = bank.seconds(number), number * bank.bytes_per_target
        if as_json:
            print_json(bank=str(bank.folder), targets=number, bytes=size, seconds=seconds)
            return
        typer.echo(f"{bank.folder}: {number} targets, {size / 1e6:.0f} MB, made in {seconds:.0f} s")

    guard(body, debug)


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders of all runs of one --shard k/n.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the distilled set.")],
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make one distilled set of those that runs with --shard k/n have learned apart."""

    def body() -> None:
        from accdd import api

        distilled = api.merge(shards)
        distilled.save(out)
        if as_json:
            print_json(path=str(out), images=list(distilled.images.shape), shards=len(shards))
            return
        typer.echo(f"{out}: {len(distilled.labels)} stored images of {distilled.num_classes} classes")
        typer.echo(f"\nLook at {out / 'preview.png'}. Next:")
        typer.echo(f"  {command()} evaluate {shlex.quote(str(out))} --baselines random")

    guard(body, debug)


@contextlib.contextmanager
def _going_on(folder: Path) -> Iterator[None]:
    """Let Ctrl-C say how to go on where the loop does not: while networks are trained, targets made, or sets scored."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if str(stop) or not (folder / "config.yaml").exists():
            raise
        from accdd.run import Stopped

        finished = (folder / "evaluation.json").exists()
        verb = "All but the page is there: accdd report" if finished else "Go on with: accdd distill --resume"
        raise Stopped(signal.SIGINT, f"Stopped. {verb} {shlex.quote(str(folder))}") from None


def _refuse_beside_resume(options: dict[str, Any], flags: dict[str, Any]) -> None:
    """A run goes on as it began: nothing may be said anew, but for its data and, to allow its code, its network."""
    from accdd.config import InputError

    given = [name for name, value in options.items() if value]
    given += [key for key, value in flags.items() if value is not None and key != "network.name"]
    if given:
        raise InputError(
            f"--resume goes on with a run as it began, and {', '.join(given)} would change it. "
            "Expected --resume OUT, beside it at most DATA and --network where the run needs to be told."
        )


def _assignments(given: list[str] | None, targets: str | None) -> list[str]:
    """Those of --set, and of `--targets auto`, which wins over a preset."""
    return [*(given or []), *(["targets.count=null"] if targets == "auto" else [])]


def _count(targets: str | None) -> int | None:
    """'300' to a number; 'auto' says nothing."""
    from accdd.config import InputError

    if targets in (None, "auto"):
        return None
    try:
        return int(targets)
    except ValueError:
        raise InputError(f"--targets {targets} is no number. Expected one, as in --targets 300, or auto.") from None


def _part(text: str) -> list[int]:
    """'2/4' to numbers."""
    from accdd.config import InputError

    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not match:
        raise InputError(f"--shard {text} is no part. Expected k/n, as in 2/4.")
    return [int(match[1]), int(match[2])]
