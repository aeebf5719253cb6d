"""A run on disk and on the screen."""

from accdd.run.checking import Checked, Part, check
from accdd.run.checkpoints import Checkpoint
from accdd.run.course import Result
from accdd.run.folder import Record, RunFolder, alike, refuse_existing, tree
from accdd.run.interim import Interim, InterimScores
from accdd.run.learning import Stopped, learn
from accdd.run.probing import Forecast, forecast, foretell
from accdd.run.progress import Quiet, Reporter, reporter
from accdd.run.snapshot_files import Snapshot, listed_snapshots, newest_snapshot, read_snapshot, snapshot, snapshots
from accdd.run.tracking import TRACKERS, tracked
from accdd.run.words import describe, describe_bank, unused

__all__ = [
    "TRACKERS",
    "Checked",
    "Checkpoint",
    "Forecast",
    "Interim",
    "InterimScores",
    "Part",
    "Quiet",
    "Record",
    "Reporter",
    "Result",
    "RunFolder",
    "Snapshot",
    "Stopped",
    "alike",
    "check",
    "describe",
    "describe_bank",
    "forecast",
    "foretell",
    "learn",
    "listed_snapshots",
    "newest_snapshot",
    "read_snapshot",
    "refuse_existing",
    "reporter",
    "snapshot",
    "snapshots",
    "tracked",
    "tree",
    "unused",
]
