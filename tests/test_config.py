"""Every option has a type, a range and a meaning; a wrong one is one sentence that names it."""

import dataclasses
import json
from pathlib import Path

import pytest

from hamcl.config import (
    MACHINE,
    PAPER,
    PER_TASK,
    PRESETS,
    RETIRED,
    HAMConfig,
    current,
    read_options,
    resolve,
)
from hamcl.errors import UsageError
from hamcl.machine import Machine

NAMES = [f.name for f in dataclasses.fields(HAMConfig)]
WRONG = {
    "rank": (0, -1, 2.0, "8", None, True, 4000),
    "epochs": (0, 1.5, 2**31),
    "batch_size": (0,),
    "views": (0,),
    "max_groups": (0, 2.5, 99999999999),
    "merge_rank": (0,),
    "lora_alpha": (0, -1.0, float("nan"), "8"),
    "lr": (0.0, -1e-3, None),
    "head_lr": (0.0,),
    "importance_lr": (-1e-3,),
    "weight_decay": (-0.1,),
    "distill": (-1.0,),
    "projection": (-1, 0.5),
    "dropout": (-0.1, 1.0),
    "warmup": (-0.1, 1.0),
    "shrinkage": (-0.1, 1.1),
    "density": (0.0, 1.1),
    "threshold": (float("nan"), None, float("inf"), -float("inf"), 1e39),
    "targets": (3, ["qkv"]),
    "merge": ("add"),
    "prune_on": ("both",),
    "depths": ("first",),
    "head": ("mlp",),
    "later_tasks": (1, "yes", None),
    "drift": (True, "follow"),
    "seed": (1.0, True),
}
WRONG_MACHINE = {
    "device": (0, None),
    "precision": ("fp16", None),
    "eval_batch_size": (0, 1.5),
    "threads": (0, -1, 1.5, True, 5000),
    "on_bad_sample": ("ignore",),
}
EDGES = [
    ("max_groups", None),
    ("merge_rank", None),
    ("targets", "qkv"),
    ("importance_lr", 0),
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


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG_MACHINE.items() for value in values]
)
def test_a_wrong_value_of_the_machine_is_one_sentence_that_names_the_option(name, value):
    with pytest.raises(UsageError, match=rf"^option '{name}' must be [^\n]*$"):
        Machine(**{name: value})


def test_every_option_is_checked_and_explained():
    assert set(WRONG) == set(NAMES)
    assert set(WRONG_MACHINE) == {f.name for f in dataclasses.fields(Machine)} == set(MACHINE)
    assert all(f.metadata["help"].endswith(".") for kind in (HAMConfig, Machine) for f in dataclasses.fields(kind))


def test_there_are_not_more_options_than_somebody_can_keep_in_mind():
    assert len(NAMES) <= 28
    assert set(NAMES).isdisjoint(MACHINE) and set(PER_TASK) <= set(NAMES)


@pytest.mark.parametrize("name", MACHINE)
def test_an_option_of_the_machine_is_none_of_the_model_and_its_flag_is_named(name):
    with pytest.raises(UsageError, match=rf"^option '{name}' belongs to the machine [^\n]*$") as caught:
        HAMConfig.from_dict({name: getattr(Machine(), name)})
    assert f"--{name.replace('_', '-')}" in str(caught.value) and "Machine" in str(caught.value)


RETIRED_OTHERWISE = {
    "task_scores": 0.5,
    "head_features": "both",
    "memory_per_class": 3,
    "similarity": "cka",
    "threshold_kind": "raw",
    "clip_norm": 0.0,
    "compile": True,
}


def test_retired_options_that_did_what_is_done_now_are_dropped():
    assert set(RETIRED_OTHERWISE) == set(RETIRED)
    assert current({**RETIRED, "rank": 3}) == {"rank": 3}
    assert HAMConfig.from_dict({**RETIRED, "rank": 3}) == HAMConfig(rank=3)


@pytest.mark.parametrize(
    ("name", "value"), [*RETIRED_OTHERWISE.items(), ("drift", "map"), ("task_scores", "x" * 500), ("similarity", None)]
)
def test_a_retired_option_that_asks_for_what_is_no_more_is_one_sentence(name, value):
    with pytest.raises(UsageError, match=rf"^the option {name}=[^\n]* hamcl 0\.1\.0 [^\n]*$"):
        current({"rank": 3, name: value})
    with pytest.raises(UsageError, match=rf"^the option {name}="):
        HAMConfig.from_dict({"rank": 3, name: value})


def test_one_of_two_names_of_one_rule_of_merging_became_the_other():
    assert current({"merge": "magnitude"}) == {"merge": "svd", "prune_on": "delta"}
    assert current({"merge": "ties", "prune_on": "factors"}) == {"merge": "ties", "prune_on": "factors"}


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"distill_growth": True, "settle": True, "shorten": "auto"}, "hold"),
        ({"distill_growth": False, "settle": False, "shorten": "never"}, "free"),
        ({}, None),
    ],
)
def test_three_switches_became_one(asked, word):
    assert current({"rank": 3, **asked}) == {"rank": 3, **({"later_tasks": word} if word else {})}
    assert HAMConfig.from_dict(asked).later_tasks == (word or "hold")


@pytest.mark.parametrize(
    "asked",
    [
        {"distill_growth": True, "settle": False, "shorten": "never"},
        {"distill_growth": False, "settle": True, "shorten": "auto"},
        {"distill_growth": True, "settle": True, "shorten": "always"},
        {"settle": False},
    ],
)
def test_three_switches_that_were_set_apart_are_one_sentence(asked):
    with pytest.raises(UsageError, match=r"^the options? [^\n]*later_tasks[^\n]*hamcl 0\.1\.0[^\n]*$") as caught:
        current(asked)
    assert all(f"{name}={value}" in str(caught.value) for name, value in asked.items())


def test_names_of_today_stay_as_they_are():
    asked = HAMConfig(rank=3, later_tasks="free", merge="ties", drift="none").to_dict()
    assert current(asked) == asked


@pytest.mark.parametrize(
    ("modality", "depths", "settled"),
    [
        ("image", "all", {"head": "stack", "depths": "all", "projection": 1024, "views": 2}),
        ("image", "last", {"head": "stack", "depths": "last", "projection": 1024, "views": 2}),
        ("text", "all", {"head": "ridge", "depths": "all", "projection": 4096, "views": 1}),
        ("text", "last", {"head": "ridge", "depths": "last", "projection": 4096, "views": 1}),
    ],
)
def test_what_is_left_open_is_settled_by_the_backbone(modality, depths, settled):
    config = resolve(HAMConfig(rank=3), modality, depths)
    assert config.to_dict() == {**HAMConfig(rank=3).to_dict(), **settled}
    assert resolve(config, modality, depths) == config, "what is settled stays"


def test_what_was_asked_for_is_not_settled_otherwise():
    asked = HAMConfig(head="stack", projection=7, views=3, depths="all")
    assert resolve(asked, "image", "all") == asked
    assert resolve(HAMConfig(projection=0), "text", "last").projection == 0, "0 turns it off"
    assert resolve(HAMConfig(head="lda"), "text", "last").projection is None, "a head without one"


@pytest.mark.parametrize(
    ("asked", "depths", "words"),
    [
        ({"depths": "last"}, "all", "depths='last' asks for features of the last layer, .* depths='last'$"),
        ({"depths": "all"}, "last", "depths='all' asks for features of several depths, .* depths='all'$"),
        ({"head": "linear"}, "all", "head='linear' reads features of the last layer, .* depths='last'$"),
        ({"head": "cosine"}, "all", "head='cosine' reads features of the last layer, .* depths='last'$"),
    ],
)
def test_a_backbone_that_gives_other_depths_than_asked_for_is_refused(asked, depths, words):
    with pytest.raises(UsageError, match=words):
        resolve(HAMConfig(**asked), "image", depths)
    assert HAMConfig(**asked).depths_to_read in ("last", "all")


def test_rows_that_answer_may_read_several_depths_where_that_is_asked_for():
    assert resolve(HAMConfig(head="linear", depths="all"), "image", "all").depths == "all"


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
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    rows = [line.split("|")[1:-1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    model, machine = rows[: len(NAMES)], rows[len(NAMES) :]
    for part, kind in ((model, HAMConfig), (machine, Machine)):
        defaults = [(row[0].strip(" `"), row[2].strip(" `")) for row in part]
        assert defaults == [(field.name, str(field.default)) for field in dataclasses.fields(kind)]
    assert {row[0].strip(" `"): row[3].strip(" `") for row in model if row[3].strip()} == {
        name: str(value) for name, value in PAPER.items()
    }
    # Type, what it does, and for an option of the model by what its default was chosen.
    assert all(len(row) == 6 and row[1].strip() and row[4].strip() and row[5].strip() for row in model)
    assert all(len(row) == 4 and row[1].strip() and row[3].strip() for row in machine)


@pytest.mark.parametrize(
    "values", [{"task_scores": "x" * 500}, {"rank": "x" * 500}, {"merge": "x" * 500}, {"x" * 500: 1}]
)
def test_a_long_value_does_not_fill_the_screen(values):
    with pytest.raises(UsageError) as caught:
        HAMConfig.from_dict(values)
    message = str(caught.value).partition("; options are")[0]
    assert "xxx..." in message and len(message) < 200
