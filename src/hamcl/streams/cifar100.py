"""`cifar100`: CIFAR-100 (Krizhevsky, 2009); 100 classes in 20 superclasses, 500 training and 100 test images each."""

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hamcl.errors import DataError
from hamcl.streams import hub, local
from hamcl.streams.lazy import Lazy, from_pixels, numbered
from hamcl.streams.source import Request, Source

HUB_ID = "uoft-cs/cifar100"


def load(request: Request) -> Source:
    """Return CIFAR-100 from a local copy (the official Python files, parquet, or class folders) or from the hub."""
    if not request.where:
        return replace(hub.load(replace(request, where=HUB_ID)), name="cifar100")
    path = request.root("cifar-100-python")
    if (path / "meta").is_file():
        return _official(path)
    return replace(local.read(path, request.train_shards), name="cifar100")


def _official(path: Path) -> Source:
    try:
        meta = _unpickle(path / "meta")
        fine = [_text(name) for name in meta["fine_label_names"]]
        coarse = [_text(name) for name in meta["coarse_label_names"]]
        superclasses: dict[str, str] = {}

        def part(split: str) -> tuple[Lazy, list[str]]:
            table = _unpickle(path / split)
            pixels = np.asarray(table["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = [fine[y] for y in table["fine_labels"]]
            superclasses.update(zip(labels, (coarse[y] for y in table["coarse_labels"]), strict=True))
            return Lazy(pixels, from_pixels, partial(numbered, f"cifar100 {split}")), labels

        return Source.build(
            "cifar100", part("train"), part("test"), order=fine, augmentation="photo", superclasses=superclasses
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not the official CIFAR-100 folder ({error}); unpack the archive again") from error


class _Tables(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, texts and numpy arrays; anything else in a pickle is refused unexecuted."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # wherever this numpy keeps it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode` as protocol 2 uses it: bytes are stored as latin-1 text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _unpickle(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            table = _Tables(stream, encoding="bytes").load()
    except Exception as error:  # a pickle of arbitrary bytes may raise anything
        raise DataError(f"{file} is not an official CIFAR-100 file ({error}); unpack the archive again") from error
    return {_text(key): value for key, value in table.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
