"""The position of an unfinished training, exact enough to go on as if it had never stopped."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hamcl import rng
from hamcl.errors import DataError

State = dict[str, Any]
"""Tensors by name, and plain JSON under "meta"."""


class Checkpoint(Protocol):
    """Where a training keeps its position."""

    def load(self) -> State | None:
        """The position to go on from; None at the beginning."""

    def due(self, *, epoch_done: bool) -> bool:
        """Whether to save now; asked after every step but the last."""

    def save(self, position: State) -> None: ...


def capture(
    optimizer: torch.optim.Optimizer,
    trained: Sequence[nn.Parameter],
    device: torch.device,
    progress: dict[str, Any],
) -> State:
    """Copy all that the next step depends on.

    Args:
        trained: the optimizer's parameters, in its order.
        progress: the caller's own counters, plain JSON; "step" is the number of optimizer steps done.
    """
    saved = optimizer.state_dict()
    position: State = {f"parameter.{i}": p.detach() for i, p in enumerate(trained)}
    for i, moments in saved["state"].items():
        position |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
    random, random_meta = rng.capture(device)
    position |= {f"random.{name}": value for name, value in random.items()}
    position = {name: value.cpu().contiguous().clone() for name, value in position.items()}
    rates = [group["lr"] for group in saved["param_groups"]]
    meta = {"rates": rates, "random": random_meta, "progress": progress}
    return {**position, "meta": meta}


@torch.no_grad()
def restore(
    position: State,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    trained: Sequence[nn.Parameter],
    device: torch.device,
) -> None:
    """Put back what `capture` copied, the global random generators included.

    Raises:
        DataError: the position is that of another training.
    """
    try:
        _restore(position, optimizer, scheduler, trained, device)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise DataError(f"the saved position does not fit this training ({error}); begin it anew") from error


def _restore(
    position: State,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    trained: Sequence[nn.Parameter],
    device: torch.device,
) -> None:
    meta = position["meta"]
    moments: dict[int, dict[str, Tensor]] = {}
    for i, parameter in enumerate(trained):
        parameter.copy_(position[f"parameter.{i}"])
    for name, value in position.items():
        if name.startswith("optimizer."):
            _, number, moment = name.split(".")
            if moment == "step" and not 0 <= value.item() <= meta["progress"]["step"]:
                raise ValueError(f"its optimizer counts {value.item():g} steps")
            # In the parameter's own layout in memory, on which the optimizer's kernels depend.
            like = torch.empty_like(trained[int(number)] if value.ndim else value)
            moments.setdefault(int(number), {})[moment] = like.copy_(value)
    groups = optimizer.state_dict()["param_groups"]
    for group, rate in zip(groups, meta["rates"], strict=True):
        group["lr"] = rate
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    step = meta["progress"]["step"]
    done = {"last_epoch": step, "_step_count": step + 1, "_last_lr": meta["rates"]}
    scheduler.load_state_dict({**scheduler.state_dict(), **done})
    rng.restore(
        {name.removeprefix("random."): value for name, value in position.items() if name.startswith("random.")},
        meta["random"],
        device,
    )


__all__ = ["Checkpoint", "State", "capture", "restore"]
