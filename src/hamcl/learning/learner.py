"""The story of one task: what every method of continual learning shares."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from hamcl.config import BARE, IDLE, PRESETS, READS, HAMConfig, resolve
from hamcl.errors import UsageError
from hamcl.ham.flat import prefixed, stripped
from hamcl.learning.classify import Classify, Prediction
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.reading.batches import Batch
from hamcl.streams.base import Samples, Task
from hamcl.streams.lazy import Kept
from hamcl.training.features import extract
from hamcl.training.lesson import Given, Keeper, Lesson, Progress, State, TaskReport, Watch
from hamcl.training.loop import Model, Plan, train
from hamcl.turns import Turns

SHARED = frozenset({"seed", "depths", "head"})
ADAPTER = frozenset({"rank", "lora_alpha", "dropout", "targets"})
TRAINING = frozenset({"epochs", "batch_size", "lr", "head_lr", "importance_lr", "weight_decay", "warmup"})
HELD = frozenset({"distill", "later_tasks"})


class Learner(ABC):
    """A class-incremental learner: learns tasks one after another, and classifies among all classes seen so far.

    No task identity is needed. A method says what a task begins with (`begin`), what becomes of what was trained
    (`end`), whether a task trains at all (`trains`), and what is kept (`model_state`, `load_model`); all of it about
    `model`. The objective says what is learned.

    Args:
        backbone: its layers are replaced by adapted ones in place, so give each learner one of its own.
        config: options of the model. Those that the method alone has take their defaults where it is a HAMConfig.
        machine: where it computes.

    Attributes:
        config: as it was asked for.
        settings: the same, with every "auto" settled.
        device: what `machine.device` came to.
        model: batch -> features.
        objective: what tells classes apart, see `Classify`.
        task_names: the names of the tasks learned.
        turns: lets threads ask together and learn alone.
        watch: is told of passes without training; None, as at first, for nobody.

    Raises:
        UsageError: an option is none of this method's, or the backbone does not fit the options.
    """

    evaluates_every_step = True
    """False for methods whose model exists only after `finish` (joint training)."""

    defaults: Mapping[str, Any] = MappingProxyType({})
    """Options that differ from HAMConfig's defaults for this method, before the user's own."""

    keeps = "keep its state_dict(), and give it to load_state_dict() of another one with the same backbone"
    """What somebody does who wants to keep a learner in a file."""

    config_type: type[HAMConfig] = HAMConfig
    """HAMConfig, or a subclass that adds the options this method alone has."""

    heads: Sequence[str] = ("auto", "linear", "cosine", "ncm", "lda", "ridge", "stack")
    """What the option `head` may be."""

    own: frozenset[str] = frozenset()
    """Options of HAMConfig that this method reads besides those of its adapter, its training and its head."""

    objective: Classify

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        for name, value, kind in (("config", config, HAMConfig), ("machine", machine or Machine(), Machine)):
            if not isinstance(value, kind):
                raise UsageError(f"the {name} of a learner is a {kind.__name__}, got {value!r:.80}")
        self.backbone, self.machine = backbone, machine or Machine()
        self.config = config if isinstance(config, self.config_type) else self.config_type(**config.to_dict())
        self.settings = resolve(self.config, backbone.modality, backbone.given)
        self._check_options()
        self.machine.use_threads()
        self.device = self.machine.resolved()
        self.model: Model = self.adapt()
        self.model.to(self.device)
        self.model.eval()
        self.objective = self.classify()
        self.task_names: list[str] = []
        self.turns = Turns()
        self.watch: Watch | None = None

    def __repr__(self) -> str:
        known = f"{len(self.task_names)} tasks, {len(self.classes)} classes"
        return f"{type(self).__name__}({known}, backbone {self.backbone.spec!r}, {self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UsageError(f"{type(self).__name__} is not pickled or copied; {self.keeps}")

    @classmethod
    def from_backbone(
        cls, spec: str, config: HAMConfig | None = None, machine: Machine | None = None, **options: Any
    ) -> Self:
        """Load the backbone `spec` (see `load_backbone`, which takes `options`) and start with no task."""
        config = cls.config_type.from_dict(dict(cls.defaults)) if config is None else config
        depths = config.depths_to_read if isinstance(config, HAMConfig) else "auto"
        return cls(load_backbone(spec, depths=depths, **options), config, machine)

    @classmethod
    def configured(
        cls, own: Mapping[str, Any], shared: Mapping[str, Any] = MappingProxyType({}), *, preset: str = "default"
    ) -> HAMConfig:
        """Options of this method: `own` as they are, and of those that it shares with others the ones it reads.

        Raises:
            UsageError: an option or the preset does not exist, or a value is not allowed.
        """
        everything = cls.config_type.from_dict({**cls.defaults, **shared, **own}, preset=preset)
        read = {name: value for name, value in shared.items() if name in cls.reads(everything)}
        return cls.config_type.from_dict({**cls.defaults, **read, **own}, preset=preset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names seen so far, the columns of the logits."""
        return self.objective.classes

    @property
    def tasks(self) -> list[list[int]]:
        """The columns of each task learned."""
        return self.objective.tasks

    def learn(
        self,
        task: Task,
        progress: Progress | None = None,
        *,
        keeper: Keeper | None = None,
        given: Given | None = None,
    ) -> TaskReport:
        """Learn one task from its training split; on an error the learner is as it was before.

        Args:
            progress: told of every step of the training.
            keeper: keeps the position of the training, from which the same call goes on.
            given: what another program trained on the task; only the rest is done.

        Raises:
            DataError: the task's samples cannot be used.
            TrainingError: the loss is not finite.
            UsageError: another thread is learning.
        """
        if not isinstance(task, Task):
            raise UsageError(
                f"learn() takes a Task, got {task!r:.80}; load_task(path) makes one of a folder or a file"
            )
        with self.turns.changing():
            lesson = self.open(task, progress, keeper, given)
            with self.whole():
                self.objective.enter(lesson)
                lesson.done("features before")
                self.begin(lesson)
                plan = self.plan(lesson) if given is None and self.trains(lesson) else None
                loss = self.objective.loss(lesson, plan)
                if plan:
                    train(self.model, loss, lesson, plan, self.backbone.preprocess)
                lesson.adapter = given.adapter if given else self.model.task_adapter(task.name)
                lesson.done("training")
                self.end(lesson)
                lesson.done("merging")
                self.objective.leave(lesson, loss)
                self.task_names.append(task.name)
            lesson.done("head")
        return lesson.report

    def open(self, task: Task, progress: Progress | None, keeper: Keeper | None, given: Given | None) -> Lesson:
        """Refuse what cannot be learned, and read the samples; nothing changes yet."""
        # The check, the features before, each epoch and each view read all images again.
        task = replace(task, train=replace(task.train, inputs=Kept(task.train.inputs)))
        lesson = Lesson(task, len(self.task_names), task.train, len(self.classes), self.report(task))
        lesson.progress, lesson.keeper, lesson.given = progress, keeper, given
        lesson.samples, lesson.report.skipped = self.objective.usable(lesson)
        lesson.done("reading")
        return lesson

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put everything back as it was if the block raises."""
        before = self.state_dict()
        try:
            yield
        except BaseException:
            self.load_state_dict(before)
            raise

    def plan(self, lesson: Lesson) -> Plan:
        """How the training of a task goes: the rates and the number of steps, by `later_tasks`."""
        settings, share, rate, hold = self.settings, 1.0, 1.0, self.settings.distill
        if settings.later_tasks == "hold":
            # What a move of the features costs grows with the classes learned before, what it gains does not.
            hold = settings.distill * lesson.known / len(lesson.task.classes)
            # Adam's steps are as long as the rate whatever the loss weighs: no distillation makes them shorter.
            rate = lesson.share
            # Rows that answer need all steps: their own rate does not shrink. Images are augmented, so the features
            # to stay near are computed anew at every step, which makes it dear; texts take one epoch at least.
            if not self.objective.head.trained:
                share = max(1 / settings.epochs if self.backbone.modality == "text" else 0.0, rate)
        settings = replace(settings, lr=rate * settings.lr, importance_lr=rate * settings.importance_lr)
        return Plan(settings, share, hold, self.machine, self.device)

    def finish(self, progress: Progress | None = None) -> None:  # noqa: B027 - most methods have nothing left to do
        """Do what can only be done after the last task."""

    # What a method is made of.

    def adapt(self) -> Model:
        """What is trained, over the backbone."""
        return adapted(self.backbone, self.settings)

    def classify(self) -> Classify:
        """What tells classes apart."""
        return Classify(self)

    def report(self, task: Task) -> TaskReport:
        """An empty report of a task."""
        return TaskReport(task.name, list(task.classes), notes=list(task.notes))

    @abstractmethod
    def begin(self, lesson: Lesson) -> None:
        """Make the model ready to train a task."""

    def trains(self, lesson: Lesson) -> bool:
        """Whether anything is trained on a task."""
        return True

    @abstractmethod
    def end(self, lesson: Lesson) -> None:
        """Turn what was trained, `lesson.adapter`, into the model that stays."""

    @abstractmethod
    def model_state(self) -> tuple[dict[str, Tensor], State]:
        """The tensors that the model keeps between tasks, and plain values."""

    @abstractmethod
    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        """Take over what `model_state` gave, and leave no task in training."""

    def look(self, samples: Samples, *, train: bool = False) -> Tensor:
        """Features of the samples as the model is now, shape (n, width).

        Args:
            train: of augmented views, drawn from the global generator (see `hamcl.rng.scoped`).
        """
        return self.extract(self.model, samples, train=train)

    def look_again(self, samples: Samples) -> Tensor:
        """`look` for an answer; a method whose model stays as it is may keep what it saw."""
        return self.look(samples)

    @classmethod
    def reads(cls, config: HAMConfig) -> frozenset[str]:
        """The options that have an effect in this method, with these values of the others."""
        common = {field.name for field in fields(HAMConfig)}
        alone = {field.name for field in fields(cls.config_type)} - common
        return SHARED | ADAPTER | TRAINING | HELD | READS[config.head] | cls.own | alone

    # What a user asks.

    def logits(self, samples: Samples) -> Tensor:
        """Scores over all seen classes, shape (n, classes), on the CPU."""
        return self.objective.answer(samples)

    @property
    def judged(self) -> float:
        """Samples the model had not learned that its probabilities were fitted to; 0: they are a guess."""
        return self.objective.head.judged

    @property
    def together(self) -> bool:
        """Whether threads may ask at the same time: answering switches nothing in the model."""
        return True

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
        with self.turns.asking(alone=not self.together):
            return self.objective.predict(inputs, k)

    def evaluate(self, task: Task) -> float:
        """Accuracy on the task's test split among all classes seen so far, in [0, 1].

        Raises:
            DataError: there are no test samples, or a class was not learned.
        """
        with self.turns.asking(alone=not self.together):
            return self.objective.score(task)

    def state_dict(self) -> State:
        """Everything learned: tensors by name, and plain values under "meta"."""
        with self.turns.asking(inside=True):
            tensors, meta = self.model_state()
            found, plain = self.objective.state()
            state = {"meta": {**plain, "task_names": list(self.task_names), "model": meta}}
            return state | {name: x.clone() for name, x in (prefixed("model", tensors) | found).items()}

    def load_state_dict(self, state: State) -> None:
        """Take over a state saved by `state_dict`.

        Raises:
            DataError: it is not one of this kind of learner.
        """
        with self.turns.changing():
            self.task_names = list(state["meta"]["task_names"])
            self.load_model(stripped("model", state), state["meta"]["model"])
            self.objective.load(state)

    def parameter_counts(self) -> dict[str, int]:
        """Numbers trained on a task ("trainable") and kept between tasks besides the backbone ("stored")."""
        rows = (self.backbone.width + 1) * (len(self.tasks[-1]) if self.tasks else 0)
        stored = sum(value.numel() for value in self.state_dict().values() if isinstance(value, Tensor))
        return {"trainable": self.model.trainable_count() + rows, "stored": stored}

    @torch.no_grad()
    def extract(self, model: Callable[[Batch], Tensor], samples: Samples, *, train: bool = False) -> Tensor:
        """Features of samples by any model on this learner's machine, see `hamcl.training.features.extract`."""
        return extract(
            model,
            samples,
            self.backbone.preprocess,
            self.machine,
            self.device,
            train=train,
            augmentation=self.objective.augmentation,
            told=self.told("features"),
        )

    def told(self, what: str) -> Callable[[int, int], None] | None:
        """Who is told of a pass over samples."""
        return partial(self.watch, what) if self.watch else None

    def _check_options(self) -> None:
        """Refuse options that would do nothing, unless they are left as they come, or as a preset has them."""
        name, config = type(self).__name__, self.config
        if config.head not in self.heads:
            raise UsageError(
                f"{name} brings its own classifier: head={config.head!r} must be {' or '.join(self.heads)}, the rows "
                "a task trains with"
            )
        reads = self.reads(self.settings) - IDLE[self.backbone.modality]
        for field in fields(config):
            value = getattr(config, field.name)
            untouched = [field.default, self.defaults.get(field.name)]
            untouched += [preset[field.name] for preset in (BARE, *PRESETS.values()) if field.name in preset]
            if field.name not in reads and value not in untouched:
                with_head = f" with head={self.settings.head!r}" if field.name in READS["auto"] else ""
                on_texts = " on texts" if field.name in IDLE[self.backbone.modality] else ""
                raise UsageError(
                    f"{name}{with_head}{on_texts} does nothing with the option {field.name}={value!r}; leave it out"
                )


def adapted(backbone: Backbone, settings: HAMConfig, layers: Sequence[str] | None = None) -> AdaptedBackbone:
    """Put the layers that the options describe into a backbone, in place of `layers` where they are named."""
    return AdaptedBackbone(
        backbone,
        rank=settings.rank,
        max_groups=settings.max_groups,
        targets=settings.targets if layers is None else layers,
        scale=settings.lora_alpha / settings.rank,
        dropout=settings.dropout,
        seed=settings.seed,
    )
