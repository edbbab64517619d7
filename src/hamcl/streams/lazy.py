"""Samples decoded when they are indexed, and the one way an image file becomes an RGB image."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hamcl.errors import DataError
from hamcl.streams.base import Inputs


class Indexed(Protocol):
    """Anything with a length that gives its i-th item, 0 <= i < length."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Any: ...


@dataclass(frozen=True)
class Lazy(Inputs):
    """`decode(raw[i], where(i))` for every i, computed when indexed; `where` names the sample in messages.

    The parts are picklable, so a data loader's worker processes can hold a copy.
    """

    raw: Indexed
    decode: Callable[[Any, str], Any]
    where: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.raw)

    def at(self, i: int) -> Any:
        return self.decode(self.raw[i], self.where(i))


class Kept(Inputs):
    """Inputs of which those read first are kept, so that passes over the same samples decode each but once.

    Args:
        source: the inputs.
        room: bytes that decoded images may take; what does not fit is decoded again each time.
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
    return Lazy(names, _read_image, names.__getitem__)


def read_image(path: str | Path) -> Image.Image:
    """Return the image in a file as RGB, upright as its EXIF orientation says.

    Raises:
        DataError: the file cannot be read or is not an image.
    """
    return _read_image(str(path), str(path))


def _read_image(path: str, where: str) -> Image.Image:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}); restore the file or remove it") from error
    return decode_image(data, where)


def decode_image(data: bytes, where: str) -> Image.Image:
    """Return encoded image bytes as an RGB image, upright as its EXIF orientation says.

    Raises:
        DataError: `where` holds no image that can be decoded.
    """
    if not data:
        raise DataError(f"{where} is empty; replace the image or remove it")
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16-bit grey: convert() alone would clip it to white
                upright = upright.point(lambda value: value / 256).convert("L")
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is not a readable image (of no known format); replace it or remove it") from error
    except Exception as error:  # a decoder fed with arbitrary bytes may raise anything
        raise DataError(f"{where} is not a readable image ({error}); replace it or remove it") from error


def from_pixels(pixels: np.ndarray, where: str) -> Image.Image:
    """Return an 8-bit array (H, W) or (H, W, 3) as an RGB image."""
    return Image.fromarray(pixels).convert("RGB")


def check_text(text: Any, where: str) -> str:
    """Return `text` if it is one.

    Raises:
        DataError: it is missing, not a string, or blank.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where} has no text; fill it in or remove the row")
    return text


def numbered(name: str, i: int) -> str:
    """Name a sample by its position, for messages (use with `functools.partial`)."""
    return f"{name}, sample {i}"
