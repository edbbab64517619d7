"""Samples as batches that a network takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hamcl.reading.prepare import Preprocess
from hamcl.streams.base import Samples

Batch = dict[str, Tensor]


class Items(Dataset[tuple[Any, int, int]]):
    """Samples after the backbone's transform; a transform without randomness runs once per sample."""

    def __init__(self, samples: Samples, transform: Callable[[Any], Any], keep: bool) -> None:
        self.samples, self.transform = samples, transform
        self.kept = [transform(x) for x in samples.inputs] if keep else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Any, int, int]:
        item = self.kept[i] if self.kept is not None else self.transform(self.samples.inputs[i])
        return item, self.samples.labels[i], i


def collator(preprocess: Preprocess) -> Callable[[list[tuple[Any, int, int]]], tuple[Batch, Tensor, Tensor]]:
    def collate(samples: list[tuple[Any, int, int]]) -> tuple[Batch, Tensor, Tensor]:
        items, labels, indices = zip(*samples, strict=True)
        return preprocess.collate(items), torch.tensor(labels), torch.tensor(indices)

    return collate


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
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
