"""What `ham predict` is asked about: images in files and folders, or texts one a line."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hamcl.errors import DataError
from hamcl.method import Method
from hamcl.streams import text
from hamcl.streams.base import Modality, Selected
from hamcl.streams.lazy import Lazy
from hamcl.streams.pixels import decode_image, read_image
from hamcl.streams.walk import LeftOut, images

STDIN = "-"
_IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""How image files begin that could not be mistaken for a path."""


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


def gather(arguments: Sequence[str], modality: Modality, stdin: BinaryIO) -> Inputs:
    """Read the arguments of `ham predict`; an unreadable one becomes a problem, and the others are read.

    Args:
        arguments: images: files, folders (searched to any depth) or "-": an image on `stdin`, or a list of those, one
            a line or each ended by a zero byte, in the bytes that the file system has.
            Texts: text files, or "-" for `stdin`, with one text a line. Blank lines are left out.
    """
    return _images(arguments, stdin) if modality == "image" else _all_texts(arguments, stdin)


def _images(arguments: Sequence[str], stdin: BinaryIO) -> Inputs:
    names: list[str] = []
    raw: list[str | bytes] = []
    problems: list[str] = []
    notes: list[str] = []
    for argument in arguments:
        listed: list[str] = [argument]
        if argument == STDIN:
            data = stdin.read()
            if _is_image(data):
                names.append(STDIN)
                raw.append(data)
                continue
            parts = data.split(b"\0") if b"\0" in data else data.splitlines()
            listed = [os.fsdecode(part) for part in parts if part.strip()]
        for path in listed:
            try:
                found = _paths(path, notes)
            except DataError as error:
                problems.append(str(error))
            else:
                names += found
                raw += found
    return Inputs(names, Lazy(raw, _decoded, names.__getitem__), problems, notes)


def _all_texts(arguments: Sequence[str], stdin: BinaryIO) -> Inputs:
    names: list[str] = []
    problems: list[str] = []
    for argument in arguments:
        try:
            names += _texts(argument, stdin)
        except DataError as error:
            problems.append(str(error))
    return Inputs(names, names, problems)


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


def _is_image(data: bytes) -> bool:
    bitmap = data[:2] == b"BM" and data[6:10] == bytes(4)
    return data.startswith(_IMAGES) or bitmap or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _decoded(raw: str | bytes, where: str) -> Any:
    return decode_image(raw, "standard input") if isinstance(raw, bytes) else read_image(raw)


def _texts(argument: str, stdin: BinaryIO) -> list[str]:
    if argument == STDIN:
        return _lines(stdin.read(), argument)
    path = Path(argument).expanduser()
    if path.suffix.lower() in text.SUFFIXES:
        raise DataError(f"{path} is a table; give a plain text file with one text a line, or - for standard input")
    try:
        return _lines(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _lines(data: bytes, argument: str) -> list[str]:
    """The lines that are not blank."""
    try:
        # Not splitlines(): a text may hold characters that it would end a line at.
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        where = "standard input" if argument == STDIN else argument
        raise DataError(f"{where} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def _readable(values: Sequence[Any], i: int, problem: Callable[[str], None]) -> bool:
    try:
        values[i]
    except DataError as error:
        problem(str(error))
        return False
    return True
