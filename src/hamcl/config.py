"""HAMConfig: every setting of a learner in one validated dataclass."""

import dataclasses
import difflib
import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hamcl.errors import UsageError
from hamcl.words import shown

BARE: dict[str, Any] = {
    "depths": "last",
    "views": 1,
    "distill": 0.0,
    "later_tasks": "free",
    "drift": "none",
    "merge": "mean",
    "importance_lr": 1e-2,
    "projection": 4096,
}
"""Without what HAM adds to its paper; where the other methods start from, too, whatever suits HAM."""
PAPER: dict[str, Any] = {
    **BARE,
    "rank": 8,
    "lora_alpha": 32.0,
    "dropout": 0.1,
    "max_groups": 5,
    "merge": "concat",
    "density": 0.5,
    "lr": 1e-4,
    "importance_lr": 1e-4,
    "head_lr": 1e-4,
    "epochs": 10,
    "warmup": 0.0,
    "weight_decay": 0.0,
    "head": "linear",
}
PER_TASK = (
    "epochs",
    "batch_size",
    "lr",
    "head_lr",
    "importance_lr",
    "weight_decay",
    "warmup",
    "distill",
    "later_tasks",
    "views",
)
"""Options that may differ from one task of a model to the next: nothing that is kept depends on them."""
RETIRED: dict[str, Any] = {
    "task_scores": 0.0,
    "head_features": "adapted",
    "memory_per_class": 0,
    "similarity": "weight",
    "threshold_kind": "zscore",
    "clip_norm": 1.0,
    "compile": False,
}
"""Options that an earlier version had -> the value with which it did what is done now."""
MACHINE = ("device", "precision", "eval_batch_size", "threads", "on_bad_sample")
"""The options of `hamcl.machine.Machine`, some of which an earlier version kept with those of the model."""
LAST = "0.1.0"
"""The last version that had them."""
MOST = {
    "rank": 2**10,
    "max_groups": 2**12,
    "merge_rank": 2**12,
    "projection": 2**15,
    "views": 2**10,
    "seed": 2**63 - 1,
}
"""What no task needs more of; other whole numbers end at `LARGEST`."""
LARGEST = 2**31 - 1
SINGLE = 3e38
"""What single precision can hold."""
TRAINED = ("linear", "cosine")
"""The heads whose rows train with a task."""
AUTO = {"image": "stack", "text": "ridge"}
"""The head "auto" by what the backbone reads: the depths of an image network differ far more in worth."""
PROJECTION = {"ridge": 4096, "stack": 1024}
"""The width "none" of the projection by head: the other experts of stack know most of what a wider one adds, and
its time is the cube and its state the square of it."""
READS = {
    "linear": frozenset[str](),
    "cosine": frozenset[str](),
    "ncm": frozenset({"views"}),
    "lda": frozenset({"views", "drift", "shrinkage"}),
    "ridge": frozenset({"views", "drift", "projection"}),
    "stack": frozenset({"views", "drift", "shrinkage", "projection"}),
    "auto": frozenset({"views", "drift", "shrinkage", "projection"}),
}
"""The options that have an effect with each head, of those that only heads read."""
IDLE = {"image": frozenset[str](), "text": frozenset({"views"})}
"""The options that have none with each kind of samples: texts are not augmented."""
PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": PAPER}


def option(default: Any, text: str) -> Any:
    """A field of a dataclass of options, and what it does."""
    return dataclasses.field(default=default, metadata={"help": text})


Options = TypeVar("Options", bound="HAMConfig")


@dataclass(frozen=True)
class HAMConfig:
    """Settings of HAM and of the baselines that share its adapters, heads and training loop.

    A method with settings of its own adds them in a subclass (`Learner.config_type`).

    Raises:
        UsageError: a value has the wrong type or lies outside its range.
    """

    seed: int = option(0, "Seed of every random draw.")
    rank: int = option(8, "Rank of a task's LoRA adapter.")
    lora_alpha: float = option(8.0, "LoRA scale; a new adapter's update is multiplied by lora_alpha / rank.")
    dropout: float = option(0.0, "Dropout on the input of a task's adapter while it trains.")
    targets: str | None = option(None, "Regular expression over layer names to adapt; none: the backbone's default.")
    max_groups: int | None = option(5, "G_max, the largest number of groups; none: no limit.")
    threshold: float = option(2.0, "tau: an adapter whose best score is below it opens a new group.")
    merge: Literal["concat", "svd", "mean", "ties", "dare"] = option("svd", "How an adapter is merged into its group.")
    merge_rank: int | None = option(16, "Rank a group is compressed to after a merge; concat ignores it.")
    density: float = option(1.0, "rho: fraction of an adapter's entries kept by magnitude before it is merged.")
    prune_on: Literal["factors", "delta"] = option("factors", "Prune the factors A and B, or their product.")
    epochs: int = option(3, "Passes over a task's training samples; later_tasks may cut them short.")
    batch_size: int = option(32, "Training samples per step.")
    lr: float = option(0.001, "Learning rate of the adapter (AdamW, cosine decay).")
    head_lr: float = option(0.01, "Learning rate of the task's classifier rows.")
    importance_lr: float = option(0.001, "Learning rate of the importances alpha_i and alpha_Gj; 0 freezes them.")
    weight_decay: float = option(0.01, "AdamW weight decay of the adapter and the rows; importances have none.")
    warmup: float = option(0.1, "Fraction of the steps with a linearly rising learning rate.")
    distill: float = option(10.0, "Weight of the feature distillation on the current task's batches; 0 turns it off.")
    later_tasks: Literal["hold", "free"] = option(
        "hold",
        "hold: the more classes were learned before, the more distill weighs, the slower and the shorter a task "
        "learns; free: every task learns as the first.",
    )
    depths: Literal["auto", "last", "all"] = option(
        "auto", "Features of the last layer, or of several depths side by side; auto: several for the analytic heads."
    )
    head: Literal["auto", "linear", "cosine", "ncm", "lda", "ridge", "stack"] = option(
        "auto", "Classifier over all seen classes; auto: stack for images, ridge for texts."
    )
    shrinkage: float | None = option(
        None, "Weight of the scaled identity in the shared covariance of lda and stack; none: as the samples suggest."
    )
    projection: int | None = option(
        None, "Width of the random projection of ridge and stack; 0 turns it off; none: 4096 in ridge, 1024 in stack."
    )
    views: int = option(2, "Passes over the images for the statistics; those after the first augmented.")
    drift: Literal["none", "noise"] = option(
        "noise", "What stored statistics do when the features drift: nothing, or count the moves as noise."
    )

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("rank", "epochs", "batch_size", "views"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("max_groups", "merge_rank"):
            self._require(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1 or none")
        for name in ("lora_alpha", "lr", "head_lr"):
            self._require(name, getattr(self, name) > 0, "above 0")
        for name in ("importance_lr", "weight_decay", "distill"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("dropout", "warmup"):
            self._require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        self._require("projection", self.projection is None or self.projection >= 0, "at least 0 or none")
        self._require("shrinkage", self.shrinkage is None or 0 <= self.shrinkage <= 1, "in [0, 1] or none")
        self._require("density", 0 < self.density <= 1, "in (0, 1]")

    def _require(self, name: str, holds: bool, what: str) -> None:
        require(self, name, holds, what)

    @property
    def depths_to_read(self) -> Literal["auto", "last", "all"]:
        """What `load_backbone` is asked for: rows that answer stay a classifier of the network's own features, as its
        own library would have it.
        """
        return "last" if self.depths == "auto" and self.head in TRAINED else self.depths

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, preset: str = "default") -> Self:
        """Build a config from plain values on top of a preset.

        Raises:
            UsageError: an option or the preset does not exist.
        """
        if preset not in PRESETS:
            raise UsageError(f"there is no preset {preset!r}; choose from {', '.join(PRESETS)}")
        known, values = [f.name for f in dataclasses.fields(cls)], current(values)
        for name in values:
            if name in MACHINE:
                raise UsageError(
                    f"option {name!r} belongs to the machine and not to the model: give it to Machine, or as "
                    f"--{name.replace('_', '-')}"
                )
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; options are {', '.join(known)}"
                raise UsageError(f"there is no option {shown(name)}{hint}")
        return cls(**{**PRESETS[preset], **values})

    @classmethod
    def from_file(cls, path: str | Path, *, preset: str = "default") -> Self:
        """Read a YAML or JSON file of options (see `from_dict`)."""
        return cls.from_dict(read_options(path), preset=preset)

    def save(self, path: str | Path) -> None:
        """Write all options as JSON."""
        Path(path).expanduser().write_text(json.dumps(self.to_dict(), indent=2) + "\n")


def resolve(config: Options, modality: str, given: Literal["last", "all"]) -> Options:
    """Settle every option that depends on the backbone or on another option; what comes out has no "auto".

    Args:
        modality: "image" or "text", what the backbone reads.
        given: whether it gives features of the last layer or of several depths.

    Raises:
        UsageError: the backbone gives others than the options ask for.
    """
    head = answering(config, modality)
    asked = config.depths_to_read
    if asked not in ("auto", given):
        why = f"head={config.head!r} reads" if config.depths == "auto" else f"depths={config.depths!r} asks for"
        raise UsageError(
            f"{why} features of {'the last layer' if asked == 'last' else 'several depths'}, but the backbone gives "
            f"others: load it with depths={asked!r}"
        )
    return dataclasses.replace(
        config,
        head=head,  # type: ignore[arg-type]
        depths=given,
        projection=PROJECTION.get(head) if config.projection is None else config.projection,
        views=1 if modality == "text" else config.views,  # texts are not augmented
    )


def answering(config: HAMConfig, modality: str) -> str:
    """The head that answers: "auto" depends on what the backbone reads, "image" or "text"."""
    return AUTO[modality] if config.head == "auto" else config.head


def useful(config: Options, modality: str) -> Options:
    """Options without those that do nothing with their head, which are as by default: earlier versions took any."""
    idle = READS["auto"] - READS[answering(config, modality)] | IDLE[modality]
    usual = type(config)()
    return dataclasses.replace(config, **{name: getattr(usual, name) for name in idle})


def current(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as an earlier version named them, under the names and values of today.

    Raises:
        UsageError: one asks for what is no more.
    """
    found = dict(options)
    for name, harmless in RETIRED.items():
        if found.pop(name, harmless) != harmless:
            raise UsageError(
                f"the option {name}={shown(options[name])} is no more; hamcl {LAST} was the last version with it"
            )
    if found.get("merge") == "magnitude":
        found |= {"merge": "svd", "prune_on": "delta"}  # two names of one thing
    if found.get("drift") == "map":
        raise UsageError(f"the option drift='map' is no more; hamcl {LAST} was the last version that had it")
    parts = {"distill_growth": (True, False), "settle": (True, False), "shorten": ("auto", "never")}
    asked = {name: found.pop(name) for name in parts if name in found}
    if asked:
        for word, side in (("hold", 0), ("free", 1)):
            if asked == {name: values[side] for name, values in parts.items()}:
                return {"later_tasks": word, **found}
        given = ", ".join(f"{name}={value}" for name, value in asked.items())
        raise UsageError(
            f"the options {given} are one now, later_tasks, which turns all of them on or off; hamcl {LAST} was the "
            "last version that had them apart"
        )
    return found


class _Loader(yaml.SafeLoader):
    """YAML with the floats of JSON: YAML 1.1 takes `1e-3`, without a point, for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_options(path: str | Path) -> dict[str, Any]:
    """Read a flat mapping of options from a YAML or JSON file.

    Raises:
        UsageError: the file cannot be read or does not hold a mapping.
    """
    try:
        values = yaml.load(Path(path).expanduser().read_text(), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date that is none is a ValueError
        raise UsageError(f"cannot read the options in {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise UsageError(f"the options in {path} must be a mapping of names to values")
    return values


def read_value(text: str) -> Any:
    """Read one value as in a YAML file of options; text that is no YAML stays text."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError, yaml.YAMLError):
        return text


def check_types(options: Any) -> None:
    """Check every field of a dataclass of options against its type, and numbers against what can be computed.

    Raises:
        UsageError: names the first that does not fit.
    """
    for name, hint in get_type_hints(type(options)).items():
        _check_type(name, getattr(options, name), hint)
        _check_size(name, getattr(options, name))


def require(options: Any, name: str, holds: bool, what: str) -> None:
    """Raise UsageError where a condition on an option does not hold."""
    if not holds:
        raise UsageError(f"option {name!r} must be {what}, got {getattr(options, name)!r}")


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UsageError(f"option {name!r} must be one of {', '.join(get_args(hint))}, got {shown(value)}")
        return
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    accepted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
        raise UsageError(f"option {name!r} must be of type {wanted}, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"option {name!r} must be a finite number, got {value}")


def _check_size(name: str, value: Any) -> None:
    """Refuse numbers that no machine has the memory for, or that overflow in a tensor."""
    if isinstance(value, int | float):
        most = MOST.get(name, LARGEST if isinstance(value, int) else SINGLE)
        if abs(value) > most:
            raise UsageError(f"option {name!r} must be at most {most}, got {shown(value)}")
