"""`text:PATH`: texts in a CSV, TSV or JSON-lines file with the columns text, label and, if wanted, split."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.streams.columns import Columns, Rows, assemble
from hamcl.streams.lazy import Lazy, check_text
from hamcl.streams.source import TEST_SPLITS, Request, Source, listed, title

SUFFIXES = (".csv", ".tsv", ".jsonl")
SPLITS = ("train", *TEST_SPLITS)


def load(request: Request) -> Source:
    """Return the texts of one file, or of a folder with one file for each split (train.csv, test.csv, ...).

    In one file, an optional column `split` says of each row where it belongs.

    Raises:
        DataError: a file or row cannot be read, or the columns are missing.
    """
    path = request.path()
    tables: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in SUFFIXES and file.stem in SPLITS:
                tables.setdefault(file.stem, []).extend(_rows(file))
    else:
        for where, row in _rows(path):
            split = row.get("split") or "train"
            if split not in SPLITS:
                raise DataError(f"{where}: split is {split!r}; write one of {listed(SPLITS, 10)}")
            tables.setdefault(split, []).append((where, row))
    if "train" not in tables:
        raise DataError(f"{path} holds no training row; add train.csv, or rows whose split is train")
    columns = Columns.find(list(tables["train"][0][1]), str(path))

    def read(split: str) -> Rows:
        where = [place for place, _ in tables[split]].__getitem__
        values = {c: [row.get(c) for _, row in tables[split]] for c in (columns.label, columns.superclass) if c}
        texts = [row.get(columns.inputs) for _, row in tables[split]]
        return columns.rows(Lazy(texts, check_text, where), values, where)

    return assemble(title(path), "text", tables, read)


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield ("file, line n", row) of every row of a file."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{file} is not a text table; give one of {', '.join(SUFFIXES)}")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if suffix == ".jsonl":
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{file}, line {number}", _object(line, f"{file}, line {number}")
                return
            reader = csv.DictReader(lines, delimiter="," if suffix == ".csv" else "\t", strict=True)
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row:
                    raise DataError(f"{where} has more fields than the header; quote texts that hold the separator")
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read ({error}); check that it is a UTF-8 {suffix[1:]} file") from error


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON ({error}); fix or remove it") from error
    if not isinstance(row, dict):
        raise DataError(f'{where} is not a JSON object; write {{"text": ..., "label": ...}}')
    return row
