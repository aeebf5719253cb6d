"""A run on disk and on the screen."""

from accdd.run.folder import RunFolder, Snapshot, read_snapshot, refuse_existing, snapshots, tree
from accdd.run.progress import Quiet, Reporter, reporter

__all__ = [
    "Quiet",
    "Reporter",
    "RunFolder",
    "Snapshot",
    "read_snapshot",
    "refuse_existing",
    "reporter",
    "snapshots",
    "tree",
]
