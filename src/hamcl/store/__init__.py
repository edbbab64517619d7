"""A model's life on disk: transactions, a manifest with checksums, undo."""

from hamcl.store.diff import Difference
from hamcl.store.folder import Unrecorded
from hamcl.store.manifest import Confusion, Evaluation, Event, GroupRecord, Manifest, Score, State, TaskRecord
from hamcl.store.sizes import Sizes
from hamcl.store.store import Store

__all__ = [
    "Confusion",
    "Difference",
    "Evaluation",
    "Event",
    "GroupRecord",
    "Manifest",
    "Score",
    "Sizes",
    "State",
    "Store",
    "TaskRecord",
    "Unrecorded",
]
