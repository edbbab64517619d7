"""Scalars of a run for an experiment tracker, through accelerate."""

import math
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self, get_args

from accelerate import Accelerator

from hamcl.errors import UsageError
from hamcl.training.lesson import Step

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Scalar = bool | int | float | str | None


class Tracking:
    """Logs every optimizer step (`train/...`) and every task (`task/...`) while the block runs.

    The axis is the number of optimizer steps over all tasks of this process. tensorboard writes to
    `FOLDER/tensorboard`; the others keep a run named like the folder in a project "hamcl", wherever they are set up
    to keep it.

    Args:
        kind: the tracker, or None for none.
        folder: of the run.
        settings: shown beside the run; what is no plain value is shown as text.
        fresh: drop what an earlier run left in `FOLDER/tensorboard`.

    Raises:
        UsageError: there is no such tracker, or its package is missing.
    """

    def __init__(
        self, kind: Tracker | None, folder: Path, settings: Mapping[str, object], *, fresh: bool = False
    ) -> None:
        if kind is not None and kind not in get_args(Tracker):
            raise UsageError(f"there is no tracker {kind!r}; choose {', '.join(get_args(Tracker))}")
        if kind is not None and find_spec(kind) is None:
            raise UsageError(
                f"the tracker {kind} needs the package of that name, which is missing: pip install {kind}"
            )
        self.kind, self.folder, self.fresh = kind, folder, fresh
        self.settings = {name: _plain(value) for name, value in settings.items()}
        self.steps = 0
        self._accelerator: Accelerator | None = None

    def __enter__(self) -> Self:
        if self.kind is None:
            return self
        if self.fresh and self.kind == "tensorboard":
            shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        name = self.folder.absolute().name
        runs = {"wandb": {"name": name}, "trackio": {"name": name}, "mlflow": {"run_name": name}}
        project = "tensorboard" if self.kind == "tensorboard" else "hamcl"
        self._accelerator = Accelerator(device_placement=False, log_with=self.kind, project_dir=self.folder)
        self._accelerator.init_trackers(project, self.settings, runs)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._accelerator is not None:
            self._accelerator.end_training()

    def step(self, step: Step) -> None:
        """An optimizer step was done."""
        self.steps += 1
        self._log("train", {"loss": step.loss, "samples_per_second": step.samples_per_second, "epoch": step.epoch})

    def task(self, values: Mapping[str, object]) -> None:
        """A task was learned; of `values` the finite numbers are logged."""
        self._log("task", values)

    def _log(self, part: str, values: Mapping[str, object]) -> None:
        if self._accelerator is not None:
            numbers = {f"{part}/{name}": float(v) for name, v in values.items() if isinstance(v, int | float)}
            finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
            self._accelerator.log(finite, step=self.steps)


def _plain(value: object) -> Scalar:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
