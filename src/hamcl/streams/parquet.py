"""`parquet:PATH`: images or texts in parquet files, as the `datasets` library writes them."""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from hamcl.errors import DataError, UsageError
from hamcl.streams.base import Modality
from hamcl.streams.columns import Columns, Header, Rows, assemble, images, texts, typed
from hamcl.streams.lazy import Lazy
from hamcl.streams.names import legible
from hamcl.streams.pixels import decode_image
from hamcl.streams.source import TEST_SPLITS, Request, Source, title
from hamcl.streams.walk import is_hidden
from hamcl.words import listed

SHARD = re.compile(rf"(train|{'|'.join(TEST_SPLITS)})(?:-(\d+)-of-(\d+))?(?:[-.].*)?\.parquet")

MOST_ROWS = 20_000_000
MOST_UNPACKED = 1_000  # times its size on disk


def load(request: Request) -> Source:
    """Return the data set in a parquet file or in a folder of them (`train-*`, `test-*` or `validation-*`)."""
    return read(request.path(), request)


def read(path: Path, request: Request) -> Source:
    """Return the data set at `path`; only the first `train_shards` training files are opened if a number is given.

    The encoded images stay in memory as they are in the files; each is decoded when it is indexed. A column of images
    may hold paths instead, relative to the file.
    """
    files = split_files(path, request.train_shards)
    first = files["train"][0]
    schema = _schema(first)
    columns = Columns.find(schema.names, str(first), request, _features(schema, first), tables=True)
    notes = [*columns.notes, *_alone(path, files)]
    return assemble(
        title(path),
        columns.modality,
        files,
        lambda split: _read(files[split], columns),
        path.is_dir(),
        skip=request.skip,
        notes=notes,
    )


def split_files(path: Path, train_shards: int | None = None) -> dict[str, list[Path]]:
    """Return the files of each split below `path` in the order of their names.

    Files that name no split are the training split if no file names one, else they are left alone.

    Raises:
        DataError: there is none, or numbered files are missing or there twice.
        UsageError: `train_shards` is not between 1 and the number of training files.
    """
    if path.is_file():
        return {"train": [path]}
    every = files_below(path)
    found: dict[str, list[Path]] = {}
    for file in every:
        if match := SHARD.fullmatch(file.name):
            found.setdefault(match[1], []).append(file)
    found = found or {"train": every}
    if not found.get("train"):
        raise DataError(f"{path} holds no parquet file of a training split; name it train-00000-of-00001.parquet")
    return {split: _complete(some, train_shards if split == "train" else None) for split, some in found.items()}


def files_below(path: Path) -> list[Path]:
    """Return the parquet files anywhere below a folder, sorted; those in hidden folders are left alone."""
    found = [file for file in path.rglob("*.parquet") if file.is_file()]
    return sorted(file for file in found if not any(map(is_hidden, file.relative_to(path).parts)))


def _alone(path: Path, splits: Mapping[str, Sequence[Path]]) -> list[str]:
    """A note on the files that are left alone because others name splits and they do not."""
    used = {file for files in splits.values() for file in files}
    alone = [file for file in ([] if path.is_file() else files_below(path)) if file not in used]
    names = [legible(str(file.relative_to(path))) for file in alone if not SHARD.fullmatch(file.name)]
    return [f"parquet files that name no split are not read: {listed(names)}"] if names else []


def _complete(files: list[Path], first: int | None) -> list[Path]:
    """Return the `first` (or all) files of one split, in order, none missing and none there twice."""
    matches = [SHARD.fullmatch(file.name) for file in files]
    numbers = [int(match[2]) if match and match[2] else i for i, match in enumerate(matches)]
    total = max([len(files) if match is None or not match[3] else int(match[3]) for match in matches])
    if first is not None and not 1 <= first <= total:
        raise UsageError(f"train_shards must lie between 1 and {total}, got {first}")
    if len(set(numbers)) < len(numbers):
        raise DataError(f"{listed([str(file) for file in files])}: a file is there twice; name the folder of one copy")
    by_number = dict(zip(numbers, files, strict=True))
    if missing := [i for i in range(first or total) if i not in by_number]:
        raise DataError(
            f"{files[0].parent} lacks the files {listed([str(i) for i in missing])} of the {total} that the name "
            f"{files[0].name} counts from 0; add them, or read the first K only by train_shards=K"
        )
    return [by_number[i] for i in range(first or total)]


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an error of Arrow's, or of Python's on its values, into one sentence."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, KeyError, OSError, OverflowError, ValueError) as error:
        raise DataError(f"{what} ({' '.join(str(error).split())}); get it again") from error


def _schema(file: Path) -> Any:
    import pyarrow.parquet as pq

    with _explained(f"{file} is not a readable parquet file"):
        return pq.read_schema(file)


def _features(schema: Any, file: Path) -> Any:
    """What the `datasets` library wrote about the columns, or None; the metadata may hold anything."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the metadata 'huggingface' of {file} is no JSON ({type(error).__name__}); write the file again"
        ) from error
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def check_size(file: Path) -> None:
    """Refuse, by a DataError, a file that cannot be read or holds more rows or bytes than such a file can mean."""
    import pyarrow.parquet as pq

    with _explained(f"{file} is not a readable parquet file"):
        metadata, size = pq.read_metadata(file), file.stat().st_size
        # Not the sizes of single columns: to ask for them aborts the process where the file is damaged.
        unpacked = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    # A row that differs from the others takes a byte at least.
    if metadata.num_rows > min(size, MOST_ROWS):
        raise DataError(
            f"{file} says that it holds {metadata.num_rows:,} rows in {size:,} bytes, more than are read "
            f"({min(size, MOST_ROWS):,}); split it, or write each sample once"
        )
    if unpacked > MOST_UNPACKED * max(size, 2**20):
        raise DataError(
            f"{file} has {size:,} bytes and says that they unpack to {unpacked:,}, which no samples do; get it again"
        )


def _read(files: Sequence[Path], columns: Columns) -> Rows:
    labels = [c for c in (columns.label, columns.superclass) if c]
    tables = [_table(file, [columns.inputs, *labels]) for file in files]
    inputs = _inputs(columns.modality, columns.inputs, columns.explicit, files, tables)
    read = list(zip(files, tables, strict=True))
    values = {c: [value for file, table in read for value in _values(table[c], file)] for c in labels}
    return columns.rows(inputs, values)


def unlabelled(file: Path, request: Request, wanted: Modality) -> tuple[Modality, Lazy, list[str]]:
    """The kind of a file's samples (`wanted` where it holds both), the samples, labels or none, and notes."""
    schema = _schema(file)
    pictures = typed(schema.names, _features(schema, file), "Image")
    modality, column, notes = Header(schema.names, str(file)).samples(request, pictures, True, wanted)
    inputs = _inputs(modality, column, request.text_column is not None, [file], [_table(file, [column])])
    return modality, inputs, notes


def _table(file: Path, columns: list[str]) -> Any:
    import pyarrow.parquet as pq

    check_size(file)
    with _explained(f"{file} has not the columns {', '.join(columns)}"):
        # Values that the file holds once and repeats by number stay so in memory.
        repeated = _repeated(pq.ParquetFile(file), columns)
        table = pq.read_table(file, columns=columns, partitioning=None, memory_map=True, read_dictionary=repeated)
        table.validate(full=True)  # texts that are not UTF-8, numbers of values that are not there
        return table.select(columns)


def _inputs(modality: Modality, column: str, explicit: bool, files: Sequence[Path], tables: Sequence[Any]) -> Lazy:
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = [table[column] for table in tables]
    starts = (0, *accumulate(map(len, tables)))
    where = partial(_where, tuple(map(str, files)), starts)
    if modality == "text":
        return texts(Column(tuple(chunks), starts), where, column, explicit)
    paths, encoded = [], []
    for chunk in chunks:
        names = [field.name for field in chunk.type] if pa.types.is_struct(chunk.type) else []
        parts = {name: pc.struct_field(chunk, name) for name in names}
        encoded.append(parts.get("bytes", chunk))
        paths.append(parts.get("path", chunk))
    if all(
        _is_text(path.type) and (path is data or data.null_count == len(data))
        for path, data in zip(paths, encoded, strict=True)
    ):
        folders = [str(file.parent) for file, chunk in zip(files, chunks, strict=True) for _ in range(len(chunk))]
        cells = [path for file, column in zip(files, paths, strict=True) for path in _values(column, file)]
        return images(cells, folders, where)
    return Lazy(Column(tuple(encoded), starts), _decode, where)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)


def _repeated(file: Any, columns: Sequence[str]) -> list[str]:
    """The columns of texts and bytes to read by number: all, if no row group is too large for it."""
    from pyarrow import types

    sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    if max(sizes, default=0) >= 2**30:
        return []
    found = []
    for field in (field for field in file.schema_arrow if field.name in columns):
        parts = {f"{field.name}.{part.name}": part.type for part in field.type} if types.is_struct(field.type) else {}
        for path, kind in (parts or {field.name: field.type}).items():
            if _is_text(kind) or types.is_binary(kind) or types.is_large_binary(kind):
                found.append(path)
    return found


def _values(column: Any, file: Path) -> list[Any]:
    """The cells as Python objects; what the file holds once is one object.

    Raises:
        DataError: a cell stands for no Python object, such as a text that is not UTF-8 or a date without a year.
    """
    from pyarrow import types

    found: list[Any] = []
    with _explained(f"{file} holds cells that cannot be read"):
        for chunk in column.chunks:
            if types.is_dictionary(chunk.type):
                known = chunk.dictionary.to_pylist()
                found += [None if i is None else known[i] for i in chunk.indices.to_pylist()]
            else:
                found += chunk.to_pylist()
    return found


@dataclass(frozen=True)
class Column:
    """One column of several tables, row after row, each turned into a Python object when it is indexed."""

    chunks: tuple[Any, ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, i: int) -> Any:
        table = bisect_right(self.starts, i) - 1
        return self.chunks[table][i - self.starts[table]].as_py()


def _where(files: tuple[str, ...], starts: tuple[int, ...], i: int) -> str:
    table = bisect_right(starts, i) - 1
    return f"{files[table]}, row {i - starts[table]}"


def _decode(data: Any, where: str) -> Any:
    if not isinstance(data, bytes):
        raise DataError(f"{where} has no image bytes; store the images inside the file, or paths in all rows")
    return decode_image(data, where)
