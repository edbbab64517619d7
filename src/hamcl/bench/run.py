"""One run: a method learns a stream task by task, is evaluated, and leaves a record that is always readable."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from hamcl import metrics
from hamcl.bench.state import drop_states, load_state, save_state
from hamcl.errors import DataError, TrainingError, UsageError
from hamcl.learning.evaluate import NotFinite, answers
from hamcl.learning.learner import Learner
from hamcl.plain import plain
from hamcl.report.layout import reported
from hamcl.report.plots import plot_curve, plot_matrix
from hamcl.report.predictions import PREDICTIONS, append_predictions, prediction_table
from hamcl.report.provenance import peak_memory, provenance
from hamcl.report.records import RESULT, Result, StepRecord, StreamRecord, differences
from hamcl.streams.base import Stream, Task
from hamcl.training.lesson import Progress

MATRIX, CURVE = "matrix.png", "curve.png"
SMALL = 1_000_000  # rows of predictions kept for all steps unless asked otherwise


@dataclass(frozen=True)
class RunOptions:
    """How a run is recorded.

    Attributes:
        method: the method's name.
        stream: what `load_stream` was given.
        backbone: what `load_backbone` was given.
        command: the command line.
        resume: go on with an unfinished run; a finished one is returned as it is.
        overwrite: replace a run that is there.
        predictions: keep those of all steps, or of the last one; "auto" keeps all up to a million rows.
    """

    method: str
    stream: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()
    resume: bool = False
    overwrite: bool = False
    predictions: Literal["auto", "all", "last"] = "auto"


def run(
    stream: Stream,
    method: Learner,
    out: Path,
    *,
    options: RunOptions,
    progress: Progress | None = None,
    on_task: Callable[[Result], None] | None = None,
) -> Result:
    """Learn every task of a stream and evaluate after each one on all tasks seen.

    The folder `out` holds `result.json`, `predictions.parquet` and the state a run is resumed from, all of them whole
    after every task, whenever the process dies; the plots `matrix.png` and `curve.png` are drawn when the run ends,
    where they have more to show than one number.
    A resumed run ends with the figures of an uninterrupted one.

    Args:
        method: one that has learned nothing yet.
        progress: told of every optimizer step.
        on_task: told of the record after every task, and once more where only the end is evaluated.

    Raises:
        UsageError: the backbone reads another kind of input, `out` holds a run and neither `resume` nor `overwrite`
            is set, or what is to be resumed was started with other options, another stream or other versions.
        DataError: a task has no test samples, or the files of the run to be resumed are damaged.
        TrainingError: a task could not be learned; the tasks before it are recorded.
        KeyboardInterrupt: passed on once the record says "interrupted".
    """
    check_folder(out, resume=options.resume, overwrite=options.overwrite)
    _check_stream(stream, method)
    asked = Result(
        method=options.method,
        stream=StreamRecord.of(stream, options.stream),
        backbone=_backbone(method, options),
        config=plain(method.config.to_dict()),
        resolved=plain(method.settings.to_dict()),
        provenance=provenance(method.device, method.machine.arithmetic(method.device)),
        command=list(options.command),
        notes=list(stream.notes),
    )
    going = _Run(stream, method, out, options, asked, progress, on_task)
    if not going.begin():
        return going.result
    try:
        going.learn()
    except BaseException as error:
        going.broke_off(error)
        raise
    finally:
        _draw(out, going.result)
    return going.result


def check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that cannot take a run, before any work is done.

    Raises:
        UsageError: see `run`.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other; give one of them")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a folder; choose another --out")
    if (out / RESULT).exists() and not (resume or overwrite):
        raise UsageError(
            f"{out} already holds a run; continue it with --resume, replace it with --overwrite, or take another --out"
        )


@dataclass
class _Run:
    """A run while it goes on: what `run` was given, and the record as far as it has come."""

    stream: Stream
    method: Learner
    out: Path
    options: RunOptions
    result: Result
    progress: Progress | None
    on_task: Callable[[Result], None] | None

    def begin(self) -> bool:
        """Take up the run that is there, or begin a new one; whether anything is left to do."""
        self.out.resolve().mkdir(parents=True, exist_ok=True)  # also where a link leads that is not there yet
        if self.options.resume and (self.out / RESULT).exists():
            self.result = _resumed(self.out, self.result)
            if self.result.status == "complete":
                return False
            _restore(self.out, self.stream, self.method, self.result)
        else:
            _clear(self.out)
            self.result.write(self.out)
        return True

    def learn(self) -> None:
        """Learn what is not learned yet; whenever the process dies, the folder holds a whole run up to a task."""
        for step in range(len(self.result.steps), len(self.stream)):
            self.task(step)
        start = time.perf_counter()
        self.method.finish(self.progress)
        self.result.finish_seconds = time.perf_counter() - start
        if not self.method.evaluates_every_step:
            step, last = len(self.stream) - 1, self.result.steps[-1]
            self.evaluated(step, last)
            last.parameters, last.peak_memory = self.method.parameter_counts(), peak_memory()
        self.result.status = "complete"
        self.result.write(self.out)
        if self.on_task and not self.method.evaluates_every_step:
            self.on_task(self.result)

    def task(self, step: int) -> None:
        """Learn one task, evaluate, and record both."""
        start, task = time.perf_counter(), self.stream[step]
        report = self.method.learn(task, self.progress)
        record = StepRecord(
            task=task.name,
            seen_classes=len({name for task in self.stream[: step + 1] for name in task.classes}),
            training_seconds=time.perf_counter() - start,
            evaluation_seconds=0.0,
            parameters=self.method.parameter_counts(),
            peak_memory=peak_memory(),
            report=reported(plain(report)),
        )
        if self.method.evaluates_every_step:
            self.evaluated(step, record)
        self.result.steps.append(record)
        self.result.status, self.result.error = "partial", None
        self.result.write(self.out)
        drop_states(self.out, keep=step + 1)
        if self.on_task:
            self.on_task(self.result)

    def evaluated(self, step: int, record: StepRecord) -> None:
        """Evaluate on all tasks up to this one; predictions and state are kept before the record tells of them."""
        start = time.perf_counter()
        tables = [self.scored(step, j, task) for j, task in enumerate(self.stream[: step + 1])]
        record.evaluation_seconds = time.perf_counter() - start
        if step == len(self.stream) - 1 or self.keeps_all:
            append_predictions(self.out, step, tables)
        save_state(self.out, step + 1, self.method.state_dict())

    def scored(self, step: int, j: int, task: Task) -> pa.Table:
        """Fill one entry of the accuracy matrices and return the predictions it is made of."""
        try:
            found = answers(self.method, task)
        except NotFinite as error:
            raise TrainingError(
                f"the scores of task {task.name!r} are not finite after learning {self.stream[step].name!r}"
            ) from error
        self.result.accuracy[step, j] = found.accuracy
        self.result.task_accuracy[step, j] = metrics.task_accuracy(found.logits, found.labels, found.columns)
        return prediction_table(step, j, found.logits, found.truth, self.method.classes)

    @property
    def keeps_all(self) -> bool:
        """Whether the predictions of every step are kept, and not of the last one alone."""
        rows = sum(len(task.test) * (len(self.stream) - j) for j, task in enumerate(self.stream))
        return self.options.predictions == "all" or (self.options.predictions == "auto" and rows <= SMALL)

    def broke_off(self, error: BaseException) -> None:
        """Say in the record why the run ended."""
        stopped = isinstance(error, KeyboardInterrupt)
        self.result.status = "interrupted" if stopped else "failed"
        self.result.error = None if stopped else str(error) or type(error).__name__
        with suppress(OSError, DataError):  # a full disk is told by the error there is
            self.result.write(self.out)


def _check_stream(stream: Stream, method: Learner) -> None:
    """Refuse a stream that cannot be evaluated or that the backbone cannot read."""
    for task in stream:
        if not len(task.test):
            raise DataError(f"task {task.name!r} has no test samples; give the data a test split")
        if task.modality != method.backbone.modality:
            raise UsageError(
                f"stream {stream.name!r} holds {task.modality} samples, but backbone {method.backbone.spec!r} reads "
                f"{method.backbone.modality}; choose a backbone of the same kind"
            )


def _draw(out: Path, result: Result) -> None:
    """Draw what has more to show than one number.

    What keeps a plot from being drawn (a full disk, a font) is noted and does not cost the run.
    """
    finite = np.isfinite(result.accuracy)
    for name, plot, shows in (
        (MATRIX, plot_matrix, finite.sum() > 1),
        (CURVE, plot_curve, finite.any(axis=1).sum() > 1),
    ):
        try:
            if shows:
                plot(out / name, result)
        except Exception as error:
            result.notes.append(f"{name} was not drawn ({error}); ham report --plot draws from the record")


def _backbone(method: Learner, options: RunOptions) -> dict[str, Any]:
    backbone = method.backbone
    return plain(
        {
            "spec": backbone.spec,
            "fingerprint": backbone.fingerprint,
            "options": options.backbone,
            "preprocess": backbone.preprocess.describe(),
        }
    )


def _resumed(out: Path, asked: Result) -> Result:
    """The record in `out`, if it is of the run that is asked for."""
    found = Result.read(out)
    changed = differences(plain(found.identity()), plain(asked.identity()))
    if changed:
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise UsageError(
            f"{out} cannot be resumed: {'; '.join(changed[:3])}{more}; ask for the same or start over with --overwrite"
        )
    return found


def _restore(out: Path, stream: Stream, method: Learner, result: Result) -> None:
    """Bring the method to where the record ends."""
    learned = len(result.steps)
    if not learned:
        return
    if method.evaluates_every_step:
        method.load_state_dict(load_state(out, learned))
        return
    # Such a method only gathers the tasks until it finishes, so there is nothing to load: it sees them again.
    for task in stream[:learned]:
        method.learn(task)


def _clear(out: Path) -> None:
    """Delete the files of an earlier run, the record first: without it nothing else counts."""
    for name in (RESULT, PREDICTIONS, MATRIX, CURVE):
        (out / name).unlink(missing_ok=True)
    drop_states(out)
