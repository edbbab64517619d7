"""The plots of a run and of several runs, drawn without a display and without global state."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hamcl.files import new_file
from hamcl.methods.registry import METHODS as REGISTERED
from hamcl.metrics import Floats
from hamcl.report.records import Result

DPI = 120
ANNOTATED = 20  # tasks up to which every cell carries its number
LINES = 8  # curves of a panel at most: more cannot be told apart
METHODS = tuple(REGISTERED)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#8c564b", "#332288", "#882255")
"""Each at least 3:1 on white and apart from the others in every kind of colour blindness (CIE76, at least 14)."""
MARKERS = "os^Dv*Ph"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
PANEL, LABELS, HEIGHT = 5.2, 3.5, 4.4  # inches: of the axes, of the names to their right, and of both
MARGINS = (0.65, 0.1, 0.55, 0.55)  # inches: left, right, bottom, top
FONT, LEADING, WRAP = 8.0, 1.25, 57  # of the names: points, lines apart, letters of a line


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

    A panel shows `ham` and the best of the others at the end, at most `LINES` in all; its title says how many are not
    shown. The names stand at the ends of the curves. No two curves of a panel look alike, and a method looks the same
    in every picture, as long as no other one that looks like it is beside it.

    Args:
        panels: title -> label -> one array of fractions per run, all of one length; a method known only at the end
            (NaN before) is a dotted line across.
        labels: all labels of a set of pictures, so that those that are no methods' names look alike in all of them.
    """
    left, right, bottom, top = MARGINS
    width = left + PANEL + LABELS + right
    figure = Figure(figsize=(width * len(panels), HEIGHT), dpi=DPI)
    for i, (title, curves) in enumerate(panels.items()):
        size = (PANEL / (width * len(panels)), (HEIGHT - bottom - top) / HEIGHT)
        axes = figure.add_axes(((i * width + left) / (width * len(panels)), bottom / HEIGHT, *size))
        shown = _shown(curves)
        looks = _looks(shown, labels)
        for label in reversed(shown):  # the first one on top
            _band(axes, 100 * np.array(curves[label]), looks[label])
        _accuracy_axes(axes, max(len(run) for runs in curves.values() for run in runs))
        _names(axes, {label: 100 * float(np.mean([run[-1] for run in curves[label]])) for label in shown}, looks)
        more = len(curves) - len(shown)
        hidden = f"\n{len(shown)} of {len(curves)} rows: the others are in the table" if more else ""
        axes.set_title(textwrap.fill(title, 90) + hidden, fontsize=10, loc="left")
    _save(figure, path)


def _shown(curves: Mapping[str, Sequence[Floats]]) -> list[str]:
    """The labels of a panel: the best of `ham`, then the others from the best at the end to the worst."""
    ranked = sorted(curves, key=lambda label: -np.mean([run[-1] for run in curves[label]]))
    first = next((label for label in ranked if label.partition(" (")[0] == METHODS[0]), ranked[0])
    return [first, *(label for label in ranked if label != first)][:LINES]


def _looks(shown: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    """The place of each label among the colours and markers: its own, or a free one where that is taken."""
    places: dict[str, int] = {}
    for label in shown:
        known, name = (labels, label) if label in labels else (METHODS, label.partition(" (")[0])
        if name in known and known.index(name) < LINES and known.index(name) not in places.values():
            places[label] = known.index(name)
    free = (place for place in range(LINES) if place not in set(places.values()))
    return places | {label: next(free) for label in shown if label not in places}


def _band(axes: Axes, values: Floats, look: int) -> None:
    """One line with its band; `values` has shape (runs, steps), in percent."""
    mean, colour = values.mean(0), COLOURS[look]
    if np.isnan(mean[:-1]).all():
        axes.axhline(mean[-1], color=colour, ls=":", lw=1.6)
        return
    steps, every = np.arange(1, len(mean) + 1), max(1, round(len(mean) / 12))
    style = {"color": colour, "ls": DASHES[look % len(DASHES)], "marker": MARKERS[look], "ms": 4.5, "lw": 1.5}
    axes.plot(steps, mean, markevery=(look % every, every), **style)
    if len(values) > 1:
        std = values.std(0, ddof=1)
        axes.fill_between(steps, mean - std, mean + std, color=colour, alpha=0.12, lw=0)


def _names(axes: Axes, ends: Mapping[str, float], looks: Mapping[str, int]) -> None:
    """Write each label, with the height in percent that its curve ends at, to the right of the axes."""
    texts = {label: textwrap.fill(f"{value:.1f}  {label}", WRAP) for label, value in ends.items()}
    low, high = axes.get_ylim()
    room = 72 * (HEIGHT - MARGINS[2] - MARGINS[3])  # points
    lines = sum(text.count("\n") + 1.5 for text in texts.values())
    font = min(FONT, room / LEADING / lines)
    unit = font * LEADING * (high - low) / room  # of a line, in percent
    heights = {label: unit * (text.count("\n") + 1.5) for label, text in texts.items()}
    places = spread_out(ends, heights, low, high)
    beside = axes.get_yaxis_transform()  # x in widths of the axes, y in percent
    for label, text in texts.items():
        look, ends_at = looks[label], (ends[label], places[label])
        style: dict[str, Any] = {"color": COLOURS[look], "marker": MARKERS[look], "ms": 4.5, "lw": 0.9}
        axes.plot((1.0, 1.04), ends_at, transform=beside, clip_on=False, markevery=[1], **style)
        axes.text(1.055, places[label], text, transform=beside, fontsize=font, linespacing=LEADING, va="center")


def spread_out(wanted: Mapping[str, float], heights: Mapping[str, float], low: float, high: float) -> dict[str, float]:
    """The middles of blocks of these heights, in their order, none over another, as near as can be to those wanted.

    Blocks that would overlap stand together around the mean of their wanted middles. All lie between `low` and `high`
    as long as there is room.
    """
    stacks: list[tuple[list[str], float, float]] = []  # names from the top, the top, and the bottom
    for name in sorted(wanted, key=lambda name: -wanted[name]):
        names, top, bottom = [name], math.inf, -math.inf
        while True:
            height = sum(heights[name] for name in names)
            middle = sum(wanted[name] for name in names) / len(names)
            top = min(max(middle + height / 2, low + height), high)
            bottom = top - height
            if not stacks or stacks[-1][2] >= top:
                break
            names = stacks.pop()[0] + names
        stacks.append((names, top, bottom))
    places = {}
    for names, top, _ in stacks:
        for name in names:
            places[name] = top - heights[name] / 2
            top -= heights[name]
    return places


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, figure.add_subplot()


def _accuracy_axes(axes: Axes, tasks: int) -> None:
    lowest = min(float(np.nanmin(np.asarray(line.get_ydata(), dtype=float))) for line in axes.lines)
    axes.set_xlim(0.5, tasks + 0.5)
    axes.set_ylim(max(0, 10 * math.floor((lowest - 1) / 10)), 101)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("average accuracy (%)")
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, pil_kwargs={"optimize": True})
