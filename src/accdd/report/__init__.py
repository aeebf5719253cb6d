"""What a person looks at: a page for each run, one for several, the copy check, and a run as it goes."""

from accdd.report.comparison import compare
from accdd.report.nearest import Nearest, find
from accdd.report.page import FILE, render, write
from accdd.report.reading import Seen, read

__all__ = ["FILE", "Nearest", "Seen", "compare", "find", "read", "render", "write"]
