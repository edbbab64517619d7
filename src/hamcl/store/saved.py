"""One learner in a folder: a store that holds its present state and no other."""

import shutil
import uuid
from pathlib import Path

from hamcl.errors import DataError, UsageError
from hamcl.files import sync
from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.store.store import Store


def save(learner: HAM, path: Path) -> None:
    """Make a store of what a learner knows, see `HAM.save`; nothing is at `path`, or all of it."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"there is something at {path} already; save to a new folder")
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Beside its place, and under its name once it is whole.
        fresh = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.new")
        try:
            store = Store.begin(fresh, learner, text="began with a learner made elsewhere")
            if learner.tasks:
                store.keep(learner, "save", f"saved {len(learner.tasks)} tasks")
            fresh.rename(place)
            sync(place.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another place"
        ) from error


def load(path: Path, *, backbone: str | None = None, machine: Machine | None = None) -> HAM:
    """Read the present state of a store as a learner of its own, see `HAM.load`."""
    return Store.open(path, backbone=backbone, machine=machine).model()
