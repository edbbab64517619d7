"""The manifest of a store: what was learned, which files hold it, and what happened when."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from hamcl.config import MACHINE, TRAINED, HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.machine import Machine
from hamcl.store import structure
from hamcl.store.files import OBJECTS
from hamcl.store.records import STRICT, Count, Many, ObjectRecord, Sha256

FORMAT, OLDEST = 3, 1
"""What is written, and the oldest version that is read. Version 2 keeps options of the machine with those of the
model, others that are no more, and nothing that was resolved. Version 1 has no `options` of tasks either, no
`trained_on` and no calibration in evaluations, and heads without what they judge themselves by.
"""
LIMIT = 2**24
"""The most bytes of a manifest that are read."""

Single = Annotated[float, Field(ge=-3e38, le=3e38)]
"""What single precision can hold."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Plain = bool | int | float | str | None
_SIZES = {"rank": 2**10, "projection": 2**15, "max_groups": 2**12, "merge_rank": 2**12}


@dataclass(frozen=True, config=STRICT)
class BackboneOptions:
    """Options of `load_backbone`."""

    pretrained: bool = True
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_length: Annotated[int, Field(ge=1, le=2**15)] | None = None


@dataclass(frozen=True, config=STRICT)
class BackboneRecord:
    """The backbone that the adapters belong to.

    Attributes:
        spec: what `load_backbone` is given.
        fingerprint: of its weights, see `hamcl.nn.backbones.fingerprint`.
        width: its features.
        layers: the names of those adapted, so that neither a pattern nor a default is asked again.
    """

    spec: str
    options: BackboneOptions
    fingerprint: Sha256
    modality: Literal["image", "text"]
    width: Annotated[int, Field(ge=1, le=2**20)]
    layers: Annotated[Many[str], Field(min_length=1, max_length=2**16)]


@dataclass(frozen=True, config=STRICT)
class TaskRecord:
    """A learned task.

    Attributes:
        columns: its classes, as positions in the list of all classes.
        samples: how many it was learned from; None for a task that came as an adapter.
        data: sha256 of its class names and training samples, see `hamcl.store.digest`; None likewise.
        learned: when, in UTC.
        options: given for it instead of those of the store, and the precision used; None where it is not known (an
            adapter from elsewhere, or a task learned by an older hamcl).
    """

    name: str
    columns: Many[Count]
    samples: Count | None
    data: Sha256 | None
    learned: str
    options: dict[str, Plain] | None = None


@dataclass(frozen=True, config=STRICT)
class GroupRecord:
    """A merged adapter; its tensors are `"<layer>.A"` and `"<layer>.B"`."""

    importance: Single
    tasks: Many[str]
    file: ObjectRecord

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(name[:-2] for name in self.file.tensors if name.endswith(".A"))

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max((r.shape[0] for name, r in self.file.tensors.items() if name.endswith(".A")), default=0)


@dataclass(frozen=True, config=STRICT)
class Decision:
    """Why a task went into its group, see `hamcl.ham.grouping.Assignment`."""

    index: Count
    opened: bool
    similarities: Many[float]
    scores: Many[float | None]


@dataclass(frozen=True, config=STRICT)
class CalibrationRecord:
    """See `hamcl.ham.grouping.Calibration`."""

    count: Count = 0
    mean: float = 0.0
    squares: float = 0.0


@dataclass(frozen=True, config=STRICT)
class Score:
    """Accuracy on some samples."""

    accuracy: Fraction
    samples: Count


@dataclass(frozen=True, config=STRICT)
class Confusion:
    """`count` samples of class `truth` were taken for `predicted`."""

    truth: str
    predicted: str
    count: Count


@dataclass(frozen=True, config=STRICT)
class Reliability:
    """What probabilities are worth.

    Attributes:
        error: the expected calibration error, see `hamcl.metrics.calibration_error`.
        judged: how many left-out samples the probabilities had been fitted to.
        samples, confidence, accuracy: of each tenth of the range of confidence, the lowest first; 0 where there are no
            samples.
    """

    error: Fraction
    judged: Annotated[float, Field(ge=0, le=1e12)]
    samples: Annotated[tuple[Count, ...], Field(max_length=100)]
    confidence: Annotated[tuple[Fraction, ...], Field(max_length=100)]
    accuracy: Annotated[tuple[Fraction, ...], Field(max_length=100)]


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """Accuracies among all classes the model knew, on test splits.

    Attributes:
        learned: the number of tasks the model had learned.
        overall: over all samples.
        tasks, classes: by name.
        confusions: the most frequent ones, worst first.
        trained_on: the tasks that were learned from the very samples evaluated.
        reliability: of the probabilities; None in an evaluation of hamcl 0.1.0.
    """

    time: str
    learned: Count
    overall: Score
    tasks: dict[str, Score]
    classes: dict[str, Score]
    confusions: Many[Confusion]
    trained_on: Many[str] = ()
    reliability: Reliability | None = None


@dataclass(frozen=True, config=STRICT)
class State:
    """Everything learned.

    Attributes:
        rows: the linear classifier rows.
        head: tensor name -> file, for heads with statistics.
    """

    classes: Many[str] = ()
    tasks: Many[TaskRecord] = ()
    augmentation: Literal["none", "photo", "handwriting"] = "none"
    groups: Many[GroupRecord] = ()
    decisions: Many[Decision] = ()
    calibration: CalibrationRecord = field(default_factory=CalibrationRecord)
    rows: ObjectRecord | None = None
    head: dict[str, ObjectRecord] = field(default_factory=dict)
    evaluations: Many[Evaluation] = ()

    @property
    def files(self) -> dict[str, ObjectRecord]:
        """Every object by the part it holds."""
        found = {f"groups.{j}": group.file for j, group in enumerate(self.groups)}
        found |= {"rows": self.rows} if self.rows else {}
        return found | {f"head.{name}": record for name, record in self.head.items()}

    @property
    def key(self) -> str:
        """Sha256 of what was learned, evaluations left out."""
        learned = {**asdict(self), "evaluations": []}
        for task in learned["tasks"]:
            if task["options"] is None:  # as an older hamcl, which did not keep them, made the sum
                del task["options"]
        return hashlib.sha256(dump(learned)).hexdigest()


@dataclass(frozen=True, config=STRICT)
class Earlier:
    """An earlier state that `undo` can go back to; the file is JSON.

    Attributes:
        task: the last task it knows, None for the beginning.
        tasks: how many tasks it knows.
        objects: sha256 of its tensors' files.
    """

    task: str | None
    tasks: Count
    sha256: Sha256
    size: Count
    objects: Many[Sha256]

    @property
    def name(self) -> str:
        """The path below the store."""
        return f"{OBJECTS}/{self.sha256}.json"


@dataclass(frozen=True, config=STRICT)
class Event:
    """One command that changed the store."""

    time: str
    command: str
    text: str
    versions: dict[str, str]


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """`manifest.json`.

    Attributes:
        format: version of the layout of the store, `FORMAT` in what is written.
        config: all options of `HAMConfig`, as they were asked for.
        resolved: the same, with every "auto" settled, as the last task learned them; empty where none was.
        keep: how many earlier states are kept for `undo`.
        state: the present one.
        earlier: oldest first.
        history: what happened, oldest first; `undo` adds to it and takes nothing away.
    """

    format: int
    created: str
    backbone: BackboneRecord
    config: dict[str, Plain]
    keep: Count
    resolved: dict[str, Plain] = field(default_factory=dict)
    state: State = field(default_factory=State)
    earlier: Many[Earlier] = ()
    history: Many[Event] = ()

    @property
    def options(self) -> HAMConfig:
        """The config as HAMConfig.

        Raises:
            UsageError: an option has a value that is not allowed, or asks for what is no more.
        """
        return HAMConfig.from_dict({name: value for name, value in self.config.items() if name not in MACHINE})

    @property
    def dropped(self) -> dict[str, Plain]:
        """Options of the machine that an earlier version kept, where they are not what they are by default."""
        usual = asdict(Machine())
        return {name: value for name, value in self.config.items() if name in usual and value != usual[name]}

    def encode(self) -> bytes:
        """The bytes of the file: JSON whose first key is the sha256 of the rest."""
        return sealed(asdict(self))


def dump(value: object, indent: int | None = None) -> bytes:
    """JSON as UTF-8, the same for the same value."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def sealed(value: dict[str, Any]) -> bytes:
    """A document of a store: JSON whose first line is "checksum", the sha256 of the rest, and whose second "format".

    Every format version begins like this, so that an older hamcl can tell that a document is newer.
    """
    rest = dump(value, indent=1)[2:] + b"\n"
    return b'{\n "checksum": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n' + rest


_BEGINNING = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})",\n(?= "format": ([0-9]{1,9}),\n)')


def opened(data: bytes, path: Path) -> bytes:
    """`sealed` JSON without its checksum.

    Raises:
        DataError: it is no such document, of another format version, or a byte was changed.
    """
    found = _BEGINNING.match(data)
    if found is None:
        raise DataError(f"{path} does not begin as hamcl writes it; restore it from a copy of the store")
    version = int(found[2])
    if version > FORMAT:
        raise DataError(
            f"{path} has format version {version}, newer than the {FORMAT} of this hamcl; install a newer hamcl"
        )
    if version < OLDEST:
        raise DataError(
            f"{path} has format version {version}, which this hamcl does not read (it begins at {OLDEST}); learn the "
            "tasks again into a new store"
        )
    rest = data[found.end() :]
    if hashlib.sha256(rest).hexdigest().encode() != found[1]:
        raise DataError(f"{path} was changed: its checksum is another one; restore it from a copy of the store")
    return b"{\n" + rest


def parse(data: bytes, path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        DataError: it was changed, is of another format version, or says what cannot be.
    """
    manifest = valid(Manifest, opened(data, path), path)
    try:
        options = manifest.options
    except UsageError as error:
        raise DataError(f"the config in {path} cannot be used: {error}") from error
    for name, most in _SIZES.items():
        if (getattr(options, name) or 0) > most:
            raise DataError(
                f"the config in {path} has {name} = {getattr(options, name)}, but at most {most} is opened"
            )
    check_state(manifest.state, options, manifest.backbone.width, path)
    counts = [*(earlier.tasks for earlier in manifest.earlier), len(manifest.state.tasks)]
    if any(later <= sooner for sooner, later in pairwise(counts)):
        raise DataError(f"{path} lists earlier states that are not earlier; restore it from a copy of the store")
    return manifest


def parse_state(data: bytes, manifest: Manifest, path: Path) -> State:
    """Read and check an earlier state.

    Raises:
        DataError: it says what cannot be.
    """
    state = valid(State, data, path)
    check_state(state, manifest.options, manifest.backbone.width, path)
    return state


T = TypeVar("T")


def valid(kind: type[T], data: bytes, path: Path) -> T:
    """Turn JSON into dataclasses.

    Raises:
        DataError: a key is missing or unknown, or a value of the wrong type or out of range.
    """
    if wrong := structure.fault(kind, data):
        raise DataError(f"{path} is not valid: {wrong}; restore it from a copy of the store")
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        raise DataError(f"{path} is not valid: {sentence(error)}; restore it from a copy of the store") from error


def reason(error: DataError) -> str:
    """What an error says is wrong, without the path before it and what to do after it."""
    return str(error).rpartition("; ")[0].partition(" is not valid: ")[2] or str(error).partition(";")[0]


def sentence(error: ValidationError) -> str:
    """The first of the errors, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])[:200] or 'the whole'}: {first['msg']}"


def check_room(manifest: Manifest, classes: Iterable[str], path: Path) -> None:
    """Check, before any work is done, that a manifest can take more classes.

    Raises:
        DataError: with them it might outgrow what is read again.
    """
    new = set(classes) - set(manifest.state.classes)
    # Each name stands in the list of classes, and again in the accuracy of its class; a task's own records are few.
    size = len(manifest.encode()) + sum(2 * len(dump(name)) + 128 for name in new) + 2**20
    if size > LIMIT:
        raise DataError(
            f"{path} would hold some {size >> 20} MiB of names and records with these {len(new)} classes, but at most "
            f"{LIMIT >> 20} are read; shorten the class names or learn the classes in a store of their own"
        )


def check_state(state: State, options: HAMConfig, width: int, path: Path) -> None:
    """Check what must hold between the parts of a state, from its records alone.

    Raises:
        DataError: names what does not hold.
    """

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise DataError(f"{path} cannot be right: {what}; restore it from a copy of the store")

    names = [task.name for task in state.tasks]
    require(_unique(state.classes), "a class is listed twice")
    require(_unique(names), "a task is listed twice")
    for task in state.tasks:
        require(bool(task.columns) and _unique(task.columns), f"task {task.name!r} has no classes, or one twice")
    covered = {column for task in state.tasks for column in task.columns}
    require(covered == set(range(len(state.classes))), "the columns of the tasks are not those of the classes")
    members = [task for group in state.groups for task in group.tasks]
    require(sorted(members) == sorted(names), "the groups do not hold every task once")
    require(all(group.tasks for group in state.groups), "a group is empty")
    require(options.max_groups is None or len(state.groups) <= options.max_groups, "there are too many groups")
    require(len(state.decisions) == len(names), "there is not one decision for each task")
    for name, record in state.files.items():
        try:
            record.check()
        except DataError as error:
            require(False, f"{name}: {error}")
    shapes: dict[str, tuple[int, int]] = {}
    for j, group in enumerate(state.groups):
        for layer in group.layers:
            a, b = group.file.tensors[f"{layer}.A"], group.file.tensors.get(f"{layer}.B")
            fits = b is not None and len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
            require(fits, f"layer {layer!r} of group {j} has no matching factors")
            assert b is not None
            shape = b.shape[0], a.shape[1]
            most = options.merge_rank if options.merge_rank and options.merge != "concat" else min(shape)
            require(a.shape[0] <= min(most, *shape), f"layer {layer!r} of group {j} has rank {a.shape[0]}")
            require(shapes.setdefault(layer, shape) == shape, f"layer {layer!r} has two shapes")
        require(len(group.file.tensors) == 2 * len(group.layers), f"group {j} holds other tensors than factors")
    if not state.tasks:
        require(state.rows is None and not state.head, "there are no tasks but files")
        return
    require(state.rows is not None, "the classifier rows are missing")
    assert state.rows is not None
    plain: dict[str, tuple[int, ...]] = {"weight": (len(state.classes), width), "bias": (len(state.classes),)}
    rows = {name: record.shape for name, record in state.rows.tensors.items()}
    require(
        rows in ({**plain, "temperature": ()}, plain),
        "there is not one classifier row for each class",
    )
    require(bool(state.head) == (options.head not in TRAINED), "the head is not the config's")
    for name, record in state.head.items():
        require(list(record.tensors) == [name], f"the file of head.{name} holds something else")
    if state.head and options.projection and options.head in ("auto", "ridge", "stack"):
        # Before a head of that size is made.
        sides = {side for name, record in state.head.items() for side in record.tensors[name].shape}
        require(options.projection in sides, f"the head has no projection of width {options.projection}")


def _unique(values: Iterable[object]) -> bool:
    listed = list(values)
    return len(set(listed)) == len(listed)
