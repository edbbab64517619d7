"""A local copy in one of the two layouts every image benchmark may have: parquet files, or class folders."""

from pathlib import Path

from hamcl.streams import folder, parquet
from hamcl.streams.source import Request, Source


def read(path: Path, request: Request) -> Source:
    """Return the data set in the parquet files at `path`, or else in its class folders."""
    if path.is_file() or any(path.rglob("*.parquet")):
        return parquet.read(path, request)
    return folder.read(path)
