"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hamcl.errors import UsageError

MARK = "classes.json"
"""The file every export holds; a folder without it is not replaced."""


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill, and put it in its place once the block is through.

    Raises:
        UsageError: `path` is a file, or holds something and is not to be replaced or is no export.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder; choose another place for the export")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UsageError(f"{path} is not empty; choose a new folder, or replace an earlier export with overwrite")
        if not (path / MARK).is_file():
            raise UsageError(f"{path} holds no earlier export, so it is not replaced; choose a new folder")
    path = path.absolute()
    fresh, old = (path.with_name(f".{path.name}.{os.getpid()}.{suffix}") for suffix in ("new", "old"))
    fresh.mkdir(parents=True)
    try:
        yield fresh
        _sync(fresh)
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
