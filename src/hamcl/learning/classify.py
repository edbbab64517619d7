"""Classification: rows that train with a task, and a head over all classes seen so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.errors import DataError, UsageError
from hamcl.ham.flat import prefixed, stripped
from hamcl.heads import Head, Rows, TaskRows, TrainedRows, build_head
from hamcl.learning.evaluate import answers, finite
from hamcl.reading.batches import Batch
from hamcl.rng import generator, scoped
from hamcl.streams.base import Augmentation, Samples, Task
from hamcl.streams.check import check
from hamcl.streams.given import by_position
from hamcl.streams.handed import as_images, is_one_image
from hamcl.streams.names import canonical, key, spelled
from hamcl.training.lesson import Lesson, State
from hamcl.training.loop import Model, Plan

if TYPE_CHECKING:
    from hamcl.learning.learner import Learner


@dataclass(frozen=True)
class Prediction:
    """The class names of a batch, most probable first.

    Attributes:
        labels: the k best class names of each sample.
        probabilities: shape (n, k), softmax of the logits.
    """

    labels: list[list[str]]
    probabilities: Tensor


class HeldCrossEntropy:
    """Cross-entropy over the task's rows plus feature distillation.

    The second term is `hold` times the squared distance between the features with and without the adapter in
    training, relative to the squared norm of the latter.

    Args:
        anchors: features of the samples without the adapter, shape (n, width), where no augmentation changes them;
            None computes them for each batch.
    """

    def __init__(self, model: Model, rows: TaskRows | None, hold: float, anchors: Tensor | None) -> None:
        self.model, self.rows, self.hold, self.anchors = model, rows, hold, anchors

    def __call__(self, batch: Batch, labels: Tensor, indices: Tensor) -> Tensor:
        assert self.rows is not None
        features = self.model(batch).float()
        loss = F.cross_entropy(self.rows(features), labels)
        if self.hold > 0:
            if self.anchors is not None:
                anchor = self.anchors[indices].to(features.device)
            else:
                with torch.no_grad(), self.model.without_task():
                    anchor = self.model(batch).float()
            distance = (features - anchor).square().sum(1) / anchor.square().sum(1).clamp_min(1e-12)
            loss = loss + self.hold * distance.mean()
        return loss

    def parameters(self) -> list[torch.nn.Parameter]:
        """What trains besides the model."""
        return [p for p in self.rows.parameters() if p.requires_grad] if self.rows else []

    def finite(self, batch: Batch) -> bool:
        """Whether all scores of a batch are finite."""
        assert self.rows is not None
        return bool(self.rows(self.model(batch).float()).isfinite().all())


class Classify:
    """Class-incremental classification: what a learner knows besides its model.

    Args:
        head: what answers; by default the one that the options ask for.

    Attributes:
        classes: class names seen so far, the columns of the logits.
        tasks: the columns of each task learned.
        augmentation: the kind of images learned last; evaluation prepares images the same way.
        rows: the linear classifier whose rows train with each task.
        head: what answers.
    """

    def __init__(self, learner: "Learner", head: Head | None = None) -> None:
        self.learner, self.settings, backbone = learner, learner.settings, learner.backbone
        self.classes: tuple[str, ...] = ()
        self.tasks: list[list[int]] = []
        self.augmentation: Augmentation = "none"
        self.rows = Rows(backbone.width, cosine=self.settings.head == "cosine")
        self.head = head or self._head(backbone.blocks)

    def _head(self, blocks: Sequence[int]) -> Head:
        settings = self.settings
        if settings.head in ("linear", "cosine"):
            return TrainedRows(self.rows)
        return build_head(
            settings.head,
            blocks,
            shrinkage=settings.shrinkage,
            projection=settings.projection,
            seed=settings.seed,
        )

    def usable(self, lesson: Lesson) -> tuple[Samples, list[str]]:
        """The training samples that can be read, and one message per sample left out.

        Raises:
            DataError: the task cannot be learned, or a sample cannot be read and none shall be left out.
        """
        task, backbone = lesson.task, self.learner.backbone
        if task.modality != backbone.modality:
            meant = "" if backbone.modality == "image" else "; a Task of texts is made with modality='text'"
            raise DataError(
                f"task {task.name!r} holds {task.modality} samples, but backbone {backbone.spec!r} "
                f"reads {backbone.modality}{meant}"
            )
        if not len(task.train) and not lesson.given:
            raise DataError(f"task {task.name!r} has no training samples; there is nothing to learn")
        seen = set(task.train.labels)
        missing = [name for y, name in enumerate(task.classes) if y not in seen]
        if missing and len(task.train):
            raise DataError(f"task {task.name!r} has no training samples of class {missing[0]!r}")
        known = {key(name): name for name in self.classes}
        for name in task.classes:
            if canonical(known.get(key(name), name)) != name:
                raise DataError(
                    f"class {name!r} of task {task.name!r} differs only by case from {known[key(name)]!r}, "
                    "which was learned before; rename one of them"
                )
        told = self.learner.told("reading")
        return check(task.train, self.learner.machine.on_bad_sample, task.classes, lesson.report.notes, told)

    def enter(self, lesson: Lesson) -> None:
        """Make room for the classes of a task, and see its samples as they are seen before it."""
        names, lesson.columns = self.columns(lesson.task)
        self.augmentation = lesson.task.augmentation
        for part in (self.rows, self.head):
            part.add_classes(len(names) - len(self.classes))
        if lesson.index > 0 and self.settings.drift in self.head.follows:
            lesson.before = self.learner.look(lesson.samples)

    def loss(self, lesson: Lesson, plan: Plan | None) -> HeldCrossEntropy:
        """What the training of a task makes small.

        Args:
            plan: of the training; None if there is none.
        """
        model, settings = self.learner.model, self.settings
        if lesson.given is not None:
            return HeldCrossEntropy(model, lesson.given.rows, 0.0, None)
        random = generator(settings.seed, lesson.index, "rows")
        rows = self.rows.trainable(torch.tensor(lesson.columns), random)
        anchors = lesson.anchors
        # Texts are not augmented, so these features are the same in every epoch.
        if plan is None or plan.hold <= 0 or self.learner.backbone.modality != "text":
            anchors = None
        elif anchors is None:
            with model.without_task():
                anchors = self.learner.look(lesson.samples)
        return HeldCrossEntropy(model, rows.to(self.learner.device), plan.hold if plan else 0.0, anchors)

    def leave(self, lesson: Lesson, loss: HeldCrossEntropy) -> None:
        """Keep the rows that were trained, show the head the task's samples, and know its classes."""
        if loss.rows is not None:
            self.rows.store(torch.tensor(lesson.columns), loss.rows)
        labels = torch.tensor(lesson.columns)[torch.tensor(list(lesson.samples.labels), dtype=torch.long)]
        if len(labels):
            self.teach(lesson, self.statistics(lesson), labels.repeat(self.views))
        self.classes, _ = self.columns(lesson.task)
        self.tasks.append(lesson.columns)

    def teach(self, lesson: Lesson, features: Tensor, labels: Tensor) -> None:
        """Tell the head how the features moved, then add the task's samples.

        Args:
            features: those of all views after it, the clean ones first, shape (views * n, width).
            labels: columns, shape (views * n,).
        """
        if lesson.before is not None:
            self.head.blur(lesson.before, features[: len(lesson.before)])
        self.head.update(features, labels, self.views)

    @property
    def views(self) -> int:
        """Passes over a task's samples for the head; more than one only where augmentation makes them differ."""
        return 1 if self.augmentation == "none" or self.head.trained else self.settings.views

    def statistics(self, lesson: Lesson) -> Tensor:
        """Features of a task for the head: one clean pass, then augmented views, the same at every call."""
        passes = [self.learner.look(lesson.samples)]
        for view in range(1, self.views):
            with scoped(self.settings.seed, lesson.index, "view", view):
                passes.append(self.learner.look(lesson.samples, train=True))
        return torch.cat(passes)

    def answer(self, samples: Samples) -> Tensor:
        """Scores over all seen classes, shape (n, classes), on the CPU."""
        if not self.classes:
            return torch.zeros(len(samples), 0)
        return self.head.logits(self.learner.look_again(samples))

    def predict(self, inputs: Any, k: int) -> Prediction:
        """See `Learner.predict`."""
        if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
            raise UsageError(f"k says how many classes to name, at least 1, got {k!r}")
        inputs = self._inputs(inputs)
        k = min(k, len(self.classes))
        if not len(inputs):
            return Prediction([], torch.empty(0, k))
        scores = finite(self.learner.logits(Samples(inputs, [0] * len(inputs))))
        probabilities, columns = scores.softmax(1).topk(k)
        return Prediction([[self.classes[c] for c in row] for row in columns.tolist()], probabilities)

    def score(self, task: Task) -> float:
        """See `Learner.evaluate`."""
        return answers(self.learner, task).accuracy

    def columns(self, task: Task) -> tuple[tuple[str, ...], list[int]]:
        """The class list after a task, and the task's columns in it."""
        names = spelled(task.classes, self.classes)
        column = {name: c for c, name in enumerate(dict.fromkeys(self.classes + names))}
        return tuple(column), [column[name] for name in names]

    def _inputs(self, inputs: Any) -> Sequence[Any]:
        """What was given to `predict`, by position."""
        if self.learner.backbone.modality == "text":
            return [inputs] if isinstance(inputs, str) else by_position(inputs, "inputs")
        return as_images([inputs] if is_one_image(inputs) else by_position(inputs, "inputs"))

    def state(self) -> tuple[dict[str, Tensor], State]:
        """Tensors by name, and plain values."""
        tensors = prefixed("rows", self.rows.state_dict()) | prefixed("head", self.head.state_dict())
        tasks = [list(columns) for columns in self.tasks]
        return tensors, {"classes": list(self.classes), "tasks": tasks, "augmentation": self.augmentation}

    def load(self, state: State) -> None:
        """Take over what `state` gave."""
        meta = state["meta"]
        self.classes, self.augmentation = tuple(meta["classes"]), meta["augmentation"]
        self.tasks = [list(columns) for columns in meta["tasks"]]
        self.rows.load_state_dict(stripped("rows", state))
        self.head.load_state_dict(stripped("head", state))
