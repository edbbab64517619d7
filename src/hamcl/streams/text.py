"""`text:PATH`: texts (or paths of images) and their labels in CSV, TSV or JSON-lines files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.streams.columns import Columns, Header, Rows, assemble, images, roles, texts
from hamcl.streams.source import TEST_SPLITS, Request, Source, listed, title
from hamcl.streams.tabular import SUFFIXES, Table, read_table

SPLITS = ("train", *TEST_SPLITS)


@dataclass
class Part:
    """The rows of one split, from one file or several."""

    inputs: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    superclasses: list[Any] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    files: dict[Path, Columns] = field(default_factory=dict)

    def add(self, table: Table, indices: Sequence[int], columns: Columns) -> None:
        """Append rows of a table."""
        start, rows = len(self.inputs), [table.rows[i] for i in indices]
        self.problems |= {start + n: table.problems[i] for n, i in enumerate(indices) if i in table.problems}
        self.inputs += [row.get(columns.inputs) for row in rows]
        self.labels += [row.get(columns.label) for row in rows]
        self.superclasses += [row.get(columns.superclass) if columns.superclass else None for row in rows]
        self.folders += [str(table.file.parent)] * len(rows)
        self.where += map(table.where, indices)
        self.files[table.file] = columns


def load(request: Request) -> Source:
    """Return the data of one file, or of a folder with one file for each split (train.csv, test.csv, ...).

    In one file, an optional column `split` says of each row where it belongs.

    Raises:
        DataError: a file or row cannot be read, or the columns are missing.
        UsageError: a column that is asked for is not there.
    """
    path = request.path()
    parts: dict[str, Part] = {}
    notes: list[str] = []
    for file, split in _files(path):
        table = read_table(file, roles(request))
        columns = Columns.find(table.columns, str(file), request) if table.columns else None
        if table.problems and not request.skip:
            raise DataError(f"{next(iter(table.problems.values()))}; on_bad_sample=skip leaves such rows out")
        if columns is None or not table.rows:  # an empty file, or no line that can be read
            continue
        notes += [*table.notes, *columns.notes]
        header = Header(table.columns, str(file))
        own = [header.single(column) for column in header.known(["split"])] if split is None else []
        by_split: dict[str, Sequence[int]] = {split or "train": range(len(table.rows))}
        if own:
            named = [_split(row.get(own[0]), table, i) for i, row in enumerate(table.rows)]
            by_split = {name: [i for i, other in enumerate(named) if other == name] for name in dict.fromkeys(named)}
        for name, indices in by_split.items():
            parts.setdefault(name, Part()).add(table, indices, columns)
    if "train" not in parts:
        raise DataError(f"{path} holds no training row; add train.csv, or rows whose split is train")
    kinds = {columns.modality for part in parts.values() for columns in part.files.values()}
    if len(kinds) > 1:
        raise DataError(f"{path} holds texts in one file and images in another; keep them apart")
    (modality,) = kinds
    for split, part in parts.items():
        if len(part.files) > 1:
            notes.append(f"read {listed([file.name for file in part.files])} as one split, {split}")
    return assemble(title(path), modality, parts, lambda split: _rows(parts[split]), skip=request.skip, notes=notes)


def _files(path: Path) -> list[tuple[Path, str | None]]:
    if not path.is_dir():
        return [(path, None)]
    files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    return [(file, file.stem.lower()) for file in files if file.stem.lower() in SPLITS]


def _split(cell: Any, table: Table, i: int) -> str:
    split = str(cell or "").strip().lower() or "train"
    if split not in SPLITS:
        raise DataError(f"{table.where(i)}: split is {split!r}; write one of {listed(SPLITS, 10)}")
    return split


def _rows(part: Part) -> Rows:
    columns = next(iter(part.files.values()))
    where = part.where.__getitem__
    if columns.modality == "image":
        inputs = images(part.inputs, part.folders, where)
    else:
        inputs = texts(part.inputs, where, columns.inputs, columns.explicit)
    values = {columns.label: part.labels}
    if columns.superclass:
        values[columns.superclass] = part.superclasses
    return columns.rows(inputs, values, where, part.problems)
