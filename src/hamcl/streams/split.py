"""From a source to a stream: which classes make a task, and which samples are its training, validation and test."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict, TypeVar, get_args

import torch

from hamcl.errors import DataError, UsageError
from hamcl.rng import generator
from hamcl.streams.base import Samples, Stream, Task
from hamcl.streams.source import Source, did_you_mean

T = TypeVar("T")
ClassOrder = Literal["random", "given", "superclass"]
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
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction or 0.0)):
        if not 0 <= fraction < 1:
            raise UsageError(f"{name} must be at least 0 and below 1, got {fraction}")
    for name, count in (("train_per_class", train_per_class), ("test_per_class", test_per_class)):
        if count is not None and count < 1:
            raise UsageError(f"{name} must be at least 1, got {count}")
    if test_fraction is not None and len(source.test):
        raise UsageError(f"{source.name} has a test split of its own; leave test_fraction out")

    plan = _plan(source, tasks, classes_per_task, task_sizes, seed, class_order, class_order_file)
    times = Counter(name for classes in plan for name in classes)
    train_of, test_of = _by_class(source.train, source), _by_class(source.test, source)
    parts: dict[str, list[list[int]]] = {}
    for name, count in times.items():
        train, test = train_of[name], test_of[name]
        if not len(source.test):
            fraction = TEST_FRACTION if test_fraction is None else test_fraction
            train, test = _hold_out(train, fraction, seed, "test", name)
        if train_per_class is not None:
            train = shuffled(train, seed, "train_per_class", name)[:train_per_class]
        if test_per_class is not None:
            test = shuffled(test, seed, "test_per_class", name)[:test_per_class]
        if len(train) < count:
            raise DataError(
                f"{source.name}: the class {name!r} is in {count} tasks but has {len(train)} training samples; "
                "add samples or name it less often"
            )
        test_of[name] = test
        dealt = shuffled(train, seed, "occurrence", name) if count > 1 else train
        parts[name] = [dealt[i::count] for i in range(count)]

    made = []
    held_out_split = source.test if len(source.test) else source.train
    for i, classes in enumerate(plan):
        train_indices, val_indices, test_indices = [], [], []
        for name in classes:
            part = parts[name].pop(0)
            train, val = _hold_out(part, val_fraction, seed, "val", name, times[name] - len(parts[name]))
            train_indices += train
            val_indices += val
            test_indices += test_of[name]
        relabel = {source.classes.index(name): y for y, name in enumerate(classes)}
        made.append(
            Task(
                name=source.name if len(plan) == 1 else f"{source.name}-{i + 1:02d}",
                classes=tuple(classes),
                train=source.train.select(sorted(train_indices), relabel),
                val=source.train.select(sorted(val_indices), relabel),
                test=held_out_split.select(sorted(test_indices), relabel),
                modality=source.modality,
                augmentation=source.augmentation,
            )
        )
    superclasses = {name: source.superclasses[name] for name in times if name in source.superclasses}
    return Stream(source.name, tuple(made), superclasses)


def shuffled(items: Sequence[T], seed: int, *purpose: int | str) -> list[T]:
    """Return `items` permuted by the generator of this seed and purpose."""
    return [items[i] for i in torch.randperm(len(items), generator=generator(seed, *purpose)).tolist()]


def _hold_out(indices: list[int], fraction: float, seed: int, *purpose: int | str) -> tuple[list[int], list[int]]:
    """Return (kept, held out): a fraction, rounded, but one at least and never all."""
    if fraction == 0 or len(indices) < 2:
        return indices, []
    count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
    order = shuffled(indices, seed, *purpose)
    return order[count:], order[:count]


def _by_class(samples: Samples, source: Source) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {name: [] for name in source.classes}
    for i, y in enumerate(samples.labels):
        indices[source.classes[y]].append(i)
    return indices


def _plan(
    source: Source,
    tasks: int | None,
    classes_per_task: int | None,
    task_sizes: Sequence[int] | None,
    seed: int,
    class_order: ClassOrder,
    class_order_file: str | Path | None,
) -> list[list[str]]:
    """Return the class names of each task."""
    if task_sizes is not None and (tasks is not None or classes_per_task is not None):
        raise UsageError("task_sizes says it all; leave tasks and classes_per_task out")
    if class_order_file is None:
        names = _ordered(source, seed, class_order)
    else:
        if class_order != "random":
            raise UsageError(f"class_order={class_order!r} contradicts class_order_file; give one of them")
        listed_tasks, names = read_order(Path(class_order_file), source)
        if listed_tasks:
            if tasks is not None or classes_per_task is not None or task_sizes is not None:
                raise UsageError(f"{class_order_file} lists the tasks; leave the number and the size of tasks out")
            return listed_tasks
    sizes = _sizes(len(names), tasks, classes_per_task, task_sizes, source.name)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [names[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _ordered(source: Source, seed: int, class_order: ClassOrder) -> list[str]:
    if class_order not in get_args(ClassOrder):
        raise UsageError(f"class_order is {class_order!r}; {did_you_mean(class_order, get_args(ClassOrder))}")
    if class_order == "given":
        return list(source.classes)
    if class_order == "random":
        return shuffled(source.classes, seed, "class_order")
    if missing := [name for name in source.classes if name not in source.superclasses]:
        raise UsageError(f"{source.name} knows no superclass of {missing[0]!r}; choose class_order random or given")
    families: dict[str, list[str]] = {}
    for name in source.classes:
        families.setdefault(source.superclasses[name], []).append(name)
    order = shuffled(list(families), seed, "class_order", "superclasses")
    return [name for family in order for name in shuffled(families[family], seed, "class_order", family)]


def _sizes(
    n: int, tasks: int | None, classes_per_task: int | None, task_sizes: Sequence[int] | None, name: str
) -> list[int]:
    """Return the number of classes of each task (the rule is told in `split`)."""
    for option, value in (
        ("tasks", tasks),
        ("classes_per_task", classes_per_task),
        *(("task_sizes", s) for s in task_sizes or ()),
    ):
        if value is not None and value < 1:
            raise UsageError(f"{option} must be at least 1, got {value}")
    if task_sizes is not None:
        sizes = list(task_sizes)
        if not sizes:
            raise UsageError("task_sizes is empty; list the number of classes of each task")
    elif tasks is not None and classes_per_task is not None:
        sizes = [classes_per_task] * tasks
    elif classes_per_task is not None:
        whole, rest = divmod(n, classes_per_task)
        sizes = [classes_per_task] * whole + [rest] * (rest > 0)
    else:
        whole, rest = divmod(n, tasks or 1)
        sizes = [whole + (i < rest) for i in range(tasks or 1)]
    if sum(sizes) > n or 0 in sizes:
        raise UsageError(
            f"{name} has {n} classes, too few for {max(sum(sizes), len(sizes))}; ask for fewer or smaller tasks"
        )
    return sizes


def read_order(path: Path, source: Source) -> tuple[list[list[str]], list[str]]:
    """Return the class order in a file: (the classes of each task, []) if it lists tasks, else ([], names).

    Raises:
        DataError: the file cannot be read, names an unknown class, or names one twice (in one task).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        order = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"class order file {path} cannot be read: {error}; check the path and its JSON") from error
    nested = bool(order) and all(isinstance(item, list) and item for item in order)
    groups = order if nested else [order]
    if not order or not all(isinstance(name, str) for group in groups for name in group):
        raise DataError(
            f"class order file {path} must hold class names, one a line, or a JSON list of names or of tasks"
        )
    groups = [[name.strip() for name in group if name.strip()] for group in groups]
    known = set(source.classes)
    for name, count in ((name, count) for group in groups for name, count in Counter(group).items()):
        if name not in known:
            raise DataError(
                f"class order file {path} names {name!r}, which {source.name} lacks; "
                f"{did_you_mean(name, source.classes)}"
            )
        if count > 1:
            raise DataError(f"class order file {path} names {name!r} {count} times; name it once")
    return (groups, []) if nested else ([], groups[0])
