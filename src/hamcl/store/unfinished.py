"""What a store says of an unfinished `learn`: where it was, and what it must be gone on with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import FailFast
from pydantic.dataclasses import dataclass

import hamcl
from hamcl.store import files
from hamcl.store.document import LIMIT, opened, valid
from hamcl.store.manifest import Single
from hamcl.store.records import STRICT, Count, ObjectRecord, Sha256

UNFINISHED = "unfinished.json"
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "peft", "accelerate", "numpy", "pillow")


def versions(*libraries: str) -> dict[str, str]:
    """The versions of hamcl, Python and the libraries named."""
    found = {"hamcl": hamcl.__version__, "python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


@dataclass(frozen=True, config=STRICT)
class Identity:
    """What an unfinished `learn` must share with one that goes on.

    Attributes:
        task: its name.
        data: `digest` of the task.
        state: key of the state it began from; another one is never gone on with, see `Folder.clean`.
        config: sha256 of all options.
        device: the kind of device it ran on.
        versions: of the libraries.
        became: what "auto" came to, and what else the bits depend on, by name, see `hamcl.store.keeper`; None where it
            is not known (kept by an older hamcl).
    """

    task: str
    data: Sha256
    state: Sha256
    config: Sha256
    device: str
    versions: dict[str, str]
    became: dict[str, str] | None = None

    def differences(self, other: "Identity") -> list[str]:
        """What is not the same, in words."""
        if self.task != other.task:
            return [f"the task is {other.task!r}"]
        words = {"data": "the data", "config": "the config", "device": "the device"}
        changed = [word for name, word in words.items() if getattr(self, name) != getattr(other, name)]
        for name in sorted(self.versions.keys() | other.versions.keys()):
            mine, theirs = self.versions.get(name), other.versions.get(name)
            if mine != theirs:
                changed.append(f"{name} (then {mine}, now {theirs})")
        then, now = self.became or {}, other.became or {}
        both = sorted(then.keys() & now.keys())
        return changed + [f"{name} (then {then[name]}, now {now[name]})" for name in both if then[name] != now[name]]


@dataclass(frozen=True, config=STRICT)
class FitRecord:
    """See `hamcl.training.loop.Fit`."""

    losses: Annotated[list[float], FailFast()]
    seconds: float
    samples: Count


@dataclass(frozen=True, config=STRICT)
class Counters:
    """Where `hamcl.training.loop.fit` was."""

    step: Count
    total: float
    report: FitRecord


@dataclass(frozen=True, config=STRICT)
class Meta:
    """What is plain in a position, see `hamcl.training.position.capture`."""

    rates: Annotated[list[Single], FailFast()]
    random: dict[str, Any]
    progress: Counters


@dataclass(frozen=True, config=STRICT)
class Document:
    """`unfinished.json`.

    Attributes:
        position: the tensors.
        meta: what else belongs to them.
    """

    format: int
    saved: str
    identity: Identity
    position: ObjectRecord
    meta: Meta


def read(root: Path) -> Document | None:
    """The unfinished `learn` of a store, if there is one.

    Raises:
        DataError: it was changed.
    """
    path = root / UNFINISHED
    try:
        data = files.read(root, UNFINISHED, limit=LIMIT)
    except files.Missing:
        return None
    return valid(Document, opened(data, path), path)


def drop(root: Path) -> None:
    """Forget the unfinished `learn`."""
    if os.path.lexists(root / UNFINISHED):
        files.remove(root, root / UNFINISHED)
