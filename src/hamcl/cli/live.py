"""What a run shows while it goes on."""

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hamcl.bench.records import Result
from hamcl.training import Step


class Live:
    """Two bars, one over the tasks of the run and one over the steps of the current task.

    On a terminal the bars move; elsewhere (a log file) there is one line per task.

    Args:
        console: where to show it.
        enabled: None shows it; True shows moving bars even where there is no terminal; False shows nothing.
    """

    def __init__(self, console: Console, enabled: bool | None = None) -> None:
        self.console = console
        self.lines = enabled is not False
        moving = console.is_terminal if enabled is None else enabled
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[detail]}", style="dim"),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not moving,
        )
        self.whole = self.bars.add_task("", total=1, detail="", visible=False)
        self.current = self.bars.add_task("", total=1, detail="", visible=False)
        self.name = ""
        self.began, self.before, self.share = time.monotonic(), 0.0, 1.0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, label: str, tasks: int, before: float = 0.0, share: float = 1.0) -> None:
        """A run begins; `label` says which.

        Args:
            before, share: the parts, in [0, 1], of the time of all runs that lie before it and that it takes.
        """
        self.name, self.before, self.share = "", before, share
        self.bars.reset(self.whole, description=label, total=tasks, detail="tasks", visible=True)
        self.bars.update(self.current, visible=False)

    def step(self, step: Step) -> None:
        """An optimizer step was done."""
        if step.task != self.name:
            self.name = step.task
            self.bars.reset(self.current, description=f"  {step.task}", total=step.steps, detail="", visible=True)
        rate = f"{step.samples_per_second:.0f} samples/s"
        detail = f"epoch {step.epoch}/{step.epochs}  loss {step.loss:.3f}  {rate}"
        self.bars.update(self.current, completed=step.step, detail=detail)

    def task(self, result: Result) -> None:
        """A task was learned and evaluated."""
        done, last = len(result.steps), result.steps[-1]
        accuracy = result.curve["average_accuracy"][-1]
        if math.isnan(accuracy):  # only the end is evaluated
            self.bars.update(self.whole, completed=done)
            return
        known, left = f"average accuracy {100 * accuracy:.1f} %", self._left(done / len(result.stream.tasks))
        self.bars.update(self.whole, completed=done, detail=f"tasks  {known}{left}")
        if self.lines:
            seconds = last.training_seconds + last.evaluation_seconds + result.finish_seconds
            self.console.print(
                f"{result.method}: task {done}/{len(result.stream.tasks)} {last.task}, {last.seen_classes} classes, "
                f"{known}, {seconds:.1f} s{left}",
                highlight=False,
                markup=False,
            )

    def _left(self, done: float) -> str:
        """The time that all runs still take, where this is not the only one and its part `done` is behind."""
        if self.share == 1:  # its own bar tells
            return ""
        part = self.before + self.share * done
        seconds = (time.monotonic() - self.began) * (1 - part) / part
        return f", about {math.ceil(seconds / 60)} min left" if seconds > 60 else f", about {seconds:.0f} s left"
