"""The folder of an export: whole or not at all, and only ever in the place of another export."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hamcl.errors import UsageError
from hamcl.files import check_folder, new_folder

MARK = "classes.json"
"""The file every export holds; a folder without it is not replaced."""


@contextmanager
def export_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill, and put it in its place once the block is through.

    Raises:
        UsageError: `path` is no place for a folder, or holds something and is not to be replaced or is no export.
        DataError: it cannot be written.
    """
    check_place(path, overwrite=overwrite)
    with new_folder(path) as fresh:
        yield fresh


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that cannot take an export, before any work is done.

    Raises:
        UsageError: see `export_folder`.
        DataError: nothing can be written there.
    """
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise UsageError(
                f"{path} is not empty; choose a new folder, or replace an earlier export with overwrite=True"
            )
        if not (path / MARK).is_file():
            raise UsageError(f"{path} holds no earlier export, so it is not replaced; choose a new folder")
    check_folder(path)
