"""The record of one run: what was asked, what came out, and everything needed to ask again."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hamcl import metrics
from hamcl.config import BARE, HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.files import new_file
from hamcl.methods.registry import load_method
from hamcl.metrics import Floats
from hamcl.plain import plain, read_json
from hamcl.report import layout
from hamcl.streams.base import Stream
from hamcl.streams.split import split

RESULT = "result.json"
MEMORY = {"host": None, "device": None}  # where it cannot be known
FOLLOWS = ("task", "seen_classes")  # from the place of a step

Status = Literal["partial", "interrupted", "failed", "complete"]


@dataclass(frozen=True)
class StreamTask:
    """One task of the stream: its classes and the number of samples of each split."""

    name: str
    classes: list[str]
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class StreamRecord:
    """A stream: what `load_stream` was given, and the tasks and classes in the order learned."""

    name: str
    options: dict[str, Any]
    tasks: list[StreamTask]

    @classmethod
    def of(cls, stream: Stream, options: dict[str, Any]) -> "StreamRecord":
        tasks = [StreamTask(t.name, list(t.classes), len(t.train), len(t.val), len(t.test)) for t in stream]
        return cls(stream.name, plain(options), tasks)

    @property
    def cut(self) -> dict[str, Any]:
        """How it was cut, the same whether defaults are spelled out or not and wherever its data lay."""
        defaults = {name: option.default for name, option in inspect.signature(split).parameters.items()}
        options = dict(self.options)
        if options.get("data_dir"):
            options["data_dir"] = Path(options["data_dir"]).name
        return {name: value for name, value in options.items() if value is not None and value != defaults.get(name)}

    @property
    def class_order(self) -> list[str]:
        """All class names in the order of first appearance."""
        return list(dict.fromkeys(name for task in self.tasks for name in task.classes))


@dataclass
class StepRecord:
    """One task learned.

    Attributes:
        seen_classes: number of classes after it.
        training_seconds, evaluation_seconds: wall time, measured apart.
        parameters: numbers "trainable" on a task and "stored" besides the backbone.
        peak_memory: bytes of "host" memory (resident) and of the "device", the largest of the process so far; None
            where it cannot be known.
        report: what the method says it did, as far as the record does not hold it elsewhere.
    """

    task: str
    seen_classes: int
    training_seconds: float
    evaluation_seconds: float
    parameters: dict[str, int]
    peak_memory: dict[str, int | None]
    report: dict[str, Any]


@dataclass
class Result:
    """One run of one method on one stream.

    Attributes:
        method: its name, "ham" or that of a baseline.
        config: every option of the method, as it was asked for.
        resolved: the same, with every "auto" settled; empty in the record of an earlier version.
        backbone: "spec", "fingerprint" and how inputs are prepared.
        accuracy: R[t][j], shape (T, T), see `hamcl.metrics`; NaN where not evaluated.
        task_accuracy: the same when the task is told (logits restricted to the task's classes).
        steps: one entry per task learned so far.
        finish_seconds: training after the last task (joint training does all of it there).
        error: why a failed run stopped.
        notes: what was left out, renamed or guessed when the stream was read.
    """

    method: str
    stream: StreamRecord
    backbone: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, Any]
    resolved: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    status: Status = "partial"
    error: str | None = None
    steps: list[StepRecord] = field(default_factory=list)
    finish_seconds: float = 0.0
    accuracy: Floats = field(default_factory=lambda: np.empty((0, 0)))
    task_accuracy: Floats = field(default_factory=lambda: np.empty((0, 0)))
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        tasks = len(self.stream.tasks)
        if self.accuracy.shape != (tasks, tasks):
            self.accuracy = np.full((tasks, tasks), np.nan)
            self.task_accuracy = np.full((tasks, tasks), np.nan)

    @property
    def seed(self) -> int:
        """Of the stream and of the method."""
        return int(self.config["seed"])

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the method, those that came after the record as they were without effect."""
        try:
            kind = load_method(self.method).config_type
        except UsageError:  # a method that is not installed here
            kind = HAMConfig
        return {option.name: BARE.get(option.name, option.default) for option in fields(kind)} | self.config

    @property
    def test_counts(self) -> list[int]:
        """Test samples of each task."""
        return [task.test for task in self.stream.tasks]

    @property
    def curve(self) -> dict[str, list[float]]:
        """Both averages after every task learned, as fractions; NaN where not evaluated."""
        steps = range(len(self.steps))
        return {
            "average_accuracy": [metrics.average_accuracy(self.accuracy, t) for t in steps],
            "sample_accuracy": [metrics.sample_accuracy(self.accuracy, self.test_counts, t) for t in steps],
        }

    @property
    def scalars(self) -> dict[str, Any]:
        """What is known after the last task learned: the metrics, and what the method says of the task."""
        last = self.steps[-1]
        times = {"training_seconds": last.training_seconds, "evaluation_seconds": last.evaluation_seconds}
        return {**last.report, **self.metrics, **times, "seen_classes": last.seen_classes}

    @property
    def metrics(self) -> dict[str, Any]:
        """The figures over the tasks learned so far (empty before the first), as defined in `hamcl.metrics`."""
        learned = len(self.steps)
        if not learned:
            return {}
        R, told = self.accuracy[:learned, :learned], self.task_accuracy[:learned, :learned]
        n = self.test_counts[:learned]
        return {
            "average_accuracy": metrics.average_accuracy(R),
            "sample_accuracy": metrics.sample_accuracy(R, n),
            "average_incremental_accuracy": metrics.average_incremental_accuracy(R),
            "average_incremental_sample_accuracy": metrics.average_incremental_accuracy(R, n),
            "forgetting": metrics.forgetting(R),
            "backward_transfer": metrics.backward_transfer(R),
            "task_average_accuracy": metrics.average_accuracy(told),
            "task_sample_accuracy": metrics.sample_accuracy(told, n),
            "per_task": metrics.per_task(R),
        }

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of training and of evaluation over all steps."""
        return {
            "training": sum(step.training_seconds for step in self.steps) + self.finish_seconds,
            "evaluation": sum(step.evaluation_seconds for step in self.steps),
        }

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be continued."""
        return {
            "method": self.method,
            "config": self.options,
            "stream": {"name": self.stream.name, "options": self.stream.cut, "tasks": self.stream.tasks},
            "backbone": self.backbone,
            "versions": {key: self.provenance[key] for key in ("hamcl", "python", "packages")},
        }

    def to_dict(self) -> dict[str, Any]:
        """The content of `result.json`, in JSON's own types; how it is laid out is said in `hamcl.report.layout`."""
        names, tests, steps = self.stream.class_order, self.test_counts, len(self.steps)
        place = {name: i for i, name in enumerate(names)}
        tasks = [{**plain(task), "classes": [place[name] for name in task.classes]} for task in self.stream.tasks]
        told = {name: value for name, value in self.metrics.items() if name != "per_task"}
        table = [{key: value for key, value in plain(step).items() if key not in FOLLOWS} for step in self.steps]
        return {
            "format": layout.FORMAT,
            "status": self.status,
            "error": self.error,
            "method": self.method,
            "metrics": plain(told),
            "finish_seconds": layout.rounded(self.finish_seconds),
            "config": plain(self.config),
            "resolved": plain(self.resolved),
            "backbone": plain(self.backbone),
            "provenance": plain(self.provenance),
            "command": self.command,
            "notes": self.notes,
            "classes": names,
            "stream": {**plain(self.stream), "tasks": layout.columns(tasks)},
            "correct": layout.counts(self.accuracy, tests, steps),
            "correct_told": layout.counts(self.task_accuracy, tests, steps),
            "steps": layout.columns(layout.rounded(table)),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Result":
        """Undo `to_dict`, of this version or an earlier one; derived figures are computed anew.

        Raises:
            ValueError: the content is not that of a result.
        """
        try:
            values = layout.upgraded(values)
            names, stream, right = dict(enumerate(values["classes"])), values["stream"], values["correct"]
            tasks = [
                StreamTask(**{**task, "classes": [names[place] for place in task["classes"]]})
                for task in layout.rows(stream["tasks"], len(stream["tasks"]["name"]))
            ]
            tests, seen = [task.test for task in tasks], _seen(tasks)
            steps = layout.rows(values["steps"], len(right))
            for step in steps:
                step |= {"peak_memory": MEMORY | step["peak_memory"], "report": layout.present(step["report"])}
            kept = ("method", "backbone", "provenance", "command", "status", "error", "finish_seconds", "notes")
            return cls(
                **{name: values[name] for name in kept},
                stream=StreamRecord(stream["name"], stream["options"], tasks),
                config=layout.current_options(values["config"]),
                resolved=values.get("resolved", {}),
                steps=[StepRecord(tasks[i].name, seen[i], **step) for i, step in enumerate(steps)],
                accuracy=layout.fractions(right, tests),
                task_accuracy=layout.fractions(values["correct_told"], tests),
            )
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"an entry is missing or unknown: {error}") from error

    def write(self, out: Path) -> None:
        """Write `out/result.json` atomically."""
        with new_file(out / RESULT) as temporary:
            temporary.write_text(layout.text(self.to_dict()), encoding="utf-8")

    @classmethod
    def read(cls, out: Path) -> "Result":
        """Read the record of a run folder.

        Raises:
            DataError: there is none, or it cannot be used.
        """
        path = out / RESULT
        try:
            return cls.from_dict(read_json(path))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is not a record this version of hamcl can read: {error}") from error


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """One clause per place where two plain values differ, for example "config.lr was 0.1 and is now 0.2"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            clause
            for key in dict.fromkeys([*old, *new])
            for clause in differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    if old == new:
        return []
    if isinstance(old, list) or isinstance(new, list):
        return [f"{where} differ"]
    return [f"{where} was {old!r} and is now {new!r}"]


def _seen(tasks: Sequence[StreamTask]) -> list[int]:
    """The number of different classes in the tasks up to each one."""
    known: set[str] = set()
    return [len(known := known | {*task.classes}) for task in tasks]
