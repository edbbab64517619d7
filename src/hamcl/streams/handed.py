"""Images as callers hand them over: opened with Pillow, as files, bytes, arrays or tensors."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hamcl.errors import DataError
from hamcl.streams.lazy import Inputs, Lazy
from hamcl.streams.pixels import decode_image, read_image

CHANNELS = (1, 3, 4)


def as_images(items: Sequence[Any]) -> Inputs:
    """Images as somebody handed them over, each read by `as_image` when it is indexed; lazy ones are left alone."""
    return items if isinstance(items, Inputs) else Lazy(items, as_image, "sample {}".format)


def as_image(item: Any, where: str) -> Image.Image:
    """Return what was handed over as an image of Pillow's.

    Args:
        item: such an image, which is returned itself; the path of a file; the bytes of one; or an array or tensor
            of 8-bit values (uint8): (H, W) or (H, W, channels), tensors also (channels, H, W), with 1, 3 (RGB) or 4
            (RGBA) channels.
        where: names it in messages.

    Raises:
        DataError: it is nothing of this, or the file or its image cannot be read.
    """
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, bytes):
        return decode_image(item, where)
    if isinstance(item, str | PathLike):
        path = Path(item).expanduser()
        if not path.exists():
            raise DataError(
                f"this backbone reads images, but the input is the text {str(item)[:80]!r}, and there is no file of "
                "that name: check the path, or choose a text backbone (for example minilm)"
            )
        return read_image(path)
    if _is_tensor(item):
        pixels = item.detach().cpu().numpy()
    elif hasattr(item, "__array__") and hasattr(item, "shape"):
        pixels = np.asarray(item)
    else:
        raise DataError(
            f"this backbone reads images, but {where} is of the type {type(item).__name__}: give an image opened with "
            "Pillow, a path, or an array of 8-bit values"
        )
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{where} is an array of {pixels.dtype}, of which nobody can tell what is black and white: give 8-bit "
            "values from 0 to 255 (uint8), before any normalisation"
        )
    if pixels.ndim == 3 and _is_tensor(item) and pixels.shape[0] in CHANNELS:
        pixels = np.moveaxis(pixels, 0, 2)
    if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in CHANNELS)):
        shape = " x ".join(str(side) for side in np.shape(item))
        raise DataError(f"{where} is an array of {shape}: give height x width, or height x width x channels (1, 3, 4)")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels))


def is_one_image(value: Any) -> bool:
    """Whether this is one image and not a sequence of them."""
    if isinstance(value, Image.Image | str | bytes | PathLike):
        return True
    shape = getattr(value, "shape", None)
    if shape is None or hasattr(value, "columns"):
        return False
    ends = (shape[0], shape[-1]) if _is_tensor(value) else shape[-1:]
    return len(shape) == 2 or (len(shape) == 3 and any(end in CHANNELS for end in ends))


def _is_tensor(item: Any) -> bool:
    """Whether it is one of PyTorch's, which have the channels first."""
    return type(item).__module__.partition(".")[0] in ("torch", "torchvision") and hasattr(item, "detach")
