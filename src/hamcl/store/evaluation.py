"""Accuracy by task and by class, what is taken for what, and what probabilities are worth."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from hamcl import metrics
from hamcl.errors import DataError
from hamcl.learning.evaluate import answers
from hamcl.learning.learner import Learner
from hamcl.store.digest import digests, evaluated
from hamcl.store.lock import now
from hamcl.store.manifest import Confusion, Evaluation, Reliability, Score
from hamcl.streams.base import Samples, Task
from hamcl.streams.check import check
from hamcl.training.lesson import Watch

WORST = 20


def evaluate(
    learner: Learner, tasks: Sequence[Task], on_skip: Callable[[str], None], watch: Watch | None
) -> Evaluation:
    """Classify the test splits of `tasks` among all classes the learner knows.

    Args:
        on_skip: is told of every sample that cannot be read, where the learner's `on_bad_sample` leaves those out.
        watch: is told of the samples read and classified, those of all tasks together.

    Raises:
        DataError: there is nothing to classify, a class was not learned, two tasks have one name, or a score is not
            finite.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    of_class: Counter[str] = Counter()
    by_task: dict[str, Score] = {}
    confidence: list[float] = []
    hits: list[bool] = []
    done, whole = 0, sum(len(task.test) for task in tasks)
    for task in tasks:
        if watch:
            learner.watch = partial(_onwards, watch, done, whole)
            done += len(task.test)
        if task.name in by_task:
            raise DataError(f"two of the tasks to evaluate are called {task.name!r}; rename one of them")
        samples, skipped = readable(learner, task)
        for sentence in skipped:
            on_skip(sentence)
        found = answers(learner, task, samples)
        truth, predicted = ([learner.classes[c] for c in each.tolist()] for each in (found.truth, found.predicted))
        pairs.update(zip(truth, predicted, strict=True))
        of_class.update(truth)
        by_task[task.name] = Score(found.accuracy, len(truth))
        confidence += found.confidence.tolist()
        hits += (found.truth == found.predicted).tolist()
    if not by_task:
        raise DataError("there are no tasks to evaluate")
    bins = metrics.reliability(confidence, hits)
    wrong = sorted(((n, t, p) for (t, p), n in pairs.items() if t != p), key=lambda x: (-x[0], x[1], x[2]))
    return Evaluation(
        time=now(),
        learned=len(learner.tasks),
        overall=Score(sum(hits) / len(hits), len(hits)),
        tasks=by_task,
        classes={c: Score(pairs[c, c] / of_class[c], of_class[c]) for c in learner.classes if c in of_class},
        confusions=tuple(Confusion(t, p, n) for n, t, p in wrong[:WORST]),
        reliability=Reliability(
            error=metrics.calibration_error(bins),
            judged=learner.judged,
            samples=tuple(b.samples for b in bins),
            confidence=tuple(min(1.0, b.confidence) if b.samples else 0.0 for b in bins),
            accuracy=tuple(b.accuracy if b.samples else 0.0 for b in bins),
        ),
    )


def _onwards(watch: Watch, before: int, whole: int, what: str, done: int, _: int) -> None:
    watch(what, before + done, whole)


def once(tasks: Sequence[Task]) -> tuple[list[Task], list[str]]:
    """The tasks without those that hold the very samples of one before them, and a sentence for each left out.

    What counts are test splits, or training splits where there are no others.
    """
    kept: list[Task] = []
    said: list[str] = []
    for task in tasks:
        twin = next((other for other in kept if _same(task, other)), None)
        if twin is None:
            kept.append(task)
        else:
            said.append(f"{task.name!r} holds the same samples as {twin.name!r}, which are counted once")
    return kept, said


def refuse_twice(tasks: Sequence[Task]) -> None:
    """Raise DataError where two tasks hold the same samples, which would count twice."""
    if said := once(tasks)[1]:
        raise DataError(f"{said[0].partition(',')[0]}; give only one of the two")


def _same(task: Task, other: Task) -> bool:
    if len(evaluated(task)) != len(evaluated(other)):
        return False
    mine = digests(task, other.classes)
    return bool(mine) and mine == digests(other, other.classes)


def readable(learner: Learner, task: Task) -> tuple[Samples, list[str]]:
    """The test samples of a task, and a message for each of them left out, where unreadable ones are."""
    if learner.machine.on_bad_sample == "error":
        return task.test, []
    return check(task.test, "skip", task.classes, told=learner.told("reading"))


def taken_for(learner: Learner, tasks: Sequence[Task]) -> list[int]:
    """The column that each test sample is taken for, one task after another."""
    return [c for task in tasks for c in answers(learner, task, readable(learner, task)[0]).predicted.tolist()]
