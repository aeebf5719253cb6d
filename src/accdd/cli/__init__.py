"""The command `accdd`: verbs whose bodies call the Python functions of the same names.

Results go to standard output, everything else to standard error; with --json standard output is one JSON object.
Nothing heavy is imported here: `accdd --help` and wrong flags must answer at once.
"""

import atexit
import contextlib
import os
import sys

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
    """Entry point of the command.

    One of several processes leaves without Python's finalisation: while that runs, a thread of the collectives that is
    still winding up may abort the process ("terminate called without an active exception"), all being written.
    """
    try:
        app()
    except SystemExit as end:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            raise
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):  # whoever read it is gone
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
