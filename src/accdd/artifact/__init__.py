"""The distilled set on disk: format, load, export, import."""

from accdd.artifact.distilled import Distilled
from accdd.artifact.export import FORMATS, PICTURES, Exported, Rounding, as_decoded, export, refuse_taken, rounded
from accdd.artifact.format import HEADER, annotate, save
from accdd.artifact.hub import Pushed, load, push
from accdd.artifact.imports import KINDS, import_set
from accdd.artifact.merge import merge

__all__ = [
    "FORMATS",
    "HEADER",
    "KINDS",
    "PICTURES",
    "Distilled",
    "Exported",
    "Pushed",
    "Rounding",
    "annotate",
    "as_decoded",
    "export",
    "import_set",
    "load",
    "merge",
    "push",
    "refuse_taken",
    "rounded",
    "save",
]
