"""One straight training loop, shared by all learners."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hamcl.config import HAMConfig
from hamcl.errors import DataError, TrainingError
from hamcl.heads import TaskRows
from hamcl.machine import autocast
from hamcl.reading.batches import Batch, Buckets, Items, collator, moved
from hamcl.reading.prepare import Preprocess
from hamcl.rng import generator, scoped
from hamcl.streams.base import Augmentation, Samples
from hamcl.training.position import Checkpoint, capture, restore


class Model(Protocol):
    """A backbone with parts to train, which can be switched off: batch -> features (n, width)."""

    def __call__(self, batch: Batch) -> Tensor: ...
    def without_task(self) -> AbstractContextManager[None]:
        """Leave out the adapter in training."""

    def frozen(self) -> AbstractContextManager[None]:
        """Leave out everything that was ever trained."""

    def adapter_parameters(self) -> list[nn.Parameter]: ...
    def importance_parameters(self) -> list[nn.Parameter]: ...
    def trainable_count(self) -> int:
        """How many numbers a task trains in the backbone."""

    def train(self, mode: bool = True) -> object: ...
    def eval(self) -> object: ...
    def to(self, device: torch.device) -> object: ...


@dataclass(frozen=True)
class Step:
    """One optimizer step, as told to a progress callback."""

    task: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    samples_per_second: float


Progress = Callable[[Step], None]


@dataclass
class Fit:
    """What training one task took.

    Attributes:
        losses: mean loss of each epoch; the last may be cut short.
        seconds: wall time.
        samples: samples seen, repeats counted.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    samples: int = 0


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then half a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising and warmup > 0:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising * (warmup > 0)) / max(1, steps - rising * (warmup > 0))))


def fit(
    model: Model,
    rows: TaskRows,
    samples: Samples,
    preprocess: Preprocess,
    config: HAMConfig,
    device: torch.device,
    *,
    task: str,
    index: int,
    augmentation: Augmentation = "none",
    anchors: Tensor | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
    share: float = 1.0,
) -> Fit:
    """Train the current adapter, the importances and the rows of one task.

    The loss is the cross-entropy over the classes of `rows`, plus `config.distill` times the squared distance
    between the features with and without the adapter in training, relative to the squared norm of the latter.

    Args:
        rows: trained in place; `samples.labels` are its columns.
        index: the task's position in the stream, part of every seed drawn here.
        anchors: features of the samples without the adapter, shape (n, width), where no augmentation changes them;
            otherwise they are computed for each batch.
        checkpoint: keeps the position from time to time; what it loads is where training goes on, and everything
            else must be as it was then.
        share: the part of the epochs' steps that is taken, in (0, 1]; at least one step. The schedule of the learning
            rates is that of the steps taken.

    Raises:
        TrainingError: the loss is not finite.
        DataError: the position in `checkpoint` is that of another training.
    """
    accelerator = Accelerator(device_placement=False)
    rows.to(device)
    text = preprocess.modality == "text"
    data = Items(samples, preprocess.transform(train=True, augmentation=augmentation), keep=text)
    lengths = [preprocess.length(item) for item in data.kept] if text and data.kept is not None else None
    buckets = Buckets(len(data), config.batch_size, generator(config.seed, index, "shuffle"), lengths)
    loader = DataLoader(data, batch_sampler=buckets, collate_fn=collator(preprocess))

    groups: list[dict[str, Any]] = [
        {"params": model.adapter_parameters(), "lr": config.lr},
        {"params": [p for p in rows.parameters() if p.requires_grad], "lr": config.head_lr},
    ]
    if config.importance_lr > 0:
        # A scalar at the adapter's learning rate barely moves, and decay would pull it to zero instead of to one.
        groups.append({"params": model.importance_parameters(), "lr": config.importance_lr, "weight_decay": 0.0})
    trained = [p for group in groups for p in group["params"]]
    optimizer = accelerator.prepare(torch.optim.AdamW(groups, weight_decay=config.weight_decay))
    steps = max(1, round(share * config.epochs * len(buckets)))
    epochs = math.ceil(steps / len(buckets))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, lambda s: _schedule(s, steps, config.warmup))
    if config.compile:
        # The groups' shapes change with every task; without this, compilation gives up after eight of them.
        torch.compiler.reset()
    forward: Callable[[Batch], Tensor] = torch.compile(model) if config.compile else model

    report, start, step, total = Fit(), time.perf_counter(), 0, 0.0
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        step, total = saved["meta"]["progress"]["step"], saved["meta"]["progress"]["total"]
        if not 0 < step < steps:
            raise DataError(f"the saved position is step {step} of a training of {steps} steps; begin it anew")
        report = Fit(**saved["meta"]["progress"]["report"])
        start -= report.seconds
    # A position at the end of an epoch counts as inside it: the epoch then ends as it would have.
    begun = max(0, step - 1) // len(buckets)
    model.train()
    try:
        with scoped(config.seed, index, "train"):
            for _ in range(begun):
                for _ in buckets:
                    pass
            buckets.skip = step - begun * len(buckets)
            for epoch in range(begun, epochs):
                batches = iter(loader)
                if saved is not None:
                    restore(saved, optimizer.optimizer, scheduler, trained, device)
                    saved = None
                for batch, labels, indices in batches:
                    batch, labels = moved(batch, device), labels.to(device)
                    with autocast(device, config.precision):
                        features = forward(batch).float()
                        loss = F.cross_entropy(rows(features), labels)
                        if config.distill > 0:
                            if anchors is not None:
                                anchor = anchors[indices].to(device)
                            else:
                                with torch.no_grad(), model.without_task():
                                    anchor = model(batch).float()
                            distance = (features - anchor).square().sum(1) / anchor.square().sum(1).clamp_min(1e-12)
                            loss = loss + config.distill * distance.mean()
                    value = loss.item()
                    if not math.isfinite(value):
                        raise TrainingError(
                            f"the loss of task {task!r} is {value} at batch {step % len(buckets) + 1} of epoch "
                            f"{epoch + 1}; lower lr (now {config.lr}) or look for broken samples"
                        )
                    accelerator.backward(loss)
                    if config.clip_norm > 0:
                        accelerator.clip_grad_norm_(trained, config.clip_norm)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                    step += 1
                    total += value
                    report.samples += len(labels)
                    report.seconds = time.perf_counter() - start
                    if progress:
                        rate = report.samples / report.seconds
                        progress(Step(task, epoch + 1, epochs, step, steps, value, rate))
                    if checkpoint and step < steps and checkpoint.due(epoch_done=step % len(buckets) == 0):
                        counters = {"step": step, "total": total, "report": asdict(report)}
                        checkpoint.save(capture(optimizer.optimizer, trained, device, counters))
                    if step == steps:
                        break
                report.losses.append(total / (step - epoch * len(buckets)))
                total = 0.0
            # No loss shows what the last step did.
            with torch.no_grad(), autocast(device, config.precision):
                if not rows(model(batch).float()).isfinite().all():
                    raise TrainingError(
                        f"task {task!r} gives features or scores that are not finite after its last batch; lower lr "
                        f"(now {config.lr}) or look for broken samples"
                    )
    finally:
        model.eval()
    return report
