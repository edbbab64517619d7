"""A source: one whole labelled data set, before it is cut into tasks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamcl.errors import DataError, UsageError
from hamcl.streams.base import Augmentation, Modality, Samples
from hamcl.streams.names import canonical, check_classes, legible, renamed
from hamcl.words import listed

# The split used as test set: the first of these names that a data set has.
TEST_SPLITS = ("test", "validation", "valid", "val", "dev")


@dataclass(frozen=True)
class Source:
    """A labelled data set with a training and a test split; class names are kept as a `Task` keeps them.

    Attributes:
        classes: class names in the source's own order; labels are positions in it.
        test: empty where the data set has no test split (`split` then holds out a fraction of `train`).
        superclasses: class name -> superclass name, where the source knows one.
        sharded: whether the training split was read from numbered files, so that `train_shards` means something.
        notes: one sentence for each thing that was left out, renamed or guessed in reading it. They go along into
            the task or stream and the report of learning it, and the commands print them.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    test: Samples = field(default_factory=Samples)
    modality: Modality = "image"
    augmentation: Augmentation = "none"
    superclasses: Mapping[str, str] = field(default_factory=dict)
    sharded: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise DataError(f"{self.name}: no labelled training sample was found; check the path and the layout")
        object.__setattr__(self, "classes", check_classes(self.classes, legible(self.name)))
        trained = set(self.train.labels)
        if missing := [name for y, name in enumerate(self.classes) if y not in trained]:
            raise DataError(f"{self.name}: no training sample of {listed(missing)}; add some or remove the class")

    @classmethod
    def build(
        cls,
        name: str,
        train: tuple[Sequence[Any], Sequence[str]],
        test: tuple[Sequence[Any], Sequence[str]] = ((), ()),
        *,
        order: Iterable[str] | None = None,
        modality: Modality = "image",
        augmentation: Augmentation = "none",
        superclasses: Mapping[str, str] | None = None,
        sharded: bool = False,
        notes: Iterable[str] = (),
    ) -> "Source":
        """The source of `(inputs, class name of each)` pairs.

        Args:
            order: the class names in the source's own order (names without any sample are left out);
                sorted by name if not given.
        """
        given = dict.fromkeys([*train[1], *test[1]])
        if strange := [y for y in given if not isinstance(y, str)]:
            raise DataError(f"{name}: the label {strange[0]!r} is no text; name the class of each sample")
        form = {y: canonical(y) for y in given}
        present = set(form.values())
        ordered = dict.fromkeys(map(canonical, order)) if order is not None else sorted(present)
        classes = tuple(y for y in ordered if y in present)
        index = {kept: i for i, kept in enumerate(classes)}
        position = {y: index[kept] for y, kept in form.items()}
        parents = {canonical(y): canonical(parent) for y, parent in (superclasses or {}).items()}
        train_split, test_split = (Samples(inputs, [position[y] for y in names]) for inputs, names in (train, test))
        said = (*notes, *renamed(form))
        return cls(name, classes, train_split, test_split, modality, augmentation, parents, sharded, said)


@dataclass(frozen=True)
class Request:
    """What a source is asked for: the specification split at its first colon, and how much of it to read.

    Attributes:
        where: the path or ID after the colon, or `data_dir`.
        train_shards, text_column, label_column: see `hamcl.streams.load_source`.
        skip: leave out the rows of a table that have no usable label.
    """

    name: str
    where: str | None = None
    train_shards: int | None = None
    text_column: str | None = None
    label_column: str | None = None
    skip: bool = False

    def needed(self, what: str) -> str:
        """Return `where`, which this source cannot do without."""
        if not self.where:
            raise UsageError(f"the source {self.name!r} needs {what}: write {self.name}:{what.split()[-1].upper()}")
        return self.where

    def path(self) -> Path:
        """Return `where` as an existing file or folder."""
        path = Path(self.needed("a path")).expanduser()
        if not path.exists():
            raise DataError(f"{self.name}: there is no file or folder {str(path)!r}; check the path")
        return path

    def root(self, official: str) -> Path:
        """Return the folder of a local copy: `where`, or the folder of the official name inside it."""
        path = self.path()
        return path / official if (path / official).is_dir() else path

    def nowhere(self) -> None:
        """Refuse a path for a source that has its own data."""
        if self.where:
            raise UsageError(f"the source {self.name!r} takes no path, got {self.where!r}; leave it out")


Loader = Callable[[Request], Source]


def title(path: Path) -> str:
    """Return the name of a source that was read from a file or folder."""
    return path.stem if path.is_file() else path.resolve().name
