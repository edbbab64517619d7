"""Samples decoded when they are indexed."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from PIL import Image

from hamcl.errors import DataError
from hamcl.streams.names import is_unicode, legible
from hamcl.streams.pixels import read_image


class Inputs(Sequence[Any]):
    """A sequence whose items are computed when indexed; a slice of it is a lazy view."""

    @abstractmethod
    def at(self, i: int) -> Any:
        """The i-th item, 0 <= i < length."""

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        positions = range(len(self))
        return Selected(self, tuple(positions[i])) if isinstance(i, slice) else self.at(positions[i])


@dataclass(frozen=True)
class Selected(Inputs):
    """A lazy view of `source` at `indices`."""

    source: Sequence[Any]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, i: int) -> Any:
        return self.source[self.indices[i]]


@dataclass(frozen=True)
class Joined(Inputs):
    """A lazy concatenation of `parts`."""

    parts: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def at(self, i: int) -> Any:
        for part in self.parts:
            if i < len(part):
                return part[i]
            i -= len(part)
        raise IndexError(i)


@dataclass(frozen=True)
class Lazy(Inputs):
    """`decode(raw[i], where(i))` for every i, computed when indexed; `where` names the sample in messages.

    The parts are picklable, so a data loader's worker processes can hold a copy.

    Attributes:
        raw: anything with a length that gives its i-th item, 0 <= i < length.
        problems: position -> one sentence on why it cannot be read, where that is known already.
    """

    raw: Any
    decode: Callable[[Any, str], Any]
    where: Callable[[int], str]
    problems: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.raw)

    def at(self, i: int) -> Any:
        if i in self.problems:
            raise DataError(self.problems[i])
        return self.decode(self.raw[i], self.where(i))


class Kept(Inputs):
    """Inputs of which those read first are kept, so that passes over the same samples decode each but once.

    Decoded images may take `room` bytes; what does not fit is decoded again each time.
    """

    ROOM = 256 * 2**20

    def __init__(self, source: Sequence[Any], room: int = ROOM) -> None:
        self.source, self.room = source, room
        self.kept: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.source)

    def at(self, i: int) -> Any:
        if i in self.kept:
            return self.kept[i]
        item = self.source[i]
        size = item.width * item.height * len(item.getbands()) if isinstance(item, Image.Image) else 0
        if 0 < size <= self.room:
            self.room -= size
            self.kept[i] = item
        return item


def image_files(paths: Sequence[Path]) -> Lazy:
    """Return the images in these files."""
    names = [str(path) for path in paths]
    return Lazy(names, _read, [legible(name) for name in names].__getitem__)


def _read(path: str, where: str) -> Image.Image:
    return read_image(path)


def check_text(text: Any, where: str) -> str:
    """The text itself; DataError: it is missing, not a string, blank, or not Unicode."""
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} has no text; fill it in or remove the row")
    if not is_unicode(text):
        raise DataError(f"{where} holds half a character (a lone surrogate), such as a cut emoji; mend or remove it")
    return text


def numbered(name: str, i: int) -> str:
    """Name a sample by its position, for messages (use with `functools.partial`)."""
    return f"{name}, sample {i}"
