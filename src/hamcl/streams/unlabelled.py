"""The samples of a table without their labels, for prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.streams import parquet, tabular
from hamcl.streams.base import Modality
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
    if file.suffix.lower() == ".parquet":
        kind, inputs, notes = parquet.unlabelled(file, request, modality)
        cells = [inputs.raw[i] if kind == "text" else None for i in range(len(inputs))]
    else:
        table = tabular.read_table(file, roles(request))
        if not table.rows:
            return Unlabelled(notes=table.notes)
        kind, column, notes = Header(table.columns, str(file)).samples(request, wanted=modality)
        notes = [*table.notes, *notes]
        cells = [row.get(column) for row in table.rows]
        if kind == "text":
            inputs = texts(cells, table.where, column, text_column is not None)
        else:
            inputs = images(cells, [str(file.parent)] * len(cells), table.where)
        inputs = replace(inputs, problems=table.problems)
    if kind != modality:
        raise DataError(f"{file} holds {kind}s, but the model reads {modality}s; give it a table of those")
    names = [cell if isinstance(cell, str) and cell.strip() else inputs.where(i) for i, cell in enumerate(cells)]
    return Unlabelled(names, inputs, notes)
