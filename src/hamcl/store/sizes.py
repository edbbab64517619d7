"""How many bytes a store takes, and for what."""

from dataclasses import dataclass
from pathlib import Path

from hamcl.errors import DataError
from hamcl.store import files, unfinished
from hamcl.store.manifest import Manifest

ENTRY = 128
"""The most bytes that the header of a file has for a tensor, besides its name."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a store.

    Attributes:
        groups, rows, head: of the present state.
        earlier: what only earlier states need.
        unfinished: of an unfinished `learn`.
        damaged: why the unfinished `learn` cannot be read; None where it can, or where there is none.
        groups_bound: the most that `groups` can become; None if the config sets no bound, or
            before the first task.
    """

    groups: int
    rows: int
    head: int
    earlier: int
    unfinished: int
    groups_bound: int | None
    damaged: str | None = None


def sizes(root: Path, manifest: Manifest) -> Sizes:
    """Add up the files of a store."""
    state, position, damaged = manifest.state, None, None
    try:
        position = unfinished.read(root)
    except DataError as error:
        damaged = str(error).partition(";")[0]
    present = {record.sha256 for record in state.files.values()}
    past = {
        f"{files.OBJECTS}/{name}.safetensors" for e in manifest.earlier for name in e.objects if name not in present
    }
    past |= {earlier.name for earlier in manifest.earlier}
    return Sizes(
        groups=sum(group.file.size for group in state.groups),
        rows=state.rows.size if state.rows else 0,
        head=sum(record.size for record in state.head.values()),
        earlier=sum((root / name).stat().st_size for name in past if (root / name).is_file()),
        unfinished=position.position.size if position else 0,
        groups_bound=_bound(manifest),
        damaged=damaged,
    )


def _bound(manifest: Manifest) -> int | None:
    options, groups = manifest.options, manifest.state.groups
    if not groups or not options.max_groups or not options.merge_rank or options.merge == "concat":
        return None
    # A group of one task has that task's rank, which the merge may only bring down.
    rank, tensors = max(options.merge_rank, options.rank), groups[0].file.tensors
    shapes = [(tensors[f"{layer}.B"].shape[0], tensors[f"{layer}.A"].shape[1]) for layer in groups[0].layers]
    numbers = sum(min(rank, *shape) * sum(shape) for shape in shapes)
    header = 8 + sum(len(name) + ENTRY for name in tensors)
    return options.max_groups * (4 * numbers + header)
