"""The distilled set on disk: format, load, export."""

from accdd.artifact.distilled import Distilled
from accdd.artifact.export import FORMATS, export
from accdd.artifact.format import annotate, load, save

__all__ = ["FORMATS", "Distilled", "annotate", "export", "load", "save"]
