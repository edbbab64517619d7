"""Which classes make a task: class orders, order files and task sizes."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from hamcl.errors import DataError, UsageError
from hamcl.streams.names import canonical
from hamcl.streams.source import Source
from hamcl.words import check_choice, did_you_mean

T = TypeVar("T")
ClassOrder = Literal["random", "given", "superclass"]


def plan_tasks(
    source: Source,
    tasks: int | None,
    classes_per_task: int | None,
    task_sizes: Sequence[int] | None,
    seed: int,
    class_order: ClassOrder,
    class_order_file: str | Path | None,
) -> list[list[str]]:
    """Return the class names of each task; the arguments are those of `split`, which tells the rules."""
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
    rest = iter(names)
    return [list(islice(rest, size)) for size in sizes]


def _ordered(source: Source, seed: int, class_order: ClassOrder) -> list[str]:
    check_choice("class_order", class_order, get_args(ClassOrder))
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
    """Return the number of classes of each task."""
    check_count("tasks", tasks)
    check_count("classes_per_task", classes_per_task)
    for size in task_sizes or ():
        check_count("task_sizes", size, needed=True)
    wanted = sum(task_sizes) if task_sizes else (tasks or 1) * (classes_per_task or 1)
    if wanted > n:  # before lists of that length are made
        raise UsageError(f"{name} has {n} classes, too few for {wanted}; ask for fewer or smaller tasks")
    if task_sizes is not None:
        if not task_sizes:
            raise UsageError("task_sizes is empty; list the number of classes of each task")
        return list(task_sizes)
    if classes_per_task is None:
        whole, rest = divmod(n, tasks or 1)
        return [whole + (i < rest) for i in range(tasks or 1)]
    whole, rest = divmod(n, classes_per_task)
    return [classes_per_task] * (tasks or whole) + [rest] * (tasks is None and rest > 0)


def read_order(path: Path, source: Source) -> tuple[list[list[str]], list[str]]:
    """Return the class order in a file: (the classes of each task, []) if it lists tasks, else ([], names).

    Raises:
        DataError: the file cannot be read, names an unknown class, or names one twice (in one task).
    """
    order: Any  # JSON until it has been checked
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        order = json.loads(text) if text.lstrip().startswith("[") else lines
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"class order file {path} cannot be read: {error}; check the path and its JSON") from error
    nested = bool(order) and all(isinstance(item, list) and item for item in order)
    groups = order if nested else [order]
    if not order or not all(isinstance(name, str) for group in groups for name in group):
        raise DataError(
            f"class order file {path} must hold class names, one a line, or a JSON list of names or of tasks"
        )
    groups = [[canonical(name) for name in group] for group in groups]
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


def check_count(name: str, count: int | None, needed: bool = False) -> None:
    """Refuse anything but a whole number of at least 1, or None if that is not `needed`."""
    if (count is not None or needed) and (not isinstance(count, int) or count < 1):
        raise UsageError(f"{name} must be a whole number of at least 1, got {count!r}")


def shuffled(items: Sequence[T], seed: int, *purpose: int | str) -> list[T]:
    """Return `items` permuted by the generator of this seed and purpose."""
    import torch  # which takes seconds, and most uses of this room need not

    from hamcl.rng import generator

    return [items[i] for i in torch.randperm(len(items), generator=generator(seed, *purpose)).tolist()]
