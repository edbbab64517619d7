"""A local copy in one of the two layouts every image benchmark may have: parquet files, or class folders."""

from pathlib import Path

from hamcl.errors import DataError
from hamcl.streams import folder, parquet
from hamcl.streams.source import Request, Source, listed


def read(path: Path, request: Request) -> Source:
    """Return the data set in the parquet files at `path`, or else in its class folders."""
    return parquet.read(path, request) if is_parquet(path) else folder.read(path)


def is_parquet(path: Path) -> bool:
    """Whether a path is one of parquet files; a stray one beside class folders of images makes it none.

    Raises:
        DataError: it holds both, and it is not clear which is meant.
    """
    if path.is_file():
        return True
    files = parquet.files_below(path)
    images = folder.class_folders(path) if files else []
    if not images:
        return bool(files)
    if folder.is_layout(path) and not any(parquet.SHARD.fullmatch(file.name) for file in files):
        return False
    tables = listed([str(file.relative_to(path)) for file in files], 3)
    raise DataError(
        f"{path} holds parquet files ({tables}) and folders of images "
        f"({listed([f'{found.name}/' for found in images], 3)}); say which to read by parquet:{path} or folder:{path}"
    )
