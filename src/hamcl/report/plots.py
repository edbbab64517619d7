"""The plots of a run and of several runs, drawn without a display and without global state."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hamcl.files import new_file
from hamcl.methods.registry import METHODS as REGISTERED
from hamcl.metrics import Floats
from hamcl.report.records import Result

DPI = 120
ANNOTATED = 20  # tasks up to which every cell carries its number
MARKERS = "os^D"
BESIDE = 6  # curves from which on the legend stands beside the panel
METHODS = tuple(REGISTERED)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#4d4d4d")


def plot_matrix(path: Path, result: Result) -> None:
    """Draw the accuracy matrix as a lower-triangular heat map, in percent."""
    percent = 100 * result.accuracy
    tasks = len(percent)
    side = float(np.clip(0.42 * tasks, 3.4, 9.0))
    figure, axes = _figure(side + 1.6, side + 1.1)
    image = axes.imshow(np.ma.masked_invalid(percent), vmin=0, vmax=100, cmap="viridis")
    if tasks <= ANNOTATED:
        size = 9 if tasks <= 10 else 7
        for (t, j), value in np.ndenumerate(percent):
            if not np.isnan(value):
                ink = "white" if value < 60 else "black"
                axes.text(j, t, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=size)
    every = max(1, -(-tasks // ANNOTATED))
    ticks = np.arange(0, tasks, every)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [str(tick + 1) for tick in ticks])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("evaluated on task")
    axes.set_ylabel("after learning task")
    axes.set_title(f"{result.method} on {result.stream.name}: accuracy among all classes seen (%)", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03).outline.set_visible(False)
    _save(figure, path)


def plot_curve(path: Path, result: Result) -> None:
    """Draw both averages over the tasks learned so far, in percent."""
    figure, axes = _figure(6.4, 4.0)
    steps = np.arange(1, len(result.steps) + 1)
    labels = {"average_accuracy": "mean over tasks", "sample_accuracy": "over all samples"}
    for (name, values), colour, dashes in zip(result.curve.items(), COLOURS, ("-", "--"), strict=False):
        axes.plot(steps, 100 * np.array(values), dashes, marker="o", ms=3.5, color=colour, label=labels[name])
    _accuracy_axes(axes, len(result.stream.tasks))
    axes.set_title(f"{result.method} on {result.stream.name}, {result.backbone['spec']}", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="best")
    _save(figure, path)


def plot_comparison(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[Floats]]], labels: Sequence[str] = ()
) -> None:
    """Draw the average accuracy over steps of several methods, mean and standard deviation over their runs.

    The legend lists them from the best at the end to the worst. A label has one colour and one marker in all panels,
    and a method the same ones in every picture.

    Args:
        panels: title -> label -> one array of fractions per run, all of one length; a method known only at the end
            (NaN before) is a dashed line across.
        labels: all labels of a set of pictures, so that those that are no methods' names look alike in all of them.
    """
    looks = _looks([*labels, *(label for curves in panels.values() for label in curves)])
    many = max(len(curves) for curves in panels.values()) >= BESIDE
    width, height = (10.4, 5.2) if many else (7.2, 4.4)
    figure = Figure(figsize=(width * len(panels), height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        ranked = sorted(curves.items(), key=lambda curve: -np.array(curve[1])[:, -1].mean())
        for label, runs in ranked:
            _band(axes, 100 * np.array(runs), label, *looks[label])
        _accuracy_axes(axes, max(len(run) for runs in curves.values() for run in runs))
        axes.set_title(textwrap.fill(title, 80), fontsize=10)  # longer ones would run into the next panel
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if many else {"loc": "best"}
        axes.legend(frameon=False, fontsize=8, **beside)
    _save(figure, path)


def _looks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour and the marker of each label: a method's own, and for a variant of it or another name a free one."""
    places: dict[str, int] = {}
    for label in dict.fromkeys(labels):
        method = label.partition(" (")[0]
        if method in METHODS and METHODS.index(method) not in places.values():
            places[label] = METHODS.index(method)
    free = (place for place in count() if place not in set(places.values()))
    places |= {label: next(free) for label in dict.fromkeys(labels) if label not in places}
    return {
        label: (COLOURS[place % len(COLOURS)], MARKERS[place // len(COLOURS) % len(MARKERS)])
        for label, place in places.items()
    }


def _band(axes: Axes, values: Floats, label: str, colour: str, marker: str) -> None:
    """One line with its band; `values` has shape (runs, steps), in percent."""
    mean, label = values.mean(0), textwrap.fill(f"{values[:, -1].mean():.1f} %  {label}", 56, subsequent_indent="    ")
    if np.isnan(mean[:-1]).all():
        axes.axhline(mean[-1], color=colour, ls="--", lw=1.4, label=label)
        return
    steps = np.arange(1, len(mean) + 1)
    axes.plot(steps, mean, "-", marker=marker, ms=3.5, color=colour, label=label)
    if len(values) > 1:
        std = values.std(0, ddof=1)
        axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.18, lw=0)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _accuracy_axes(axes: Axes, tasks: int) -> None:
    axes.set_xlim(0.5, tasks + 0.5)
    axes.set_ylim(0, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("average accuracy (%)")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
