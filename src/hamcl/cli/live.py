"""What a run shows while it goes on."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hamcl.cli.shell import printable
from hamcl.report.records import Result
from hamcl.training.lesson import Step

T = TypeVar("T")


class Live:
    """Two bars, one over the tasks of the run and one over the steps or samples of what goes on.

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
            TextColumn("{task.description}", markup=False),  # names of tasks come from files of strangers
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
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

    def __exit__(self, *raised: object) -> None:
        self.bars.stop()

    def start(self, label: str, tasks: int, before: float = 0.0, share: float = 1.0) -> None:
        """A run begins; `label` says which.

        Args:
            before, share: the parts, in [0, 1], of the time of all runs that lie before it and that it takes.
        """
        self.name, self.before, self.share = "", before, share
        self.bars.reset(self.whole, description=printable(label), total=tasks, detail="tasks", visible=True)
        self.bars.update(self.current, visible=False)

    def step(self, step: Step) -> None:
        """An optimizer step was done."""
        if step.task != self.name:
            self.name = step.task
            self._begin(step.task, step.steps)
        rate = f"{step.samples_per_second:.0f} samples/s"
        detail = f"epoch {step.epoch}/{step.epochs}  loss {step.loss:.3f}  {rate}"
        self.bars.update(self.current, completed=step.step, detail=detail)

    def passed(self, what: str, done: int, total: int) -> None:
        """So many samples of a pass without training were read."""
        if what != self.name or done < self.bars.tasks[self.current].completed:
            self.name = what
            self._begin(what, total)
        self.bars.update(self.current, completed=done, total=total, detail="samples")

    def counted(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, counted as they go by."""
        for done, item in enumerate(items, 1):
            self.passed(what, done, total)
            yield item

    def _begin(self, name: str, total: int) -> None:
        self.bars.reset(self.current, description=f"  {printable(name)}", total=total, detail="", visible=True)

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
                f"{result.method}: task {done}/{len(result.stream.tasks)} {printable(last.task)}, "
                f"{last.seen_classes} classes, {known}, {seconds:.1f} s{left}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _left(self, done: float) -> str:
        """The time that all runs still take, where this is not the only one and its part `done` is behind."""
        if self.share == 1:  # its own bar tells
            return ""
        part = self.before + self.share * done
        seconds = (time.monotonic() - self.began) * (1 - part) / part
        return f", about {math.ceil(seconds / 60)} min left" if seconds > 60 else f", about {seconds:.0f} s left"
