"""The position of an unfinished `learn`, kept in the store until the task is learned."""

import hashlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

import hamcl
from hamcl.errors import DataError
from hamcl.store import files
from hamcl.store.lock import now
from hamcl.store.manifest import FORMAT, LIMIT, Single, dump, opened, sealed, valid
from hamcl.store.objects import STRICT, Count, ObjectRecord, Sha256, load_object, save_object
from hamcl.streams.base import Task
from hamcl.streams.pixels import rgb

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


def digest(task: Task) -> str:
    """Sha256 over all that learning a task depends on: names, kind, and the contents of the training samples."""
    total = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)

    add(task.modality.encode(), task.augmentation.encode())
    add(*(name.encode("utf-8", "surrogatepass") for name in task.classes))
    for i, label in enumerate(task.train.labels):
        try:
            sample = task.train.inputs[i]
            if isinstance(sample, Image.Image):
                sample = rgb(sample)
        except DataError:
            content = b"unreadable"
        else:
            if isinstance(sample, str):
                content = sample.encode("utf-8", "surrogatepass")
            else:
                content = f"{sample.mode} {sample.size} ".encode() + sample.tobytes()
        add(str(int(label)).encode(), content)
    return total.hexdigest()


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
    """

    task: str
    data: Sha256
    state: Sha256
    config: Sha256
    device: str
    versions: dict[str, str]

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
        return changed


@dataclass(frozen=True, config=STRICT)
class FitRecord:
    """See `hamcl.training.Fit`."""

    losses: list[float]
    seconds: float
    samples: Count


@dataclass(frozen=True, config=STRICT)
class Counters:
    """Where `hamcl.training.fit` was."""

    step: Count
    total: float
    report: FitRecord


@dataclass(frozen=True, config=STRICT)
class Meta:
    """What is plain in a position, see `hamcl.checkpoint.capture`."""

    rates: list[Single]
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


_DOCUMENT, _META = TypeAdapter(Document), TypeAdapter(Meta)


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
    return valid(_DOCUMENT, opened(data, path), path)


def drop(root: Path) -> None:
    """Forget the unfinished `learn`."""
    if (root / UNFINISHED).exists():
        files.remove(root / UNFINISHED)


class Unfinished:
    """Keeps the position of one `learn` in its store: at the end of every epoch, and every few minutes.

    Raises:
        DataError: there is an unfinished `learn` that this one cannot go on with, and `restart` is False.
    """

    def __init__(self, root: Path, identity: Identity, minutes: float, *, restart: bool) -> None:
        self.root, self.identity, self.minutes = root, identity, minutes
        self.saved = time.monotonic()
        if restart:
            drop(root)
        with self._or_restart():
            self.found = read(root)
        if self.found and (changed := self.found.identity.differences(identity)):
            raise DataError(
                f"{root} holds an unfinished learn of task {self.found.identity.task!r} (saved {self.found.saved}), "
                f"which cannot go on because this is not the same: {', '.join(changed)}; give the same, or drop "
                "it with restart=True"
            )

    @contextmanager
    def _or_restart(self) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            what = str(error).partition(";")[0]
            raise DataError(f"an unfinished learn cannot go on: {what}; drop it with restart=True") from error

    def load(self) -> dict[str, Any] | None:
        if self.found is None:
            return None
        with self._or_restart():
            return {**load_object(self.root, self.found.position), "meta": asdict(self.found.meta)}

    def due(self, *, epoch_done: bool) -> bool:
        return epoch_done or time.monotonic() - self.saved >= 60 * self.minutes

    def save(self, position: dict[str, Any]) -> None:
        tensors = {name: value for name, value in position.items() if name != "meta"}
        before, record = read(self.root), save_object(self.root, tensors)
        meta = valid(_META, dump(position["meta"]), self.root / UNFINISHED)
        document = Document(FORMAT, now(), self.identity, record, meta)
        files.write(self.root, UNFINISHED, sealed(asdict(document)))
        if before and before.position != record:
            files.remove(self.root / before.position.name)
        self.saved = time.monotonic()
