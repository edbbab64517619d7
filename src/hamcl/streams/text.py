"""`text:PATH`: texts (or paths of images) and their labels in CSV, TSV or JSON-lines files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.streams.columns import Columns, Header, Rows, assemble, images, roles, texts
from hamcl.streams.source import TEST_SPLITS, Request, Source, title
from hamcl.streams.tabular import SUFFIXES, Table, read_table
from hamcl.words import listed

SPLITS = ("train", *TEST_SPLITS)


Part = list[tuple[Table, int]]
"""The rows of one split, from one file or several: each a table and a position in it."""


def load(request: Request) -> Source:
    """Return the data of one file, or of a folder with one file for each split (train.csv, test.csv, ...).

    In one file, an optional column `split` says of each row where it belongs.
    """
    path = request.path()
    parts: dict[str, Part] = {}
    columns: dict[Path, Columns] = {}
    notes: list[str] = []
    for file, split in _files(path):
        table = read_table(file, roles(request))
        found = Columns.find(table.columns, str(file), request) if table.columns else None
        if table.problems and not request.skip:
            raise DataError(f"{next(iter(table.problems.values()))}; on_bad_sample=skip leaves such rows out")
        if found is None or not table.rows:  # an empty file, or no line that can be read
            continue
        columns[file] = found
        notes += [*table.notes, *found.notes]
        header = Header(table.columns, str(file))
        own = [header.single(column) for column in header.known(["split"])] if split is None else []
        for i, row in enumerate(table.rows):
            name = _split(row.get(own[0]), table, i) if own else split or "train"
            parts.setdefault(name, []).append((table, i))
    if "train" not in parts:
        raise DataError(f"{path} holds no training row; add train.csv, or rows whose split is train")
    kinds = {found.modality for found in columns.values()}
    if len(kinds) > 1:
        raise DataError(f"{path} holds texts in one file and images in another; keep them apart")
    (modality,) = kinds
    for split, part in parts.items():
        files = dict.fromkeys(table.file.name for table, _ in part)
        if len(files) > 1:
            notes.append(f"read {listed([*files])} as one split, {split}")
    return assemble(
        title(path), modality, parts, lambda split: _rows(parts[split], columns), skip=request.skip, notes=notes
    )


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


def _rows(part: Part, columns: Mapping[Path, Columns]) -> Rows:
    """The rows of a split, given the columns of each file."""
    first = columns[part[0][0].file]
    where = [table.where(i) for table, i in part].__getitem__

    def cells(role: str) -> list[Any]:
        return [table.rows[i].get(getattr(columns[table.file], role)) for table, i in part]

    if first.modality == "image":
        inputs = images(cells("inputs"), [str(table.file.parent) for table, _ in part], where)
    else:
        inputs = texts(cells("inputs"), where, first.inputs, first.explicit)
    problems = {n: table.problems[i] for n, (table, i) in enumerate(part) if i in table.problems}
    values = {first.label: cells("label")}
    if first.superclass:
        values[first.superclass] = cells("superclass")
    return first.rows(replace(inputs, problems=problems), values)
