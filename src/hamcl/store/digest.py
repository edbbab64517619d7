"""Checksums of data, by which a task is known again."""

import hashlib
from collections.abc import Callable, Sequence
from typing import get_args

from PIL import Image

from hamcl.errors import DataError
from hamcl.streams.base import Augmentation, Samples, Task
from hamcl.streams.pixels import rgb


def digest(task: Task, told: Callable[[int, int], None] | None = None) -> str:
    """Sha256 over all that learning a task depends on: names, kind, and the contents of the training samples.

    Args:
        told: of the number of samples read, and of all.
    """
    return _digests(task.classes, task.train, task.modality, [task.augmentation], told)[0]


def evaluated(task: Task) -> Samples:
    """What a task is evaluated on: its test samples, or its training samples where it has no others."""
    return task.test if len(task.test) else task.train


def digests(task: Task, classes: Sequence[str]) -> list[str]:
    """What `digest` says of a task of these classes whose training samples are those that `task` is evaluated on.

    One for each augmentation it may have; none where the classes of `task` are others.
    """
    if {*classes} != {*task.classes}:
        return []
    place, samples = [classes.index(name) for name in task.classes], evaluated(task)
    moved = Samples(samples.inputs, [place[y] for y in samples.labels])
    return _digests(classes, moved, task.modality, get_args(Augmentation))


def _digests(
    classes: Sequence[str],
    samples: Samples,
    modality: str,
    augmentations: Sequence[str],
    told: Callable[[int, int], None] | None = None,
) -> list[str]:
    totals = [hashlib.sha256() for _ in augmentations]

    def add(total: "hashlib._Hash", *parts: bytes) -> None:
        for part in parts:
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)

    names = [name.encode("utf-8", "surrogatepass") for name in classes]
    for total, augmentation in zip(totals, augmentations, strict=True):
        add(total, modality.encode(), augmentation.encode(), *names)
    for i, label in enumerate(samples.labels):
        try:
            sample = samples.inputs[i]
            if isinstance(sample, Image.Image):
                sample = rgb(sample)
        except DataError:
            content = b"unreadable"
        else:
            if isinstance(sample, str):
                content = sample.encode("utf-8", "surrogatepass")
            else:
                content = f"{sample.mode} {sample.size} ".encode() + sample.tobytes()
        for total in totals:
            add(total, str(int(label)).encode(), content)
        if told:
            told(i + 1, len(samples))
    return [total.hexdigest() for total in totals]
