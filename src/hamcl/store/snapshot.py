"""A learner's state as objects and records, and back."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hamcl.errors import DataError, UsageError
from hamcl.ham.flat import prefixed, stripped
from hamcl.methods.ham import HAM
from hamcl.store.manifest import CalibrationRecord, Decision, GroupRecord, State, TaskRecord
from hamcl.store.objects import DTYPES
from hamcl.store.records import ObjectRecord

Save = Callable[[dict[str, Tensor]], ObjectRecord]
Load = Callable[[ObjectRecord], dict[str, Tensor]]


def take(learner: HAM, before: State, facts: dict[str, TaskRecord], save: Save) -> State:
    """Hand every part of what a learner knows to `save`: each group, the rows, and each tensor of the head.

    Args:
        before: the state the learner started from.
        facts: records of the tasks it learned since.
    """
    state = learner.state_dict()
    meta, model = state["meta"], state["meta"]["model"]
    known = {task.name: task for task in before.tasks} | facts
    groups = tuple(
        GroupRecord(group["importance"], tuple(group["tasks"]), save(stripped(f"model.{j}", state)))
        for j, group in enumerate(model["groups"])
    )
    return replace(
        before,
        classes=tuple(meta["classes"]),
        tasks=tuple(
            replace(known[name], columns=tuple(columns))
            for name, columns in zip(meta["task_names"], meta["tasks"], strict=True)
        ),
        augmentation=meta["augmentation"],
        groups=groups,
        decisions=tuple(
            Decision(d["index"], d["opened"], tuple(d["similarities"]), tuple(d["scores"])) for d in model["history"]
        ),
        calibration=CalibrationRecord(**model["calibration"]),
        rows=save(stripped("rows", state)),
        head={name: save({name: value}) for name, value in stripped("head", state).items()},
    )


def give(state: State, learner: HAM, load: Load, path: Path) -> None:
    """Put a state into a learner that knows nothing yet; its shapes are compared before anything is read.

    Raises:
        DataError: it does not fit the learner.
    """
    if not state.tasks:
        return
    try:
        _check(state, learner)
        assert state.rows is not None
        tensors = prefixed("rows", load(state.rows))
        for j, group in enumerate(state.groups):
            tensors |= prefixed(f"model.{j}", load(group.file))
        for record in state.head.values():
            tensors |= prefixed("head", load(record))
        learner.objective.head.add_classes(len(state.classes) - 1)
        learner.load_state_dict({**tensors, "meta": _meta(state)})
    except UsageError as error:
        raise DataError(f"the state in {path} does not fit its backbone and config: {error}") from error


def _check(state: State, learner: HAM) -> None:
    """Raise UsageError where a record is not what the learner would hold; its head then knows one class."""
    for j, group in enumerate(state.groups):
        for layer in group.layers:
            if layer not in learner.model.layers:
                raise UsageError(f"group {j} updates layer {layer!r}, which is not adapted")
            out, width = learner.model.layers[layer].shape
            a, b = group.file.tensors[f"{layer}.A"], group.file.tensors[f"{layer}.B"]
            if (b.shape[0], a.shape[1]) != (out, width) or a.dtype != "F32" or b.dtype != "F32":
                raise UsageError(f"layer {layer!r} of group {j} is {b.shape[0]} x {a.shape[1]}, not {out} x {width}")
    assert state.rows is not None
    wrong = [name for name, record in state.rows.tensors.items() if record.dtype != "F32"]
    # From how one class changes the shapes follows how all do: nothing large is made before the sizes are known.
    head = learner.objective.head
    empty = {name: tensor.shape for name, tensor in head.layout(state.head).items()}
    head.add_classes(1)
    own = head.layout(state.head)
    if own.keys() != state.head.keys():
        raise UsageError(f"the head holds {sorted(own)}, the files {sorted(state.head)}")
    for name, tensor in own.items():
        record = state.head[name].tensors[name]
        sides = zip(empty[name], tensor.shape, strict=True)
        shape = tuple(none + len(state.classes) * (one - none) for none, one in sides)
        if record.shape != shape or DTYPES[record.dtype] != tensor.dtype:
            wrong.append(name)
    if wrong:
        raise UsageError(f"tensor {wrong[0]!r} of the head has the wrong shape or type")


def _meta(state: State) -> dict[str, Any]:
    return {
        "classes": list(state.classes),
        "tasks": [list(task.columns) for task in state.tasks],
        "task_names": [task.name for task in state.tasks],
        "augmentation": state.augmentation,
        "model": {
            "groups": [
                {"importance": group.importance, "tasks": list(group.tasks), "layers": list(group.layers)}
                for group in state.groups
            ],
            "history": [
                {**asdict(d), "similarities": list(d.similarities), "scores": list(d.scores)} for d in state.decisions
            ],
            "calibration": asdict(state.calibration),
        },
    }
