"""What an export is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hamcl.errors import UsageError
from hamcl.ham import Group
from hamcl.heads import Linear
from hamcl.nn.backbones import Backbone
from hamcl.streams.base import Augmentation
from hamcl.streams.names import is_unicode

Kind = Literal["peft", "merged", "onnx", "adapters"]


@dataclass(frozen=True)
class Learned:
    """A learner at one moment.

    Attributes:
        merged: the backbone with all groups folded into its weights.
        fingerprint: of the backbone before that, see `hamcl.nn.backbones.fingerprint`.
        groups: the groups that were folded in.
        head: the classifier over all classes.
        normalize: the head takes features scaled to length 1.
        classes: in the order of the scores.
        tasks: name and classes of each task, in the order learned.
        augmentation: the kind of images learned, which says how they are prepared.
        config: the settings.
    """

    merged: Backbone
    fingerprint: str
    groups: Sequence[Group]
    head: Linear
    normalize: bool
    classes: Sequence[str]
    tasks: Sequence[tuple[str, Sequence[str]]]
    augmentation: Augmentation
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """What a model card says besides what the model knows of itself.

    Attributes:
        title: of the card; by default it names the backbone and the number of classes.
        text: a paragraph, such as where the data comes from.
        license: identifier of the model's licence.
        metrics: name -> value, such as the accuracy over all classes, in [0, 1].
        accuracy: task name -> accuracy on its test split among all classes, in [0, 1].
    """

    title: str | None = None
    text: str = ""
    license: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("title", "text", "license"):
            if not is_unicode(getattr(self, name) or ""):
                raise UsageError(f"the {name} of a card must be Unicode text, got {getattr(self, name)!r:.80}")
