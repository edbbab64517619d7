"""What `ham predict` is asked about: images in files and folders, texts, and tables of either."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hamcl.errors import DataError, UsageError
from hamcl.heads.calibration import KNOWN
from hamcl.learning.learner import Learner
from hamcl.streams.base import Modality
from hamcl.streams.lazy import Joined, Lazy, Selected
from hamcl.streams.pixels import decode_image, read_image
from hamcl.streams.unlabelled import SUFFIXES, read_unlabelled
from hamcl.streams.walk import LeftOut, images

STDIN = "-"
_IMAGES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""How image files begin that could not be mistaken for a path."""


@dataclass(frozen=True)
class Answer:
    """The class names of one input, most probable first.

    Attributes:
        calibrated: whether the probabilities rest on enough left-out samples, see `hamcl.heads.calibration`.
    """

    input: str
    labels: list[str]
    probabilities: list[float]
    calibrated: bool


@dataclass
class Inputs:
    """What to classify, as far as the arguments are read.

    Attributes:
        tables: how many tables there are among them.
        names: the path of each image, or the text itself; where it stands in a table, if it has no name.
        plain: images and texts of no table that are no part yet.
        parts: images, decoded when indexed (a bad one raises `DataError`), or texts.
        problems: one sentence for each argument that could not be read.
        notes: one sentence for each thing that was left out or guessed.
    """

    modality: Modality
    text_column: str | None
    tables: int = 0
    names: list[str] = field(default_factory=list)
    plain: list[str | bytes] = field(default_factory=list)
    parts: list[Sequence[Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def values(self) -> Sequence[Any]:
        """The inputs, in the order of `names`."""
        return Joined(tuple(self.parts))

    def take_images(self, argument: str, stdin: BinaryIO) -> None:
        """Read one argument of a model of images."""
        paths: list[str] = [argument]
        if argument == STDIN:
            data = stdin.read()
            if _is_image(data):
                return self.add([STDIN], [data])
            parts = data.split(b"\0") if b"\0" in data else data.splitlines()
            paths = [os.fsdecode(part) for part in parts if part.strip()]
        for path in paths:
            with self.problem():
                if _is_table(path):
                    self.take_table(path)
                else:
                    found = _paths(path, self.notes)
                    self.add(found, found)

    def take_texts(self, argument: str, stdin: BinaryIO) -> None:
        """Read one argument of a model of texts."""
        with self.problem():
            if argument == STDIN:
                found = _lines(stdin.read(), argument)
            elif _is_table(argument):
                return self.take_table(argument)
            elif os.path.exists(os.path.expanduser(argument)) or _looks_like_a_path(argument):
                found = _file(argument)
            else:
                found = [argument] if argument.strip() else []
                if len(argument.split()) == 1:
                    self.notes.append(f"there is no file {argument!r}; it is taken for a text")
            self.add(found, found)

    def take_table(self, argument: str) -> None:
        """Read the samples of a table."""
        self.tables += 1
        table = read_unlabelled(Path(argument).expanduser(), self.modality, self.text_column)
        self.notes += table.notes
        self.flush()
        self.names += table.names
        self.parts.append(table.inputs)

    def add(self, names: Sequence[str], plain: Sequence[str | bytes]) -> None:
        """Add inputs that come from no table, and their names."""
        self.names += names
        self.plain += plain

    def flush(self) -> None:
        """Make what does not come from tables a part of the inputs."""
        if self.plain:
            raw, self.plain = self.plain, []
            image = self.modality == "image"
            self.parts.append(Lazy(raw, _decoded, self.names[-len(raw) :].__getitem__) if image else raw)

    @contextmanager
    def problem(self) -> Iterator[None]:
        """Keep the sentence of what cannot be read, and go on."""
        try:
            yield
        except DataError as error:
            self.problems.append(str(error))


def gather(arguments: Sequence[str], modality: Modality, stdin: BinaryIO, text_column: str | None = None) -> Inputs:
    """Read the arguments of `ham predict`; an unreadable one becomes a problem, and the others are read.

    Args:
        arguments: images: files, folders (searched to any depth) or "-": an image on `stdin`, or a list of those, one
            a line or each ended by a zero byte, in the bytes that the file system has.
            Texts: a text, a text file or "-" for `stdin`, with one text a line. Blank lines are left out.
            Both: tables, of which the column of the samples is read.
        text_column: the column of the texts in tables, if not a usual one.

    Raises:
        UsageError: `text_column` is given, and there is no table, or no such column.
    """
    asked = Inputs(modality, text_column)
    take = asked.take_images if modality == "image" else asked.take_texts
    for argument in arguments:
        take(argument, stdin)
    if text_column is not None and not asked.tables:
        raise UsageError(f"text_column is {text_column!r}, but no table is given; leave it out")
    asked.flush()
    return asked


def answers(model: Learner, inputs: Inputs, k: int, problem: Callable[[str], None]) -> Iterator[Answer]:
    """Yield the k best classes of every input that can be read, in order; `problem` is told of each that cannot."""
    size = model.machine.eval_batch_size
    for start in range(0, len(inputs.names), size):
        names, values = inputs.names[start : start + size], inputs.values[start : start + size]
        try:
            prediction = model.predict(values, k)
        except DataError:
            # Prepared once more, so that only a batch with a bad sample pays for it and none is kept in memory.
            prepare = model.backbone.preprocess.transform(False, model.objective.augmentation)
            usable = [i for i in range(len(names)) if _readable(values, i, prepare, problem)]
            names, values = [names[i] for i in usable], Selected(values, tuple(usable))
            prediction = model.predict(values, k)
        for name, labels, probabilities in zip(
            names, prediction.labels, prediction.probabilities.tolist(), strict=True
        ):
            yield Answer(name, labels, probabilities, model.judged >= KNOWN)


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


def _is_table(argument: str) -> bool:
    return argument.lower().endswith(SUFFIXES) and os.path.isfile(os.path.expanduser(argument))


def _looks_like_a_path(argument: str) -> bool:
    """Whether it is a misspelt path rather than a text: one word with a slash or a suffix."""
    return len(argument.split()) == 1 and bool(re.search(r"[/\\]|\.\w{1,7}$", argument))


def _file(argument: str) -> list[str]:
    path = Path(argument).expanduser()
    if path.is_dir():
        raise DataError(f"{path} is a folder; give text files, tables or texts")
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


def _readable(values: Sequence[Any], i: int, prepare: Callable[[Any], Any], problem: Callable[[str], None]) -> bool:
    try:
        prepare(values[i])
    except DataError as error:
        problem(str(error))
        return False
    return True
