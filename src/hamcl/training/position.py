"""Where an unfinished training is, exact enough to go on as if it had never stopped."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hamcl import rng
from hamcl.errors import DataError
from hamcl.reading.batches import Batches, Example
from hamcl.training.lesson import Keeper, Log, State


class Trained:
    """All that a step of a training changes: parameters, the optimizer's moments and the rates."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        device: torch.device,
    ) -> None:
        self.optimizer, self.schedule, self.device = optimizer, schedule, device
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, clip: float) -> None:
        """Take a step along the gradient, whose norm is `clip` at most."""
        torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()

    def capture(self, progress: dict[str, Any]) -> State:
        """Copy all that the next step depends on.

        Args:
            progress: the caller's own counters, plain JSON; "step" is the number of optimizer steps done.
        """
        saved = self.optimizer.state_dict()
        position: State = {f"parameter.{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, moments in saved["state"].items():
            position |= {f"optimizer.{i}.{name}": value for name, value in moments.items()}
        random, random_meta = rng.capture(self.device)
        position |= {f"random.{name}": value for name, value in random.items()}
        position = {name: value.cpu().contiguous().clone() for name, value in position.items()}
        rates = [group["lr"] for group in saved["param_groups"]]
        return {**position, "meta": {"rates": rates, "random": random_meta, "progress": progress}}

    def restore(self, position: State) -> None:
        """Put back what `capture` copied, the global random generators included.

        Raises:
            DataError: the position is that of another training.
        """
        try:
            self._restore(position)
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise DataError(f"the saved position does not fit this training ({error}); begin it anew") from error

    @torch.no_grad()
    def _restore(self, position: State) -> None:
        meta = position["meta"]
        moments: dict[int, dict[str, Tensor]] = {}
        for i, parameter in enumerate(self.parameters):
            parameter.copy_(position[f"parameter.{i}"])
        for name, value in position.items():
            if name.startswith("optimizer."):
                _, number, moment = name.split(".")
                if moment == "step" and not 0 <= value.item() <= meta["progress"]["step"]:
                    raise ValueError(f"its optimizer counts {value.item():g} steps")
                # In the parameter's own layout in memory, on which the optimizer's kernels depend.
                like = torch.empty_like(self.parameters[int(number)] if value.ndim else value)
                moments.setdefault(int(number), {})[moment] = like.copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, meta["rates"], strict=True):
            group["lr"] = rate
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        step = meta["progress"]["step"]
        done = {"last_epoch": step, "_step_count": step + 1, "_last_lr": meta["rates"]}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **done})
        random = {name.removeprefix("random."): x for name, x in position.items() if name.startswith("random.")}
        rng.restore(random, meta["random"], self.device)


class Position:
    """Where a training is: `start` goes to where a stopped one was, `keep` keeps it from time to time.

    Args:
        keeper: None keeps nothing.
    """

    def __init__(self, keeper: Keeper | None, trained: Trained, log: Log) -> None:
        self.keeper, self.trained, self.log = keeper, trained, log

    def start(self, batches: Batches) -> Iterator[Example]:
        """The batches that are still to come, once everything is as it was.

        Raises:
            DataError: the position is that of another training.
        """
        saved = self.keeper.load() if self.keeper else None
        if saved is None:
            return batches.since(0)
        step = saved["meta"]["progress"]["step"]
        if not 0 < step < self.log.steps:
            raise DataError(
                f"the saved position is step {step} of a training of {self.log.steps} steps; begin it anew"
            )
        self.log.load(saved["meta"]["progress"])
        self.trained.restore(saved)
        return batches.since(step)

    def keep(self) -> None:
        """Keep the position, where it is due."""
        log = self.log
        if self.keeper and log.done < log.steps and self.keeper.due(epoch_done=log.done % log.batches == 0):
            self.keeper.save(self.trained.capture(log.state()))
