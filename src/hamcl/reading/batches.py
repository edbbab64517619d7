"""Samples as batches that a network takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hamcl.reading.prepare import Preprocess
from hamcl.streams.base import Augmentation, Samples

Batch = dict[str, Tensor]


class Items(Dataset[tuple[Any, int, int]]):
    """The data set of a pass: samples after the transform, which runs once per sample where it draws nothing."""

    def __init__(self, samples: Samples, transform: Callable[[Any], Any], keep: bool) -> None:
        self.samples, self.transform = samples, transform
        self.kept = [transform(x) for x in samples.inputs] if keep else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Any, int, int]:
        item = self.kept[i] if self.kept is not None else self.transform(self.samples.inputs[i])
        return item, self.samples.labels[i], i


def collate(preprocess: Preprocess, samples: list[tuple[Any, int, int]]) -> tuple[Batch, Tensor, Tensor]:
    """A batch, the labels and the indices of a list of items."""
    items, labels, indices = zip(*samples, strict=True)
    return preprocess.collate(items), torch.tensor(labels), torch.tensor(indices)


class Buckets:
    """Shuffled batches of samples of similar length, for text; plain shuffled batches without lengths.

    Attributes:
        skip: batches to leave out at the beginning of the next pass.
    """

    WINDOW = 16

    def __init__(self, count: int, batch_size: int, random: torch.Generator, lengths: Sequence[int] | None) -> None:
        self.count, self.batch_size, self.random, self.lengths = count, batch_size, random, lengths
        self.skip = 0

    def __len__(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count, generator=self.random).tolist()
        if self.lengths is not None:
            window, lengths = self.WINDOW * self.batch_size, self.lengths
            windows = [sorted(order[i : i + window], key=lambda j: lengths[j]) for i in range(0, len(order), window)]
            order = [i for block in windows for i in block]
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        first, self.skip = self.skip, 0
        for b in torch.randperm(len(batches), generator=self.random).tolist()[first:]:
            yield batches[b]


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


Example = tuple[Batch, Tensor, Tensor]
"""A batch of inputs, its labels, and the indices of its samples, both of shape (n,)."""


class Batches:
    """The shuffled batches of a training, epoch after epoch, on a device.

    Args:
        random: draws the order of every epoch; augmentation draws from the global generator.
    """

    def __init__(
        self,
        samples: Samples,
        preprocess: Preprocess,
        batch_size: int,
        random: torch.Generator,
        augmentation: Augmentation,
        device: torch.device,
    ) -> None:
        text = preprocess.modality == "text"
        data = Items(samples, preprocess.transform(train=True, augmentation=augmentation), keep=text)
        lengths = [preprocess.length(item) for item in data.kept] if text and data.kept is not None else None
        self.buckets = Buckets(len(data), batch_size, random, lengths)
        # Its own generator, so that when it draws from the global one is said below and not in the loader.
        together = partial(collate, preprocess)
        self.loader = DataLoader(data, batch_sampler=self.buckets, collate_fn=together, generator=torch.Generator())
        self.device = device

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.buckets)

    def since(self, step: int) -> Iterator[Example]:
        """Batches without end, from the one after `step` of them on."""
        # The end of an epoch counts as inside it: what comes then begins as the next epoch always does.
        begun = max(0, step - 1) // len(self)
        for _ in range(begun):
            for _ in self.buckets:
                pass
        self.buckets.skip = step - begun * len(self)
        inside = step > 0
        while True:
            if not inside:
                # One draw an epoch that is not used: all augmentations so far were drawn after it.
                torch.empty((), dtype=torch.int64).random_()
            inside = False
            for batch, labels, indices in self.loader:
                yield moved(batch, self.device), labels.to(self.device), indices
