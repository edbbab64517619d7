"""Labelled tables: which columns hold the samples, the class and the superclass, and a source made of their rows."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamcl.errors import DataError, UsageError
from hamcl.streams.base import Modality
from hamcl.streams.labels import Labels, in_order
from hamcl.streams.lazy import Lazy, Selected, check_text
from hamcl.streams.names import canonical, key
from hamcl.streams.pixels import SUFFIXES, read_image
from hamcl.streams.source import TEST_SPLITS, Request, Source
from hamcl.words import did_you_mean, listed

IMAGE_COLUMNS = ("image", "img", "file_name", "filename", "image_path", "filepath")
TEXT_COLUMNS = ("text", "sentence", "content")
LABEL_COLUMNS = ("label", "fine_label", "labels", "class", "target")
SUPERCLASS_COLUMNS = ("coarse_label", "superclass")
ALIKE = 20  # so many texts are looked at to see whether they are names of images


class Header:
    """The columns of a table, found without regard to case and to spaces around their names."""

    def __init__(self, columns: Sequence[str], where: str) -> None:
        self.columns, self.where = list(columns), where
        self.keys = [key(column) for column in columns]

    def known(self, names: Iterable[str]) -> list[str]:
        """The columns of these names, in the order of `names`."""
        return [self.columns[self.keys.index(name)] for name in map(key, names) if name in self.keys]

    def single(self, column: str) -> str:
        """The column, which shall be read; DataError: another has the same name, and either could be meant."""
        if (count := self.keys.count(key(column))) > 1:
            raise DataError(f"{self.where} has {count} columns called {column!r}; rename or remove all but one")
        return column

    def asked(self, name: str, option: str) -> str:
        """The column that an option names; UsageError: there is none."""
        found = self.known([name])
        if not found:
            raise UsageError(f"{option} is {name!r}, no column of {self.where}; {did_you_mean(name, self.columns)}")
        return self.single(found[0])

    def samples(
        self, request: Request, images: Sequence[str] = (), tables: bool = False, wanted: Modality | None = None
    ) -> tuple[Modality, str, list[str]]:
        """Return the kind of the samples, their column, and notes on what was guessed.

        Args:
            images: columns that are known to hold images.
            tables: whether tables of images are read too, for the message.
            wanted: the kind of the samples, where the table holds both; by default images.

        Raises:
            DataError: no column holds samples.
            UsageError: the column that `request` asks for is not there.
        """
        if request.text_column is not None:
            return "text", self.asked(request.text_column, "text_column"), []
        image, text = [*images, *self.known(IMAGE_COLUMNS[:2])], self.known(TEXT_COLUMNS)
        paths = self.known(IMAGE_COLUMNS)
        if not (image or text or paths):
            names = listed([*(IMAGE_COLUMNS[:2] if tables else ()), *TEXT_COLUMNS], 10)
            first = " in its first line" if self.where.lower().endswith((".csv", ".tsv")) else ""
            raise DataError(
                f"{self.where} has the columns {listed(self.columns, 10)}{first}; name one of them {names}, or say by "
                "text_column which holds the texts"
            )
        notes = []
        if wanted == "text" and text:
            image = []
        if image and text:
            notes.append(f"read the images of {self.where}; its texts are read with text_column={text[0]}")
        elif len(text) > 1:
            notes.append(f"read the texts in the column {text[0]} of {self.where}, not {listed(text[1:])}")
        chosen = (image or text or paths)[0]
        return "text" if text and not image else "image", self.single(chosen), notes


def roles(request: Request) -> Callable[[Sequence[str]], int]:
    """Return the function that counts which of the columns looked for are in a header: samples and labels."""

    def count(columns: Sequence[str]) -> int:
        header = Header(columns, "")
        samples = [request.text_column] if request.text_column else [*TEXT_COLUMNS, *IMAGE_COLUMNS]
        labels = [request.label_column] if request.label_column else LABEL_COLUMNS
        return bool(header.known(samples)) + bool(header.known(labels))

    return count


@dataclass(frozen=True)
class Columns:
    """The columns of a labelled table.

    Attributes:
        names: column -> the class names its integers stand for, where the table knows them.
        notes: what was guessed.
    """

    modality: Modality
    inputs: str
    label: str
    superclass: str | None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    explicit: bool = False

    @classmethod
    def find(
        cls, columns: Sequence[str], where: str, request: Request, features: Any = None, tables: bool = False
    ) -> "Columns":
        """Return the columns to read.

        Args:
            features: the description of the columns by the `datasets` library, if there is one:
                column -> {"_type": "Image" | "ClassLabel" | ..., "names": [...]}. It may be anything.
            tables: whether tables of images are read too, for the message.

        Raises:
            DataError: no column of `where` holds images or texts, or none holds labels, or one that is needed is there
                twice, or its class names cannot be used.
            UsageError: a column that `request` asks for is not there.
        """
        header = Header(columns, where)
        modality, inputs, notes = header.samples(request, typed(columns, features, "Image"), tables)
        labelled = typed(columns, features, "ClassLabel")
        if request.label_column is not None:
            label = header.asked(request.label_column, "label_column")
        else:
            found = header.known(LABEL_COLUMNS) or labelled
            if not found:
                raise DataError(
                    f"{where} has the columns {listed(columns, 10)}; name one of them {listed(LABEL_COLUMNS, 10)}, or "
                    "say by label_column which holds the labels"
                )
            label = header.single(found[0])
            if len(found) > 1:
                notes.append(f"read the labels in the column {label} of {where}, not {listed(found[1:])}")
        if label == inputs:
            raise UsageError(f"the column {label!r} of {where} cannot hold both the samples and the labels")
        superclass = next((header.single(c) for c in header.known(SUPERCLASS_COLUMNS) if c != label), None)
        names = {column: _class_names(features, column, where) for column in (label, superclass) if column in labelled}
        explicit = request.text_column is not None
        return cls(modality, inputs, label, superclass, names, tuple(notes), explicit)

    def rows(self, inputs: Lazy, values: Mapping[str, Sequence[Any]]) -> "Rows":
        """The rows of a split by the values of labels and superclasses; DataError: a superclass cannot be read."""
        where = inputs.where
        read = Labels.read(values[self.label], self.names.get(self.label))
        superclasses: dict[str, str] = {}
        if self.superclass:
            parents = Labels.read(values[self.superclass], self.names.get(self.superclass))
            for i, reason in parents.problems.items():
                raise DataError(f"{where(i)}: {self.superclass} {reason}")
            pairs = zip(read.names, parents.names, strict=True)
            superclasses = {y: s for y, s in pairs if y is not None and s is not None}
        found = {i: f"{where(i)}: {self.label} {reason}" for i, reason in read.problems.items()} | {**inputs.problems}
        labels = [None if i in found else name for i, name in enumerate(read.names)]
        order = self.names.get(self.label) or in_order(list({name for name in labels if name is not None}))
        return Rows(inputs, labels, list(order), superclasses, found, tuple(read.notes))


@dataclass(frozen=True)
class Rows:
    """One split of a table.

    Attributes:
        labels: class names; None where a row has no label (missing, or -1 as the `datasets` library writes it).
        order: the class names in their own order: as the table lists them, else numbers and then texts, sorted.
        problems: row -> one sentence, where there is more to say than that the label is missing.
        notes: what was guessed.
    """

    inputs: Lazy
    labels: Sequence[str | None]
    order: Sequence[str]
    superclasses: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def pair(self, skip: bool = False) -> tuple[tuple[Sequence[Any], list[str]], list[str]]:
        """Inputs and class names, every row having one, and notes on what was left out.

        Rows without a usable label are left out if `skip`; else they are a DataError.
        """
        bad = [i for i, name in enumerate(self.labels) if name is None]
        labels = [name for name in self.labels if name is not None]
        if not bad:
            return (self.inputs, labels), []
        first = self.problems.get(bad[0], f"{self.inputs.where(bad[0])} has no label; add it or remove the row")
        if not skip:
            raise DataError(f"{first}; on_bad_sample=skip leaves such rows out")
        good = tuple(i for i, name in enumerate(self.labels) if name is not None)
        note = f"left out {len(bad)} of {len(self.labels)} rows, which have no usable label; the first: {first}"
        return (Selected(self.inputs, good), labels), [note]


def assemble(
    name: str,
    modality: Modality,
    splits: Collection[str],
    read: Callable[[str], Rows],
    sharded: bool = False,
    *,
    skip: bool = False,
    notes: Sequence[str] = (),
) -> Source:
    """The source of a table's splits.

    The test split is the first of test, validation, valid, val, dev that has labels: competitions publish a test
    split without them. The other splits are not read. With `skip`, rows without a usable label are left out, as bad
    samples are.
    """
    train = read("train")
    said = [*notes, *train.notes]
    test, others = None, [split for split in splits if split != "train"]
    for split in (split for split in TEST_SPLITS if split in splits):
        rows = read(split)
        others.remove(split)
        if any(label is not None for label in rows.labels):
            test = rows
            break
        said.append(f"left out the split {split}, which has no labels")
    if others:
        said.append(f"splits that are not used: {listed(others)}")
    trained, left = train.pair(skip)
    tested, left_test = test.pair(skip) if test else (((), ()), [])
    return Source.build(
        name,
        trained,
        tested,
        order=dict.fromkeys([*train.order, *(test.order if test else ())]),
        modality=modality,
        augmentation="photo" if modality == "image" else "none",
        superclasses=train.superclasses,
        sharded=sharded,
        notes=dict.fromkeys([*said, *(test.notes if test else ()), *left, *left_test]),
    )


def texts(cells: Any, where: Callable[[int], str], column: str, explicit: bool = False) -> Lazy:
    """The texts in a column, `explicit` if the user named it; DataError: they are names of image files."""
    some = [cell for cell in (cells[i] for i in range(min(len(cells), ALIKE))) if isinstance(cell, str) and cell]
    if some and all(cell.lower().strip().endswith(tuple(SUFFIXES)) for cell in some):
        raise DataError(
            f"{where(0)}: the column {column} holds names of image files ({some[0]!r:.80}), not texts; "
            f"{'choose another column' if explicit else 'call it image to have the images read'}"
        )
    return Lazy(cells, check_text, where)


def images(cells: Sequence[Any], folders: Sequence[str], where: Callable[[int], str]) -> Lazy:
    """Return the images that the cells of a column name, each relative to its folder."""
    return Lazy(list(zip(cells, folders, strict=True)), _named_image, where)


def _named_image(cell: tuple[Any, str], where: str) -> Any:
    path, folder = cell
    if not isinstance(path, str) or not path.strip():
        raise DataError(f"{where} names no image; fill it in or remove the row")
    if "://" in path:
        raise DataError(f"{where}: {path:.200} is an address and no file; download the images and name the files")
    file = Path(folder, path.strip())
    if "\\" in path and not file.exists():  # a table made on Windows
        file = Path(folder, path.strip().replace("\\", "/"))
    try:
        return read_image(file)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _feature(features: Any, column: str) -> Any:
    """What is known of a column, or of the items of its lists."""
    feature = features.get(column) if isinstance(features, Mapping) else None
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    if isinstance(feature, Mapping) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        return feature.get("feature")
    return feature


def typed(columns: Sequence[str], features: Any, kind: str) -> list[str]:
    """The columns that the `datasets` library describes as of this kind ("Image", "ClassLabel")."""
    described = {column: _feature(features, column) for column in columns}
    return [column for column, what in described.items() if isinstance(what, Mapping) and what.get("_type") == kind]


def _class_names(features: Any, column: str, where: str) -> list[str]:
    names = _feature(features, column).get("names")
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{where}: the metadata call the column {column} a class label, but its class names are {names!r:.80}; "
            "write the file again"
        )
    forms = [canonical(name) for name in names]
    if twice := sorted({name for name in forms if forms.count(name) > 1}) if len(set(forms)) < len(forms) else []:
        raise DataError(
            f"{where}: the metadata give several numbers of the column {column} one class name ({listed(twice)}); "
            "give each class a name of its own"
        )
    return list(names)
