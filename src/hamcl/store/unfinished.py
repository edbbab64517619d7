"""The position of an unfinished `learn`, kept in the store until the task is learned."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import FailFast
from pydantic.dataclasses import dataclass

import hamcl
from hamcl.errors import DataError
from hamcl.machine import arithmetic
from hamcl.methods.ham import HAM
from hamcl.store import files
from hamcl.store.lock import Held, now
from hamcl.store.manifest import FORMAT, LIMIT, Single, dump, opened, sealed, valid
from hamcl.store.objects import STRICT, Count, ObjectRecord, Sha256, load_object, save_object

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
        became: what "auto" came to, and what else the bits depend on, by name, see `became`; None where it is not
            known (kept by an older hamcl).
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


def became(learner: HAM) -> dict[str, str]:
    """What the options of a learner that depend on the machine or on the backbone came to, and the machine's part in
    the last bits of a sum.
    """
    device = learner.device
    if device.type == "cpu":
        processor = torch.backends.cpu.get_cpu_capability()
    else:
        processor = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "precision": arithmetic(device, learner.config.precision),
        "head": type(learner.head).__name__,
        "features": " + ".join(map(str, learner.backbone.blocks)),
        "threads": str(torch.get_num_threads()),
        "processor": processor,
        "matrix products": torch.get_float32_matmul_precision(),
    }


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


class Unfinished:
    """Keeps the position of one `learn` in its store: at the end of every epoch, and every few minutes.

    Args:
        held: the lock of the store.
        limit: the most bytes that the tensors of a position may have.
        restart: drop what there is.

    Raises:
        DataError: there is an unfinished `learn` that this one cannot go on with, and `restart` is False.
    """

    def __init__(self, held: Held, identity: Identity, minutes: float, *, limit: int, restart: bool) -> None:
        self.held, self.root, self.identity, self.minutes, self.limit = held, held.root, identity, minutes, limit
        self.saved = time.monotonic()
        if restart:
            self.drop()
        with self._or_restart():
            self.found = read(self.root)
        if self.found and (changed := self.found.identity.differences(identity)):
            raise DataError(
                f"{self.root} holds an unfinished learn of task {self.found.identity.task!r} (saved "
                f"{self.found.saved}), which cannot go on because this is not the same: {', '.join(changed)}; give "
                "the same, or drop it with restart=True"
            )

    @contextmanager
    def _or_restart(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            what = str(error).partition(";")[0]
            raise DataError(f"an unfinished learn cannot go on: {what}; drop it with restart=True") from error

    def drop(self) -> None:
        """Forget the position."""
        with self.held.alone():
            drop(self.root)

    def load(self) -> dict[str, Any] | None:
        if self.found is None:
            return None
        with self._or_restart():
            size = self.found.position.size
            if size > self.limit:
                raise DataError(f"its position has {size} bytes, where one of this model has at most {self.limit}")
            return {**load_object(self.root, self.found.position), "meta": asdict(self.found.meta)}

    def due(self, *, epoch_done: bool) -> bool:
        return epoch_done or time.monotonic() - self.saved >= 60 * self.minutes

    def save(self, position: dict[str, Any]) -> None:
        tensors = {name: value for name, value in position.items() if name != "meta"}
        meta = valid(Meta, dump(position["meta"]), self.root / UNFINISHED)
        with self.held.alone():
            before, record = read(self.root), save_object(self.root, tensors)
            document = Document(FORMAT, now(), self.identity, record, meta)
            self.held.check()
            files.write(self.root, UNFINISHED, sealed(asdict(document)))
            self.held.check()
            if before and before.position != record:
                files.remove(self.root, self.root / before.position.name)
        self.saved = time.monotonic()
