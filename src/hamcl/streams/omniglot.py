"""`omniglot`: Omniglot (Lake, Salakhutdinov and Tenenbaum, 2015); handwritten characters of 50 alphabets, 20 drawers.

Drawers 1 to 14 of each character are the training split, 15 to 20 the test split.
"""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hamcl.errors import DataError
from hamcl.streams import local
from hamcl.streams.lazy import Lazy
from hamcl.streams.pixels import decode_image
from hamcl.streams.source import Request, Source
from hamcl.streams.walk import is_hidden

# In the order of preference: the small sets repeat alphabets of the background set and of each other.
SETS = ("images_background", "images_evaluation", "images_background_small1", "images_background_small2")
TRAIN_DRAWERS = 14
FILE = re.compile(r"(?:.*/)?([^/]+)/(character\d+)/\d+_(\d+)\.png")


def load(request: Request) -> Source:
    """Return Omniglot from a local copy: the official folders or zip files, or parquet.

    A class is "Alphabet/characterNN", its superclass is the alphabet. An alphabet found in several of the official
    sets is read once.
    """
    path = request.root("omniglot-py")
    if any((path / name).is_dir() or (path / f"{name}.zip").is_file() for name in SETS):
        return _official(path)
    source = local.read(path, request)
    alphabets = {name: name.rpartition("/")[0] for name in source.classes if "/" in name}
    return replace(source, name="omniglot", augmentation="handwriting", superclasses=alphabets)


def _official(path: Path) -> Source:
    taken: dict[str, str] = {}  # alphabet -> the set it is read from
    train: list[tuple[str, str, bytes]] = []
    test: list[tuple[str, str, bytes]] = []
    for name in SETS:
        for file, data in _files(path, name):
            match = None if any(map(is_hidden, file.split("/"))) else FILE.fullmatch(file)
            if match and taken.setdefault(match[1], name) == name:
                split = train if int(match[3]) <= TRAIN_DRAWERS else test
                split.append((f"{match[1]}/{match[2]}", file, data))
    return Source.build(
        "omniglot",
        _images(train),
        _images(test),
        augmentation="handwriting",
        superclasses={label: label.partition("/")[0] for label, _, _ in train},
    )


def _files(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (path below the set, content) of all files of one set, sorted; nothing if the set is not there."""
    folder, archive = path / name, path / f"{name}.zip"
    try:
        if folder.is_dir():
            for file in sorted(folder.rglob("*.png")):
                yield file.relative_to(path).as_posix(), file.read_bytes()
        elif archive.is_file():
            with zipfile.ZipFile(archive) as zipped:
                for entry in sorted(zipped.namelist()):
                    if entry.endswith(".png"):
                        yield entry, zipped.read(entry)
    except (OSError, zipfile.BadZipFile) as error:
        place = folder if folder.is_dir() else archive
        raise DataError(f"{place} cannot be read ({error}); get the official file again") from error


def _images(rows: list[tuple[str, str, bytes]]) -> tuple[Lazy, list[str]]:
    files = [file for _, file, _ in rows]
    return Lazy([data for _, _, data in rows], decode_image, files.__getitem__), [label for label, _, _ in rows]
