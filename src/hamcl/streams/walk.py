"""The image files below a folder, and what is left out of it, to be said in one sentence."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hamcl.errors import DataError
from hamcl.streams.names import legible
from hamcl.streams.pixels import PHONE, SUFFIXES, UNREAD
from hamcl.words import listed

# Folders that systems make: Synology, QNAP, Windows, Linux.
_SYSTEM = {"@eadir", "@recycle", "@tmp", "#recycle", "#snapshot"}
_SYSTEM |= {"$recycle.bin", "system volume information", "lost+found"}
_SILENT = {"thumbs.db", "desktop.ini", "icon\r"}  # files that systems make, which nobody misses

HIDDEN = "hidden folders and files with images (a class must not begin with . or __)"
OTHER = "files that are no images by their suffix"
HEIC = "images that are read where pillow-heif is installed"
FOREIGN = "images of formats that are not read here"
LOOSE = "images that lie in no class folder"
TWICE = "links to folders that are read already"
ODD = "what is named as an image and is no file"
TABLES = "tables beside the class folders"
BESIDE = "folders beside the training split"
UNUSED = "splits that are not used"
UNLABELLED = "splits without class folders"


class LeftOut:
    """What is left out below `root`, by reason."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: dict[str, Counter[str]] = {}

    def add(self, reason: str, what: Path | str) -> None:
        """Count one thing: a path, or another word for it."""
        if isinstance(what, Path):
            what = os.path.relpath(what, self.root)
        self.found.setdefault(reason, Counter())[what] += 1

    def notes(self) -> list[str]:
        """One sentence that names all of it, or none."""
        parts = []
        for reason, what in self.found.items():
            names = [f"{legible(name)} ({n})" if n > 1 else legible(name) for name, n in sorted(what.items())]
            parts.append(f"{reason}: {listed(names)}")
        return [f"left out of {legible(str(self.root))}: {'; '.join(parts)}"] if parts else []


def is_hidden(folder: str) -> bool:
    """Whether a folder of this name is no part of the data: hidden, or made by a system."""
    return folder.startswith((".", "__")) or folder.casefold() in _SYSTEM


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name; DataError: it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"the folder {legible(str(folder))} cannot be read ({error.strerror}); allow it, or move it away"
        ) from error


def subfolders(folder: Path, left: LeftOut) -> list[Path]:
    """The folders in a folder, sorted; hidden ones with images are left out."""
    return [folder / entry.name for entry in entries(folder) if entry.is_dir() and not _hidden(entry, left)]


def images(folder: Path, left: LeftOut | None = None) -> list[Path]:
    """The image files anywhere below a folder, sorted by their path; links are followed, each folder is read once.

    `left` is told of hidden files and folders, files that are no images by their suffix, and links to folders that
    are read already. DataError: a folder cannot be read.
    """
    return sorted(_images(folder, left or LeftOut(folder)), key=lambda file: file.relative_to(folder).as_posix())


def holds_images(folder: Path) -> bool:
    """Whether there is an image anywhere below a folder."""
    return next(_images(folder, LeftOut(folder)), None) is not None


def _images(folder: Path, left: LeftOut) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    # What is really there goes before what links lead to, so that the same files have the same names everywhere.
    waiting, links = [folder], list[Path]()
    while waiting or links:
        path = waiting.pop() if waiting else links.pop(0)
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:
            left.add(TWICE, path)
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries(path):
            if entry.is_dir():
                if not _hidden(entry, left):
                    (links if entry.is_symlink() else waiting).append(path / entry.name)
            elif _usable(entry, left):
                yield path / entry.name


def _hidden(entry: os.DirEntry[str], left: LeftOut) -> bool:
    if not is_hidden(entry.name):
        return False
    if holds_images(Path(entry.path)):
        left.add(HIDDEN, Path(entry.path))
    return True


def _usable(entry: os.DirEntry[str], left: LeftOut) -> bool:
    """Whether a file is an image; a link that leads nowhere is one, which will be named when it is read."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES:
        if entry.name.startswith("."):
            left.add(HIDDEN, Path(entry.path))
            return False
        if entry.is_file() or entry.is_symlink():
            return True
        left.add(ODD, Path(entry.path))
    elif entry.name.startswith(".") or entry.name.casefold() in _SILENT:
        pass
    elif suffix in UNREAD:
        left.add(HEIC if suffix in PHONE else FOREIGN, suffix)
    else:
        left.add(OTHER, suffix or entry.name)
    return False
