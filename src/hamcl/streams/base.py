"""Tasks and streams: what a learner is given, one task after another."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from hamcl.errors import DataError, UsageError
from hamcl.streams.given import by_position, labels_of
from hamcl.streams.handed import as_images
from hamcl.streams.lazy import Selected
from hamcl.streams.names import canonical, check_classes, check_name, renamed

Modality = Literal["image", "text"]
Augmentation = Literal["none", "photo", "handwriting"]


@dataclass(frozen=True)
class Samples:
    """One split of a task: inputs and their labels.

    Both may be given as any ordered collection (a list, array, tensor, column or one-column frame) and are matched
    by position: an index of their own counts for nothing.

    Attributes:
        inputs: texts (`str`) or `PIL.Image`s of any mode (see `hamcl.streams.pixels.rgb`); images of files
            are decoded when indexed, so only indices travel.
            A bad sample raises `DataError` that names the file when it is indexed.
        labels: positions in the class list of the task (or of the source) this split belongs to, as integers. They
            may be given as class names, which a `Task` turns into positions.

    Raises:
        UsageError: inputs or labels are no sequence, their numbers differ, or a label is neither a whole number nor
            a text.
    """

    inputs: Sequence[Any] = ()
    labels: Sequence[Any] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", by_position(self.inputs, "inputs"))
        object.__setattr__(self, "labels", labels_of(self.labels))
        if len(self.inputs) != len(self.labels):
            raise UsageError(f"{len(self.inputs)} inputs but {len(self.labels)} labels; give each input one label")

    def __repr__(self) -> str:
        return f"Samples({len(self)} of {len({*self.labels})} labels)"

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Sequence[int], relabel: dict[int, int] | None = None) -> "Samples":
        """The samples at `indices`, lazily, with labels mapped through `relabel`."""
        labels = [self.labels[i] for i in indices]
        return Samples(Selected(self.inputs, tuple(indices)), [relabel[y] for y in labels] if relabel else labels)


@dataclass(frozen=True)
class Task:
    """One task: its class names and its splits, labels being positions in `classes`.

    Attributes:
        name, classes: kept in composed Unicode (NFC), without spaces around them and of at most 1,000 characters.
            `classes` may be given as any ordered collection of texts.
        train, val, test: labels may be given as class names.
        notes: one sentence for each thing that was left out, renamed or guessed when the data was read.

    Raises:
        DataError: a name cannot be used, two classes have the same name without regard to case, or a label is none
            of the classes.
        UsageError: an argument is of another kind.
    """

    name: str
    classes: tuple[str, ...]
    train: Samples
    val: Samples = field(default_factory=Samples)
    test: Samples = field(default_factory=Samples)
    modality: Modality = "image"
    augmentation: Augmentation = "none"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", check_name(self.name, "the task"))
        given = by_position(self.classes, "classes")
        object.__setattr__(self, "classes", check_classes(given, f"task {self.name!r}"))
        object.__setattr__(self, "notes", tuple(dict.fromkeys([*self.notes, *renamed(given)])))
        for split in ("train", "val", "test"):
            samples = getattr(self, split)
            if not isinstance(samples, Samples):
                raise UsageError(f"{split} of task {self.name!r} must be Samples(inputs, labels), got {samples!r:.80}")
            if self.modality == "image" and len(samples):
                samples = Samples(as_images(samples.inputs), samples.labels)
            object.__setattr__(self, split, self._positioned(samples, split))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(getattr(self, split))}" for split in ("train", "val", "test"))
        return f"Task({self.name!r}, {len(self.classes)} classes, {self.modality}s: {sizes})"

    def _positioned(self, samples: Samples, split: str) -> Samples:
        """The samples with positions in `classes` for labels that are class names."""
        labels = samples.labels
        if any(isinstance(y, str) for y in labels):
            position = {name: y for y, name in enumerate(self.classes)}
            found = [position.get(canonical(y)) if isinstance(y, str) else None for y in labels]
            if None in found:
                strange = labels[found.index(None)]
                raise DataError(
                    f"task {self.name!r}, split {split}: the label {strange!r} is none of the task's class names"
                )
            return Samples(samples.inputs, found)
        if len(labels) and not (min(labels) >= 0 and max(labels) < len(self.classes)):
            raise DataError(
                f"task {self.name!r}, split {split}: labels must lie in 0..{len(self.classes) - 1}, "
                f"got {min(labels)}..{max(labels)}"
            )
        return samples


@dataclass(frozen=True)
class Stream(Sequence[Task]):
    """A sequence of tasks, reproducible from (source, options, seed).

    Attributes:
        superclasses: class name -> superclass name, where the source knows one.
        notes: one sentence for each thing that was left out, renamed or guessed when the data was read.
    """

    name: str
    tasks: tuple[Task, ...]
    superclasses: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Stream({self.name!r}, {len(self.tasks)} tasks, {len(self.classes)} classes)"

    def __len__(self) -> int:
        return len(self.tasks)

    @overload
    def __getitem__(self, i: int) -> Task: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Task]: ...
    def __getitem__(self, i: int | slice) -> Any:
        return self.tasks[i]

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names in the order of first appearance."""
        return tuple(dict.fromkeys(name for task in self.tasks for name in task.classes))
