"""`hub:ID` or `hub:ID:CONFIG`: a data set of the Hugging Face hub, or anything `datasets.load_dataset` can read."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hamcl.errors import DataError
from hamcl.streams.columns import Columns, Rows, assemble
from hamcl.streams.lazy import Lazy, check_text, numbered
from hamcl.streams.pixels import decode_image, read_image
from hamcl.streams.source import Request, Source

if TYPE_CHECKING:
    from datasets import Dataset


def load(request: Request) -> Source:
    """Return the data set; its samples stay in the memory-mapped cache of `datasets` and are decoded when indexed.

    Raises:
        DataError: it cannot be loaded (no network, unknown ID), or has no training split or no label column.
    """
    identifier, _, config = request.needed("an ID").partition(":")
    import datasets

    try:
        splits = datasets.load_dataset(identifier, config or None)
    except Exception as error:  # network, cache and builder errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"the data set {identifier!r} cannot be loaded ({reason}); check the ID and the network, "
            "or give a local copy by data_dir"
        ) from error
    if "train" not in splits:
        raise DataError(f"{identifier} has the splits {', '.join(splits)} but no 'train'; choose another data set")
    columns = Columns.find(splits["train"].column_names, identifier, splits["train"].features.to_dict())

    def read(split: str) -> Rows:
        table = splits[split].with_format(None)
        values = {c: list(table[c]) for c in (columns.label, columns.superclass) if c}
        table = table.select_columns([columns.inputs])
        if columns.modality == "image":
            table = table.cast_column(columns.inputs, datasets.Image(decode=False))
        decode = _decode if columns.modality == "image" else check_text
        where = partial(numbered, f"{identifier}, {split}")
        return columns.rows(Lazy(Column(table, columns.inputs), decode, where), values, where)

    return assemble(Path(identifier).name, columns.modality, splits, read)


@dataclass(frozen=True)
class Column:
    """One column of a data set, row by row."""

    table: "Dataset"
    name: str

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> Any:
        return self.table[i][self.name]


def _decode(image: dict[str, Any], where: str) -> Any:
    return read_image(image["path"]) if image["bytes"] is None else decode_image(image["bytes"], where)
