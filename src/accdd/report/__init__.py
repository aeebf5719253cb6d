"""What a person looks at: a page for each run, one for several, the copy check, and a run as it goes."""

from pathlib import Path

from accdd.artifact import Distilled
from accdd.data import Dataset
from accdd.report import nearest, page
from accdd.report.comparison import compare
from accdd.report.nearest import Nearest, find
from accdd.report.page import FILE, render, write
from accdd.report.reading import Seen, read
from accdd.run import Reporter

__all__ = ["FILE", "Nearest", "Seen", "compare", "find", "finish", "read", "render", "write"]


def finish(distilled: Distilled, real: Dataset, folder: Path, reporter: Reporter) -> None:
    """At the end of a run: compare with the real images while they are at hand, and write the page.

    Whatever goes wrong is told: everything of value has been saved.
    """
    try:
        nearest.save(find(distilled, real), folder)
        page.write(folder)
    except Exception as error:
        reporter.note(f"There is no report, because of {type(error).__name__}: {error}. The run itself is complete.")
