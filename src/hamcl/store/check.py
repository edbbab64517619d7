"""What a manifest must hold to be trusted, seen from its records alone."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from hamcl.config import TRAINED, HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.store.document import LIMIT, dump, opened, valid
from hamcl.store.files import Damaged
from hamcl.store.manifest import GroupRecord, Manifest, State


def parse(data: bytes, path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        DataError: it was changed, is of another format version, or says what cannot be.
    """
    manifest = valid(Manifest, opened(data, path), path)
    try:
        options = manifest.options
    except UsageError as error:
        raise DataError(f"the config in {path} cannot be used: {error}") from error
    check_state(manifest.state, options, manifest.backbone.width, path)
    counts = [*(earlier.tasks for earlier in manifest.earlier), len(manifest.state.tasks)]
    if any(later <= sooner for sooner, later in pairwise(counts)):
        raise Damaged(f"{path} lists earlier states that are not earlier")
    return manifest


def check_room(manifest: Manifest, classes: Iterable[str], path: Path) -> None:
    """Check, before any work is done, that a manifest can take more classes.

    Raises:
        DataError: with them it might outgrow what is read again.
    """
    new = set(classes) - set(manifest.state.classes)
    # Each name stands in the list of classes, and again in the accuracy of its class; a task's own records are few.
    size = len(manifest.encode()) + sum(2 * len(dump(name)) + 128 for name in new) + 2**20
    if size > LIMIT:
        raise DataError(
            f"{path} would hold some {size >> 20} MiB of names and records with these {len(new)} classes, but at most "
            f"{LIMIT >> 20} are read; shorten the class names or learn the classes in a store of their own"
        )


class _Wrong(Exception):
    """What does not hold."""


def check_state(state: State, options: HAMConfig, width: int, path: Path) -> None:
    """Check what must hold between the parts of a state, from its records alone.

    Raises:
        DataError: names what does not hold.
    """
    try:
        _check_tasks(state, options)
        for name, record in state.files.items():
            try:
                record.check()
            except DataError as error:
                raise _Wrong(f"{name}: {error}") from error
        shapes: dict[str, tuple[int, int]] = {}
        for j, group in enumerate(state.groups):
            _check_group(j, group, options, shapes)
        _check_head(state, options, width)
    except _Wrong as wrong:
        raise Damaged(f"{path} cannot be right: {wrong}") from wrong


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _Wrong(what)


def _check_tasks(state: State, options: HAMConfig) -> None:
    """Every class belongs to a task, and every task to one group."""
    names = [task.name for task in state.tasks]
    _require(_unique(state.classes), "a class is listed twice")
    _require(_unique(names), "a task is listed twice")
    for task in state.tasks:
        _require(bool(task.columns) and _unique(task.columns), f"task {task.name!r} has no classes, or one twice")
    covered = {column for task in state.tasks for column in task.columns}
    _require(covered == set(range(len(state.classes))), "the columns of the tasks are not those of the classes")
    members = [task for group in state.groups for task in group.tasks]
    _require(sorted(members) == sorted(names), "the groups do not hold every task once")
    _require(all(group.tasks for group in state.groups), "a group is empty")
    _require(options.max_groups is None or len(state.groups) <= options.max_groups, "there are too many groups")
    _require(len(state.decisions) == len(names), "there is not one decision for each task")


def _check_group(j: int, group: GroupRecord, options: HAMConfig, shapes: dict[str, tuple[int, int]]) -> None:
    """A group holds two factors of every layer, of no larger rank than it may have.

    Args:
        shapes: of the layers met so far; those of the group are added.
    """
    for layer in group.layers:
        a, b = group.file.tensors[f"{layer}.A"], group.file.tensors.get(f"{layer}.B")
        fits = b is not None and len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
        _require(fits, f"layer {layer!r} of group {j} has no matching factors")
        assert b is not None
        shape = b.shape[0], a.shape[1]
        most = options.merge_rank if options.merge_rank and options.merge != "concat" else min(shape)
        _require(a.shape[0] <= min(most, *shape), f"layer {layer!r} of group {j} has rank {a.shape[0]}")
        _require(shapes.setdefault(layer, shape) == shape, f"layer {layer!r} has two shapes")
    _require(len(group.file.tensors) == 2 * len(group.layers), f"group {j} holds other tensors than factors")


def _check_head(state: State, options: HAMConfig, width: int) -> None:
    """There is a row for every class, and the head that the config asks for."""
    if state.rows is None or not state.tasks:
        _require(bool(state.tasks) or not state.files, "there are no tasks but files")
        _require(not state.tasks, "the classifier rows are missing")
        return
    plain: dict[str, tuple[int, ...]] = {"weight": (len(state.classes), width), "bias": (len(state.classes),)}
    rows = {name: record.shape for name, record in state.rows.tensors.items()}
    _require(rows in ({**plain, "temperature": ()}, plain), "there is not one classifier row for each class")
    _require(bool(state.head) == (options.head not in TRAINED), "the head is not the config's")
    for name, record in state.head.items():
        _require(list(record.tensors) == [name], f"the file of head.{name} holds something else")
    if state.head and options.projection and options.head in ("auto", "ridge", "stack"):
        # Before a head of that size is made.
        sides = {side for name, record in state.head.items() for side in record.tensors[name].shape}
        _require(options.projection in sides, f"the head has no projection of width {options.projection}")


def _unique(values: Iterable[object]) -> bool:
    listed = list(values)
    return len(set(listed)) == len(listed)
