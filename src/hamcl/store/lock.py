"""One writer at a time: a lock that the system takes back from a dead owner."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from hamcl.errors import DataError
from hamcl.store import files

LOCK, HOLDER = ".lock", f"{files.TEMPORARY}/writer.json"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def writing(root: Path, command: str) -> Iterator[None]:
    """Hold the store's lock, and leave a note of who does.

    Raises:
        DataError: somebody else holds it; the message says who, where and since when.
    """
    files.check_folders(root)
    if (root / LOCK).is_symlink():
        raise DataError(f"{root / LOCK} is a link; a store holds no links, remove it")
    lock = FileLock(root / LOCK)
    with files.explained(root):
        for folder in (files.OBJECTS, files.TEMPORARY):
            (root / folder).mkdir(exist_ok=True)  # copies may lack empty folders
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise DataError(f"{root} is being written by {_holder(root)}; wait for it or end it") from error
    try:
        note = {"pid": os.getpid(), "host": platform.node(), "since": now(), "command": command}
        files.write(root, HOLDER, json.dumps(note).encode())
        yield
    finally:
        lock.release()


def _holder(root: Path) -> str:
    try:
        note = json.loads(files.read(root, HOLDER, limit=10_000))
        return f"process {note['pid']} on {note['host']} (ham {note['command']}, since {note['since']})"
    except (DataError, ValueError, KeyError, TypeError):
        return "another process"
