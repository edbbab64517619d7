"""In what two stores differ."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from hamcl.store.manifest import Manifest

Section = Literal["backbone", "config", "class", "task", "group", "importance", "evaluation"]


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same.

    Attributes:
        mine, theirs: its value on either side; None where a side has no such thing.
    """

    section: Section
    name: str
    mine: object
    theirs: object


def diff(mine: Manifest, theirs: Manifest) -> list[Difference]:
    """Compare backbones, config, classes, tasks, groups (by position), importances and the last evaluations."""
    sides = [_facts(manifest) for manifest in (mine, theirs)]
    found: list[Difference] = []
    for section in sides[0]:
        a, b = sides[0][section], sides[1][section]
        found += [Difference(section, k, a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    return found


def _facts(manifest: Manifest) -> dict[Section, Mapping[str, object]]:
    state = manifest.state
    owner = {state.classes[c]: task.name for task in state.tasks for c in task.columns}
    last = state.evaluations[-1] if state.evaluations else None
    scores = {} if last is None else {"overall": last.overall, **last.tasks}
    return {
        "backbone": {
            "spec": manifest.backbone.spec,
            "fingerprint": manifest.backbone.fingerprint,
            **asdict(manifest.backbone.options),
        },
        "config": manifest.config,
        "class": owner,
        "task": {task.name: task.data for task in state.tasks},
        "group": {str(j): group.tasks for j, group in enumerate(state.groups)},
        "importance": {str(j): group.importance for j, group in enumerate(state.groups)},
        "evaluation": {name: score.accuracy for name, score in scores.items()},
    }
