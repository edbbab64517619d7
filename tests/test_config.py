"""Every option has a type, a range and a meaning; a wrong one is one sentence that names it."""

import dataclasses
import json
import subprocess
import sys

import pytest

from hamcl.cli.reference import reference
from hamcl.config import PAPER, PRESETS, HAMConfig, read_options
from hamcl.errors import UsageError

NAMES = [f.name for f in dataclasses.fields(HAMConfig)]
WRONG = {
    "rank": (0, -1, 2.0, "8", None, True, 4000),
    "epochs": (0, 1.5, 2**31),
    "batch_size": (0,),
    "eval_batch_size": (0,),
    "views": (0,),
    "max_groups": (0, 2.5, 99999999999),
    "merge_rank": (0,),
    "lora_alpha": (0, -1.0, float("nan"), "8"),
    "lr": (0.0, -1e-3, None),
    "head_lr": (0.0,),
    "importance_lr": (-1e-3,),
    "weight_decay": (-0.1,),
    "clip_norm": (-1.0,),
    "distill": (-1.0,),
    "projection": (-1, 0.5),
    "task_scores": (-1.0,),
    "memory_per_class": (-1, 1.5, None),
    "dropout": (-0.1, 1.0),
    "warmup": (-0.1, 1.0),
    "shrinkage": (-0.1, 1.1),
    "density": (0.0, 1.1),
    "threshold": (float("nan"), None, float("inf"), -float("inf"), 1e39),
    "targets": (3, ["qkv"]),
    "similarity": ("cosine", None),
    "threshold_kind": ("z",),
    "merge": ("add",),
    "prune_on": ("both",),
    "precision": ("fp16",),
    "depths": ("first",),
    "head": ("mlp",),
    "head_features": ("none",),
    "on_bad_sample": ("ignore",),
    "distill_growth": (1, "yes"),
    "settle": (0, "no"),
    "shorten": (True, "no"),
    "drift": (True, "follow"),
    "compile": (0,),
    "device": (0,),
    "seed": (1.0, True),
}
EDGES = [
    ("max_groups", None),
    ("merge_rank", None),
    ("targets", "qkv"),
    ("importance_lr", 0),
    ("clip_norm", 0.0),
    ("dropout", 0.0),
    ("shrinkage", 1),
    ("density", 1),
    ("lr", 1),
    ("threshold", 1e9),
    ("projection", None),
    ("projection", 0),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_one_sentence_that_names_the_option(name, value):
    with pytest.raises(UsageError, match=rf"^option '{name}' must be [^\n]*$"):
        HAMConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), EDGES)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(HAMConfig(**{name: value}), name) == value


def test_every_option_is_checked_and_explained():
    assert set(WRONG) == set(NAMES)
    assert all(f.metadata["help"].endswith(".") for f in dataclasses.fields(HAMConfig))


@pytest.mark.parametrize(
    ("name", "hint"), [("ranks", "did you mean 'rank'?"), ("max_group", "'max_groups'"), ("zzz", "options are seed, ")]
)
def test_an_unknown_option_is_an_error_with_a_suggestion(name, hint):
    with pytest.raises(UsageError, match=rf"no option '{name}'") as error:
        HAMConfig.from_dict({"rank": 4, name: 1})
    assert hint in str(error.value)


def test_presets_lie_below_the_given_options():
    paper = HAMConfig.from_dict({"rank": 3}, preset="paper")
    assert paper.to_dict() == HAMConfig().to_dict() | PAPER | {"rank": 3}
    assert PRESETS["default"] == {}
    assert HAMConfig.from_dict({}) == HAMConfig()
    with pytest.raises(UsageError, match=r"^there is no preset 'thesis'; choose from default, paper$"):
        HAMConfig.from_dict({}, preset="thesis")


def test_options_cannot_change_after_the_check():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HAMConfig().rank = 0


@pytest.mark.parametrize("lr", [1e-3, 1e-5, 3e-10, 1e20])
def test_a_saved_config_reads_back_equal(tmp_path, lr):
    config = HAMConfig(lr=lr, targets=r"blocks\.\d+\.(qkv|fc1)", max_groups=None, drift="none", seed=7)
    config.save(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text()) == config.to_dict()
    assert HAMConfig.from_file(tmp_path / "config.json") == config


def test_a_yaml_file_of_options(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("lr: 3e-4\nhead_lr: 1.0e-2\nlora_alpha: 16  # twice the rank\nmax_groups: null\nhead: ridge\n")
    config = HAMConfig.from_file(path, preset="paper")
    assert (config.lr, config.head_lr, config.lora_alpha, config.max_groups) == (3e-4, 1e-2, 16, None)
    assert (config.head, config.dropout) == ("ridge", 0.1)


@pytest.mark.parametrize("text", ["- rank\n- 8\n", "", "rank: [8", "\x00"])
def test_a_file_that_holds_no_options_is_named(tmp_path, text):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"options\.yaml[^\n]*$"):
        read_options(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the options in .*missing\.yaml"):
        HAMConfig.from_file(tmp_path / "missing.yaml")


def test_the_reference_has_a_row_for_every_option():
    rows = [line.split("|")[1:-1] for line in reference().splitlines() if line.startswith("| `")]
    assert [row[0].strip(" `") for row in rows] == NAMES
    defaults = {row[0].strip(" `"): row[2].strip(" `") for row in rows}
    assert defaults == {name: str(value) for name, value in HAMConfig().to_dict().items()}
    assert {row[0].strip(" `"): row[3].strip(" `") for row in rows if row[3].strip()} == {
        name: str(value) for name, value in PAPER.items()
    }
    assert all(len(row) == 5 and row[1].strip() and row[4].strip() for row in rows)


def test_the_reference_is_printed_by_the_module():
    done = subprocess.run([sys.executable, "-m", "hamcl.cli.reference"], capture_output=True, text=True, check=True)
    assert done.stdout == reference()


@pytest.mark.parametrize("values", [{"task_scores": "x" * 500}, {"merge": "x" * 500}, {"x" * 500: 1}])
def test_a_long_value_does_not_fill_the_screen(values):
    with pytest.raises(UsageError) as caught:
        HAMConfig.from_dict(values)
    message = str(caught.value).partition("; options are")[0]
    assert "xxx..." in message and len(message) < 200
