"""The manifest of a store: what was learned, which files hold it, and what happened when."""

import hashlib
from dataclasses import asdict, field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from hamcl.config import MACHINE, HAMConfig, useful
from hamcl.machine import Machine
from hamcl.store.document import dump, sealed
from hamcl.store.files import OBJECTS
from hamcl.store.records import STRICT, Count, Many, ObjectRecord, Sha256

Single = Annotated[float, Field(ge=-3e38, le=3e38)]
"""What single precision can hold."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Plain = bool | int | float | str | None


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
        """The names of the layers it updates."""
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
        resolved: the same, with every "auto" settled; empty in a store of an earlier version that has learned nothing
            since.
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
        """The config as HAMConfig, in today's names.

        Raises:
            UsageError: an option has a value that is not allowed, or asks for what is no more.
        """
        config = HAMConfig.from_dict({name: value for name, value in self.config.items() if name not in MACHINE})
        return config if self.format >= 3 else useful(config, self.backbone.modality)

    @property
    def dropped(self) -> dict[str, Plain]:
        """Options of the machine that an earlier version kept, where they are not what they are by default."""
        usual = asdict(Machine())
        return {name: value for name, value in self.config.items() if name in usual and value != usual[name]}

    def encode(self) -> bytes:
        """The bytes of the file: JSON whose first key is the sha256 of the rest."""
        return sealed(asdict(self))
