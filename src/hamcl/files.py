"""Files and folders that are there whole or not at all, in the place of what was there before.

What is made lies hidden beside its place until it is whole, under a name that no other process has, locked as long as
its maker lives. So whoever comes next can tell what a killed process left and clears it away.
"""

import ctypes
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hamcl.errors import DataError, HamError, UsageError

try:
    import fcntl
except ImportError:  # Windows has none; leftovers of killed processes stay there
    fcntl = None  # type: ignore[assignment]

SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries written in Rust (safetensors, tokenizers) end the message of an error of the system."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary file to write to, and put it in the place of `path` once the block is through.

    A process that dies at any point leaves the old file or the new one, whole. A link stays a link, to the new file;
    the new file takes over the mode and the group of the old one.

    Raises:
        DataError: `path` is a folder or leads nowhere, or cannot be written; it is as it was.
    """
    with _explained(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path  # a pipe, /dev/null: something that takes what is written and has no place
            return
        place = _place(path)
        if place.is_dir():
            raise DataError(f"cannot write {path}: it is a folder; name a file")
        _clear(place)
        fresh = _hidden(place, "tmp")
        # Never through a link that somebody may have put there.
        held: int | None = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        if held is not None and not _lock(held):  # without locks there is no use in holding it
            os.close(held)
            held = None
        try:
            yield fresh
            sync(fresh)
            if place.exists():
                _take_over(fresh, place)
            os.replace(fresh, place)
            sync(place.parent)
        finally:
            if held is not None:
                os.close(held)
            fresh.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and put it in the place of `path` and all that is there once the block is through.

    Where the system can swap two names in one step (Linux), there is a whole folder at `path` at every moment;
    elsewhere a process killed between two steps leaves the old one hidden, and the next call puts it back. A link
    stays a link, to the new folder; folder and files take over the modes and the group of the old ones.

    Raises:
        UsageError: `path` is no place for a new folder, which is found before the block begins.
        DataError: it cannot be written; what was there is as it was.
    """
    with _explained(path):
        place = check_folder(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear(place)
        fresh, old = _hidden(place, "new"), _hidden(place, "old")
        expected = place.exists()
        fresh.mkdir()
        handle = os.open(fresh, os.O_RDONLY) if fcntl else None
        try:
            if handle is not None:
                _lock(handle)
            yield fresh
            for file in fresh.rglob("*"):
                sync(file)
            sync(fresh)
            # What somebody else has put there meanwhile stays: no folder takes the name of one that holds something.
            if expected and place.exists():
                _take_over(fresh, place)
                if not _swapped(fresh, place):
                    place.rename(old)
                    fresh.rename(place)
            else:
                fresh.rename(place)
            sync(place.parent)
        except BaseException:
            if old.exists() and not place.exists():
                old.rename(place)
            raise
        finally:
            if handle is not None:
                os.close(handle)
            for folder in (fresh, old):
                shutil.rmtree(folder, ignore_errors=True)


def check_folder(path: Path) -> Path:
    """Where a path leads, if a new folder can be put there.

    Raises:
        UsageError: it is no place for a folder.
        DataError: it leads nowhere, or nothing can be written there.
    """
    place = _place(path)
    if place.exists():
        if not place.is_dir():
            raise UsageError(f"{path} is not a folder; choose another place")
        if os.path.ismount(place):
            raise UsageError(f"{path} is where a disk is mounted, which cannot be replaced; name a folder inside it")
        if Path.cwd().is_relative_to(place):
            raise UsageError(f"{path} is the folder you are in, which cannot be replaced; name a folder inside it")
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"cannot write {path}: nothing can be written to {above}; choose another place")
    return place


def _place(path: Path) -> Path:
    """Where a path leads, links followed."""
    try:
        return path.resolve()
    except RuntimeError as error:  # until Python 3.13
        raise DataError(f"cannot write {path}: it is a link that leads to itself; choose another place") from error


def _hidden(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.{kind}")


def _clear(place: Path) -> None:
    """Clear away what killed processes left of `place`, and put back a folder that one had just moved aside."""
    names = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]+\.(tmp|new|old)")
    if fcntl is None or not os.access(place.parent, os.R_OK):
        return
    for left in sorted(place.parent.iterdir(), reverse=True):
        found = names.fullmatch(left.name)
        if not found or left.is_symlink() or not _abandoned(left):
            continue
        if found[1] == "old" and not place.exists():
            left.rename(place)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _abandoned(path: Path) -> bool:
    """Whether the process that made it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False if it is locked, or the file system knows no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _take_over(fresh: Path, old: Path) -> None:
    """Give what is new the mode and the group of what it replaces, as far as the system lets us."""
    pairs = [(fresh, old)]
    if fresh.is_dir():
        inside = sorted(fresh.rglob("*"), reverse=True)
        pairs = [(path, old / path.relative_to(fresh)) for path in inside] + pairs
    group = old.stat().st_gid
    for path, before in pairs:
        facts = before.stat() if before.exists() else None
        with suppress(OSError):
            os.chown(path, -1, facts.st_gid if facts else group)
        if facts and stat.S_IFMT(facts.st_mode) == stat.S_IFMT(path.stat().st_mode):
            path.chmod(stat.S_IMODE(facts.st_mode))


def _swapped(one: Path, other: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap is not None and swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable, where the system lets one."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence, also where a library has wrapped it."""
    try:
        yield
    except HamError:
        raise
    except Exception as error:
        said = SYSTEM_ERROR.search(str(error))
        if isinstance(error, OSError):
            where, number = error.filename, error.errno
            if where and not Path(os.fsdecode(where)).absolute().is_relative_to(_place(path).parent):
                raise  # of another file, which has its own sentence
        elif said:
            number = int(said[1])
        else:
            raise
        reason = os.strerror(number) if number else str(error)
        raise DataError(
            f"cannot write {path}: {reason[:1].lower()}{reason[1:]}; what was there before is as it was: make room, "
            "allow writing, or choose another place"
        ) from error
