"""What a person looks at: a page for each run, one for several, the copy check, and a run as it goes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accdd import artifact
from accdd.artifact import HEADER, Distilled
from accdd.config import InputError
from accdd.data import Dataset
from accdd.evaluation import Score
from accdd.report import nearest, page
from accdd.report.comparison import compare
from accdd.report.nearest import Nearest, find
from accdd.report.page import FILE, render, write
from accdd.report.reading import Seen, read
from accdd.run import Reporter, RunFolder
from accdd.run.folder import KIND, merged

__all__ = [
    "FILE", "Nearest", "Seen", "check_keeping", "compare", "complete", "find", "finish", "keep", "read", "render",
    "write",
]  # fmt: skip


def finish(distilled: Distilled, real: Dataset, folder: Path, reporter: Reporter) -> None:
    """At the end of a run: compare with the real images while they are at hand, and write the page.

    Whatever goes wrong is told: everything of value has been saved.
    """
    try:
        nearest.save(find(distilled, real), folder)
        page.write(folder)
    except Exception as error:
        reporter.note(f"There is no report, because of {type(error).__name__}: {error}. The run itself is complete.")


def complete(folder: Path) -> bool:
    """Whether `finish` came to its end: a page that was asked for before may be there without."""
    page_file, scores = folder / page.FILE, folder / "evaluation.json"
    there = all(file.exists() for file in (page_file, folder / nearest.FILE))
    return there and page_file.stat().st_mtime_ns >= scores.stat().st_mtime_ns


def check_keeping(paths: Sequence[str | Path], test: Any = None, data: Any = None) -> None:
    """Refuse with an `InputError` to keep scores where there is neither a finished run nor a set without a run, and
    those of a run on other data than its own."""
    for path in paths:
        alone = _is_set(path)
        if (not alone and test is not None) or (data is not None and not (alone and data == test)):
            raise InputError(
                "--keep puts scores beside those on the run's own data, and --test or --data name other data. "
                "Expected no --keep, or neither of them; for a set without a run, both alike or --test alone."
            )
        if not alone and not all((Path(path) / name).exists() for name in ("config.yaml", "evaluation.json")):
            raise InputError(
                f"'{path}' is neither a finished run nor a set, so scores cannot be kept there. Expected no --keep."
            )
        file = Path(path) / (HEADER if alone else "evaluation.json")
        try:
            kept = (artifact.load(path).info if alone else json.loads(file.read_bytes())).get("kept", [])
            [each[name] for each in kept for name in KIND]
        except InputError:
            raise
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise InputError(
                f"'{file}' is damaged ({type(error).__name__}: {error}), so scores cannot be kept there. "
                "Expected no --keep."
            ) from None


def keep(path: str | Path, scores: Sequence[Score], test: Any = None) -> None:
    """Keep the scores of a run, of its snapshots and of what stands beside it, and write its page anew.

    They are kept in the run's folder and with the set, or for a set without a run with the set alone.

    Args:
        path: the folder of the run or of the set, by the name that the scores call it.
        scores: of any sets; those of others are left out.
        test: what a set without a run was tested on, where that was said: it becomes a part of the protocol's name,
            with the beginning of the images' digest, because with baselines fewer are tested on.
    """
    own = []
    for score in scores:
        if score.beside == str(path):
            own.append(dataclasses.replace(score, beside="distilled"))
        elif score.set == str(path) or score.set.startswith(f"{path}@"):
            own.append(dataclasses.replace(score, set="distilled" + score.set.removeprefix(str(path))))
    if test is not None:
        name = Path(str(test)).name  # of a path no more, because sets are given to others
        own = [
            dataclasses.replace(
                score, protocol=f"{score.protocol}, tested on {name} {(score.tested or '')[:6]}".rstrip()
            )
            for score in own
        ]
    made = [score.to_dict() for score in own]
    if not _is_set(path):
        RunFolder(Path(path)).keep(made)
    distilled = artifact.load(path)
    of_itself = [score for score in made if score["set"] == "distilled" or _is_set(path)]
    kept = merged(distilled.info.get("kept", []), of_itself)
    artifact.annotate(dataclasses.replace(distilled, info=distilled.info | {"kept": kept}), path)
    page.write(path)


def _is_set(path: str | Path) -> bool:
    """Whether this is the folder of a set alone."""
    return (Path(path) / HEADER).exists() and not (Path(path) / "config.yaml").exists()
