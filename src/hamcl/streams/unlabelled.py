"""The samples of a table without their labels, for prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.streams import parquet, tabular
from hamcl.streams.base import Inputs, Modality
from hamcl.streams.columns import Header, images, roles, texts
from hamcl.streams.source import Request

SUFFIXES = (*tabular.SUFFIXES, ".parquet")


@dataclass(frozen=True)
class Unlabelled:
    """The samples of one table, in its order.

    Attributes:
        names: the text, or the path of the image, as it stands in the table; else the place in the table.
        inputs: texts or images; a bad one raises `DataError` when it is indexed.
        notes: one sentence for each thing that was guessed.
    """

    names: list[str] = field(default_factory=list)
    inputs: Sequence[Any] = ()
    notes: list[str] = field(default_factory=list)


def read_unlabelled(file: Path, modality: Modality, text_column: str | None = None) -> Unlabelled:
    """Read the samples of a CSV, TSV, JSON-lines or parquet file; a column of labels is left alone.

    Raises:
        DataError: the file cannot be read, or holds samples of another kind.
        UsageError: there is no column `text_column`.
    """
    request = Request("text", text_column=text_column)
    inputs: Inputs
    if file.suffix.lower() == ".parquet":
        kind, found, where, notes = parquet.unlabelled(file, request, modality)
        names = [_name(found.raw[i] if kind == "text" else None, where(i)) for i in range(len(found))]
        inputs = found
    else:
        table = tabular.read_table(file, roles(request))
        if not table.rows:
            return Unlabelled(notes=table.notes)
        kind, column, notes = Header(table.columns, str(file)).samples(request, wanted=modality)
        notes = [*table.notes, *notes]
        cells = [row.get(column) for row in table.rows]
        if kind == "text":
            found = texts(cells, table.where, column, text_column is not None)
        else:
            found = images(cells, [str(file.parent)] * len(cells), table.where)
        inputs = Checked(found, table.problems)
        names = [_name(cell, table.where(i)) for i, cell in enumerate(cells)]
    if kind != modality:
        raise DataError(f"{file} holds {kind}s, but the model reads {modality}s; give it a table of those")
    return Unlabelled(names, inputs, notes)


@dataclass(frozen=True)
class Checked(Inputs):
    """Inputs of which some are known to be bad, and why."""

    source: Sequence[Any]
    problems: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.source)

    def at(self, i: int) -> Any:
        if i in self.problems:
            raise DataError(self.problems[i])
        return self.source[i]


def _name(cell: Any, where: str) -> str:
    return cell if isinstance(cell, str) and cell.strip() else where
