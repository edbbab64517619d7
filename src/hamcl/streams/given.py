"""What callers hand over, read by position: lists, arrays, tensors and columns of any library."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from hamcl.errors import UsageError


def by_position(values: Any, what: str) -> Sequence[Any]:
    """Return `values` as a sequence whose i-th item is its i-th in order, whatever index it has of its own.

    Sequences stay as they are, so that a lazy one stays lazy. A frame or table of one column is that column.

    Args:
        what: names it in the message.

    Raises:
        UsageError: it is a single text, has no order, or has several columns.
    """
    if isinstance(values, str | bytes):
        raise UsageError(f"{what} must be a sequence, got the single text {values[:40]!r}; put it into a list")
    if isinstance(values, Mapping | Set):
        raise UsageError(
            f"{what} must be a sequence, got a {type(values).__name__}, which has no order; make it a list"
        )
    if isinstance(values, Sequence):
        return values
    columns = getattr(values, "column_names", getattr(values, "columns", None))
    if columns is not None:
        if len(columns) != 1:
            names = ", ".join(str(column) for column in list(columns)[:8])
            raise UsageError(
                f"{what} must be one column, got a table of {len(columns)} ({names}); hand over one of them"
            )
        return by_position(values[columns[0]], what)
    if getattr(values, "ndim", 1) == 0:
        raise UsageError(f"{what} must be a sequence, got the single value {values!r}; put it into a list")
    if getattr(values, "ndim", 1) == 1:
        # pyarrow, polars, pandas, numpy and torch: as Python's own values.
        for convert in ("to_pylist", "to_list", "tolist"):
            if hasattr(values, convert):
                return list(getattr(values, convert)())
    if hasattr(values, "__len__") and hasattr(values, "__getitem__"):
        return _Positions(values)
    if isinstance(values, Iterable):
        return list(values)
    raise UsageError(f"{what} must be a sequence, got {type(values).__name__}; put it into a list")


def labels_of(values: Any) -> list[Any]:
    """Labels as Python integers, or as class names where they are texts; UsageError: one is neither."""
    labels = by_position(values, "labels")
    if all(type(y) is int for y in labels):
        return list(labels)
    return [_label(y, i) for i, y in enumerate(labels)]


def _label(value: Any, i: int) -> int | str:
    if isinstance(value, str):
        return str(value)
    plain = value
    for convert in ("as_py", "item"):  # scalars of pyarrow; of numpy and torch
        if hasattr(value, convert) and getattr(value, "size", 1) != 0:
            try:
                plain = getattr(value, convert)()
            except (RuntimeError, ValueError, TypeError):
                break
    if isinstance(plain, str):
        return plain
    if isinstance(plain, int) or (isinstance(plain, float) and plain.is_integer()):
        return int(plain)
    raise UsageError(f"label {i} is {value!r}; a label is a class name or its position in the classes, counted from 0")


class _Positions(Sequence[Any]):
    """Anything with a length and items at 0, 1, ...; each is asked for when it is indexed."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: Any) -> Any:
        positions = range(len(self))[i]
        return [self.values[p] for p in positions] if isinstance(i, slice) else self.values[positions]
