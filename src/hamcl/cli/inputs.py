"""What `ham predict` is asked about: images in files and folders, or texts one a line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hamcl.errors import DataError
from hamcl.method import Method
from hamcl.streams import text
from hamcl.streams.base import Modality, Selected
from hamcl.streams.lazy import image_files
from hamcl.streams.walk import LeftOut, images

STDIN = "-"


@dataclass(frozen=True)
class Inputs:
    """What to classify.

    Attributes:
        names: the path of each image, or the text itself.
        values: images, decoded when indexed (a bad one raises `DataError`), or texts.
        problems: one sentence for each argument that could not be read.
        notes: one sentence for each thing that was left out or guessed.
    """

    names: list[str]
    values: Sequence[Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """The class names of one input, most probable first."""

    input: str
    labels: list[str]
    probabilities: list[float]


def gather(arguments: Sequence[str], modality: Modality, stdin: TextIO) -> Inputs:
    """Read the arguments of `ham predict`; an unreadable one becomes a problem, and the others are read.

    Args:
        arguments: images: files, folders (searched to any depth) or "-", a list of those on `stdin`, one a line.
            Texts: text files, or "-" for `stdin`, with one text a line. Blank lines are left out.
    """
    if modality == "image":
        arguments = [path for a in arguments for path in (_lines(stdin, a) if a == STDIN else [a])]
    names: list[str] = []
    problems: list[str] = []
    notes: list[str] = []
    for argument in arguments:
        try:
            names += _paths(argument, notes) if modality == "image" else _texts(argument, stdin)
        except DataError as error:
            problems.append(str(error))
    values = image_files([Path(name) for name in names]) if modality == "image" else names
    return Inputs(names, values, problems, notes)


def answers(model: Method, inputs: Inputs, k: int, problem: Callable[[str], None]) -> Iterator[Answer]:
    """Yield the k best classes of every input that can be read, in order; `problem` is told of each that cannot."""
    size = model.config.eval_batch_size
    for start in range(0, len(inputs.names), size):
        names, values = inputs.names[start : start + size], inputs.values[start : start + size]
        try:
            prediction = model.predict(values, k)
        except DataError:
            # Decoded once more, so that only a batch with a bad image pays for it and none is kept in memory.
            usable = [i for i in range(len(names)) if _readable(values, i, problem)]
            names, values = [names[i] for i in usable], Selected(values, tuple(usable))
            prediction = model.predict(values, k)
        for name, labels, probabilities in zip(
            names, prediction.labels, prediction.probabilities.tolist(), strict=True
        ):
            yield Answer(name, labels, probabilities)


def _paths(argument: str, notes: list[str]) -> list[str]:
    path = Path(argument).expanduser()
    if not path.is_dir():
        return [str(path)]
    left = LeftOut(path)
    found = images(path, left)
    notes += left.notes()
    if not found:
        raise DataError(f"the folder {path} holds no image; give another one")
    return [str(file) for file in found]


def _texts(argument: str, stdin: TextIO) -> list[str]:
    if argument == STDIN:
        return _lines(stdin, argument)
    path = Path(argument).expanduser()
    if path.suffix.lower() in text.SUFFIXES:
        raise DataError(f"{path} is a table; give a plain text file with one text a line, or - for standard input")
    try:
        with path.open(encoding="utf-8-sig") as file:
            return _lines(file, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _lines(file: TextIO, argument: str) -> list[str]:
    """The lines that are not blank."""
    try:
        return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        where = "standard input" if argument == STDIN else argument
        raise DataError(f"{where} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _readable(values: Sequence[Any], i: int, problem: Callable[[str], None]) -> bool:
    try:
        values[i]
    except DataError as error:
        problem(str(error))
        return False
    return True
