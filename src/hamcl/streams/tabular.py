"""The rows of a CSV, TSV or JSON-lines file, however it is written: separators, headers, encodings, long fields."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from hamcl.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl")
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
LONGEST_HEADER = 2**20
LONGEST_FIELD = 2**31 - 1  # what the csv module can be told; its own limit is 131,072
DECLARED = re.compile(r"sep=([^\w\s\"]|\t)\r?\n", re.IGNORECASE)  # how Excel names the separator before the header


@dataclass
class Table:
    """The rows of one file.

    Attributes:
        columns: the names in the header, without spaces around them; of JSON lines, every key in order.
        rows: column -> cell; a cell that is not there is not in it.
        lines: where each row begins, from 1.
        problems: row -> why it cannot be read.
        notes: what was guessed.
    """

    file: Path
    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def where(self, i: int) -> str:
        """Name row i for messages."""
        return f"{self.file}, line {self.lines[i]}"

    def add(self, line: int, row: dict[str, Any], problem: str | None = None) -> None:
        """Append a row, or one that cannot be read."""
        self.lines.append(line)
        self.rows.append(row)
        if problem:
            self.problems[len(self.rows) - 1] = f"{self.where(len(self.rows) - 1)} {problem}"


def read_table(file: Path, wanted: Callable[[Sequence[str]], int] = len) -> Table:
    """Read a file whole.

    Args:
        wanted: how many of the columns that are looked for are in a header. The separator is the one that shows most
            of them, by default the one that the suffix says.

    Raises:
        DataError: it cannot be read, or is of another kind.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{file} is no table of texts; give one of {', '.join(SUFFIXES)}")
    if not file.is_file():  # a named pipe would never end
        raise DataError(f"{file} is no file; give one of {', '.join(SUFFIXES)}")
    table = Table(file)
    try:
        with file.open(encoding=_encoding(file), newline="") as lines:
            if suffix == ".jsonl":
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        table.add(number, *_json_row(line))
                table.columns = list(dict.fromkeys(key for row in table.rows for key in row))
            else:
                _separated(lines.read(), table, "," if suffix == ".csv" else "\t", wanted)
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); check that it is a UTF-8 {suffix[1:]} file") from error
    return table


def _encoding(file: Path) -> str:
    with file.open("rb") as start:
        return "utf-16" if start.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _json_row(line: str) -> tuple[dict[str, Any], str | None]:
    """The object on a line, or an empty one and why it cannot be read."""
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except RecursionError:
        return {}, "is nested too deeply; fix or remove it"
    except ValueError as error:
        return {}, f"is not valid JSON ({error}); fix or remove it"
    return (row, None) if isinstance(row, dict) else ({}, 'is not a JSON object; write {"text": ..., "label": ...}')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object, no key of which may come twice: one of the values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _separated(text: str, table: Table, usual: str, wanted: Callable[[Sequence[str]], int]) -> None:
    first = 0
    separators = [usual, *(separator for separator in SEPARATORS if separator != usual)]
    if declared := DECLARED.match(text):
        text, first, separators = text[declared.end() :], 1, [declared[1]]
    with _long_fields():
        start = text[:LONGEST_HEADER]
        best = max(separators, key=lambda separator: _shown(start, separator, wanted))  # the first of equals
        if best != usual and not declared:
            table.notes.append(f"read {SEPARATORS[best]} as the separator of {table.file}")
        try:
            rows = list(_cells(text, best, csv.QUOTE_MINIMAL))
        except csv.Error as error:
            # Files with tabs are often written without any quoting, so that a text may begin with a quotation mark.
            if best != "\t" or '"' in text.partition("\n")[0]:
                reason, line = error.args
                raise DataError(
                    f"{table.file}, line {first + line} cannot be read ({reason}); look for a quotation mark "
                    "that is not closed, or not doubled inside a quoted text"
                ) from error
            rows = list(_cells(text, best, csv.QUOTE_NONE))
            table.notes.append(f"{table.file} is not quoted as tables are; its quotation marks are read as they stand")
    for line, cells in rows:
        if not table.columns:
            table.columns = [cell.strip() for cell in cells]
            continue
        extra = any(cell.strip() for cell in cells[len(table.columns) :])
        problem = "has more fields than the header; quote texts that hold the separator" if extra else None
        table.add(first + line, dict(zip(table.columns, cells, strict=False)), problem)
    spans = [i for i, (_, cells) in enumerate(rows) if any("\n" in cell and best in cell for cell in cells)]
    if spans and best != ",":  # in texts, commas and line breaks come together all the time
        table.notes.append(
            f"{table.file}, line {first + rows[spans[0]][0]} has a quoted text that holds line breaks and separators "
            f"({len(spans)} such rows); if rows were swallowed, double the quotation marks inside texts"
        )


def _cells(text: str, separator: str, quoting: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not blank, with the line on which it begins; an error has its line too."""
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True, quoting=quoting)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(str(error), line) from error


def _shown(text: str, separator: str, wanted: Callable[[Sequence[str]], int]) -> tuple[int, int]:
    """How many of the wanted columns the header shows with this separator, or else how many columns."""
    try:
        header = next((cells for cells in csv.reader(StringIO(text, newline=""), delimiter=separator) if cells), [])
    except csv.Error:
        return -1, 0
    count = wanted([cell.strip() for cell in header])
    return count, 0 if count else len(header)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let fields be as long as texts are."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
