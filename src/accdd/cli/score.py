"""Verbs that score: evaluate, and the studies ablate, compare, reproduce."""

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from accdd.cli.options import (
    BASELINES,
    DATA_HELP,
    NETWORKS,
    PROTOCOLS,
    SHAPED,
    BudgetOption,
    CompileOption,
    ConfigOption,
    DataArgument,
    DebugOption,
    DeviceOption,
    ExecutorOption,
    HeldOutOption,
    IndependentOption,
    IpcOption,
    JsonOption,
    NetworkOption,
    PrecisionOption,
    PresetOption,
    QuietOption,
    ReplicatesOption,
    SeedOption,
    SetOption,
    StepsOption,
    StudyOutOption,
)
from accdd.cli.shell import gigabytes_of, guard, print_json, progress, seconds_of, settings_from


def evaluate(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Folders of runs or of distilled sets.")],
    test: Annotated[
        str | None, typer.Option("--test", help="DATA to test on (default: what the set came from).")
    ] = None,
    networks: Annotated[str | None, typer.Option("--networks", help=f"Comma-separated: {NETWORKS} {SHAPED}")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh networks per score.")] = 3,
    protocol: Annotated[
        str, typer.Option("--protocol", help=f"How networks are trained; comma-separated: {PROTOCOLS}")
    ] = "idc",
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
        bool, typer.Option("--keep", help="Keep the scores with the runs or sets, and show them in their reports.")
    ] = False,
    table: Annotated[str | None, typer.Option("--table", help="Print csv, markdown or latex.")] = None,
    executor: ExecutorOption = "inline",
    seed: SeedOption = None,
    device: DeviceOption = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Of a GPU, at most, as in 8GB; on a CPU nothing limits it.")
    ] = None,
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
        from accdd import evaluation, report, scoring
        from accdd.config import InputError, choose
        from accdd.keys import Key

        if table is not None:
            choose("table", table, evaluation.STYLES)
            if as_json:
                raise InputError(f"--json and --table {table} both say what to print. Expected one of the two.")

        if keep:
            report.check_keeping(outs, test, data)
        with progress(quiet) as reporter:
            scores = scoring.evaluate(
                outs, test=test, networks=networks.split(",") if networks else None, seeds=seeds,
                protocol=protocol.split(","), epochs=epochs, seed=seed or 0, device=device or "auto",
                max_memory=None if max_memory is None else gigabytes_of(max_memory), compile=compile or "auto",
                precision=precision or "auto", snapshots=snapshots, data=data,
                baselines=baselines.split(",") if baselines else (), whole=whole, best_on_test=best_on_test,
                fresh=fresh, executor=executor, reporter=reporter,
            )  # fmt: skip
        for each in outs if keep else ():
            report.keep(each, scores, test)
        found = {
            "comparisons": evaluation.comparisons(scores, Key(seed or 0)),
            "label_robustness": evaluation.label_robustness(scores),
            "augmentation_robustness": evaluation.augmentation_robustness(scores),
        }
        if table is not None:
            typer.echo(evaluation.table(scores, table), nl=False)
            for each in itertools.chain(*found.values()):
                typer.echo(each, err=True)  # standard output is the table alone
            return
        if as_json:
            more = found if found["comparisons"] else {}
            listed = {name: [each._asdict() for each in those] for name, those in more.items()}
            print_json(scores=[score.to_dict() for score in scores], **listed)
            return
        called = evaluation.network_names(scores)
        set_width, network_width = max(len(score.set) for score in scores), max(map(len, called.values()))
        for score in scores:
            network = called[score.network, score.shape]
            typer.echo(f"{score.set:<{set_width}}  {network:<{network_width}}  {score}")
        for each in itertools.chain(*found.values()):
            typer.echo(each)

    guard(body, debug)


def ablate(
    data: DataArgument,
    out: StudyOutOption,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE,VALUE]...", help="Further settings, as of --over.")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=VALUE,VALUE", help="A setting and the values it takes; may be repeated."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", help="pre-training, models, magnitude, directions, normalisation, where or factor."),
    ] = None,
    seeds: ReplicatesOption = 1,
    independent: IndependentOption = False,
    held_out: HeldOutOption = None,
    executor: ExecutorOption = "inline",
    ipc: IpcOption = None,
    network: NetworkOption = None,
    steps: StepsOption = None,
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
            "loop.budget": None if budget is None else seconds_of(budget), "data.held_out": held_out,
        }  # fmt: skip
        settings = settings_from(config, set_, flags)
        from accdd import studies

        with progress(quiet) as reporter:
            found = studies.ablate(
                data, out, studies.parse([*(over or []), *(more or [])]), study=study, seeds=seeds,
                independent=independent, preset=preset, settings=settings, executor=executor, reporter=reporter,
            )  # fmt: skip
        _tell_study(found, out, as_json)

    guard(body, debug)


def compare(
    data: DataArgument,
    out: StudyOutOption,
    methods: Annotated[str, typer.Option("--methods", help="Comma-separated host methods.")] = "idc,dsa,dc,dm",
    baselines: Annotated[
        str, typer.Option("--baselines", help=f"Comma-separated, or empty for none: {BASELINES}")
    ] = "random,herding,kcenter",
    seeds: ReplicatesOption = 1,
    independent: IndependentOption = False,
    held_out: HeldOutOption = None,
    executor: ExecutorOption = "inline",
    ipc: IpcOption = None,
    network: NetworkOption = None,
    steps: StepsOption = None,
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
            "loop.budget": None if budget is None else seconds_of(budget), "data.held_out": held_out,
        }  # fmt: skip
        settings = settings_from(config, set_, flags)
        from accdd import studies

        with progress(quiet) as reporter:
            found = studies.compare(
                data, out, hosts=methods.split(",") if methods else (), seeds=seeds, independent=independent,
                preset=preset, baselines=baselines.split(",") if baselines else (), settings=settings,
                executor=executor, reporter=reporter,
            )  # fmt: skip
        _tell_study(found, out, as_json)

    guard(body, debug)


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset with a published accuracy: 'accdd presets'.")],
    out: StudyOutOption,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DATA", help=f"Default: what it was published on, by name. {DATA_HELP}"),
    ] = None,
    ipc: Annotated[
        int | None, typer.Option("--ipc", help="Images per class (default: the fewest that are published).")
    ] = None,
    seeds: ReplicatesOption = 1,
    executor: ExecutorOption = "inline",
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
        flags = {"loop.budget": None if budget is None else seconds_of(budget), "device": device}
        settings = settings_from(config, set_, flags)
        from accdd import studies

        with progress(quiet) as reporter:
            found = studies.reproduce(
                name, data, out, ipc=ipc, seeds=seeds, settings=settings, executor=executor, reporter=reporter
            )
        if as_json:
            print_json(**found.to_dict())
            return
        typer.echo(found)

    guard(body, debug)


def _tell_study(found: Any, out: Path, as_json: bool) -> None:
    """The table of a study, and where it is kept."""
    from accdd import studies

    pictures = [str(path) for path in found.pictures]
    if as_json:
        print_json(out=str(out), rows=[row.to_dict() for row in found.rows], pictures=pictures)
        return
    typer.echo(studies.aligned(found.rows))
    if any(row.differences for row in found.rows):
        each = "seed" if any(row.sets > 1 for row in found.rows) else "network"
        typer.echo(f"\nDifferences are from the first row of the network, {each} by {each}.")
    if any(row.shared for row in found.rows):
        typer.echo(
            "\nSets share early-stage models or targets, so deviations and intervals are over starts and scoring "
            "networks alone. Expected --independent where they are to be of the whole method."
        )
    kept = ", ".join([f"{out}/table.csv (and .md, .tex, .json)", *pictures])
    typer.echo(f"\nKept in {kept}.")
