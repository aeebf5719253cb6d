"""Studies: many runs and their scores, in a folder where they go on when they are stopped."""

from accdd.studies.ablate import Found, ablate
from accdd.studies.compare import compare
from accdd.studies.grids import NAMED, parse
from accdd.studies.reproduce import Reproduction, reproduce
from accdd.studies.rows import Row, aligned

__all__ = ["NAMED", "Found", "Reproduction", "Row", "ablate", "aligned", "compare", "parse", "reproduce"]
