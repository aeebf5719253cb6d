"""The command `accdd`: verbs whose bodies call the Python functions of the same names.

Results go to standard output, everything else to standard error; with --json standard output is one JSON object.
Nothing heavy is imported here: `accdd --help` and wrong flags must answer at once.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Turn a labelled image data set into a few learned images per class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DATA_HELP = (
    "digits, mnist, fashion-mnist, svhn, cifar10, cifar100, tiny-imagenet, imagenet-10, imagenet-100 or imagenette (a "
    "copy in ACCDD_DATA, or from the hub); a folder of class folders, of parquet files or of the authors' own files; "
    ".npz; or hf:owner/name."
)
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
SetArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run or of a distilled set.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; list them with 'accdd settings'.")
]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file of settings, or a run's config.yaml.")]
PresetOption = Annotated[
    str | None, typer.Option("--preset", help="fast, paper, or a row of a paper, as in idc-cifar10.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Decides every draw (those of the pool: pool.seed).")]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="auto, fp32 or bf16, of convolutions and linear layers.")
]
CompileOption = Annotated[str | None, typer.Option("--compile", help="auto, always or never: steps as one graph.")]
NETWORKS = """convnet, resnet10, resnet18, resnet_ap10, resnet_ap18, densenet121, alexnet, vgg11, mlp, lenet,
efficientnet_b0, vit_tiny; your own, module:callable, which is imported; or timm:NAME."""
SHAPED = "A shape of its own as in convnet/width=32/depth=4."
PROTOCOLS = "idc, quick, dc, dsa, mtt, ddranking-hard."
BASELINES = "random, kmeans, herding, herding-pixels, kcenter, kcenter-pixels, forgetting, el2n."
NetworkOption = Annotated[str | None, typer.Option("--network", help=f"Network to match against: {NETWORKS}")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def distill(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for everything this run makes.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="OUT", help="Go on with the unfinished run in this folder.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the run will take: time, memory, disk; without --out.")
    ] = False,
    ipc: Annotated[int | None, typer.Option("--ipc", help="Images per class to learn (default 1).")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Host method.")] = None,
    early_stage: Annotated[
        bool | None, typer.Option("--early-stage/--no-early-stage", help="Networks from a pool of early-stage models.")
    ] = None,
    perturb: Annotated[bool | None, typer.Option("--perturb/--no-perturb", help="Perturb every drawn network.")] = None,
    factor: Annotated[int | None, typer.Option("--factor", help="One image holds factor x factor images.")] = None,
    network: NetworkOption = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Networks (or targets) used.")] = None,
    targets: Annotated[
        int | None, typer.Option("--targets", help="Real halves computed ahead; 0 computes them in every sweep.")
    ] = None,
    inner_steps: Annotated[int | None, typer.Option("--inner-steps", help="Sweeps with each network.")] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Wall-clock limit of the distilling loop, as in 90s, 10m, 2h.")
    ] = None,
    seed: SeedOption = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="k/n", help="Only part k of n of the classes; see merge.")
    ] = None,
    device: DeviceOption = None,
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
        flags = {
            "ipc": ipc, "method": method, "pool.use": early_stage, "perturb.use": perturb, "images.factor": factor,
            "network.name": network, "loop.steps": steps, "loop.inner_steps": inner_steps, "targets.count": targets,
            "loop.budget": None if budget is None else _seconds(budget), "seed": seed, "device": device,
            "precision": precision, "compile": compile, "shard": None if shard is None else _part(shard),
        }  # fmt: skip
        if resume is not None:
            _refuse_beside_resume(
                {"--dry-run": dry_run, "--out": out, "--preset": preset, "--config": config, "--set": set_}, flags
            )
        elif data is None or (out is None and not dry_run):
            raise typer.BadParameter("expected DATA and --out NEW_FOLDER, or --resume OUT")
        settings = _settings(config, set_, flags)
        from accdd import api, parallel, run

        if dry_run:
            with _reporter(quiet) as reporter:
                expected = api.forecast(data, preset=preset, settings=settings, reporter=reporter)
            if as_json:
                _print_json(**expected._asdict())
                return
            for name, seconds in expected.seconds.items():
                typer.echo(f"{name:<10}  {seconds / 60:.1f} min")
            typer.echo(f"memory      {expected.memory / 1e9:.2f} GB at the peak")
            typer.echo(f"disk        {expected.disk / 1e9:.3f} GB, in --out and in the cache")
            typer.echo("Not counted: reading data, compiling, scores.")
            return
        with _reporter(quiet or not parallel.leads()) as reporter:
            if resume is not None:
                result, folder = api.resume(resume, data, network=network, track=track, reporter=reporter), resume
            else:
                assert out is not None
                result = api.distill(data, out=out, preset=preset, settings=settings, track=track, reporter=reporter)
                folder = out
        if not parallel.leads():
            return
        if as_json:
            scores = [score.to_dict() for score in result.scores]
            _print_json(verdict=result.verdict, out=str(folder), scores=scores, seconds=dict(result.seconds))
            return
        typer.echo(result.verdict)
        typer.echo(f"\n{folder}/")
        present = run.tree(folder)
        width = max(len(name) for name, _ in present)
        for name, word in present:
            typer.echo(f"  {name:<{width}}  {word}")
        again, run_folder = _command(), shlex.quote(str(folder))
        page = folder / "report.html"
        typer.echo(f"\nLook at {page if page.exists() else folder / 'distilled' / 'preview.png'}. Next:")
        typer.echo(f"  {again} evaluate {run_folder} --seeds 5")
        typer.echo(f"  {again} export {run_folder} --to npz {shlex.quote(folder.resolve().name)}.npz")

    _guard(body, debug)


@app.command()
def evaluate(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders of runs or of distilled sets.")],
    test: Annotated[
        str | None, typer.Option("--test", help="DATA to test on (default: what the set came from).")
    ] = None,
    networks: Annotated[str | None, typer.Option("--networks", help=f"Comma-separated: {NETWORKS} {SHAPED}")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh networks per score.")] = 3,
    protocol: Annotated[str, typer.Option("--protocol", help=f"How networks are trained: {PROTOCOLS}")] = "idc",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the protocol's own number.")] = None,
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Score the snapshots of runs instead.")] = False,
    data: Annotated[
        str | None, typer.Option("--data", help="DATA that baselines choose from (default: what the set came from).")
    ] = None,
    baselines: Annotated[str | None, typer.Option("--baselines", help=f"Comma-separated: {BASELINES}")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Score the whole training set, too: an upper bound.")] = False,
    best_on_test: Annotated[
        bool, typer.Option("--best-on-test", help="Also tell the highest test accuracy in training, as papers may.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train all networks, also those scored before.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the scores in the runs' folders, and show them in their reports.")
    ] = False,
    table: Annotated[str | None, typer.Option("--table", help="Print csv, markdown or latex.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train fresh networks on distilled sets and test them: mean, standard deviation, n.

    Networks are kept in the cache one by one: the same command goes on where it was stopped.
    """

    def body() -> None:
        from accdd import api, evaluation, report
        from accdd.config import InputError, choose
        from accdd.keys import Key

        if table is not None:
            choose("table", table, evaluation.STYLES)
            if as_json:
                raise InputError(f"--json and --table {table} both say what to print. Expected one of the two.")

        if keep:
            report.check_keeping(outs)
        with _reporter(quiet) as reporter:
            scores = api.evaluate(
                outs, test=test, networks=networks.split(",") if networks else None, seeds=seeds, protocol=protocol,
                epochs=epochs, seed=seed or 0, device=device or "auto", compile=compile or "auto",
                precision=precision or "auto", snapshots=snapshots, data=data,
                baselines=baselines.split(",") if baselines else (), whole=whole, best_on_test=best_on_test,
                fresh=fresh, reporter=reporter,
            )  # fmt: skip
        for each in outs if keep else ():
            report.keep(each, scores)
        if table is not None:
            typer.echo(evaluation.table(scores, table), nl=False)
            return
        differences, robust = evaluation.comparisons(scores, Key(seed or 0)), evaluation.label_robustness(scores)
        if as_json:
            more = {"comparisons": differences, "label_robustness": robust} if differences else {}
            listed = {name: [each._asdict() for each in found] for name, found in more.items()}
            _print_json(scores=[score.to_dict() for score in scores], **listed)
            return
        for score in scores:
            typer.echo(f"{score.set}  {score.network}  {score}")
        for each in (*differences, *robust):
            typer.echo(each)

    _guard(body, debug)


BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="Wall-clock limit of each distilling loop, as in 90s, 10m, 2h.")
]
StudyOutOption = Annotated[Path, typer.Option("--out", help="Folder of the study: new, or to go on in.")]
ReplicatesOption = Annotated[int, typer.Option("--seeds", help="Sets distilled in each case, from seeds 0, 1, ...")]


@app.command()
def ablate(
    data: DataArgument,
    out: StudyOutOption,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=VALUE,VALUE", help="A setting and the values it takes; may be repeated."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", help="pre-training, models, magnitude, directions, normalisation, where or factor."),
    ] = None,
    seeds: ReplicatesOption = 1,
    ipc: Annotated[int | None, typer.Option("--ipc", help="Images per class to learn (default 1).")] = None,
    network: NetworkOption = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Networks (or targets) used.")] = None,
    budget: BudgetOption = None,
    device: DeviceOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Distil with every combination of some settings and score the sets: a table and a picture in --out.

    Sets are scored as 'score.protocol', 'score.networks', 'score.seeds' and 'score.epochs' say.
    """

    def body() -> None:
        flags = {
            "ipc": ipc, "network.name": network, "loop.steps": steps, "device": device,
            "loop.budget": None if budget is None else _seconds(budget),
        }  # fmt: skip
        settings = _settings(config, set_, flags)
        from accdd import studies

        with _reporter(quiet) as reporter:
            found = studies.ablate(
                data, out, studies.parse(over or []), study=study, seeds=seeds, preset=preset, settings=settings,
                reporter=reporter,
            )  # fmt: skip
        _tell_study(found, out, as_json)

    _guard(body, debug)


@app.command()
def compare(
    data: DataArgument,
    out: StudyOutOption,
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated host methods.")] = "idc,dsa,dc,dm",
    baselines: Annotated[
        str, typer.Option("--baselines", help=f"Comma-separated, or empty for none: {BASELINES}")
    ] = "random,herding,kcenter",
    seeds: ReplicatesOption = 1,
    ipc: Annotated[int | None, typer.Option("--ipc", help="Images per class to learn (default 1).")] = None,
    network: NetworkOption = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Networks (or targets) used.")] = None,
    budget: BudgetOption = None,
    device: DeviceOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Distil by several host methods under one budget, beside real images: a table, and accuracy over time, in --out.

    Sets are scored as 'score.protocol', 'score.networks', 'score.seeds' and 'score.epochs' say.
    """

    def body() -> None:
        flags = {
            "ipc": ipc, "network.name": network, "loop.steps": steps, "device": device,
            "loop.budget": None if budget is None else _seconds(budget),
        }  # fmt: skip
        settings = _settings(config, set_, flags)
        from accdd import studies

        with _reporter(quiet) as reporter:
            found = studies.compare(
                data, out, hosts=methods.split(",") if methods else (), seeds=seeds, preset=preset,
                baselines=baselines.split(",") if baselines else (), settings=settings, reporter=reporter,
            )  # fmt: skip
        _tell_study(found, out, as_json)

    _guard(body, debug)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset with a published accuracy: 'accdd presets'.")],
    data: Annotated[str, typer.Option("--data", metavar="DATA", help=DATA_HELP)],
    out: StudyOutOption,
    ipc: Annotated[
        int | None, typer.Option("--ipc", help="Images per class (default: the fewest that are published).")
    ] = None,
    seeds: ReplicatesOption = 1,
    budget: BudgetOption = None,
    device: DeviceOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Distil by a preset and put the score beside the published one: difference, interval, time, verdict."""

    def body() -> None:
        flags = {"loop.budget": None if budget is None else _seconds(budget), "device": device}
        settings = _settings(config, set_, flags)
        from accdd import studies

        with _reporter(quiet) as reporter:
            found = studies.reproduce(name, data, out, ipc=ipc, seeds=seeds, settings=settings, reporter=reporter)
        if as_json:
            _print_json(**found.to_dict())
            return
        typer.echo(found)

    _guard(body, debug)


@app.command()
def pool(
    data: DataArgument,
    network: NetworkOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train the early-stage models for DATA ahead of time; later runs find them in the cache."""

    def body() -> None:
        flags = {
            "network.name": network, "device": device, "precision": precision, "compile": compile,
        }  # fmt: skip
        settings = _settings(config, set_, flags)
        from accdd import api

        with _reporter(quiet) as reporter:
            models = api.build_pool(data, preset=preset, settings=settings, reporter=reporter)
        rows = [{"network": m.network, "epoch": m.epoch, "loss": m.loss} for m in models.models]
        if as_json:
            _print_json(pool=str(models.folder), seconds=models.seconds, models=rows)
            return
        for row in rows:
            loss = "untrained" if row["loss"] is None else f"training loss {row['loss']:.3f}"
            typer.echo(f"network {row['network']}  epoch {row['epoch']:g}  {loss}")
        typer.echo(f"{models.folder}: trained in {models.seconds:.0f} s")

    _guard(body, debug)


@app.command()
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
        settings = _settings(config, set_, flags)
        from accdd import api

        with _reporter(quiet) as reporter:
            bank, number = api.build_targets(data, preset=preset, settings=settings, reporter=reporter)
        seconds, size = bank.seconds(number), number * bank.bytes_per_target
        if as_json:
            _print_json(bank=str(bank.folder), targets=number, bytes=size, seconds=seconds)
            return
        typer.echo(f"{bank.folder}: {number} targets, {size / 1e6:.0f} MB, made in {seconds:.0f} s")

    _guard(body, debug)


@app.command()
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
            _print_json(**about)
            return
        from accdd.config import flatten

        about["class_names"] = ", ".join(distilled.class_names)
        with contextlib.suppress(KeyError, TypeError):  # a stranger's file may hold anything; it is then shown as it is
            about["scores"] = "; ".join(
                f"{s['set']} {s['network']} {s['mean']} % (n = {s['n']}, std {s['std']}, protocol {s['protocol']})"
                for s in about["scores"]
            )
        for key, value in flatten(about).items():
            typer.echo(_printable(f"{key}: {value}"))
        typer.echo("verified: tensors match their checksum")

    _guard(body, debug)


@app.command()
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
            _print_json(kind=found.kind, sound=found.sound, parts=[part._asdict() for part in found.parts])
        else:
            typer.echo(_printable(f"{out}: {found.kind}"))
            width = max((len(part.name) for part in found.parts), default=0)
            for part in found.parts:
                typer.echo(_printable(f"  {part.state:<7}  {part.name:<{width}}  {part.detail}"))
        if not found.sound:
            sys.exit(1)

    _guard(body, debug)


@app.command()
def cache(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="ls (list) or prune (remove the longest unused).")],
    max_size: Annotated[str | None, typer.Option("--max-size", help="prune: what may stay, as in 10GB.")] = None,
    older_than: Annotated[str | None, typer.Option("--older-than", help="prune: what goes, as in 30d or 12h.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="prune: everything goes.")] = False,
    in_use: Annotated[bool, typer.Option("--in-use", help="prune: also what was used in the last hour.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List what accdd's cache holds (pools, targets, decoded data, compiled code), or remove some of it."""

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
            _print_json(cache=str(files.cache_folder()), entries=rows, bytes=total)
            return
        for entry in found:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            typer.echo(_printable(f"{entry.kind:<9} {entry.bytes / 1e6:>10.1f} MB  {used}  {entry.name}  {entry.path}"))
        word = "removed from" if action == "prune" else "in"
        typer.echo(f"{len(found)} entries, {total / 1e6:.1f} MB, {word} {files.cache_folder()}")

    _guard(body, debug)


@app.command()
def report(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders of runs; several are compared.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Page to write (default: OUT/report.html).")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a run on one page that opens anywhere, or several on one, side by side."""

    def body() -> None:
        from accdd.config import InputError

        if len(outs) > 1 and out is None:
            raise InputError("A page of several runs needs a place of its own. Expected --out FILE, as in all.html.")
        from accdd import report

        page = report.write(outs[0], out) if len(outs) == 1 else report.compare(outs, out or "")
        if as_json:
            _print_json(path=str(page), bytes=page.stat().st_size)
            return
        typer.echo(f"{page}: {page.stat().st_size / 1000:,.0f} kB. Open it in any browser; it needs nothing else.")

    _guard(body, debug)


@app.command()
def watch(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of a run, at work or not.")],
    once: Annotated[bool, typer.Option("--once", help="Print how it stands, and end.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 1.0,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Watch a run from another terminal: how far it is, whether it is safe to stop, and its images."""

    def body() -> None:
        from accdd.report import watching

        if as_json:
            standing = watching.stand(out, time.time())
            _print_json(**standing._asdict() | {"facts": dict(standing.facts)})
            return
        watching.watch(out, once=once, every=every)

    _guard(body, debug)


@app.command()
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
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Networks trained to measure, before and after.")] = 3,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a distilled set in another format: decoded images and labels, ready to train on (pt: as stored)."""

    def body() -> None:
        from accdd import api, artifact
        from accdd.config import InputError

        distilled = api.load(out)
        artifact.refuse_taken(to, dest)
        if measure and to not in artifact.PICTURES:
            raise InputError(f"--measure: {to} rounds nothing. Expected --to {' or '.join(artifact.PICTURES)}.")
        scores = []
        if measure:
            with _reporter(as_json) as reporter:
                scores = api.measure_rounding(distilled, test=test, seeds=seeds, reporter=reporter)
        made = artifact.export(distilled, to, dest)
        off = made.rounding
        if as_json:
            rounding = None if off is None else {"largest": off.largest, "mean": off.mean}
            told = {"scores": [score.to_dict() for score in scores]} if measure else {}
            _print_json(path=str(dest), images=made.images, rounding=rounding, **told)
            return
        typer.echo(f"{dest}: {made.images} images, {off or 'float32 in [0, 1]'}")
        if to == "pt" and distilled.factor > 1:
            typer.echo(f"stored images: a reader has to decode them (IDC's code: factor {distilled.factor})")
        for score in scores:
            typer.echo(f"{score.set}  {score.network}  {score}")
        if off and not measure:
            typer.echo("What that costs in accuracy is measured with --measure.")

    _guard(body, debug)


@app.command("import")
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
            _print_json(path=str(out), images=list(distilled.images.shape), factor=distilled.factor, notes=notes)
            return
        for note in notes:
            typer.echo(_printable(f"note: {note}"))
        count, classes_found = len(distilled.labels), distilled.num_classes
        typer.echo(f"{out}: {count} stored images of {classes_found} classes, factor {distilled.factor}")
        typer.echo(f"\nLook at {out / 'preview.png'}. Next:")
        typer.echo(f"  {_command()} evaluate {shlex.quote(str(out))} --test DATA")

    _guard(body, debug)


@app.command()
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
            _print_json(path=str(out), images=list(distilled.images.shape), shards=len(shards))
            return
        typer.echo(f"{out}: {len(distilled.labels)} stored images of {distilled.num_classes} classes")
        typer.echo(f"\nLook at {out / 'preview.png'}. Next:")
        typer.echo(f"  {_command()} evaluate {shlex.quote(str(out))} --baselines random")

    _guard(body, debug)


@app.command()
def settings(as_json: JsonOption = False) -> None:
    """List every setting with its default and its meaning."""
    from accdd.config import Settings, describe

    rows = describe(Settings())
    if as_json:
        _print_json(settings=[{"key": key, "default": default, "meaning": doc} for key, default, doc in rows])
        return
    for key, default, doc in rows:
        typer.echo(f"{key} = {json.dumps(default)}\n    {doc}")


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List every preset with its source, the accuracy published for it by images per class, and what that cost."""
    from accdd.presets import PRESETS

    if as_json:
        rows = [
            {"name": name, "source": row.source, "published": dict(row.published), "cost": row.cost, "about": row.about}
            for name, row in PRESETS.items()
        ]
        _print_json(presets=rows)
        return
    for name, row in PRESETS.items():
        published = ", ".join(f"IPC {ipc}: {accuracy} %" for ipc, accuracy in row.published.items())
        typer.echo(f"{name}: {row.about}\n    " + "; ".join(each for each in (row.source, published, row.cost) if each))


def main() -> None:
    """Entry point of the command."""
    app()


def _settings(config: Path | None, assignments: list[str] | None, flags: dict[str, Any]) -> dict[str, Any]:
    """Dotted settings from a file, then --set, then flags: the later wins."""
    import yaml

    from accdd.config import InputError, flatten

    merged: dict[str, Any] = {}
    if config is not None:
        try:
            tree = yaml.safe_load(config.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"The configuration '{config}' cannot be read: {error}") from None
        if not isinstance(tree, dict):
            raise InputError(f"The configuration '{config}' is a {type(tree).__name__}. Expected keys and values.")
        merged |= flatten(tree["given"] if {"given", "resolved"} <= tree.keys() else tree)
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment} has no '='. Expected KEY=VALUE, as in --set pool.epochs=5.")
        try:
            merged[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(
                f"--set {assignment}: the value is not YAML. Expected, as in --set pool.epochs=5."
            ) from None
    return merged | {key: value for key, value in flags.items() if value is not None}


def _tell_study(found: Any, out: Path, as_json: bool) -> None:
    """The table of a study, and where it is kept."""
    from accdd import studies

    pictures = [str(path) for path in found.pictures]
    if as_json:
        _print_json(out=str(out), rows=[row.to_dict() for row in found.rows], pictures=pictures)
        return
    typer.echo(studies.aligned(found.rows))
    kept = ", ".join([f"{out}/table.csv (and .md, .tex, .json)", *pictures])
    typer.echo(f"\nKept in {kept}.")


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


def _seconds(text: str) -> float:
    """'90s', '10m', '1.5h' or plain seconds to seconds."""
    from accdd.config import InputError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not match:
        raise InputError(f"--budget {text} is not a duration. Expected a number with s, m or h, as in 10m.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _part(text: str) -> list[int]:
    """'2/4' to numbers."""
    from accdd.config import InputError

    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not match:
        raise InputError(f"--shard {text} is no part. Expected k/n, as in 2/4.")
    return [int(match[1]), int(match[2])]


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


@contextlib.contextmanager
def _reporter(quiet: bool) -> Iterator[Any]:
    """Progress on standard error for the length of a block."""
    from accdd.run import reporter

    telling = reporter(quiet)
    try:
        yield telling
    finally:
        telling.close()


def _guard(body: Callable[[], None], debug: bool) -> None:
    """Run a verb; the user's mistakes end with one message and exit code 2, interruptions with 130."""
    from accdd.config import InputError

    try:
        body()
    except InputError as error:
        if debug:
            raise
        if not _said_elsewhere(error):
            typer.echo(f"error: {_printable(str(error))}", err=True)
        sys.exit(2)
    except (OSError, ArithmeticError) as error:  # the disk refuses, or the run diverged
        if debug:
            raise
        typer.echo(f"error: {_printable(str(error))}", err=True)
        sys.exit(1)
    except KeyboardInterrupt as stop:  # or SIGTERM, while a run learns
        if not _said_elsewhere(stop):
            typer.echo(_printable(str(stop)) or "interrupted", err=True)
        sys.exit(128 + getattr(stop, "number", signal.SIGINT))


def _said_elsewhere(error: BaseException) -> bool:
    """Whether another of several processes says it."""
    if os.environ.get("RANK", "0") == "0":
        return False
    from accdd import parallel, run

    return isinstance(error, parallel.Everywhere | run.Stopped)


def _command() -> str:
    """How to type this command again: its path where it is not on the search path."""
    if shutil.which("accdd"):
        return "accdd"
    own = shlex.quote(sys.argv[0])
    return f"{shlex.quote(sys.executable)} -m accdd" if own.endswith("__main__.py") else own


def _print_json(**record: Any) -> None:
    typer.echo(json.dumps(record, indent=1))


def _printable(text: str) -> str:
    """Names from files may hold terminal escapes; they are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
