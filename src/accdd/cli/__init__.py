"""The command `accdd`: verbs whose bodies call the Python functions of the same names.

Results go to standard output, everything else to standard error; with --json standard output is one JSON object.
Nothing heavy is imported here: `accdd --help` and wrong flags must answer at once.
"""

import typer

from accdd.cli import learn, lists, look, score, sets

app = typer.Typer(
    help="Turn a labelled image data set into a few learned images per class.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (
    learn.distill, score.evaluate, look.watch, look.report, look.check,
    sets.info, sets.export, sets.push, sets.import_, learn.merge,
    score.compare, score.ablate, score.reproduce,
    learn.pool, learn.targets, lists.cache, lists.settings, lists.presets,
):  # fmt: skip
    app.command(verb.__name__.strip("_"))(verb)


def main() -> None:
    """Entry point of the command."""
    app()
