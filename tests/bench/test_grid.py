"""Grids: what a file means, and that cells survive interruptions and failures."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hamcl.bench.grid import read_grid, run_grid, shard
from hamcl.cli.main import app
from hamcl.config import resolve
from hamcl.errors import HamError, UsageError
from hamcl.machine import Machine
from hamcl.methods.registry import load_method
from hamcl.report.compare import compare, find_runs
from hamcl.report.records import Result

CPU = Machine("cpu", "fp32")
GRIDS = Path(__file__).resolve().parents[2] / "benchmarks" / "grids"


@pytest.fixture
def grid(tmp_path, bert_folder):
    """A function that writes a grid of texts with some changes, and reads it."""
    lines = ["text,label"] + [f"{word} {i},{word}" for word in ("balan", "kofor", "midis", "tugem") for i in range(8)]
    (tmp_path / "data" / "texts").mkdir(parents=True)
    (tmp_path / "data" / "texts" / "train.csv").write_text("\n".join(lines))
    (tmp_path / "data" / "texts" / "test.csv").write_text("\n".join(lines[:1] + lines[1::2]))
    stream = {"stream": "text", "data_dir": "texts", "backbone": str(bert_folder), "tasks": 2, "max_length": 8}
    plan = {
        "seeds": [3, 4],
        "options": {"epochs": 1, "projection": 20},
        "streams": {"words": {**stream, "options": {"rank": 2}}},
        "methods": {
            "frozen": None,
            "settling": {"method": "ranpac", "options": {"lr": 0.01}, "grid": {"adapt": [0, 1], "head": ["ncm"]}},
        },
    }

    def read(**changes):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({**plan, **changes}))
        return read_grid(path)

    return read


def names(cells):
    return [cell.name for cell in cells]


def test_a_grid_is_all_combinations(grid):
    cells = grid()
    assert names(cells) == [
        f"words/{name}/s{seed}"
        for seed in (3, 4)
        for name in ("frozen", "settling/adapt=0,head=ncm", "settling/adapt=1,head=ncm")
    ]
    cell = cells[-1]
    config = cell.config.to_dict()
    asked = {"adapt": 1, "head": "ncm", "rank": 2, "epochs": 1, "lr": 0.01, "seed": 4, "drift": "none"}
    assert asked.items() <= config.items()
    assert (cell.method, cell.cut, cell.read["max_length"]) == ("ranpac", {"data_dir": "texts", "tasks": 2}, 8)
    assert names(shard(cells, "1/2")) + names(shard(cells, "2/2")) == names(cells[::2] + cells[1::2])


def test_options_override_each_other_in_order(grid):
    (cell,) = grid(
        seeds=[0],
        options={"epochs": 2, "rank": 3, "lr": 0.1, "head": "lda", "density": 0.9},
        methods={
            "paper": {
                "method": "ham",
                "preset": "paper",
                "options": {"lr": 0.2, "head": "ncm"},
                "streams": {"words": {"head": "ridge"}},
                "grid": {"max_groups": [None]},
            }
        },
    )
    wanted = {"epochs": 2, "rank": 2, "lr": 0.2, "head": "ridge", "density": 0.9, "max_groups": None, "dropout": 0.1}
    assert wanted.items() <= cell.config.to_dict().items()
    assert cell.name == "words/paper/max_groups=none/s0"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": [1]}, "has no 'seed'; it may have streams, methods"),
        ({"seeds": 3}, "seeds in .* must be a list of whole numbers, got 3"),
        ({"streams": {}}, "needs streams and methods"),
        ({"streams": {"a": {"stream": "icd10"}}}, "stream 'a' in .* needs 'backbone'"),
        ({"streams": {"a": {"task": 3}}}, "stream 'a' in .* has no 'task'"),
        ({"methods": {"hamm": None}}, "no method 'hamm'; did you mean 'ham'"),
        ({"methods": {"ham": {"options": {"rnak": 3}}}}, "did you mean 'rank'"),
        ({"methods": {"ham": {"grid": {"rank": 3}}}}, "needs a list of values of 'rank', got 3"),
        ({"methods": {"ham": {"streams": ["digits"]}}}, "names the stream 'digits', which is not there"),
        ({"methods": {"ham": {"streams": "words"}}}, "must be a list or a mapping, got 'words'"),
        ({"methods": {"ham": {"options": [1]}}}, r"'options' of method 'ham' in .* must be a mapping, got \[1\]"),
        (
            {"methods": {"ham": None, "again": {"method": "ham"}}},
            "words/ham/s3 and words/again/s3 .* are the same run",
        ),
    ],
)
def test_what_a_grid_cannot_mean_is_refused(grid, changes, words):
    with pytest.raises(UsageError, match=words):
        grid(**changes)


@pytest.mark.parametrize("part", ["2", "0/2", "3/2", "a/b", "1/"])
def test_a_shard_is_a_part_of_a_number(part):
    with pytest.raises(UsageError, match="i/n with i from 1 to n"):
        shard([], part)


def test_cells_survive_interruptions_and_failures(grid, tmp_path):
    cells = grid(seeds=[3])
    broken = grid(seeds=[3], methods={"seq-lora": {"options": {"lr": 1e30}}})
    told: list[tuple[str, Result | HamError]] = []

    def stop(cell, result):
        told.append((cell.name, result))
        if len(told) == 2:
            raise KeyboardInterrupt

    data, out = tmp_path / "data", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_grid([*broken, *cells], out, data=data, machine=CPU, on_cell=stop)
    assert [name for name, _ in told] == names([*broken, *cells])[:2]
    assert isinstance(told[0][1], HamError) and isinstance(told[1][1], Result)
    first = (out / cells[0].name / "result.json").read_bytes()

    done = run_grid(cells, out, data=data, machine=CPU)
    assert (out / cells[0].name / "result.json").read_bytes() == first, "a finished cell is left alone"
    assert [result.status for result in done] == ["complete"] * 3
    assert done[0].stream.options["data_dir"] == "texts", "no folder of this machine is recorded"
    (setting,) = compare(find_runs([out / "words" / "frozen", out / "words" / "settling"]))
    assert [row.label for row in setting.rows] == ["frozen", "ranpac (adapt=0)", "ranpac (adapt=1)"]

    with pytest.raises(UsageError, match=r"frozen/s3 is finished, but config.projection was 20 and is now 30"):
        run_grid(grid(seeds=[3], options={"epochs": 1, "projection": 30}), out)
    with pytest.raises(UsageError, match="say where all data is"):
        run_grid(cells, tmp_path / "other")


def test_a_cell_is_what_its_command_does(grid, tmp_path, monkeypatch):
    cell = grid()[-1]
    (result,) = run_grid([cell], tmp_path / "out", data=tmp_path / "data", machine=CPU)
    monkeypatch.chdir(tmp_path / "data")
    there = ["--device", "cpu", "--precision", "fp32", "--out", str(tmp_path / "run"), "--no-progress"]
    line = [*cell.command()[1:], *there]
    invoked = CliRunner().invoke(app, line)
    assert invoked.exit_code == 0, invoked.output
    run = Result.read(tmp_path / "run")
    assert (run.config, run.backbone) == (result.config, result.backbone)
    assert result.command == cell.command()
    assert run.to_dict()["correct"] == result.to_dict()["correct"]


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_committed_grids_can_be_read_and_choose_on_other_seeds_than_they_report(path):
    cells = read_grid(path)
    seeds = {cell.config.seed for cell in cells}
    assert seeds == {0, 1, 2} if path.stem in ("rivals", "rivals-gpu") else min(seeds) >= 100
    for cell in cells:  # as the method itself refuses it, once it has a backbone
        given = "last" if cell.config.depths_to_read == "last" else "all"
        config = resolve(cell.config, "text" if cell.backbone == "minilm" else "image", given)
        assert {*cell.given} <= load_method(cell.method).reads(config), f"{cell.name} asks for what has no effect"
