"""Classifiers over all classes seen so far, without a task identity.

An analytic head keeps statistics of features, never samples: class counts and means and one shared scatter
(`moments`), the Gram matrix of a random projection (`ridge`), or both (`stack`).
"""

from collections.abc import Sequence

from hamcl.config import PROJECTION
from hamcl.errors import UsageError
from hamcl.heads.base import Calibrated, Head, Linear
from hamcl.heads.moments import LDA, NearestMean
from hamcl.heads.ridge import Ridge
from hamcl.heads.rows import Rows, TaskRows, TrainedRows
from hamcl.heads.stack import Stack


def build_head(
    kind: str, blocks: Sequence[int], *, shrinkage: float | None = None, projection: int | None = None, seed: int = 0
) -> Head:
    """Make an empty analytic head, "ncm", "lda", "ridge" or "stack", for features of one or more blocks.

    A `projection` of None has the width that suits the head.

    Raises:
        UsageError: there is no such head.
    """
    width = sum(blocks)
    wide = PROJECTION.get(kind, 0) if projection is None else projection
    match kind:
        case "ncm":
            return NearestMean(width)
        case "lda":
            return LDA(width, shrinkage)
        case "ridge":
            return Ridge(width, wide, seed)
        case "stack":
            return Stack(blocks, shrinkage=shrinkage, projection=wide, seed=seed)
    raise UsageError(f"there is no head {kind!r}; choose ncm, lda, ridge or stack")


__all__ = [
    "LDA",
    "Calibrated",
    "Head",
    "Linear",
    "NearestMean",
    "Ridge",
    "Rows",
    "Stack",
    "TaskRows",
    "TrainedRows",
    "build_head",
]
