"""Joint training: all tasks' data at once; the upper bound that keeps everything."""

from hamcl.config import HAMConfig
from hamcl.errors import UsageError
from hamcl.machine import Machine
from hamcl.methods.seq_lora import SeqLoRA
from hamcl.nn.backbones import Backbone
from hamcl.streams.base import Samples, Task
from hamcl.streams.lazy import Joined
from hamcl.training.lesson import Given, Keeper, Progress, TaskReport


class Joint(SeqLoRA):
    """Joint training, the upper bound: one LoRA adapter and classifier on the union of all tasks, after the last."""

    evaluates_every_step = False

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.waiting: list[Task] = []

    def learn(
        self,
        task: Task,
        progress: Progress | None = None,
        *,
        keeper: Keeper | None = None,
        given: Given | None = None,
    ) -> TaskReport:
        """Read a task and keep it until `finish`."""
        lesson = self.open(task, progress, keeper, given)
        self.waiting.append(
            Task(task.name, task.classes, lesson.samples, modality=task.modality, augmentation=task.augmentation)
        )
        return lesson.report

    def finish(self, progress: Progress | None = None) -> None:
        if not self.waiting:
            raise UsageError("there is nothing to finish: call learn(task) first")
        classes = tuple(dict.fromkeys(name for task in self.waiting for name in task.classes))
        labels = [classes.index(task.classes[y]) for task in self.waiting for y in task.train.labels]
        first = self.waiting[0]
        union = Samples(Joined(tuple(task.train.inputs for task in self.waiting)), labels)
        super().learn(
            Task("joint", classes, union, modality=first.modality, augmentation=first.augmentation), progress
        )
        self.objective.tasks = [[classes.index(name) for name in task.classes] for task in self.waiting]
        self.task_names = [task.name for task in self.waiting]

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        # The rows of all classes train together, not only those of the last task.
        others = len(self.classes) - len(self.tasks[-1]) if self.tasks else 0
        return {**counts, "trainable": counts["trainable"] + (self.backbone.width + 1) * others}
