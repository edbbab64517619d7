"""Classifiers over all classes seen so far, without a task identity.

An analytic head keeps statistics of features, never samples: class counts and means and one shared scatter
(`moments`), the Gram matrix of a random projection (`ridge`), or both (`stack`).
"""

from collections.abc import Sequence

from hamcl.errors import UsageError
from hamcl.heads.base import Calibrated, Drift, Head, Linear
from hamcl.heads.moments import LDA, NearestMean
from hamcl.heads.ridge import Ridge
from hamcl.heads.rows import Rows, TaskRows, within_task
from hamcl.heads.stack import Stack


def build_head(
    kind: str, blocks: Sequence[int], *, shrinkage: float | None = None, projection: int | None = None, seed: int = 0
) -> Head:
    """Make an empty head, "linear", "cosine", "ncm", "lda", "ridge" or "stack", for features of one or more blocks.

    A `projection` of None has the width that suits the head.
    """
    width = sum(blocks)
    match kind:
        case "linear" | "cosine":
            return Rows(width, cosine=kind == "cosine")
        case "ncm":
            return NearestMean(width)
        case "lda":
            return LDA(width, shrinkage)
        case "ridge":
            return Ridge(width, Ridge.PROJECTION if projection is None else projection, seed)
        case "stack":
            projection = Stack.PROJECTION if projection is None else projection
            return Stack(blocks, shrinkage=shrinkage, projection=projection, seed=seed)
    raise UsageError(f"there is no head {kind!r}; choose linear, cosine, ncm, lda, ridge or stack")


__all__ = [
    "LDA",
    "Calibrated",
    "Drift",
    "Head",
    "Linear",
    "NearestMean",
    "Ridge",
    "Rows",
    "Stack",
    "TaskRows",
    "build_head",
    "within_task",
]
