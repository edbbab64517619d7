"""Comparing runs: grouping over seeds, the figures, and the folders that are refused."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hamcl.bench import run as runner
from hamcl.bench.run import RunOptions, run
from hamcl.config import PAPER, HAMConfig
from hamcl.errors import UsageError
from hamcl.report.compare import compare, find_runs, report_markdown, report_plot, spread


@pytest.fixture
def done(tmp_path, stream, method, monkeypatch):
    """Make a finished run in a folder of this name."""
    monkeypatch.setattr(runner, "_draw", lambda out, result: None)

    def make(name, method_name="ham", tasks=4, cut=None, **config):
        given = {"spec": "numbers", "tasks": tasks, "seed": config.get("seed", 0), **(cut or {})}
        options = RunOptions(method_name, given)
        shorter = replace(stream, tasks=stream.tasks[:tasks])
        return run(shorter, method(HAMConfig(**config)), tmp_path / name, options=options)

    return make


def test_runs_that_differ_in_the_seed_alone_share_a_row(done, tmp_path):
    results = [done(f"ham{seed}", seed=seed) for seed in range(3)]
    done("seq", "seq-lora")
    (setting,) = compare(find_runs([tmp_path]))
    assert setting.title == "numbers, numbers, 4 tasks, 8 classes"
    ham, seq = setting.rows
    assert (ham.label, len(ham.runs), seq.label, len(seq.runs)) == ("ham", 3, "seq-lora", 1)
    values = [100 * result.metrics["average_accuracy"] for result in results]
    assert np.std(values) > 0
    assert ham.cells()[2] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert seq.cells()[2] == f"{values[0]:.1f}"
    forgotten = [100 * result.metrics["forgetting"] for result in results]
    assert ham.cells()[5].startswith(f"{np.mean(forgotten):.1f} ±")


def test_configurations_of_one_method_are_told_apart_by_what_differs(done):
    (setting,) = compare([done("a", lr=0.1, epochs=5), done("b", lr=0.2, epochs=3), done("c", "seq-lora")])
    assert [row.label for row in setting.rows] == ["ham (epochs=5, lr=0.1)", "ham (epochs=3, lr=0.2)", "seq-lora"]


@pytest.mark.parametrize("given", [("--preset", "paper"), ("--preset=paper",)])
def test_a_preset_is_named_and_not_spelled_out(done, given):
    default, paper = done("a", lr=0.1), done("b", **{**PAPER, "lr": 0.3})
    default.command, paper.command = ["ham", "run"], ["ham", "run", *given, "--lr", "0.3"]
    (setting,) = compare([default, paper])
    assert [row.label for row in setting.rows] == ["ham (preset=default, lr=0.1)", "ham (preset=paper, lr=0.3)"]


def test_a_run_from_python_spells_its_options_out(done):
    (setting,) = compare([done("a", lr=0.1), done("b", **PAPER)])
    labels = [row.label for row in setting.rows]
    assert not any("preset" in label for label in labels) and "merge=concat" in labels[1]


def test_options_that_an_earlier_version_did_not_know_tell_runs_apart(done):
    old, new = done("a"), done("b")
    del old.config["views"]
    (setting,) = compare([old, new])
    assert [row.label for row in setting.rows] == ["ham (views=1)", "ham (views=2)"]
    old.config |= {"views": 2, "forgotten": 1}
    (setting,) = compare([old, new])
    assert [row.label for row in setting.rows] == ["ham (forgotten=1)", "ham"]


def test_an_option_that_came_later_and_has_no_effect_parts_no_seeds(done):
    old, new = done("a"), done("b", seed=1)
    del old.config["shrinkage"]
    (setting,) = compare([old, new])
    assert [(row.label, len(row.runs)) for row in setting.rows] == [("ham", 2)]


def test_streams_cut_differently_are_not_compared(done):
    settings = compare([done("a"), done("b", tasks=2)])
    assert [len(setting.rows) for setting in settings] == [1, 1]
    assert [setting.title.split(", ")[2] for setting in settings] == ["4 tasks", "2 tasks"]


def test_a_stream_is_the_same_with_its_defaults_spelled_out_and_wherever_its_data_lie(done):
    one = done("a", cut={"data_dir": "/here/numbers"})
    two = done("b", "seq-lora", cut={"data_dir": "numbers", "val_fraction": 0.0, "class_order": "random"})
    (setting,) = compare([one, two])
    assert [row.label for row in setting.rows] == ["ham", "seq-lora"]
    for cut in ({"data_dir": "/here/others"}, {"val_fraction": 0.1}, {"class_order": "listed"}):
        assert len(compare([one, done("c" + "".join(cut), cut={"data_dir": "/here/numbers", **cut})])) == 2


def test_tables_hold_every_row(done, tmp_path):
    settings = compare([done("a"), done("b", "joint")])
    text = report_markdown(settings)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| ham | 1 |") and lines[3].startswith("| joint | 1 |")
    console = Console(width=160, record=True, file=(tmp_path / "t.txt").open("w"))
    console.print(settings[0].table())
    shown = console.export_text()
    assert all(cell in shown for cell in settings[0].rows[0].cells())


def test_the_plot_has_one_panel_per_setting(done, tmp_path):
    report_plot(tmp_path / "one.png", compare([done("a")]))
    report_plot(tmp_path / "two.png", compare([done("b"), done("c", tasks=2)]))
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.size == (2 * one.width, one.height)


def test_spread():
    assert spread([50.0]) == "50.0"
    assert spread([50.0, 60.0]) == "55.0 ± 7.1"
    assert spread([float("nan")]) == "-"


def test_folders_that_cannot_be_reported(done, tmp_path, stream, method):
    with pytest.raises(UsageError, match="no result"):
        find_runs([tmp_path])
    with pytest.raises(KeyboardInterrupt):
        run(stream, method(fail_at=1), tmp_path / "cut", options=RunOptions("ham"))
    with pytest.raises(UsageError, match="interrupted after 1 of 4"):
        find_runs([tmp_path])
    first = done("a")
    assert len(find_runs([tmp_path / "a", tmp_path / "a"])) == 1
    with pytest.raises(UsageError, match="two runs of 'ham' with seed 0"):
        compare([first, done("b")])
