"""Image benchmarks in a folder of their own layout, in parquet files or class folders, or on the hub."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hamcl.errors import DataError
from hamcl.streams import folder, hub, parquet
from hamcl.streams.source import Request, Source
from hamcl.words import listed


def benchmark(
    request: Request, official: Callable[[Path], Source], name: str, called: str, *, hub_id: str, place: str, mark: str
) -> Source:
    """A benchmark by its name.

    Args:
        official: reads its official folder; what it raises says that the folder is not as its authors made it.
        called: its name in messages.
        hub_id: where it is on the hub, if the request names no place.
        place: what its official folder is called, which may lie where the request says or be there.
        mark: the file by which that folder is known; any other is read like that of another data set.
    """
    if not request.where:
        return replace(hub.load(replace(request, where=hub_id)), name=name)
    path = request.root(place)
    if not (path / mark).is_file():
        return replace(read(path, request), name=name)
    try:
        return official(path)
    except DataError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not the official {called} folder ({error}); unpack the archive again") from error


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
