"""Several runs side by side: mean and standard deviation over seeds, as tables and as curves."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from hamcl.config import PRESETS
from hamcl.errors import UsageError
from hamcl.report.plots import plot_comparison
from hamcl.report.records import RESULT, Result

COLUMNS = ("method", "runs", "average accuracy", "over samples", "over steps", "forgetting", "seconds", "stored")
METRICS = ("average_accuracy", "sample_accuracy", "average_incremental_accuracy", "forgetting")
LEGEND = (
    "Accuracies and forgetting in percent, mean ± sample standard deviation over seeds. Average accuracy: mean over "
    "the tasks after the last one. Over samples: fraction of all test samples. Over steps: mean over the steps of "
    "the average accuracy. Seconds: training and evaluation. Stored: numbers kept besides the backbone."
)


@dataclass
class Row:
    """The runs of one method with one configuration, over seeds."""

    label: str
    runs: list[Result] = field(default_factory=list)

    def cells(self) -> list[str]:
        """One text per entry of `COLUMNS`."""
        measured = [run.metrics for run in self.runs]
        seconds = [run.seconds["training"] + run.seconds["evaluation"] for run in self.runs]
        return [
            self.label,
            str(len(self.runs)),
            *(spread([100 * metrics[name] for metrics in measured]) for name in METRICS),
            spread(seconds),
            f"{np.mean([run.steps[-1].parameters['stored'] for run in self.runs]) / 1e6:.2f} M",
        ]


@dataclass
class Setting:
    """Runs that can be compared: one stream cut in one way, and one backbone."""

    title: str
    rows: list[Row] = field(default_factory=list)

    def table(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for column in COLUMNS:
            table.add_column(column, justify="left" if column == "method" else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row.cells())
        return table

    def markdown(self) -> str:
        """For a document."""
        lines = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *(row.cells() for row in self.rows)]
        return f"### {self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def find_runs(paths: Sequence[Path]) -> list[Result]:
    """The finished runs in the folders given, or anywhere below them.

    Raises:
        UsageError: a folder holds no run, or a run is not finished.
        DataError: a record cannot be read.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        found = [path] if (path / RESULT).exists() else sorted(file.parent for file in path.glob(f"**/{RESULT}"))
        if not found:
            raise UsageError(f"there is no {RESULT} in or below {path}; give the folder of a run")
        folders |= dict.fromkeys(folder.resolve() for folder in found)
    runs = []
    for folder in folders:
        result = Result.read(folder)
        if result.status != "complete":
            done, all_tasks = len(result.steps), len(result.stream.tasks)
            raise UsageError(
                f"the run in {folder} is {result.status} after {done} of {all_tasks} tasks; finish it with --resume "
                "or leave it out"
            )
        runs.append(result)
    return runs


def compare(runs: Sequence[Result]) -> list[Setting]:
    """Group runs into settings, and those that differ only in their seed into rows.

    Raises:
        UsageError: one experiment is there twice with one seed, which would understate the deviation.
    """
    settings: dict[str, list[Result]] = {}
    for run in runs:
        key = _key(run.stream.name, _seedless(run.stream.cut), run.backbone)
        settings.setdefault(key, []).append(run)
    titles = _distinct(
        [_title(group[0]) for group in settings.values()],
        [{**_seedless(group[0].stream.cut), **group[0].backbone["options"]} for group in settings.values()],
    )
    return [Setting(title, _rows(group)) for title, group in zip(titles, settings.values(), strict=True)]


def report_markdown(settings: Sequence[Setting]) -> str:
    """All tables and what their columns mean."""
    return "\n".join([*(setting.markdown() for setting in settings), LEGEND]) + "\n"


def report_plot(path: Path, settings: Sequence[Setting]) -> None:
    """Draw one panel of curves per setting."""
    panels = {
        setting.title: {
            row.label: [np.array(run.curve["average_accuracy"]) for run in row.runs] for row in setting.rows
        }
        for setting in settings
    }
    plot_comparison(path, panels)


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation with one decimal; the value alone for one run, a dash where undefined."""
    mean = float(np.mean(values))
    if np.isnan(mean):
        return "-"
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {np.std(values, ddof=1):.1f}"


def _rows(group: Sequence[Result]) -> list[Row]:
    rows: dict[str, Row] = {}
    for run in group:
        row = rows.setdefault(_key(run.method, _seedless(run.options)), Row(run.method))
        draws = [(other.seed, other.stream.options.get("seed")) for other in row.runs]
        if (run.seed, run.stream.options.get("seed")) in draws:
            raise UsageError(f"there are two runs of {run.method!r} with seed {run.seed}; leave one of them out")
        row.runs.append(run)
    found = list(rows.values())
    for method in {row.label for row in found}:
        same = [row for row in found if row.label == method]
        labels = _distinct([method] * len(same), [_told(row.runs[0]) for row in same])
        for row, label in zip(same, labels, strict=True):
            row.label = label
    return found


def _title(run: Result) -> str:
    tasks = run.stream.tasks
    return f"{run.stream.name}, {run.backbone['spec']}, {len(tasks)} tasks, {len(run.stream.class_order)} classes"


def _distinct(names: Sequence[str], options: Sequence[dict[str, Any]]) -> list[str]:
    """Each name with those of its options in brackets that tell it from its namesakes."""
    result = []
    for name, own in zip(names, options, strict=True):
        others = [theirs for label, theirs in zip(names, options, strict=True) if label == name and theirs is not own]
        telling = [key for key in own if any(key in theirs and theirs[key] != own[key] for theirs in others)]
        if any(all(theirs.get(key, own[key]) == own[key] for key in telling) for theirs in others):
            # What tells it apart is there in one of the two only: options that another version did not know.
            telling = [key for key in own if any(theirs.get(key) != own[key] for theirs in others)]
        result.append(f"{name} ({', '.join(f'{key}={own[key]}' for key in telling)})" if telling else name)
    return result


def _told(run: Result) -> dict[str, Any]:
    """The options of a run, those of a preset by its name."""
    options = _seedless(run.options)
    if not run.command:  # a run from Python does not tell what its settings were made of
        return options
    line = [part for word in run.command for part in word.split("=", 1)]
    preset = line[line.index("--preset") + 1] if "--preset" in line else "default"
    unchanged = {name for name, value in PRESETS.get(preset, {}).items() if options.get(name) == value}
    return {"preset": preset, **{name: value for name, value in options.items() if name not in unchanged}}


def _seedless(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "seed"}


def _key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)
