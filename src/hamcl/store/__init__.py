"""A model's life on disk: transactions, a manifest with checksums, undo."""

from typing import TYPE_CHECKING, Any

from hamcl.store.diff import Difference
from hamcl.store.folder import Unrecorded
from hamcl.store.light import LightStore
from hamcl.store.manifest import Confusion, Evaluation, Event, GroupRecord, Manifest, Score, State, TaskRecord
from hamcl.store.sizes import Sizes

if TYPE_CHECKING:
    from hamcl.store.store import Store

__all__ = [
    "Confusion",
    "Difference",
    "Evaluation",
    "Event",
    "GroupRecord",
    "LightStore",
    "Manifest",
    "Score",
    "Sizes",
    "State",
    "Store",
    "TaskRecord",
    "Unrecorded",
]


def __getattr__(name: str) -> Any:
    if name != "Store":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hamcl.store.store import Store  # waits for PyTorch

    return Store
