"""What a person looks at: a page for each run, one for several, the copy check, and a run as it goes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accdd.artifact import Distilled
from accdd.config import InputError
from accdd.data import Dataset
from accdd.evaluation import Score
from accdd.report import nearest, page
from accdd.report.comparison import compare
from accdd.report.nearest import Nearest, find
from accdd.report.page import FILE, render, write
from accdd.report.reading import Seen, read
from accdd.run import Reporter, RunFolder
from accdd.run.folder import KIND

__all__ = ["FILE", "Nearest", "Seen", "check_keeping", "compare", "find", "finish", "keep", "read", "render", "write"]


def finish(distilled: Distilled, real: Dataset, folder: Path, reporter: Reporter) -> None:
    """At the end of a run: compare with the real images while they are at hand, and write the page.

    Whatever goes wrong is told: everything of value has been saved.
    """
    try:
        nearest.save(find(distilled, real), folder)
        page.write(folder)
    except Exception as error:
        reporter.note(f"There is no report, because of {type(error).__name__}: {error}. The run itself is complete.")


def check_keeping(paths: Sequence[str | Path], test: Any = None, data: Any = None) -> None:
    """Refuse to keep scores where there is no finished run with an `InputError`, and those on other data than its own:
    a score does not say what it was tested on."""
    if test is not None or data is not None:
        raise InputError(
            "--keep puts scores beside those on the run's own data, and --test or --data name other data. "
            "Expected no --keep, or neither of them."
        )
    for path in paths:
        if not (Path(path) / "config.yaml").exists() or not (Path(path) / "evaluation.json").exists():
            raise InputError(f"'{path}' is no finished run, so scores cannot be kept there. Expected no --keep.")
        try:
            kept = json.loads((Path(path) / "evaluation.json").read_bytes()).get("kept", [])
            [each[name] for each in kept for name in KIND]
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"'{Path(path) / 'evaluation.json'}' is damaged ({type(error).__name__}: {error}), so scores cannot be "
                "kept there. Expected no --keep."
            ) from None


def keep(path: str | Path, scores: Sequence[Score]) -> None:
    """Keep the scores of a run, of its snapshots and of what stands beside it in its folder, and write its page anew.

    Args:
        path: the folder of the run, by the name that the scores call it.
        scores: of any sets; those of others are left out.
    """
    own = []
    for score in scores:
        if score.beside == str(path):
            own.append(dataclasses.replace(score, beside="distilled"))
        elif score.set == str(path) or score.set.startswith(f"{path}@"):
            own.append(dataclasses.replace(score, set="distilled" + score.set.removeprefix(str(path))))
    RunFolder(Path(path)).keep([score.to_dict() for score in own])
    page.write(path)
