"""What methods with one adapted backbone and one head share: train, read features, update the head."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.errors import UsageError
from hamcl.heads import Drift, Head, Rows, TaskRows, build_head, within_task
from hamcl.learning.learner import Method, State, TaskReport, prefixed, stripped
from hamcl.memory import Memory
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.reading.batches import Batch
from hamcl.rng import generator, scoped
from hamcl.streams.base import Joined, Modality, Samples, Task
from hamcl.streams.lazy import Kept
from hamcl.training.loop import Fit, Model, Progress, fit
from hamcl.training.position import Checkpoint

Change = Callable[[Samples, list[int], int, Tensor | None, TaskReport], None]
"""What turns the model into one that knows a task, given its samples, its columns, its index, the features of the
samples from before (where the head follows drift) and the report to fill."""


def adapted(backbone: Backbone, config: HAMConfig) -> AdaptedBackbone:
    """Put the layers that `config` describes into a backbone."""
    return AdaptedBackbone(
        backbone,
        rank=config.rank,
        max_groups=config.max_groups,
        targets=config.targets,
        scale=config.lora_alpha / config.rank,
        dropout=config.dropout,
        seed=config.seed,
    )


class Classifier(Method):
    """A method made of one model and one head over all seen classes (`config.head`).

    A task goes: read features, `begin`, train, `end`, move the head's statistics along with the features, update
    them with the task's samples. Subclasses say what `begin` and `end` do.

    Attributes:
        model: batch -> features.
        rows: the linear classifier rows trained with each task.
        head: what classifies; `rows` itself for the heads "linear" and "cosine".
        memory: stored samples of earlier classes (`config.memory_per_class`).
        checkpoint: keeps the position of the training in `learn`; None, as at first, keeps none.
    """

    heads: Sequence[str] = ("auto", "linear", "cosine", "ncm", "lda", "ridge", "stack")
    """What the option `head` may be."""

    AUTO: Mapping[Modality, str] = MappingProxyType({"image": "stack", "text": "ridge"})
    """The head "auto" by what the backbone reads: the depths of an image network differ far more in worth."""

    def __init__(self, backbone: Backbone, config: HAMConfig, model: Model) -> None:
        super().__init__(backbone, config)
        if config.head not in self.heads:
            raise UsageError(
                f"{type(self).__name__} brings its own classifier: head={config.head!r} must be "
                f"{' or '.join(self.heads)}, the rows a task trains with"
            )
        self.model = model
        self.model.to(self.device)
        self.model.eval()
        self.checkpoint: Checkpoint | None = None
        self.memory = Memory(config.memory_per_class, backbone.preprocess, config.seed)
        self.rows = Rows(backbone.width, cosine=config.head == "cosine")
        self.head: Head = self.rows
        if config.head not in ("linear", "cosine"):
            self.head = build_head(
                self.AUTO[backbone.modality] if config.head == "auto" else config.head,
                backbone.blocks * (2 if config.head_features == "both" else 1),
                shrinkage=config.shrinkage,
                projection=config.projection,
                seed=config.seed,
            )

    def learn(self, task: Task, progress: Progress | None = None) -> TaskReport:
        def train(samples: Samples, columns: list[int], index: int, old: Tensor | None, report: TaskReport) -> None:
            with report.timed("training"):
                self._begin()
                trained, own = self._rehearsed(samples, columns, index)
                # Texts are not augmented, so these features are the same in every epoch.
                fixed = self._distill(task) > 0 and self.backbone.modality == "text"
                anchors = self._anchors(trained, old if trained is samples else None) if fixed else None
                rows = self.rows.trainable(torch.tensor(own), generator(self.config.seed, index, "rows"))
                done = self._train(rows, task, trained, index, anchors, progress)
                self.rows.store(torch.tensor(own), rows)
                report.losses = done.losses
                report.samples_per_second = done.samples / max(done.seconds, 1e-9)
            with report.timed("merging"):
                self._end(task, samples, index, report)

        return self._take_in(task, train)

    def _rehearsed(self, samples: Samples, columns: list[int], index: int) -> tuple[Samples, list[int]]:
        """What a task trains on, and the columns of its labels: the task's own, or, where samples were stored, as many
        of those as the task has at most, and all classes seen.
        """
        stored = self.memory.draw(len(samples), index)
        if not len(stored):
            return samples, columns
        own = [columns[y] for y in samples.labels]
        both = Samples(Joined((samples.inputs, stored.inputs)), [*own, *stored.labels])
        return both, list(range(max(*columns, *self.memory.columns) + 1))

    def _take_in(self, task: Task, change: Change, *, may_be_empty: bool = False) -> TaskReport:
        """Put a task into the model by `change`, then into the head; on an error all is as it was before."""
        if not isinstance(task, Task):
            raise UsageError(
                f"learn() takes a Task, got {task!r:.80}; load_task(path) makes one of a folder or a file"
            )
        with self.turns.changing():
            return self._taken_in(task, change, may_be_empty=may_be_empty)

    def _taken_in(self, task: Task, change: Change, *, may_be_empty: bool) -> TaskReport:
        start = time.perf_counter()
        # The check, the features before, each epoch and each view read all images again.
        task = replace(task, train=replace(task.train, inputs=Kept(task.train.inputs)))
        samples, skipped, notes = self._usable(task, may_be_empty=may_be_empty)
        before = self.state_dict()
        try:
            report = self._changed(task, samples, change)
        except BaseException:
            self.load_state_dict(before)
            raise
        report.skipped, report.notes = skipped, notes
        report.seconds = time.perf_counter() - start
        return report

    def _changed(self, task: Task, samples: Samples, change: Change) -> TaskReport:
        index, report = len(self.tasks), self._report(task)
        classes, columns = self._columns(task)
        self.augmentation = task.augmentation
        for head in {id(self.rows): self.rows, id(self.head): self.head}.values():
            head.add_classes(len(classes) - len(self.classes))

        with report.timed("features before"):
            follow = index > 0 and self.config.drift in self.head.follows
            old = self._extract(self._features, samples) if follow else None
        change(samples, columns, index, old, report)
        with report.timed("head"):
            labels = torch.tensor(columns)[torch.tensor(list(samples.labels), dtype=torch.long)]
            if self.head is not self.rows:
                self._update_head(old, self._statistics(samples, index), labels.repeat(self._views))
            elif len(labels):
                self.rows.calibrate(self._extract(self.model, samples), labels)

        self.memory.add(samples, columns)
        self.classes = classes
        self.tasks.append(columns)
        self.task_names.append(task.name)
        return report

    def _report(self, task: Task) -> TaskReport:
        return TaskReport(task.name, list(task.classes))

    def _anchors(self, samples: Samples, old: Tensor | None) -> Tensor:
        """The features that distillation stays near: without the adapter in training, shape (n, width).

        Args:
            old: what the head saw of the samples before the task began, or None where nothing asked for it.
        """
        with self.model.without_task():
            return self._extract(self.model, samples)

    def _train(
        self,
        rows: TaskRows,
        task: Task,
        samples: Samples,
        index: int,
        anchors: Tensor | None,
        progress: Progress | None,
    ) -> Fit:
        return fit(
            self.model,
            rows,
            samples,
            self.backbone.preprocess,
            self._settings(task),
            self.device,
            task=task.name,
            index=index,
            augmentation=task.augmentation,
            anchors=anchors,
            progress=progress,
            checkpoint=self.checkpoint,
            share=self._share_of_steps(task),
        )

    def _share_of_steps(self, task: Task) -> float:
        """The part of the epochs' steps that a task about to be learned takes."""
        # Rows that classify need them all: their own rate does not shrink.
        if self.config.shorten == "never" or self.head is self.rows or self.config.task_scores > 0:
            return 1.0
        # Images are augmented, so the features to stay near are computed anew at every step, which makes it dear.
        least = 1 / self.config.epochs if self.backbone.modality == "text" else 0.0
        return max(least, self._share(task))

    def _settings(self, task: Task) -> HAMConfig:
        """The options that the training of a task goes by."""
        settings = replace(self.config, distill=self._distill(task))
        if not settings.settle:
            return settings
        # Adam's steps are as long as the learning rate whatever the loss weighs: no distillation makes them shorter.
        share = self._share(task)
        return replace(settings, lr=share * settings.lr, importance_lr=share * settings.importance_lr)

    def _share(self, task: Task) -> float:
        """The share of the classes of a task about to be learned in all classes, with those before."""
        return len(task.classes) / (len(task.classes) + len(self.classes))

    def _distill(self, task: Task) -> float:
        """The weight of the distillation for a task about to be learned."""
        if not self.config.distill_growth:
            return self.config.distill
        # What a move of the features costs grows with the classes learned before, what it gains does not.
        return self.config.distill * len(self.classes) / len(task.classes)

    def _update_head(self, old: Tensor | None, new: Tensor, labels: Tensor) -> None:
        """Tell the statistics how the features moved, then add the task's samples.

        Args:
            old: the clean samples' features from before the task, shape (n, width), or None where nothing follows.
            new: those of all views after it, the clean ones first, shape (views * n, width).
            labels: columns, shape (views * n,).
        """
        if old is not None and self.config.drift == "map":
            self.head.move(Drift.fit(old, new[: len(old)]))
        elif old is not None:
            self.head.blur(old, new[: len(old)])
        self.head.update(new, labels, self._views)

    @abstractmethod
    def _begin(self) -> None:
        """Make the model ready to train a task."""

    @abstractmethod
    def _end(self, task: Task, samples: Samples, index: int, report: TaskReport) -> None:
        """Turn what was trained into the model that stays."""

    def _frozen(self, batch: Batch) -> Tensor:
        with self.model.frozen():
            return self.model(batch)

    def _features(self, batch: Batch) -> Tensor:
        """What the head sees of a batch: frozen features, adapted ones, or both side by side."""
        match self.config.head_features:
            case "adapted":
                return self.model(batch)
            case "frozen":
                return self._frozen(batch)
        return torch.cat([self._frozen(batch), self.model(batch)], 1)

    @property
    def _views(self) -> int:
        """Passes over a task's samples for the head; more than one only where augmentation makes them differ."""
        return 1 if self.backbone.modality == "text" or self.augmentation == "none" else self.config.views

    def _statistics(self, samples: Samples, index: int) -> Tensor:
        """Features of the current task for the head: one clean pass, then augmented views, the same at every call."""
        passes = [self._extract(self._features, samples)]
        for view in range(1, self._views):
            with scoped(self.config.seed, index, "view", view):
                passes.append(self._extract(self._features, samples, train=True))
        return torch.cat(passes)

    @property
    def judged(self) -> float:
        return 0.0 if self.config.task_scores > 0 else self.head.judged

    def logits(self, samples: Samples) -> Tensor:
        if self.head is self.rows:
            return self.head.logits(self._extract(self.model, samples))
        features = self._extract(self._features, samples)
        scores = self.head.logits(features)
        if self.config.task_scores > 0:
            adapted = features[:, -self.backbone.width :]
            if self.config.head_features == "frozen":
                adapted = self._extract(self.model, samples)
            scores = scores + self.config.task_scores * within_task(self.rows.logits(adapted), self.tasks)
        return scores

    def state_dict(self) -> State:
        with self.turns.asking(inside=True):
            return self._state()

    def _state(self) -> State:
        tensors, meta = self._model_state()
        state: State = {"meta": {**self._meta(), "model": meta}}
        state |= prefixed("model", tensors) | prefixed("rows", self.rows.state_dict())
        if self.head is not self.rows:
            state |= prefixed("head", self.head.state_dict())
        if self.memory.per_class:
            state |= prefixed("memory", self.memory.state_dict())
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}

    def load_state_dict(self, state: State) -> None:
        with self.turns.changing():
            self._load_state(state)

    def _load_state(self, state: State) -> None:
        self._load_meta(state["meta"])
        self._load_model_state(stripped("model", state), state["meta"]["model"])
        self.rows.load_state_dict(stripped("rows", state))
        if self.head is not self.rows:
            self.head.load_state_dict(stripped("head", state))
        if self.memory.per_class:
            self.memory.load_state_dict(stripped("memory", state))

    @abstractmethod
    def _model_state(self) -> tuple[dict[str, Tensor], State]:
        """The tensors the model keeps between tasks, and plain values."""

    @abstractmethod
    def _load_model_state(self, tensors: dict[str, Tensor], meta: State) -> None:
        """Take over what `_model_state` gave, and leave no task in training."""

    def parameter_counts(self) -> dict[str, int]:
        rows = (self.backbone.width + 1) * (len(self.tasks[-1]) if self.tasks else 0)
        stored = sum(value.numel() for value in self.state_dict().values() if isinstance(value, Tensor))
        return {"trainable": self.model.trainable_count() + rows, "stored": stored}
