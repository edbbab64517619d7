"""Files of a store: read with a limit and without following links, written whole and durably or not at all."""

import errno
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from hamcl.errors import DataError
from hamcl.files import sync

MANIFEST, OBJECTS, TEMPORARY = "manifest.json", "objects", "tmp"
_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)


class Damaged(DataError):
    """A file of the store is not what it was; the sentence goes on with what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; restore it from a copy of the store")


class Missing(Damaged):
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


def read(root: Path, name: str, limit: int, size: int | None = None, sha256: str | None = None) -> bytes:
    """The bytes of a regular file below the store, opened without following links.

    Args:
        name: a relative path that the caller made, never one that was read.
        limit: the most bytes it may have.
        size: the bytes it must have.
        sha256: the checksum it must have, which is compared before the file is held in memory.

    Raises:
        DataError: it is missing, no regular file, of another size or checksum, or changes while it is read.
    """
    path = root / name
    with _opened(root, name) as file:
        facts = os.fstat(file.fileno())
        if size is not None and facts.st_size != size:
            raise Damaged(f"{path} has {facts.st_size} bytes, but the manifest says {size}")
        if facts.st_size > limit:
            raise DataError(f"{path} has {facts.st_size} bytes, more than the {limit} that are read")
        try:
            if sha256 is not None:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise Damaged(f"{path} was changed: its sha256 is another one")
                file.seek(0)
            data = file.read(facts.st_size + 1)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        after = os.fstat(file.fileno())
    if len(data) != facts.st_size or (after.st_mtime_ns, after.st_ctime_ns) != (facts.st_mtime_ns, facts.st_ctime_ns):
        raise DataError(f"{path} changed while it was read; try again")
    return data


def holds(root: Path, name: str, size: int, sha256: str) -> bool:
    """Whether a file below the store is there with these bytes, without holding them in memory."""
    try:
        with _opened(root, name) as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except (DataError, OSError):
        return False


@contextmanager
def _opened(root: Path, name: str) -> Iterator[BufferedReader]:
    path = root / name
    check_folders(root)
    try:
        # A named pipe would block without O_NONBLOCK.
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise Missing(f"{path} is missing") from error
    except OSError as error:
        if path.is_symlink():
            raise DataError(f"{path} is a link; a store holds no links, copy the store with its files") from error
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise Damaged(f"{path} is not a regular file")
    with os.fdopen(number, "rb") as file:
        yield file


def write(root: Path, name: str, data: bytes) -> None:
    """Put a file into the store: on the disk when this returns, and never seen half written.

    Raises:
        DataError: the disk is full, the folder cannot be written to, ...; the file is as it was.
    """
    temporary, replaced = root / TEMPORARY / uuid.uuid4().hex, False
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, root / name)
        replaced = True
        sync((root / name).parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        # The new manifest is what everybody reads from now on, even if a power cut may still take it back.
        done = "the change is made, but may not be on the disk yet" if replaced and name == MANIFEST else None
        raise _sentence(error, root, done) from error


def put(root: Path, name: str, data: bytes) -> None:
    """Write a content-addressed file unless it is there already, with these very bytes: a leftover may be damaged."""
    if not holds(root, name, len(data), hashlib.sha256(data).hexdigest()):
        write(root, name, data)


def remove(root: Path, path: Path) -> int:
    """Delete a file of the store and return the bytes it had.

    Raises:
        DataError: the folder cannot be written to.
    """
    with explained(root):
        size = path.lstat().st_size
        path.unlink()
        return size


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence that says how the store at `root` is and what to do."""
    try:
        yield
    except OSError as error:
        raise _sentence(error, root) from error


def _sentence(error: OSError, root: Path, state: str | None = None) -> DataError:
    if state is None:
        state = "the store is whole" if (root / MANIFEST).is_file() else "no store was made"
    if error.errno in _ROOM:
        remedy = "make room"
    elif error.errno in _IN_THE_WAY:
        remedy = "move away what lies in its place"
    else:
        remedy = "allow writing there, or look after the disk"
    return DataError(f"cannot write {error.filename or root}: {error.strerror or error}; {state}, {remedy}")
