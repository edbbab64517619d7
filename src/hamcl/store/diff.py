"""In what two stores differ."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from hamcl.store.folder import Folder
from hamcl.store.manifest import Manifest
from hamcl.store.records import ObjectRecord

Section = Literal[
    "backbone", "config", "class", "task", "option", "group", "importance", "tensor", "grouping", "evaluation"
]


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same.

    Attributes:
        mine, theirs: its value on either side; None where a side has no such thing. Of a tensor: its dtype and shape,
            and of `theirs` how far it is away where both have one.
    """

    section: Section
    name: str
    mine: object
    theirs: object


def diff(mine: Folder, theirs: Folder) -> list[Difference]:
    """What differs between two stores, see `LightStore.diff`."""
    sides = [_facts(folder.manifest) for folder in (mine, theirs)]
    found: list[Difference] = []
    for section in sides[0]:
        if section == "evaluation":
            found += _tensors(mine, theirs)
        a, b = sides[0][section], sides[1][section]
        if section == "class" and a.keys() == b.keys() and [*a] != [*b]:
            found.append(Difference("class", "their order", tuple(a), tuple(b)))
        found += [Difference(section, k, a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    return found


def _tensors(mine: Folder, theirs: Folder) -> Iterator[Difference]:
    """Tensors that are not the same bit for bit."""
    a, b = mine.manifest.state.files, theirs.manifest.state.files
    for part in dict.fromkeys([*a, *b]):
        one, other = a.get(part), b.get(part)
        if one and other and one.sha256 == other.sha256:
            continue
        from hamcl.store.objects import load_object  # PyTorch, which most comparisons need not

        names = dict.fromkeys([*(one.tensors if one else ()), *(other.tensors if other else ())])
        # Read only where both have a tensor of this kind; a shape tells enough otherwise.
        comparable = any(_kind(one, n) == _kind(other, n) for n in names)
        values = [load_object(f.path, r) if comparable and r else {} for f, r in ((mine, one), (theirs, other))]
        for name in names:
            shown = part if part == f"head.{name}" else f"{part}.{name}"
            kinds = [_kind(record, name) for record in (one, other)]
            if kinds[0] != kinds[1]:
                yield Difference("tensor", shown, *kinds)
                continue
            x, y = (side[name] for side in values)
            if not x.equal(y):
                gap = (x.double() - y.double()).abs().max().item()
                yield Difference("tensor", shown, kinds[0], f"{kinds[1]}, up to {gap:.3g} away")


def _kind(record: ObjectRecord | None, name: str) -> str | None:
    if record is None or name not in record.tensors:
        return None
    tensor = record.tensors[name]
    return f"{tensor.dtype} {' x '.join(map(str, tensor.shape)) or 'number'}"


def _facts(manifest: Manifest) -> dict[Section, Mapping[str, object]]:
    state = manifest.state
    owner = {state.classes[c]: task.name for task in state.tasks for c in task.columns}
    last = state.evaluations[-1] if state.evaluations else None
    scores = {} if last is None else {"overall": last.overall, **last.tasks}
    unknown = {"options": "not known"}
    return {
        "backbone": {
            "spec": manifest.backbone.spec,
            "fingerprint": manifest.backbone.fingerprint,
            "layers": manifest.backbone.layers,
            **asdict(manifest.backbone.options),
        },
        "config": manifest.options.to_dict(),
        "class": owner,
        "task": {task.name: task.data for task in state.tasks},
        "option": {
            f"{task.name}: {name}": value
            for task in state.tasks
            for name, value in (unknown if task.options is None else task.options).items()
        },
        "group": {str(j): group.tasks for j, group in enumerate(state.groups)},
        "importance": {str(j): group.importance for j, group in enumerate(state.groups)},
        "grouping": {
            "augmentation": state.augmentation,
            **asdict(state.calibration),
            **{
                task.name: (decision.index, decision.opened, *decision.similarities)
                for task, decision in zip(state.tasks, state.decisions, strict=True)
            },
        },
        "evaluation": {name: score.accuracy for name, score in scores.items()},
    }
