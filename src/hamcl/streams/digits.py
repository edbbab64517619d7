"""`digits`: the 8 x 8 handwritten digits that scikit-learn ships; 10 classes, 1,797 images."""

from functools import partial

import numpy as np

from hamcl.errors import UsageError
from hamcl.streams.lazy import Lazy, numbered
from hamcl.streams.pixels import from_pixels
from hamcl.streams.source import Request, Source

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load(request: Request) -> Source:
    """Return the digits as 32 x 32 images, black on white; every fourth image of the list is a test image."""
    request.nowhere()
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the source 'digits' needs scikit-learn: install hamcl[demo]") from error
    data = load_digits()
    grey = (255 - data.images * (255 / 16)).round().astype(np.uint8)
    pixels = grey.repeat(4, axis=1).repeat(4, axis=2)
    names = np.array(NAMES)[data.target]
    test = np.arange(len(pixels)) % 4 == 3

    def part(mask: np.ndarray, split: str) -> tuple[Lazy, list[str]]:
        return Lazy(pixels[mask], from_pixels, partial(numbered, f"digits {split}")), names[mask].tolist()

    return Source.build("digits", part(~test, "train"), part(test, "test"), order=NAMES, augmentation="handwriting")
