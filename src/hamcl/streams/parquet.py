"""`parquet:PATH`: images or texts in parquet files, as the `datasets` library writes them."""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hamcl.errors import DataError, UsageError
from hamcl.streams.columns import Columns, Rows, assemble
from hamcl.streams.lazy import Lazy, check_text
from hamcl.streams.pixels import decode_image
from hamcl.streams.source import TEST_SPLITS, Request, Source, listed, title

SHARD = re.compile(rf"(train|{'|'.join(TEST_SPLITS)})(?:-(\d+)-of-(\d+))?(?:[-.].*)?\.parquet")


def load(request: Request) -> Source:
    """Return the data set in a parquet file or in a folder of them (`train-*`, `test-*` or `validation-*`)."""
    return read(request.path(), request.train_shards)


def read(path: Path, train_shards: int | None = None) -> Source:
    """Return the data set at `path`; only the first `train_shards` training files are opened if a number is given.

    The encoded images stay in memory as they are in the files; each is decoded when it is indexed.
    """
    files = split_files(path, train_shards)
    columns = _columns(files["train"][0])
    return assemble(title(path), columns.modality, files, lambda split: _read(files[split], columns), path.is_dir())


def split_files(path: Path, train_shards: int | None = None) -> dict[str, list[Path]]:
    """Return the files of each split below `path` in the order of their names.

    Files that name no split are the training split if no file names one, else they are left alone.

    Raises:
        DataError: there is none, or numbered files are missing or there twice.
        UsageError: `train_shards` is not between 1 and the number of training files.
    """
    if path.is_file():
        return {"train": [path]}
    files = sorted(path.rglob("*.parquet"))
    found: dict[str, list[Path]] = {}
    for file in files:
        if match := SHARD.fullmatch(file.name):
            found.setdefault(match[1], []).append(file)
    found = found or {"train": files}
    if not found.get("train"):
        raise DataError(f"{path} holds no parquet file of a training split; name it train-00000-of-00001.parquet")
    return {split: _complete(files, train_shards if split == "train" else None) for split, files in found.items()}


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


def _columns(file: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} is not a readable parquet file ({error}); get it again") from error
    return Columns.find(schema.names, str(file), metadata.get("info", {}).get("features"))


def _read(files: Sequence[Path], columns: Columns) -> Rows:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    labels = [c for c in (columns.label, columns.superclass) if c]
    chunks, starts = [], [0]
    values: dict[str, list[Any]] = {c: [] for c in labels}
    for file in files:
        try:
            table = pq.read_table(file, columns=[columns.inputs, *labels], partitioning=None, memory_map=True)
            column = table[columns.inputs]
            chunks.append(pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column)
            for c in labels:
                values[c] += table[c].to_pylist()
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DataError(
                f"{file} has not the columns {columns.inputs}, {', '.join(labels)} ({error}); get it again"
            ) from error
        starts.append(starts[-1] + len(table))
    where = partial(_where, tuple(str(file) for file in files), tuple(starts))
    decode = _decode if columns.modality == "image" else check_text
    return columns.rows(Lazy(Column(tuple(chunks), tuple(starts)), decode, where), values, where)


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


def _decode(data: bytes | None, where: str) -> Any:
    if data is None:
        raise DataError(f"{where} has no image bytes (only a path?); store the images inside the file")
    return decode_image(data, where)
