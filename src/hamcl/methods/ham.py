"""HAM, the learner: one adapter per task, merged into a fixed number of groups (arXiv 2509.13211)."""

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
from hamcl.learning.classify import Classifier, adapted
from hamcl.learning.learner import State, TaskReport
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.rng import generator
from hamcl.streams.base import Samples, Task


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


class HAM(Classifier):
    """Hierarchical adapter merging.

    Example:
        >>> model = HAM.from_backbone("minilm", HAMConfig(seed=0))
        >>> for task in load_stream("icd10", tasks=5, classes_per_task=8):
        ...     report = model.learn(task)
        >>> model.predict(["Fracture of left wrist"]).labels
    """

    keeps = "save(path) of it keeps it in a folder, without pickle, and HAM.load(path) reads that"

    PROBE = 256
    """Samples of the current task on which `cka` compares feature changes."""

    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig) -> None:
        super().__init__(backbone, config, adapted(backbone, config))
        self.groups = Groups(config.max_groups, config.threshold, calibrated=config.threshold_kind == "zscore")

    @property
    def together(self) -> bool:
        # Frozen features are computed by switching the adapters off.
        return self.config.head_features == "adapted" or self.head is self.rows

    def _report(self, task: Task) -> HAMReport:
        return HAMReport(task.name, list(task.classes), notes=list(task.notes))

    def _begin(self) -> None:
        self.model.start_task()

    def _anchors(self, samples: Samples, old: Tensor | None) -> Tensor:
        """The features of the groups alone, which are also those from before the task."""
        if old is None or self.config.head_features == "frozen":
            return super()._anchors(samples, old)
        return old[:, -self.backbone.width :]

    def _end(self, task: Task, samples: Samples, index: int, report: TaskReport) -> None:
        """Keep what was trained: the adapter and the importances."""
        adapter = self.model.task_adapter(task.name)
        adapter.check()
        trained = self.model.group_importance.detach().cpu().tolist()
        for group, importance in zip(self.groups.groups, trained, strict=False):
            group.importance = importance
        self._merge(adapter, samples, index, report)

    def _merge(self, adapter: Adapter, samples: Samples, index: int, report: TaskReport) -> None:
        """Compare, assign, prune, scale and merge a finished adapter; then show the groups to the model."""
        assert isinstance(report, HAMReport)
        report.importance = adapter.importance
        report.group_importances = [group.importance for group in self.groups.groups]
        assignment = self.groups.assign(self._similarities(adapter, samples))
        merged = self.groups.absorb(
            assignment,
            adapter,
            rule=self.config.merge,
            rank=self.config.merge_rank,
            density=self.config.density,
            prune_on=self.config.prune_on,
            generator=generator(self.config.seed, index, "merge"),
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
        if self.head is not self.rows and not len(task.train):
            raise UsageError(
                f"the head takes its statistics from samples: give training samples of each class of {task.name!r}"
            )
        rows = None
        if self.head is self.rows or self.config.task_scores > 0:
            if self.rows.cosine:
                raise UsageError("head 'cosine' compares directions, for which no other classifier was trained")
            head = linear_head(foreign, self.model.folded({}).cpu(), task.classes)
            rows = TaskRows(head.weight, head.bias, None)
        empty = {name: layer.shape for name, layer in self.model.layers.items() if name not in foreign.layers}
        zeros = {name: Factors(torch.zeros(1, i), torch.zeros(o, 1)) for name, (o, i) in empty.items()}
        layers = {name: foreign.layers.get(name) or zeros[name] for name in self.model.layers}

        def take(samples: Samples, columns: list[int], index: int, old: Tensor | None, report: TaskReport) -> None:
            with report.timed("merging"):
                if rows is not None:
                    self.rows.store(torch.tensor(columns), rows)
                self._merge(Adapter(task.name, layers), samples, index, report)

        report = self._take_in(task, take, may_be_empty=True)
        assert isinstance(report, HAMReport)
        return report

    def _similarities(self, adapter: Adapter, samples: Samples) -> list[float]:
        groups = [group.layers for group in self.groups.groups]
        match self.config.similarity:
            case "weight":
                return [similarity.weight(adapter.layers, layers) for layers in groups]
            case "factor":
                return [similarity.factor(adapter.layers, layers) for layers in groups]
        count = min(len(samples), self.PROBE)
        if not groups or count < 2:  # one sample shows no alignment
            return [0.0] * len(groups)
        # Evenly spread, because samples often come class by class.
        probe = samples.select([i * len(samples) // count for i in range(count)])
        self.model.end_task()
        bare = self._extract(self._frozen, probe)
        changes = []
        for layers in [adapter.layers, *groups]:
            self.model.load_groups([layers], [1.0])
            changes.append(self._extract(self.model, probe) - bare)
        return [similarity.cka(changes[0], change) for change in changes[1:]]

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

        Head, classes and stored samples are those of `self`, which stays as it is. Where the groups are lost, or are
        to make room for new ones, this is how learning goes on; its state belongs to the merged backbone.

        Raises:
            UsageError: nothing was learned yet, or the head sees frozen features, which the merged model has not.
        """
        merged = self.merged()
        if self.config.head_features != "adapted" and self.head is not self.rows:
            raise UsageError(
                f"the head knows features of the bare backbone (head_features={self.config.head_features!r}), which "
                "the merged model does not give"
            )
        learner = HAM(merged, self.config)
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
            UsageError: nothing was learned yet, the scores need more than one head on the merged model, or what
                `hamcl.export.export` raises.
        """
        merged = self.merged()
        for option, value, plain in (
            ("head_features", self.config.head_features, "adapted"),
            ("task_scores", self.config.task_scores, 0.0),
        ):
            if value != plain and self.head is not self.rows:
                raise UsageError(
                    f"{option}={value!r} needs more than one head on the merged model, so it cannot be exported; "
                    f"learn with {option}={plain!r}"
                )
        self._require_finite(merged)
        learned = Learned(
            merged=merged.cpu(),
            fingerprint=self.backbone.fingerprint,
            groups=self.groups.groups,
            head=self.head.linear(),
            normalize=self.head is self.rows and self.rows.cosine,
            classes=self.classes,
            tasks=[
                (name, [self.classes[c] for c in columns])
                for name, columns in zip(self.task_names, self.tasks, strict=True)
            ],
            augmentation=self.augmentation,
            config=self.config.to_dict(),
        )
        return export(learned, path, kind, card=card, overwrite=overwrite)

    def _require_finite(self, merged: Backbone) -> None:
        """Raise DataError where what is to be exported holds numbers that are not finite."""
        head = self.head.linear()
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
            UsageError: there is something at `path` already, the learner keeps samples (`memory_per_class`), its
                backbone was not made by `load_backbone`, or it is learning.
            DataError: the folder cannot be written.
        """
        from hamcl.store import saved  # a store builds on this module

        with self.turns.asking():
            saved.save(self, Path(path).expanduser())

    @classmethod
    def load(cls, path: str | Path, *, backbone: str | None = None, device: str | None = None) -> "HAM":
        """Read what `save` wrote, or the present state of any store; learning can go on from it.

        Args:
            backbone: where the backbone lies now, if not where it was; it must be the same one.
            device: instead of the one it was on.

        Raises:
            UsageError: there is nothing to read at `path`.
            DataError: something in it was changed, or the backbone is missing or another one.
        """
        from hamcl.store import saved

        return saved.load(Path(path).expanduser(), backbone=backbone, device=device)

    def _model_state(self) -> tuple[dict[str, Tensor], State]:
        state = self.groups.state_dict()
        return {name: value for name, value in state.items() if name != "meta"}, state["meta"]

    def _load_model_state(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.groups.load_state_dict({**tensors, "meta": meta})
        self._show_groups()
