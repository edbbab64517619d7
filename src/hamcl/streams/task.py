"""One task from wherever its data lies; what kind of data a path holds is seen from what is there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from hamcl.errors import DataError, UsageError
from hamcl.streams import text
from hamcl.streams.base import Augmentation, Samples, Task
from hamcl.streams.check import OnBadSample
from hamcl.streams.folder import class_folders, is_layout
from hamcl.streams.hub import is_saved
from hamcl.streams.lazy import Joined, Selected
from hamcl.streams.local import is_parquet
from hamcl.streams.names import canonical, check_name
from hamcl.streams.registry import SOURCES, load_source
from hamcl.words import check_choice, listed


def load_task(
    where: str | Path,
    *,
    name: str | None = None,
    augmentation: Augmentation | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    on_bad_sample: OnBadSample = "error",
) -> Task:
    """Return a whole data set as one task: its training split, and its test split where it has one.

    Args:
        where: a folder with one sub-folder of images for each class, with or without `train/` and `test/` above; a
            parquet file or a folder of them; a CSV, TSV or JSON-lines file of texts or of paths of images, or a
            folder with `train.csv`; a folder that `save_to_disk` of the `datasets` library wrote; or a specification
            such as "hub:ID" (see `load_source`). A path that exists is taken for a path.
        name: the task's name; by default that of the file (without its suffix), of the folder or of the data set.
        augmentation: how training images are varied; by default as photos, unless the source knows better.
        text_column, label_column, on_bad_sample: see `load_source`.

    Raises:
        UsageError: the specification cannot be meant, a column is not there, or `name` cannot be a name.
        DataError: the data is not there or cannot be used.
    """
    if name is not None:
        try:
            check_name(name, "the task")
        except DataError as error:
            raise UsageError(str(error)) from error
    source = load_source(
        _specification(where), text_column=text_column, label_column=label_column, on_bad_sample=on_bad_sample
    )
    if augmentation is not None:
        check_choice("augmentation", augmentation, get_args(Augmentation))
    if source.modality == "text" and augmentation not in (None, "none"):
        raise UsageError(f"{where} holds texts, which are not augmented; leave augmentation={augmentation!r} out")
    return Task(
        source.name if name is None else name,
        source.classes,
        source.train,
        test=source.test,
        modality=source.modality,
        augmentation=augmentation or source.augmentation,
        notes=source.notes,
    )


def _specification(where: str | Path) -> str:
    path = Path(where).expanduser()
    if path.exists():
        return f"{_kind(path)}:{path}"
    if str(where).partition(":")[0] in SOURCES:
        return str(where)
    raise DataError(f"there is no file or folder {str(where)!r}, and no source of that name; check the path")


def _kind(path: Path) -> str:
    """The source that reads a file or folder."""
    if is_saved(path):
        return "hub"
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix not in (*text.SUFFIXES, ".parquet"):
            raise DataError(
                f"{path} is no data set; give a folder with one sub-folder of images for each class, or a file "
                f"that ends in {listed([*text.SUFFIXES, '.parquet'])}"
            )
        return "parquet" if suffix == ".parquet" else "text"
    tables = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix.lower() in text.SUFFIXES]
    if is_layout(path):
        tables = []  # an index of the images, or a list of those to be submitted
    if any(file.stem in text.SPLITS for file in tables):
        return "text"
    if is_parquet(path):
        return "parquet"
    if tables and (found := class_folders(path)):
        raise DataError(
            f"{path} holds images in {listed([f'{folder.name}/' for folder in found])} and the table "
            f"{tables[0].name}: give {tables[0]} if it lists images and their labels, or folder:{path} if the folders "
            "are classes"
        )
    return "folder"


def regroup(tests: Sequence[Task], learned: Mapping[str, Sequence[str]], *, known: bool = False) -> list[Task]:
    """Return one task for each learned task that has samples among `tests`, with those samples as its test split.

    The samples of a task are its test split, or the training split where it has none. A class that several tasks
    learned counts to the first of them.

    Args:
        learned: task name -> its class names.
        known: leave out the samples of classes that were not learned.

    Raises:
        DataError: there is a class that was not learned (unless `known`), or no sample is left.
    """
    splits = [(task, task.test if len(task.test) else task.train) for task in tests]
    names = [task.classes[y] for task, split in splits for y in split.labels]
    inputs = Joined(tuple(split.inputs for _, split in splits))
    home = {canonical(name): task for task, classes in reversed([*learned.items()]) for name in classes}
    strange = sorted({name for name in names if name not in home})
    if strange and not known:
        raise DataError(
            f"classes that were not learned: {listed(strange)}; learn them first, or leave them out with known=True"
        )
    by_task: dict[str, list[int]] = {task: [] for task in learned}
    for i, name in enumerate(names):
        if name in home:
            by_task[home[name]].append(i)
    found = []
    for task, indices in by_task.items():
        if indices:
            classes = tuple(dict.fromkeys(names[i] for i in sorted(indices, key=lambda i: names[i])))
            labels = [classes.index(names[i]) for i in indices]
            split = Samples(Selected(inputs, tuple(indices)), labels)
            found.append(Task("learned", classes, Samples(), test=split, modality=tests[0].modality))
            # A model of old may know a task by any name, even an empty one.
            object.__setattr__(found[-1], "name", task)
    if not found:
        raise DataError("no sample is of a class that was learned; learn the classes first")
    return found
