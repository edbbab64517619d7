"""`hub:ID`, `hub:ID:CONFIG` or `hub:PATH`: a data set of the hub, or anything else the `datasets` library reads."""

from functools import partial
from pathlib import Path
from typing import Any

from hamcl.errors import DataError
from hamcl.network import hub
from hamcl.streams.columns import Columns, Rows, assemble, images, texts
from hamcl.streams.lazy import Lazy, numbered
from hamcl.streams.parquet import check_size
from hamcl.streams.pixels import decode_image, read_image
from hamcl.streams.source import Request, Source
from hamcl.words import reason


def load(request: Request) -> Source:
    """Return the data set; its samples stay in the memory-mapped cache of `datasets` and are decoded when indexed.

    Raises:
        DataError: it cannot be loaded (no network, unknown ID), or has no training split or no label column.
    """
    identifier, _, config = request.needed("an ID").partition(":")
    if (path := Path(request.needed("an ID")).expanduser()).exists():
        identifier, config = str(path), ""
    import datasets

    try:
        if is_saved(Path(identifier)):
            saved = datasets.load_from_disk(identifier)
            splits = saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict(train=saved)
            for part in splits.values():  # Arrow files are mapped unchecked, and a damaged one would end the process
                part.data.table.validate(full=True)
        elif Path(identifier).exists():
            for file in sorted(Path(identifier).rglob("*.parquet")):
                check_size(file)
            splits = datasets.load_dataset(identifier, config or None)
        else:
            with hub():
                splits = datasets.load_dataset(identifier, config or None)
    except DataError:
        raise
    except Exception as error:  # network, cache and builder errors share no base class
        raise DataError(
            f"the data set {identifier!r} cannot be loaded ({reason(error)}); check the ID and the network, "
            "or give a local copy by data_dir"
        ) from error
    if "train" not in splits:
        raise DataError(f"{identifier} has the splits {', '.join(splits)} but no 'train'; choose another data set")
    features = splits["train"].features.to_dict()
    columns = Columns.find(splits["train"].column_names, identifier, request, features, tables=True)
    folder = identifier if Path(identifier).is_dir() else "."

    def read(split: str) -> Rows:
        table = splits[split].with_format(None)
        values = {c: list(table[c]) for c in (columns.label, columns.superclass) if c}
        table = table.select_columns([columns.inputs])
        where = partial(numbered, f"{identifier}, {split}")
        if columns.modality == "text":
            inputs = texts(table[columns.inputs], where, columns.inputs, columns.explicit)
        elif isinstance(table.features[columns.inputs], datasets.Value):
            inputs = images(list(table[columns.inputs]), [folder] * len(table), where)
        else:
            table = table.cast_column(columns.inputs, datasets.Image(decode=False))
            inputs = Lazy(table[columns.inputs], _decode, where)
        return columns.rows(inputs, values)

    return assemble(
        Path(identifier).resolve().name if is_saved(Path(identifier)) else Path(identifier).name,
        columns.modality,
        splits,
        read,
        skip=request.skip,
        notes=columns.notes,
    )


def is_saved(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the `datasets` library: a data set, or one for each split."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def _decode(image: dict[str, Any] | None, where: str) -> Any:
    if image is None:
        raise DataError(f"{where} has no image; remove the row")
    return read_image(image["path"]) if image["bytes"] is None else decode_image(image["bytes"], where)
