"""The one way an image becomes RGB pixels: from a file, from its bytes, or from what somebody opened with Pillow."""

import contextlib
import io
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hamcl.errors import DataError
from hamcl.streams.names import legible

if find_spec("pillow_heif"):
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()

SUFFIXES_OF = {
    format_: sorted(suffix for suffix, owner in Image.registered_extensions().items() if owner == format_)
    for format_ in ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
}
"""The formats that are read, by Pillow's names, and the suffixes of their files (none where Pillow lacks a format).

Pillow opens more, some of them by starting other programs (EPS) or with decoders that nobody looks after.
"""

FORMATS = tuple(format_ for format_ in SUFFIXES_OF if format_ in Image.OPEN)
SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)

PHONE = frozenset([".heic", ".heics", ".heif", ".heifs", ".hif"]) - SUFFIXES
"""Suffixes of HEIC, where the package that reads it is missing."""

UNREAD = (
    {*PHONE, ".avif", ".avifs", ".webp", ".jp2", ".jxl", ".svg", ".svgz", ".psd"}
    | {".eps", ".ps", ".pdf", ".xcf", ".ico", ".icns", ".tga", ".pcx", ".exr", ".hdr", ".dds", ".dcm", ".raw", ".dng"}
    | {".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".raf", ".rw2", ".srw", ".pef"}
) - SUFFIXES
"""Suffixes of images that are not read here, so that they can be named where they are left out."""

HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""The brands by which a HEIC file begins."""

MAX_PIXELS = 2**30 // 12
"""The most pixels an image may have, 89 million, above which Pillow warns: a larger one takes a gigabyte to read."""

RANGES = (255, 4095, 65535)
"""The largest values of 8, 12 and 16 bits."""

GUESSED = "guessed range"
"""Key in the `info` of an image whose values could have been larger: the range they were scaled from."""


def read_image(path: str | Path) -> Image.Image:
    """Return the image in a file as RGB, see `rgb`; of several frames or pages the first.

    Raises:
        DataError: the file cannot be read or is not an image.
    """
    where = legible(str(path))
    try:
        with open(path, "rb") as file:
            return _decoded(file if file.seekable() else io.BytesIO(file.read()), where)
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}); restore the file or remove it") from error


def decode_image(data: bytes, where: str) -> Image.Image:
    """Encoded image bytes as `read_image` gives those of a file; DataError: `where` holds no such image."""
    return _decoded(io.BytesIO(data), where)


def _decoded(file: BinaryIO, where: str) -> Image.Image:
    start = file.read(12)
    if not start:
        raise DataError(f"{where} is empty; replace the image or remove it")
    file.seek(0)
    try:
        with Image.open(file, formats=FORMATS) as image:
            pixels = rgb(image, where)
            if pixels is image:  # a copy does not hold on to the file
                pixels = image.copy()
    except DataError:
        raise
    except Image.DecompressionBombError as error:  # twice the bound and more
        raise _too_large(where) from error
    except UnidentifiedImageError as error:
        if start[4:8] == b"ftyp" and start[8:] in HEIC and "HEIF" not in FORMATS:
            raise DataError(f"{where} is a HEIC image: pip install pillow-heif, or save it as JPEG") from error
        raise DataError(f"{where} is not a readable image (of no known format); replace it or remove it") from error
    except Exception as error:  # a decoder fed with arbitrary bytes may raise anything
        raise DataError(f"{where} is not a readable image ({error}); replace it or remove it") from error
    guessed = pixels.info.get(GUESSED)
    pixels.info = {GUESSED: guessed} if guessed else {}  # what else was said of the file's pixels is not true of these
    return pixels


def rgb(image: Image.Image, where: str = "the image") -> Image.Image:
    """Return an image as 8-bit RGB by its own mode and values; an RGB image that needs no change is returned itself.

    - It is turned upright as its EXIF orientation says.
    - Values of more than 8 bits (grey, integers or floats) are scaled to 0..255 from the smallest of 0..255, 0..4095
      and 0..65535 that holds the largest value, floats from 0..1 if none is above 1; `info` says so, see `GUESSED`.
    - What is transparent is laid onto white.

    Raises:
        DataError: it is too large or has no pixels, its format is not one of `FORMATS`, its values are in no such
            range, or its file cannot be decoded.
    """
    if not image.width or not image.height:
        raise DataError(f"{where} has no pixels ({image.width} x {image.height}); replace it or remove it")
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where, image)
    if image.format not in (None, *SUFFIXES_OF):
        raise DataError(f"{where} is of the format {image.format}, which is not read; save it as PNG or JPEG")
    short = _cut_to_eight_bits(image)
    try:
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            image = _eight_bits(image, where)
        if image.has_transparency_data:
            layer = image if image.mode == "RGBA" else image.convert("RGBA")
            image = Image.new("RGB", image.size, "white")
            image.info = layer.info
            image.paste(layer, mask=layer)
        if image.mode != "RGB":
            image = image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # as in decode_image; also modes without a way to RGB
        raise DataError(f"{where} is not a readable image ({error}); replace it or remove it") from error
    if short and max(high for _, high in image.getextrema()) < 16:  # type: ignore[misc]
        raise DataError(
            f"{where} is nearly black: it stores 16 bits a channel but uses 12 or fewer, which cannot be seen; "
            "save it with 8 bits or with its values scaled to 0..65535"
        )
    return image


def from_pixels(pixels: np.ndarray, where: str) -> Image.Image:
    """Return an 8-bit array (H, W) or (H, W, 3) as an RGB image."""
    return Image.fromarray(pixels).convert("RGB")


def _cut_to_eight_bits(image: Image.Image) -> bool:
    """Whether Pillow keeps but the upper half of 16 bits (in all modes besides grey), told before it has loaded."""
    layouts = [str(tile.args) for tile in getattr(image, "tile", ())]  # "BGR;16" is 16 bits of all three together
    return image.mode[0] not in "IF" and any(";16" in layout and "BGR" not in layout for layout in layouts)


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """A grey image of more than 8 bits as one of 8, in strips, because its numbers take many times its own memory."""
    rows = max(1, 2**20 // image.width)
    strips = [(0, y, image.width, min(y + rows, image.height)) for y in range(0, image.height, rows)]
    ends = [(values.min(), values.max()) for values in (np.asarray(image.crop(strip)) for strip in strips)]
    low, high = np.min(ends), np.max(ends)
    if not (low >= 0 and high <= RANGES[-1]):  # not a number: neither
        raise DataError(
            f"{where} holds values from {low:.6g} to {high:.6g}, of which it does not say what is black and white; "
            "save it with values in 0..255, 0..65535 or, as floats, 0..1"
        )
    top = next(top for top in (1, *RANGES) if high <= top and (top > 1 or image.mode == "F"))
    hidden = image.info.get("transparency")
    grey = Image.new("LA" if isinstance(hidden, int) else "L", image.size)
    for strip in strips:
        values = np.asarray(image.crop(strip))
        part = Image.fromarray(np.rint(values * np.float32(255 / top)).astype(np.uint8))
        if isinstance(hidden, int):
            part.putalpha(Image.fromarray(np.where(values == hidden, np.uint8(0), np.uint8(255))))
        grey.paste(part, strip)
    if top < RANGES[-1]:
        grey.info[GUESSED] = f"0..{top}"
    return grey


def _too_large(where: str, image: Image.Image | None = None) -> DataError:
    size = f"{image.width} x {image.height} pixels, " if image else ""
    most = f"the {MAX_PIXELS // 10**6} million pixels that are read"
    return DataError(f"{where} has {size}more than {most}; save a smaller copy of it")
