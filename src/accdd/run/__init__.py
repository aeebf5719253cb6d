"""A run on disk and on the screen."""

from accdd.run.checkpoints import Checkpoint
from accdd.run.course import Result
from accdd.run.folder import RunFolder, Snapshot, read_snapshot, refuse_existing, snapshot, snapshots, tree
from accdd.run.learning import Stopped, learn
from accdd.run.progress import Quiet, Reporter, reporter
from accdd.run.tracking import TRACKERS, tracked
from accdd.run.words import describe, describe_bank, describe_plan, verdict

__all__ = [
    "TRACKERS",
    "Checkpoint",
    "Quiet",
    "Reporter",
    "Result",
    "RunFolder",
    "Snapshot",
    "Stopped",
    "describe",
    "describe_bank",
    "describe_plan",
    "learn",
    "read_snapshot",
    "refuse_existing",
    "reporter",
    "snapshot",
    "snapshots",
    "tracked",
    "tree",
    "verdict",
]
