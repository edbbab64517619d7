"""Plots: PNG files of the size asked for, with something on them."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from hamcl.report import plots
from hamcl.report.plots import (
    COLOURS,
    DPI,
    LINES,
    MARKERS,
    METHODS,
    plot_comparison,
    plot_curve,
    plot_matrix,
    spread_out,
)
from hamcl.report.records import Result, StepRecord, StreamRecord, StreamTask


def record(tasks, learned):
    stream = StreamRecord("numbers", {}, [StreamTask(f"n-{i}", [str(i)], 5, 0, 5) for i in range(tasks)])
    matrix = np.where(np.tri(tasks) > 0, np.linspace(0.2, 1.0, tasks)[None, :], np.nan)
    matrix[learned:] = np.nan
    steps = [StepRecord(f"n-{i}", i + 1, 1.0, 1.0, {}, {}, {}) for i in range(learned)]
    return Result("ham", stream, {"spec": "minilm"}, {"seed": 0}, {}, steps=steps, accuracy=matrix)


def colours(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size, {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 20)}


@pytest.mark.parametrize(("tasks", "learned"), [(1, 1), (5, 5), (20, 7), (50, 50)])
def test_matrix_and_curve_of_any_length(tmp_path, tasks, learned):
    result = record(tasks, learned)
    plot_matrix(tmp_path / "m.png", result)
    plot_curve(tmp_path / "c.png", result)
    (width, height), found = colours(tmp_path / "m.png")
    assert 4 * DPI < height < width < 12 * DPI and len(found) > 50
    size, found = colours(tmp_path / "c.png")
    assert size == (round(6.4 * DPI), round(4.0 * DPI)) and (0, 0x72, 0xB2) in found


def test_cells_carry_numbers_up_to_twenty_tasks(tmp_path):
    viridis_top = (253, 231, 37)
    for tasks, ink in ((20, True), (21, False)):
        result = record(tasks, tasks)
        result.accuracy[:] = np.where(np.tri(tasks) > 0, 1.0, np.nan)
        plot_matrix(tmp_path / "m.png", result)
        with Image.open(tmp_path / "m.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        rows, cols = np.nonzero((abs(pixels - viridis_top).sum(2) < 6)[:, : int(pixels.shape[1] * 0.8)])
        last_row = (rows.max() - rows.min()) // tasks
        inside = pixels[rows.max() - last_row + 3 : rows.max() - 2, cols.min() + 2 : cols.max() - 2]
        assert bool((inside.sum(2) < 200).any()) is ink


def test_comparison_shows_every_method(tmp_path):
    curve, late = np.linspace(1, 0.5, 6), np.array([np.nan] * 5 + [0.9])
    curves = {"ham": [curve, curve - 0.1], "seq": [curve / 2], "joint": [late]}
    plot_comparison(tmp_path / "one.png", {"numbers": curves})
    plot_comparison(tmp_path / "two.png", {"numbers": curves, "letters": curves})
    one, two = colours(tmp_path / "one.png"), colours(tmp_path / "two.png")
    assert two[0] == (2 * one[0][0], one[0][1])
    assert {rgb(COLOURS[METHODS.index(name)]) for name in ("ham", "joint")} <= one[1]


@pytest.fixture
def panels(tmp_path, monkeypatch):
    """Draw, and return the axes of each panel."""
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))

    def draw(*args):
        plot_comparison(tmp_path / "c.png", *args)
        return figures[-1].axes

    return draw


def test_many_methods_leave_the_best_and_ham_with_their_names_beside_them(panels):
    ends = {f"method {i} with a long name (head=ridge, depths=all)": 0.1 + 0.05 * i for i in range(12)} | {"ham": 0.05}
    (axes,) = panels({"numbers": {label: [np.linspace(1, end, 6)] for label, end in ends.items()}})
    names = {text.get_text().replace("\n", " ").split("  ")[1]: text for text in axes.texts}
    best = sorted(ends, key=lambda label: -ends[label])[: LINES - 1]
    assert {*names} == {"ham", *best}
    assert "8 of 13 rows: the others are in the table" in axes.get_title(loc="left")
    curves = [line for line in axes.lines if len(line.get_xdata()) == 6]
    for looks in ("get_color", "get_marker"):
        assert len({getattr(line, looks)() for line in curves}) == len(curves) == LINES
    axes.figure.draw_without_rendering()
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
    frame, figure = axes.get_window_extent(), axes.figure.bbox
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes)), "no name over another"
    assert all(frame.x1 < box.x0 and box.x1 < figure.x1 and box.y0 >= 0 and box.y1 <= figure.y1 for box in boxes)


def test_names_stand_where_their_curves_end_or_near():
    wanted, heights = {"a": 90.0, "b": 50.0, "c": 49.0, "d": 48.0, "e": 0.0}, dict.fromkeys("abcde", 6.0)
    places = spread_out(wanted, heights, 0.0, 100.0)
    assert places == {"a": 90.0, "b": 55.0, "c": 49.0, "d": 43.0, "e": 3.0}
    near_the_top = spread_out({"a": 99.0, "b": 99.0, "c": 90.0}, dict.fromkeys("abc", 6.0), 0.0, 100.0)
    assert near_the_top == {"a": 97.0, "b": 91.0, "c": 85.0}


def test_colours_can_be_seen_on_white_and_told_apart_by_everybody():
    # Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia, on linear RGB.
    blind = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    srgb = np.array([rgb(colour) for colour in COLOURS]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    assert (1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)).min() >= 3
    for sight in blind:
        lab = cielab(np.clip(linear @ np.transpose(sight), 0, 1))
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        assert apart[np.triu_indices(len(COLOURS), 1)].min() >= 14
    assert len(COLOURS) == len(set(COLOURS)) == len(set(MARKERS)) == LINES


def cielab(linear):
    """CIELAB, D65, of linear RGB of shape (n, 3)."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.transpose(matrix) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_the_same_record_gives_the_same_picture(tmp_path):
    for name in ("a.png", "b.png"):
        plot_matrix(tmp_path / name, record(4, 4))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def test_a_method_keeps_its_colour_whatever_its_rank_and_its_company(panels):
    for levels in ({"ham": 0.9, "frozen": 0.5}, {"ham": 0.5, "frozen": 0.9}, {"frozen": 0.4}, {"ham (rank=4)": 0.3}):
        (axes,) = panels({"numbers": {name: [np.full(4, level)] for name, level in levels.items()}})
        curves = {float(line.get_ydata()[0]): line for line in axes.lines if len(line.get_xdata()) == 4}
        for name, level in levels.items():
            own = METHODS.index(name.partition(" (")[0])
            assert (curves[100 * level].get_color(), curves[100 * level].get_marker()) == (COLOURS[own], MARKERS[own])


def test_other_labels_keep_their_colour_in_pictures_of_one_set(panels):
    labels = ["first", "second", "third"]
    for label, colour in zip(labels, COLOURS, strict=False):
        (axes,) = panels({"numbers": {label: [np.full(4, 0.5)]}}, labels)
        assert axes.lines[0].get_color() == colour
