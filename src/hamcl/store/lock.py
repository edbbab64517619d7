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

try:
    import fcntl
except ImportError:  # not on Windows, whose own lock file cannot be deleted while it is held
    fcntl = None  # type: ignore[assignment]

LOCK, HOLDER = ".lock", f"{files.TEMPORARY}/writer.json"


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Held:
    """The lock of a store while a command holds it.

    Nothing keeps people from deleting `.lock` or from putting another folder in the place of the store while a
    command is at work. It then is no longer alone, so it looks again before it changes anything that others read.
    """

    def __init__(self, root: Path, descriptor: int) -> None:
        self.root, self._descriptor = root, descriptor

    def check(self) -> None:
        """Make sure that the lock in the folder is the one held.

        Raises:
            DataError: it is not.
        """
        try:
            there = os.stat(self.root / LOCK, follow_symlinks=False)
        except OSError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._descriptor)):
            raise DataError(
                f"{self.root} is not locked by this command any more ({LOCK} was deleted, or another folder is in its "
                f"place), so it stops and leaves the store as it is; run it again, and leave {LOCK} where it is"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Check, and let nobody else be inside such a block until this one is left.

        The folder itself is locked for that moment: unlike a file in it, it cannot be deleted and made again.

        Raises:
            DataError: the lock was lost, or another command is inside.
        """
        with _folder_locked(self.root):
            self.check()
            yield


@contextmanager
def writing(root: Path, command: str) -> Iterator[Held]:
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
            raise _taken(root) from error
    try:
        number = lock._context.lock_file_fd  # of the open file that is locked, whatever its name is now
        assert number is not None
        held = Held(root, number)
        note = {"pid": os.getpid(), "host": platform.node(), "since": now(), "command": command}
        files.write(root, HOLDER, json.dumps(note).encode())
        yield held
    except DataError:
        held.check()  # who lost the lock may find files missing, which is not the reason to be told
        raise
    finally:
        lock.release()


@contextmanager
def _folder_locked(root: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, where the system has such locks."""
    if fcntl is None:
        yield
        return
    with files.explained(root):
        number = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(root) from error
        except OSError:  # some network file systems do not lock folders
            pass
        yield
    finally:
        os.close(number)


def _taken(root: Path) -> DataError:
    return DataError(
        f"{root} is being written by {_holder(root)}; wait for it, or end that process: its lock ends with it, so "
        f"leave {LOCK} where it is"
    )


def _holder(root: Path) -> str:
    try:
        note = json.loads(files.read(root, HOLDER, limit=10_000))
        if (note["pid"], note["host"]) == (os.getpid(), platform.node()):  # of this very attempt
            return "another process"
        return f"process {note['pid']} on {note['host']} (ham {note['command']}, since {note['since']})"
    except (DataError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
