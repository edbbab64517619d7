"""HAM, the learner: one adapter per task, merged into a fixed number of groups (arXiv 2509.13211)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.export import Card, Kind, Learned, export
from hamcl.export.foreign import linear_head, read_foreign
from hamcl.ham import Adapter, Factors, Groups, final, similarity
from hamcl.heads import TaskRows
from hamcl.learning.learner import Learner, adapted
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.rng import generator
from hamcl.streams.base import Task
from hamcl.training.lesson import Given, Lesson, State, TaskReport


@dataclass
class HAMReport(TaskReport):
    """What HAM decided for one task.

    Attributes:
        group: index of the group the adapter went into.
        opened: whether that group was opened for it.
        similarities: the adapter's similarity to each group there was before.
        scores: what was compared with the threshold; None while there is nothing to calibrate on.
        prune_error, merge_error: relative Frobenius errors over all layers.
        importance: alpha_i as trained.
        group_importances: alpha_Gj as trained, before the joined group's was folded in.
    """

    group: int = 0
    opened: bool = True
    similarities: list[float] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    prune_error: float = 0.0
    merge_error: float = 0.0
    importance: float = 1.0
    group_importances: list[float] = field(default_factory=list)


class HAM(Learner):
    """Hierarchical adapter merging (arXiv 2509.13211): the LoRA adapters of tasks merge into a few groups.

    Example:
        >>> model = HAM.from_backbone("minilm", HAMConfig(seed=0))
        >>> for task in load_stream("icd10", tasks=5, classes_per_task=8):
        ...     report = model.learn(task)
        >>> model.predict(["Fracture of left wrist"]).labels
    """

    keeps = "save(path) of it keeps it in a folder, without pickle, and HAM.load(path) reads that"

    own = frozenset({"max_groups", "threshold", "merge", "merge_rank", "density", "prune_on"})
    model: AdaptedBackbone

    def __init__(
        self,
        backbone: Backbone,
        config: HAMConfig | None = None,
        machine: Machine | None = None,
        *,
        layers: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            layers: the names of those to adapt, which need not be found then; None: those of `config.targets`.
        """
        self._layers = layers
        super().__init__(backbone, config or HAMConfig(), machine)
        self.groups = Groups(self.settings.max_groups, self.settings.threshold)

    def adapt(self) -> AdaptedBackbone:
        return adapted(self.backbone, self.settings, self._layers)

    def report(self, task: Task) -> HAMReport:
        return HAMReport(task.name, list(task.classes), notes=list(task.notes))

    def begin(self, lesson: Lesson) -> None:
        """A new adapter beside the groups, whose features are also those from before the task."""
        self.model.start_task()
        lesson.anchors = lesson.before

    def end(self, lesson: Lesson) -> None:
        """Compare, assign, prune, scale and merge the adapter; then show the groups to the model."""
        adapter, report, settings = lesson.finite_adapter(), lesson.report, self.settings
        assert isinstance(report, HAMReport)
        if lesson.given is None:
            trained = self.model.group_importance.detach().cpu().tolist()
            for group, importance in zip(self.groups.groups, trained, strict=False):
                group.importance = importance
        report.importance = adapter.importance
        report.group_importances = [group.importance for group in self.groups.groups]
        similarities = [similarity.weight(adapter.layers, group.layers) for group in self.groups.groups]
        assignment = self.groups.assign(similarities)
        merged = self.groups.absorb(
            assignment,
            adapter,
            rule=settings.merge,
            rank=settings.merge_rank,
            density=settings.density,
            prune_on=settings.prune_on,
            generator=generator(settings.seed, lesson.index, "merge"),
        )
        report.group, report.opened = assignment.index, assignment.opened
        report.similarities, report.scores = assignment.similarities, assignment.scores
        report.prune_error, report.merge_error = merged.prune_error, merged.merge_error
        self._show_groups()

    def import_adapter(self, folder: str | Path, task: Task) -> HAMReport:
        """Make a LoRA that was trained elsewhere a task: compared, grouped and merged like an adapter of our own.

        The analytic heads need training samples of every class of `task`, from which they take their statistics. The
        head "linear" needs the adapter's own classifier (PEFT's `modules_to_save`) and no samples.

        Args:
            folder: as PEFT saves it, with weights in safetensors.
            task: its name and its classes, in the order of the adapter's classifier if that is used; the adapter is
                taken for trained on them.

        Raises:
            UsageError: the adapter is no plain LoRA, belongs to another model or adapts layers that are not adapted
                here, or the head lacks what it needs.
            DataError: the adapter's files are damaged, or the samples cannot be used.
        """
        foreign = read_foreign(folder, self.backbone)
        trained = self.objective.head.trained
        if not trained and not len(task.train):
            raise UsageError(
                f"the head takes its statistics from samples: give training samples of each class of {task.name!r}"
            )
        rows = None
        if trained:
            if self.objective.rows.cosine:
                raise UsageError("head 'cosine' compares directions, for which no other classifier was trained")
            head = linear_head(foreign, self.model.folded({}).cpu(), task.classes)
            rows = TaskRows(head.weight, head.bias, None)
        empty = {name: layer.shape for name, layer in self.model.layers.items() if name not in foreign.layers}
        zeros = {name: Factors(torch.zeros(1, i), torch.zeros(o, 1)) for name, (o, i) in empty.items()}
        layers = {name: foreign.layers.get(name) or zeros[name] for name in self.model.layers}
        report = self.learn(task, given=Given(Adapter(task.name, layers), rows))
        assert isinstance(report, HAMReport)
        return report

    def _show_groups(self) -> None:
        groups = self.groups.groups
        self.model.end_task()
        self.model.load_groups([group.layers for group in groups], [group.importance for group in groups])

    def merged(self) -> Backbone:
        """A plain copy of the backbone with all groups folded into its weights; learning can go on from `self`.

        Raises:
            UsageError: nothing was learned yet.
        """
        if not self.groups.groups:
            raise UsageError("nothing was learned yet: call learn(task) first")
        with self.turns.asking():
            return self.model.folded(final(self.groups.groups))

    def rebased(self) -> "HAM":
        """A learner that goes on from the final merge: its backbone is the merged model, its groups are still to come.

        Head and classes are those of `self`, which stays as it is. Where the groups are lost, or are to make
        room for new ones, this is how learning goes on; its state belongs to the merged backbone.

        Raises:
            UsageError: nothing was learned yet.
        """
        merged = self.merged()
        learner = HAM(merged, self.config, self.machine)
        own, taken = learner.state_dict(), self.state_dict()
        learner.load_state_dict(
            {
                **{name: value for name, value in taken.items() if not name.startswith("model.")},
                "meta": {**taken["meta"], "model": own["meta"]["model"]},
            }
        )
        return learner

    def export(
        self, path: str | Path, kind: Kind = "merged", *, card: Card | None = None, overwrite: bool = False
    ) -> str:
        """Write the learner in the format of another library, see `hamcl.export`.

        Args:
            path: a new folder.
            kind: "peft", "merged", "onnx" or "adapters".
            card: what the model card says besides what the learner knows of itself.
            overwrite: replace an earlier export.

        Returns:
            How it is used, in one line.

        Raises:
            UsageError: nothing was learned yet, or what `hamcl.export.export` raises.
        """
        merged = self.merged()
        self._require_finite(merged)
        head = self.objective.head
        learned = Learned(
            merged=merged.cpu(),
            fingerprint=self.backbone.fingerprint,
            groups=self.groups.groups,
            head=head.linear(),
            normalize=head.trained and self.objective.rows.cosine,
            classes=self.classes,
            tasks=[
                (name, [self.classes[c] for c in columns])
                for name, columns in zip(self.task_names, self.tasks, strict=True)
            ],
            augmentation=self.objective.augmentation,
            config=self.config.to_dict(),
        )
        return export(learned, path, kind, card=card, overwrite=overwrite)

    def _require_finite(self, merged: Backbone) -> None:
        """Raise DataError where what is to be exported holds numbers that are not finite."""
        head = self.objective.head.linear()
        parts = {"the head": [head.weight, head.bias, head.projection, head.direct]}
        for name in self.model.layers:
            parts[f"layer {name!r}"] = [merged.module.get_submodule(name).weight]  # type: ignore[list-item]
        for what, tensors in parts.items():
            if not all(tensor is None or tensor.isfinite().all() for tensor in tensors):
                raise DataError(
                    f"{what} holds numbers that are not finite, so the model cannot be exported; restore it from a "
                    "copy, or learn again with a lower lr"
                )

    def save(self, path: str | Path) -> None:
        """Write the learner to a new folder, without pickle: it is a store (see docs/store.md) of this one state.

        The backbone's weights stay where they are; the folder says which they were. `HAM.load` reads it, and so do
        `Store.open` and every `ham` command.

        Raises:
            UsageError: there is something at `path` already, the backbone was not made by `load_backbone`, or the
                learner is learning.
            DataError: the folder cannot be written.
        """
        from hamcl.store import saved  # a store builds on this module

        with self.turns.asking():
            saved.save(self, Path(path).expanduser())

    @classmethod
    def load(cls, path: str | Path, *, backbone: str | None = None, machine: Machine | None = None) -> "HAM":
        """Read what `save` wrote, or the present state of any store; learning can go on from it.

        Args:
            backbone: where the backbone lies now, if not where it was; it must be the same one.
            machine: where it computes.

        Raises:
            UsageError: there is nothing to read at `path`.
            DataError: something in it was changed, or the backbone is missing or another one.
        """
        from hamcl.store import saved

        return saved.load(Path(path).expanduser(), backbone=backbone, machine=machine)

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        state = self.groups.state_dict()
        return {name: value for name, value in state.items() if name != "meta"}, state["meta"]

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.groups.load_state_dict({**tensors, "meta": meta})
        self._show_groups()
