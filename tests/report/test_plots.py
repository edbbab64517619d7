"""Plots: PNG files of the size asked for, with something on them."""

import numpy as np
import pytest
from PIL import Image

from hamcl.report.plots import COLOURS, DPI, METHODS, plot_comparison, plot_curve, plot_matrix
from hamcl.report.records import Result, StepRecord, StreamRecord, TaskRecord


def record(tasks, learned):
    stream = StreamRecord("numbers", {}, [TaskRecord(f"n-{i}", [str(i)], 5, 0, 5) for i in range(tasks)])
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
    plot_comparison(tmp_path / "c.png", {"numbers": curves, "letters": curves})
    size, found = colours(tmp_path / "c.png")
    assert size == (round(14.4 * DPI), round(4.4 * DPI))
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0, 0x9E, 0x73)} <= found


def test_many_methods_leave_the_legend_beside_their_curves(tmp_path):
    curves = {f"method {i} with a long name (head=ridge, depths=all)": [np.full(6, 0.1 * (i % 7))] for i in range(9)}
    plot_comparison(tmp_path / "c.png", {"numbers": curves})
    with Image.open(tmp_path / "c.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (round(5.2 * DPI), round(10.4 * DPI))
    ink = pixels.sum(2) < 200
    axis = ink[ink.sum(1).argmax()].nonzero()[0].max()
    assert ink.any(0).nonzero()[0].max() > axis + 0.2 * pixels.shape[1], "names to the right of the axis"


def test_the_same_record_gives_the_same_picture(tmp_path):
    for name in ("a.png", "b.png"):
        plot_matrix(tmp_path / name, record(4, 4))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def rgb(colour):
    return tuple(bytes.fromhex(colour[1:]))


def test_a_method_keeps_its_colour_whatever_its_rank_and_its_company(tmp_path):
    # The last of the colours is a grey, which the edges of letters have, too.
    own = {name: rgb(colour) for name, colour in zip(METHODS, COLOURS[:-1], strict=False)}

    def drawn(levels):
        plot_comparison(tmp_path / "c.png", {"numbers": {name: [np.full(4, v)] for name, v in levels.items()}})
        return colours(tmp_path / "c.png")[1]

    for levels in ({"ham": 0.9, "frozen": 0.5}, {"ham": 0.5, "frozen": 0.9}, {"frozen": 0.4}, {"ham (rank=4)": 0.3}):
        found = drawn(levels)
        names = {label.partition(" (")[0] for label in levels}
        assert {name for name, colour in own.items() if colour in found} == names


def test_other_labels_keep_their_colour_in_pictures_of_one_set(tmp_path):
    labels = ["first", "second", "third"]
    coloured = {rgb(colour) for colour in COLOURS[:-1]}
    for label, colour in zip(labels, COLOURS, strict=False):
        plot_comparison(tmp_path / "c.png", {"numbers": {label: [np.full(4, 0.5)]}}, labels)
        assert coloured & colours(tmp_path / "c.png")[1] == {rgb(colour)}
