"""`cifar100`: CIFAR-100 (Krizhevsky, 2009); 100 classes in 20 superclasses, 500 training and 100 test images each."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.streams import local, pickled
from hamcl.streams.lazy import Lazy, numbered
from hamcl.streams.pixels import from_pixels
from hamcl.streams.source import Request, Source

HUB_ID = "uoft-cs/cifar100"


def load(request: Request) -> Source:
    """Return CIFAR-100 from a local copy (the official Python files, parquet, or class folders) or from the hub."""
    return local.benchmark(
        request, _official, "cifar100", "CIFAR-100", hub_id=HUB_ID, place="cifar-100-python", mark="meta"
    )


def _official(path: Path) -> Source:
    meta = _unpickle(path / "meta")
    fine = [_text(name) for name in meta["fine_label_names"]]
    coarse = [_text(name) for name in meta["coarse_label_names"]]
    if len(set(fine)) < len(fine):
        raise ValueError("class names repeat")
    superclasses: dict[str, str] = {}

    def part(split: str) -> tuple[Lazy, list[str]]:
        table = _unpickle(path / split)
        pixels = pickled.array(table["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = _names(fine, table["fine_labels"])
        superclasses.update(zip(labels, _names(coarse, table["coarse_labels"]), strict=True))
        return Lazy(pixels, from_pixels, partial(numbered, f"cifar100 {split}")), labels

    return Source.build(
        "cifar100", part("train"), part("test"), order=fine, augmentation="photo", superclasses=superclasses
    )


def _unpickle(file: Path) -> dict[str, Any]:
    try:
        size = file.stat().st_size
        if size > pickled.MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        table = pickled.loads(file.read_bytes())
        if not isinstance(table, dict):
            raise ValueError("it is no dictionary")
        return {_text(key): value for key, value in table.items()}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not an official CIFAR-100 file ({error}); unpack the archive again") from error


def _names(names: Sequence[str], positions: Sequence[int]) -> list[str]:
    if not all(type(y) is int and y >= 0 for y in positions):
        raise ValueError("its labels are not whole numbers from 0")
    return [names[y] for y in positions]


def _text(value: bytes | str) -> str:
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no name")
    return text
