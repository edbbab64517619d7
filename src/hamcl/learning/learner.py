"""The contract of a continual-learning method, and what every method shares."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.ham.flat import prefixed, stripped
from hamcl.machine import resolve_device
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.reading.batches import Batch
from hamcl.streams.base import Augmentation, Images, Inputs, Samples, Task
from hamcl.streams.check import check
from hamcl.streams.given import by_position
from hamcl.streams.handed import is_one_image
from hamcl.streams.names import canonical, key, spelled
from hamcl.training.features import extract
from hamcl.training.loop import Progress
from hamcl.turns import Turns

State = dict[str, Any]
Watch = Callable[[str, int, int], None]
"""Is told of every pass over samples without training: its name, the samples done, and all of them."""


@dataclass
class TaskReport:
    """What learning one task did.

    Attributes:
        seconds: wall time of the whole of `learn`.
        losses: mean training loss of each epoch.
        samples_per_second: throughput of the training loop.
        skipped: one message per sample left out as unreadable.
        notes: those of the task, see `Task`, and what was guessed of its images.
        phases: seconds of each phase of `learn`.
    """

    task: str
    classes: list[str]
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    samples_per_second: float = 0.0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the block's wall time to a phase."""
        start = time.perf_counter()
        yield
        self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Prediction:
    """The class names of a batch, most probable first.

    Attributes:
        labels: the k best class names of each sample.
        probabilities: shape (n, k), softmax of the logits.
    """

    labels: list[list[str]]
    probabilities: Tensor


class Method(ABC):
    """Learns tasks one after another and classifies among all classes seen, without a task identity.

    Args:
        backbone: adapted in place; give each method a backbone of its own.
        config: settings; a method ignores the ones that do not concern it. Options the method alone has take their
            defaults where `config` is a plain HAMConfig.

    Attributes:
        classes: class names seen so far, the columns of the logits.
        tasks: the columns of each task learned.
        task_names: their names.
        augmentation: the kind of images learned last; evaluation prepares images the same way.
        watch: is told of passes without training; None, as at first, for nobody.
    """

    evaluates_every_step = True
    """False for methods whose model exists only after `finish` (joint training)."""

    defaults: Mapping[str, Any] = MappingProxyType({})
    """Options that differ from HAMConfig's defaults for this method, before the user's own."""

    keeps = "keep its state_dict(), and give it to load_state_dict() of another one with the same backbone"
    """What somebody does who wants to keep a learner in a file."""

    config_type: type[HAMConfig] = HAMConfig
    """HAMConfig, or a subclass that adds the options this method alone has."""

    def __init__(self, backbone: Backbone, config: HAMConfig) -> None:
        self.backbone = backbone
        self.config = config if isinstance(config, self.config_type) else self.config_type(**config.to_dict())
        # Rows trained with a task stay a classifier of the network's own features, as its own library would have it.
        wanted = self.config.depths == "all" or (
            self.config.depths == "auto" and self.config.head not in ("linear", "cosine")
        )
        if wanted and not backbone.read_depths() and self.config.depths == "all":
            raise UsageError(f"backbone {backbone.spec!r} does not show the features inside it: choose depths='last'")
        self.device = resolve_device(config.device)
        self.classes: tuple[str, ...] = ()
        self.tasks: list[list[int]] = []
        self.task_names: list[str] = []
        self.augmentation: Augmentation = "none"
        self.turns = Turns()
        self.watch: Watch | None = None

    def __repr__(self) -> str:
        known = f"{len(self.tasks)} tasks, {len(self.classes)} classes"
        return f"{type(self).__name__}({known}, backbone {self.backbone.spec!r}, {self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UsageError(f"{type(self).__name__} is not pickled or copied; {self.keeps}")

    @classmethod
    def from_backbone(cls, spec: str, config: HAMConfig | None = None, **options: Any) -> Self:
        """Load the backbone `spec` (see `load_backbone`, which takes `options`) and start with no task."""
        return cls(load_backbone(spec, **options), config or cls.config_type.from_dict(dict(cls.defaults)))

    @abstractmethod
    def learn(self, task: Task, progress: Progress | None = None) -> TaskReport:
        """Learn one task from its training split; on an error the learner is as it was before.

        Raises:
            DataError: the task's samples cannot be used.
            TrainingError: the loss is not finite.
        """

    def finish(self, progress: Progress | None = None) -> None:  # noqa: B027 - most methods have nothing left to do
        """Do what can only be done after the last task."""

    @abstractmethod
    def logits(self, samples: Samples) -> Tensor:
        """Scores over all seen classes, shape (n, classes), on the CPU."""

    @abstractmethod
    def state_dict(self) -> State:
        """Everything learned: tensors by name, and plain values under "meta"."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Take over a state saved by `state_dict`."""

    @abstractmethod
    def parameter_counts(self) -> dict[str, int]:
        """Numbers trained on a task ("trainable") and kept between tasks besides the backbone ("stored")."""

    @property
    def judged(self) -> float:
        """Samples the model had not learned that its probabilities were fitted to; 0: they are a guess."""
        return 0.0

    @property
    def together(self) -> bool:
        """Whether threads may ask at the same time: answering switches nothing in the model."""
        return False

    def predict(self, inputs: Any, k: int = 1) -> Prediction:
        """Classify one input or several; none give an empty prediction.

        Threads may ask together. While the model learns they are refused.

        Args:
            inputs: texts, or images: opened with Pillow, paths of files, encoded bytes, or 8-bit arrays and tensors
                (see `hamcl.streams.handed.as_image`). One alone is taken for a list of one.
            k: how many classes to name.

        Raises:
            UsageError: nothing was learned yet, the model is learning, or `k` or `inputs` cannot be meant.
            DataError: an input cannot be read.
        """
        if not self.classes:
            raise UsageError("nothing was learned yet: call learn(task) first")
        if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
            raise UsageError(f"k says how many classes to name, at least 1, got {k!r}")
        inputs = self._inputs(inputs)
        if not len(inputs):
            return Prediction([], torch.empty(0, min(k, len(self.classes))))
        with self.turns.asking(alone=not self.together):
            scores = finite(self.logits(Samples(inputs, [0] * len(inputs))))
        probabilities, columns = scores.softmax(1).topk(min(k, len(self.classes)))
        return Prediction([[self.classes[c] for c in row] for row in columns.tolist()], probabilities)

    def evaluate(self, task: Task) -> float:
        """Accuracy on the task's test split among all classes seen so far, in [0, 1]."""
        if not len(task.test):
            raise DataError(f"task {task.name!r} has no test samples to evaluate")
        names = spelled(task.classes, self.classes)
        column = {name: c for c, name in enumerate(self.classes)}
        unseen = [name for name in names if name not in column]
        if unseen:
            raise DataError(f"task {task.name!r} holds classes that were not learned: {', '.join(unseen[:3])}")
        truth = torch.tensor([column[names[y]] for y in task.test.labels])
        with self.turns.asking(alone=not self.together):
            scores = finite(self.logits(task.test))
        return (scores.argmax(1) == truth).double().mean().item()

    def _inputs(self, inputs: Any) -> Sequence[Any]:
        """What was given to `predict`, by position."""
        if self.backbone.modality == "text":
            return [inputs] if isinstance(inputs, str) else by_position(inputs, "inputs")
        many = [inputs] if is_one_image(inputs) else by_position(inputs, "inputs")
        return many if isinstance(many, Inputs) else Images(many)

    def _usable(self, task: Task, *, may_be_empty: bool = False) -> tuple[Samples, list[str], list[str]]:
        """The training samples that can be read, one message per sample left out, and the task's notes and more."""
        if task.modality != self.backbone.modality:
            meant = "" if self.backbone.modality == "image" else "; a Task of texts is made with modality='text'"
            raise DataError(
                f"task {task.name!r} holds {task.modality} samples, but backbone {self.backbone.spec!r} "
                f"reads {self.backbone.modality}{meant}"
            )
        if not len(task.train) and not may_be_empty:
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
        notes = list(task.notes)
        return *check(task.train, self.config.on_bad_sample, task.classes, notes, self._told("reading")), notes

    def _columns(self, task: Task) -> tuple[tuple[str, ...], list[int]]:
        """The class list after this task, and the task's columns in it."""
        names = spelled(task.classes, self.classes)
        column = {name: c for c, name in enumerate(dict.fromkeys(self.classes + names))}
        return tuple(column), [column[name] for name in names]

    def _extract(self, model: Callable[[Batch], Tensor], samples: Samples, *, train: bool = False) -> Tensor:
        return extract(
            model,
            samples,
            self.backbone.preprocess,
            self.config,
            self.device,
            train=train,
            augmentation=self.augmentation,
            told=self._told("features"),
        )

    def _told(self, what: str) -> Callable[[int, int], None] | None:
        return partial(self.watch, what) if self.watch else None

    def _meta(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "tasks": [list(columns) for columns in self.tasks],
            "task_names": list(self.task_names),
            "augmentation": self.augmentation,
        }

    def _load_meta(self, meta: dict[str, Any]) -> None:
        self.classes = tuple(meta["classes"])
        self.tasks = [list(columns) for columns in meta["tasks"]]
        self.task_names = list(meta["task_names"])
        self.augmentation = meta["augmentation"]


def finite(scores: Tensor) -> Tensor:
    """The scores of samples, shape (n, classes), as they are.

    Raises:
        DataError: one is NaN or infinite, so that no class can be told.
    """
    bad = (~scores.isfinite()).any(1).sum().item()
    if bad:
        raise DataError(
            f"the scores of {bad} of {len(scores)} samples are not finite: numbers of the model are damaged or far "
            "too large; restore it from a copy, or learn again with a lower lr"
        )
    return scores


__all__ = ["Batch", "Method", "Prediction", "State", "TaskReport", "finite", "prefixed", "stripped"]
