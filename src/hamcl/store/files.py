"""Files of a store: read with a limit and without following links, written whole and durably or not at all."""

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hamcl.errors import DataError

OBJECTS, TEMPORARY = "objects", "tmp"


class Missing(DataError):
    """A file of the store is not there."""


def check_folders(root: Path) -> None:
    """Make sure that the store's own folders are folders, not links that lead out of it.

    Raises:
        DataError: one is not.
    """
    for name in (OBJECTS, TEMPORARY):
        folder = root / name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise DataError(f"{folder} is not a plain folder; a store holds no links, copy the store with its files")


def read(root: Path, name: str, limit: int, size: int | None = None) -> bytes:
    """The bytes of a regular file below the store, opened without following links.

    Args:
        name: a relative path that the caller made, never one that was read.
        limit: the most bytes it may have.
        size: the bytes it must have.

    Raises:
        DataError: it is missing, no regular file, or of another size; nothing was read then.
    """
    path = root / name
    check_folders(root)
    try:
        # A named pipe would block without O_NONBLOCK.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise Missing(f"{path} is missing; restore it from a copy of the store") from error
    except OSError as error:
        if path.is_symlink():
            raise DataError(f"{path} is a link; a store holds no links, copy the store with its files") from error
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode):
        os.close(number)
        raise DataError(f"{path} is not a regular file; restore it from a copy of the store")
    with os.fdopen(number, "rb") as file:
        if size is not None and facts.st_size != size:
            raise DataError(
                f"{path} has {facts.st_size} bytes, but the manifest says {size}; restore it from a copy of the store"
            )
        if facts.st_size > limit:
            raise DataError(f"{path} has {facts.st_size} bytes, more than the {limit} that are read")
        try:
            data = file.read(facts.st_size + 1)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) != facts.st_size:
        raise DataError(f"{path} changed while it was read; try again")
    return data


def write(root: Path, name: str, data: bytes) -> None:
    """Put a file into the store: on the disk when this returns, and never seen half written.

    Raises:
        DataError: the disk is full, the folder cannot be written to, ...; the file is as it was.
    """
    temporary = root / TEMPORARY / uuid.uuid4().hex
    with explained(root):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, root / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync((root / name).parent)


def remove(path: Path) -> int:
    """Delete a file and return the bytes it had.

    Raises:
        DataError: the folder cannot be written to.
    """
    with explained(path.parent):
        size = path.lstat().st_size
        path.unlink()
        return size


def sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system lets a folder be opened for it."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or root
        raise DataError(
            f"cannot write {where}: {error.strerror or error}; the store is whole, make room or allow writing"
        ) from error
