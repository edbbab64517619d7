"""From a source to a stream: which samples are the training, validation and test split of each task."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from hamcl.errors import DataError, UsageError
from hamcl.streams.base import Samples, Stream, Task
from hamcl.streams.order import ClassOrder, check_count, plan_tasks, shuffled
from hamcl.streams.source import Source

TEST_FRACTION = 0.2  # of a source that has no test split of its own


class SplitOptions(TypedDict, total=False):
    """The options of `split`, for callers that pass them on."""

    tasks: int | None
    classes_per_task: int | None
    task_sizes: Sequence[int] | None
    train_per_class: int | None
    test_per_class: int | None
    val_fraction: float
    test_fraction: float | None
    seed: int
    class_order: ClassOrder
    class_order_file: str | Path | None


def split(
    source: Source,
    *,
    tasks: int | None = None,
    classes_per_task: int | None = None,
    task_sizes: Sequence[int] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    val_fraction: float = 0.0,
    test_fraction: float | None = None,
    seed: int = 0,
    class_order: ClassOrder = "random",
    class_order_file: str | Path | None = None,
) -> Stream:
    """Cut a source into tasks; the result depends on the source, the options and the seed alone.

    Args:
        tasks, classes_per_task: equal tasks. Both: tasks x classes_per_task classes, the rest is left out.
            `tasks` alone: all classes, the first tasks taking one class more where it does not divide.
            `classes_per_task` alone: all classes, the last task taking the remainder. Neither: one task.
        task_sizes: number of classes of each task; the classes beyond their sum are left out.
        train_per_class: at most so many samples of a class, drawn by seed, for training and validation together.
        test_per_class: at most so many test samples of a class, drawn by seed.
        val_fraction: fraction of the training samples of each class, in [0, 1), held out for validation.
        test_fraction: the same for the test split of a source that has none (0.2 if not given).
        class_order: "random" permutes the classes by seed (task 0 is the first of the permutation), "given" keeps
            the source's order, "superclass" keeps the classes of one superclass together, superclasses and the
            classes inside each permuted by seed.
        class_order_file: the exact order instead: class names one a line, or a JSON list of names, or a JSON list
            of tasks, each a list of names. A class named by several tasks shares its training samples out among
            them, disjointly; its test samples belong to each of them.

    Raises:
        UsageError: an option is out of range or contradicts another.
        DataError: the order file names an unknown class or one twice, or a class has too few samples.
    """
    _check_fraction("val_fraction", val_fraction)
    check_count("train_per_class", train_per_class)
    check_count("test_per_class", test_per_class)
    if test_fraction is not None:
        _check_fraction("test_fraction", test_fraction)
        if len(source.test):
            raise UsageError(f"{source.name} has a test split of its own; leave test_fraction out")

    plan = plan_tasks(source, tasks, classes_per_task, task_sizes, seed, class_order, class_order_file)
    times = Counter(name for classes in plan for name in classes)
    train_of, test_of = _by_class(source.train, source.classes), _by_class(source.test, source.classes)
    test_samples = source.test
    if not len(source.test):
        test_samples, fraction = source.train, TEST_FRACTION if test_fraction is None else test_fraction
        for name in times:
            train_of[name], test_of[name] = _hold_out(train_of[name], fraction, seed, "test", name)
    for name, count in times.items():
        if train_per_class is not None:
            train_of[name] = shuffled(train_of[name], seed, "train_per_class", name)[:train_per_class]
        if test_per_class is not None:
            test_of[name] = shuffled(test_of[name], seed, "test_per_class", name)[:test_per_class]
        if len(train_of[name]) < count:
            raise DataError(
                f"{source.name}: the class {name!r} is in {count} tasks but has {len(train_of[name])} training "
                "samples; add samples or name it less often"
            )
        if count > 1:
            train_of[name] = shuffled(train_of[name], seed, "occurrence", name)

    made: list[Task] = []
    position = {name: i for i, name in enumerate(source.classes)}
    seen: Counter[str] = Counter()
    for i, classes in enumerate(plan):
        train_indices: list[int] = []
        val_indices: list[int] = []
        for name in classes:
            share = train_of[name][seen[name] :: times[name]]
            train, val = _hold_out(share, val_fraction, seed, "val", name, seen[name])
            train_indices += train
            val_indices += val
            seen[name] += 1
        relabel = {position[name]: y for y, name in enumerate(classes)}
        made.append(
            Task(
                name=source.name if len(plan) == 1 else f"{source.name}-{i + 1:02d}",
                classes=tuple(classes),
                train=source.train.select(sorted(train_indices), relabel),
                val=source.train.select(sorted(val_indices), relabel),
                test=test_samples.select(sorted(k for name in classes for k in test_of[name]), relabel),
                modality=source.modality,
                augmentation=source.augmentation,
            )
        )
    superclasses = {name: source.superclasses[name] for name in times if name in source.superclasses}
    return Stream(source.name, tuple(made), superclasses, source.notes)


def _check_fraction(name: str, fraction: float) -> None:
    if not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise UsageError(f"{name} must be at least 0 and below 1, got {fraction!r}")


def _hold_out(indices: list[int], fraction: float, seed: int, *purpose: int | str) -> tuple[list[int], list[int]]:
    """Return (kept, held out): a fraction, rounded, but one at least and never all."""
    if fraction == 0 or len(indices) < 2:
        return indices, []
    count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
    order = shuffled(indices, seed, *purpose)
    return order[count:], order[:count]


def _by_class(samples: Samples, classes: Sequence[str]) -> dict[str, list[int]]:
    """Return the positions of each class's samples."""
    indices: dict[str, list[int]] = {name: [] for name in classes}
    for i, y in enumerate(samples.labels):
        indices[classes[y]].append(i)
    return indices
