"""Every check of a store there is."""

from hamcl.errors import DataError
from hamcl.methods.ham import HAM
from hamcl.store import files, unfinished
from hamcl.store.folder import Folder
from hamcl.store.manifest import Manifest
from hamcl.store.objects import load_object
from hamcl.store.records import check_object


def verify(folder: Folder, manifest: Manifest, learner: HAM) -> list[str]:
    """Check every checksum and shape of all states, and that all numbers are finite; see `Store.verify`.

    The manifest was checked when it was read, and what holds between the parts when `learner` was put together.
    """
    root = folder.path
    files.check_folders(root)
    lines = [f"manifest: format {manifest.format}, {len(manifest.state.tasks)} tasks, {len(manifest.history)} events"]
    states = {"present": manifest.state}
    for earlier in manifest.earlier:
        states[f"after {earlier.task!r}" if earlier.task else "at the beginning"] = folder.recall(earlier)
    checked: set[str] = set()
    for when, state in states.items():
        records = {part: record for part, record in state.files.items() if record.sha256 not in checked}
        for record in records.values():
            load_object(root, record, finite=True)
            checked.add(record.sha256)
        size = sum(record.size for record in records.values())
        lines.append(f"state {when}: {len(state.files)} files, of which {len(records)} its own, {size} bytes")
    position = unfinished.read(root)
    if position:
        try:
            check_object(root, position.position)
        except DataError:
            if unfinished.read(root) == position:  # else it went on in the meantime
                raise
        lines.append(f"unfinished learn of task {position.identity.task!r}, saved {position.saved}")
    if learner.classes:
        learner.objective.head.linear()
    lines.append(f"model: {len(learner.classes)} classes, {len(learner.groups.groups)} groups, backbone the same")
    if strange := [path for path in (root / files.TEMPORARY).glob("*") if path.is_dir() and not path.is_symlink()]:
        lines.append(
            f"{len(strange)} folders in {root / files.TEMPORARY} that hamcl did not make, which it leaves there"
        )
    if left := folder.leftovers(position):
        lines.append(f"{len(left)} leftover files, which the next command cleans")
    return lines
