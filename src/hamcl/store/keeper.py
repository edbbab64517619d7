"""Keeps the position of an unfinished `learn` in the store until the task is learned."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from hamcl.errors import DataError
from hamcl.methods.ham import HAM
from hamcl.store import files
from hamcl.store.document import FORMAT, dump, sealed, valid
from hamcl.store.lock import Held, now
from hamcl.store.objects import load_object, save_object
from hamcl.store.unfinished import UNFINISHED, Document, Identity, Meta, drop, read


def became(learner: HAM) -> dict[str, str]:
    """What the bits of a training depend on besides its options: what "auto" came to, and the machine."""
    device = learner.device
    if device.type == "cpu":
        processor = torch.backends.cpu.get_cpu_capability()
    else:
        processor = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "precision": learner.machine.arithmetic(device),
        "head": type(learner.objective.head).__name__,
        "features": " + ".join(map(str, learner.backbone.blocks)),
        "threads": str(torch.get_num_threads()),
        "processor": processor,
        "matrix products": torch.get_float32_matmul_precision(),
    }


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
