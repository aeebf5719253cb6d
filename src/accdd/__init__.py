"""accdd turns a labelled image data set into a few learned images per class.

import accdd
result = accdd.distill("my_images/", ipc=10, out="runs/mine")
images, labels = accdd.load("runs/mine").decode()
scores = accdd.evaluate("runs/mine", seeds=5)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accdd.ahead import build_pool, build_targets
    from accdd.api import Result, distill, forecast, import_set, load, merge, push, resume
    from accdd.artifact import Distilled
    from accdd.config import InputError, Settings
    from accdd.estimator import Distiller
    from accdd.evaluation import Score
    from accdd.scoring import evaluate, measure_rounding
    from accdd.studies import ablate, compare, reproduce

_HOMES = {
    "Distilled": "accdd.artifact",
    "Distiller": "accdd.estimator",
    "InputError": "accdd.config",
    "Result": "accdd.api",
    "Score": "accdd.evaluation",
    "Settings": "accdd.config",
    "ablate": "accdd.studies",
    "build_pool": "accdd.ahead",
    "build_targets": "accdd.ahead",
    "compare": "accdd.studies",
    "distill": "accdd.api",
    "evaluate": "accdd.scoring",
    "forecast": "accdd.api",
    "import_set": "accdd.api",
    "load": "accdd.api",
    "measure_rounding": "accdd.scoring",
    "merge": "accdd.api",
    "push": "accdd.api",
    "reproduce": "accdd.studies",
    "resume": "accdd.api",
}

__all__ = [
    "Distilled",
    "Distiller",
    "InputError",
    "Result",
    "Score",
    "Settings",
    "ablate",
    "build_pool",
    "build_targets",
    "compare",
    "distill",
    "evaluate",
    "forecast",
    "import_set",
    "load",
    "measure_rounding",
    "merge",
    "push",
    "reproduce",
    "resume",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `accdd --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'accdd' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
