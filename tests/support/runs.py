"""A stream of numbers, written as texts, and a method of a few lines, so that the runner is tested without a model."""

from types import SimpleNamespace

import pytest
import torch

from hamcl import metrics
from hamcl.config import HAMConfig, resolve
from hamcl.machine import Machine
from hamcl.rng import generator
from hamcl.streams.base import Samples, Stream, Task
from hamcl.training.lesson import TaskReport


class Centres:
    """Nearest mean of numbers; every task shifts the older means at random, so that it forgets.

    It has what the runner asks of a learner, and nothing else.

    Attributes:
        fail_at: task index at which `learn` raises `error`.
    """

    evaluates_every_step = True

    def __init__(self, config=None, *, fail_at=None, error=KeyboardInterrupt):
        preprocess = SimpleNamespace(describe=lambda: {"kind": "numbers"})
        self.backbone = SimpleNamespace(spec="numbers", fingerprint="abc", preprocess=preprocess, modality="text")
        self.config, self.machine, self.device = config or HAMConfig(), Machine("cpu"), torch.device("cpu")
        self.settings = resolve(self.config, "text", "last" if self.config.depths_to_read == "last" else "all")
        self.classes, self.task_names, self.centres = (), [], torch.zeros(0)
        self.fail_at, self.error = fail_at, error
        self.learned = []

    def learn(self, task, progress=None):
        index = len(self.task_names)
        if index == self.fail_at:
            raise self.error
        classes = tuple(dict.fromkeys([*self.classes, *task.classes]))
        columns = metrics.columns(task.classes, classes)
        drift = 0.6 * torch.randn(len(self.centres), generator=generator(self.config.seed, index, "drift"))
        centres = torch.cat([self.centres + drift, torch.zeros(len(classes) - len(self.classes))])
        for y, column in enumerate(columns):
            own = [float(x) for x, label in zip(task.train.inputs, task.train.labels, strict=True) if label == y]
            centres[column] = sum(own) / len(own)
        self.centres, self.classes = centres, classes
        self.task_names.append(task.name)
        self.learned.append(task.name)
        return TaskReport(task.name, list(task.classes), losses=[float("nan"), 0.5])

    def finish(self, progress=None):
        pass

    def logits(self, samples):
        return -((torch.tensor([float(x) for x in samples.inputs])[:, None] - self.centres) ** 2)

    def state_dict(self):
        meta = {"classes": list(self.classes), "task_names": list(self.task_names)}
        return {"centres": self.centres, "again": self.centres, "meta": meta}

    def load_state_dict(self, state):
        self.centres = state["centres"]
        self.classes, self.task_names = tuple(state["meta"]["classes"]), list(state["meta"]["task_names"])

    def parameter_counts(self):
        return {"trainable": 1, "stored": len(self.centres)}


class Late(Centres):
    """The same, known only after `finish`."""

    evaluates_every_step = False

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.waiting = []

    def learn(self, task, progress=None):
        if len(self.waiting) == self.fail_at:
            raise self.error
        self.waiting.append(task)
        return TaskReport(task.name, list(task.classes))

    def finish(self, progress=None):
        for task in self.waiting:
            super().learn(task)


def numbers(classes, count, seed, split):
    """`count` samples per class around the class's own number, as texts."""
    draw = generator(seed, split)
    inputs = [repr(int(name) + 0.5 * torch.randn((), generator=draw).item()) for name in classes for _ in range(count)]
    return Samples(inputs, [y for y in range(len(classes)) for _ in range(count)])


@pytest.fixture
def method():
    """The class of the fake method."""
    return Centres


@pytest.fixture
def late():
    """The class of the fake method that is evaluated only at the end."""
    return Late


@pytest.fixture
def stream():
    """Four tasks; class 1 comes back in the third, and test sizes differ."""
    plan = [("0", "1"), ("2", "3", "4"), ("5", "1"), ("6", "7")]
    tasks = [
        Task(
            f"n-{i}",
            classes,
            numbers(classes, 6, i, "train"),
            test=numbers(classes, 4 + i, i, "test"),
            modality="text",
        )
        for i, classes in enumerate(plan)
    ]
    return Stream("numbers", tuple(tasks))
