"""Labelled tables: which columns hold the samples, the class and the superclass, and a source made of their rows."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hamcl.errors import DataError
from hamcl.streams.base import Modality
from hamcl.streams.source import TEST_SPLITS, Source, listed

IMAGE_COLUMNS = ("image", "img")
TEXT_COLUMNS = ("text", "sentence", "content")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target")
SUPERCLASS_COLUMNS = ("coarse_label", "superclass")


@dataclass(frozen=True)
class Columns:
    """The columns of a labelled table.

    Attributes:
        names: column -> the class names its integers stand for, where the table knows them.
    """

    modality: Modality
    inputs: str
    label: str
    superclass: str | None
    names: Mapping[str, Sequence[str]]

    @classmethod
    def find(cls, columns: Sequence[str], where: str, features: Mapping[str, Any] | None = None) -> "Columns":
        """Return the columns to read.

        Args:
            features: the description of the columns by the `datasets` library, if there is one:
                column -> {"_type": "Image" | "ClassLabel" | ..., "names": [...]}.

        Raises:
            DataError: no column of `where` holds images or texts, or none holds labels.
        """
        features = features or {}

        def typed(kind: str) -> list[str]:
            return [c for c in columns if isinstance(features.get(c), Mapping) and features[c].get("_type") == kind]

        def known(names: Sequence[str]) -> list[str]:
            return [name for name in names if name in columns]

        image = typed("Image") or known(IMAGE_COLUMNS)
        inputs = image or known(TEXT_COLUMNS)
        label = known(LABEL_COLUMNS) or typed("ClassLabel")
        if not inputs or not label:
            wanted = listed(LABEL_COLUMNS if inputs else IMAGE_COLUMNS + TEXT_COLUMNS, 10)
            raise DataError(f"{where} has the columns {listed(columns, 10)}; name one of them {wanted}")
        superclass = next(iter(known(SUPERCLASS_COLUMNS)), None)
        names = {column: features[column]["names"] for column in typed("ClassLabel")}
        return cls("image" if image else "text", inputs[0], label[0], superclass, names)

    def rows(self, inputs: Sequence[Any], values: Mapping[str, Sequence[Any]], where: Callable[[int], str]) -> "Rows":
        """Return the rows of one split, given the values of the label and the superclass column.

        Args:
            where: names row i for messages.

        Raises:
            DataError: a label is neither a text nor an integer, or is larger than the class names go.
        """
        labels = self._named(self.label, values[self.label], where)
        superclasses = {}
        if self.superclass:
            parents = self._named(self.superclass, values[self.superclass], where)
            superclasses = {y: s for y, s in zip(labels, parents, strict=True) if y is not None and s is not None}
        known = self.names.get(self.label)
        found = {value for value in values[self.label] if value not in (None, "")}
        order = known or [str(value) for value in sorted(found, key=lambda value: (isinstance(value, str), value))]
        return Rows(inputs, labels, where, list(order), superclasses)

    def _named(self, column: str, values: Sequence[Any], where: Callable[[int], str]) -> list[str | None]:
        names = self.names.get(column)
        for i, value in enumerate(values):
            if not isinstance(value, int | None if names else str | int | None):
                kind = "an integer" if names else "a text or an integer"
                raise DataError(f"{where(i)}: {column} is {value!r}; a label must be {kind}")
            if names and isinstance(value, int) and value >= len(names):
                raise DataError(f"{where(i)}: {column} is {value}, but only {len(names)} classes have names; fix it")
        if names:
            return [None if value is None or value < 0 else names[value] for value in values]
        return [None if value in (None, "") else str(value) for value in values]


@dataclass(frozen=True)
class Rows:
    """One split of a table.

    Attributes:
        labels: class names; None where a row has no label (missing, or -1 as the `datasets` library writes it).
        order: the class names in their own order: as the table lists them, else numbers or texts sorted.
    """

    inputs: Sequence[Any]
    labels: Sequence[str | None]
    where: Callable[[int], str]
    order: Sequence[str]
    superclasses: Mapping[str, str] = field(default_factory=dict)

    def pair(self) -> tuple[Sequence[Any], list[str]]:
        """Return inputs and class names, every row having one."""
        labels = [name for name in self.labels if name is not None]
        if len(labels) < len(self.labels):
            raise DataError(f"{self.where(list(self.labels).index(None))} has no label; add it or remove the row")
        return self.inputs, labels


def assemble(
    name: str, modality: Modality, splits: Collection[str], read: Callable[[str], Rows], sharded: bool = False
) -> Source:
    """Return the source of a table's splits.

    The test split is the first of test, validation, valid, val, dev that has labels: competitions publish a test
    split without them. The other splits are not read.
    """
    train = read("train")
    candidates = (read(split) for split in TEST_SPLITS if split in splits)
    test = next((rows for rows in candidates if any(label is not None for label in rows.labels)), None)
    return Source.build(
        name,
        train.pair(),
        test.pair() if test else ((), ()),
        order=dict.fromkeys([*train.order, *(test.order if test else ())]),
        modality=modality,
        augmentation="photo" if modality == "image" else "none",
        superclasses=train.superclasses,
        sharded=sharded,
    )
