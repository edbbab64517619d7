"""The pass without gradients, and features that cannot change any more."""

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from hamcl.errors import TrainingError
from hamcl.machine import Machine
from hamcl.reading.batches import Batch, Items, moved
from hamcl.reading.prepare import Preprocess
from hamcl.streams.base import Augmentation, Samples


@torch.no_grad()
def extract(
    model: nn.Module | Callable[[Batch], Tensor],
    samples: Samples,
    preprocess: Preprocess,
    machine: Machine,
    device: torch.device,
    *,
    train: bool = False,
    augmentation: Augmentation = "none",
    told: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features of all samples in their order, float32 on the CPU, shape (n, width).

    Args:
        model: batch -> features; several passes over each batch may be one function of it.
        train: draw augmented views from the global generator (see `hamcl.rng.scoped`).
        told: of the number of samples computed, and of all, after every batch.
    """
    data = Items(
        samples, preprocess.transform(train=train, augmentation=augmentation), keep=preprocess.modality == "text"
    )
    order = list(range(len(data)))
    if data.kept is not None:
        kept = data.kept
        order.sort(key=lambda i: preprocess.length(kept[i]))
    features: list[Tensor] = []
    for i in range(0, len(order), machine.eval_batch_size):
        batch = preprocess.collate([data[j][0] for j in order[i : i + machine.eval_batch_size]])
        with machine.autocast(device):
            features.append(model(moved(batch, device)).float().cpu())
        if told:
            told(min(i + machine.eval_batch_size, len(order)), len(order))
    if not features:
        raise TrainingError("there are no samples to compute features of")
    return torch.cat(features)[torch.tensor(order).argsort()]


class Seen:
    """Remembers features as long as their samples exist: every evaluation sees the samples of the one before again."""

    def __init__(self) -> None:
        self._features: dict[tuple[int, Hashable], tuple[weakref.ref[Samples], Tensor]] = {}

    def __call__(self, samples: Samples, model: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The features `model` gives these samples, computed when they are asked for the first time."""
        key = id(samples), model
        if key not in self._features:
            features = compute()
            self._features[key] = weakref.ref(samples, lambda _: self._features.pop(key, None)), features
        return self._features[key][1]

    def clear(self) -> None:
        """Forget everything, because the model has changed after all."""
        self._features.clear()
