"""Options made from the dataclass: each field is there, typed, and the layers override one another in order."""

import dataclasses
from inspect import Signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from hamcl.cli.options import (
    build_config,
    config_parameters,
    integers,
    machine_of,
    machine_parameters,
    method_options,
    task_parameters,
    with_parameters,
)
from hamcl.cli.run import run
from hamcl.config import MACHINE, PAPER, PER_TASK, PRESETS, HAMConfig
from hamcl.errors import UsageError
from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.methods.inflora import InfLoRA, InfLoRAConfig
from hamcl.methods.registry import METHODS, load_method
from hamcl.streams.split import SplitOptions

FIELDS = {field.name: field for field in dataclasses.fields(HAMConfig)}


@pytest.fixture
def parse():
    """Parse a command line of method options; returns the result of the call and the values it got."""
    app, seen = typer.Typer(), {}

    def command(*, name: Annotated[str, typer.Option()] = "x", **given):
        """A command."""
        seen.update(given)

    app.command()(with_parameters(command, [*config_parameters(), *machine_parameters()]))

    def invoke(*line):
        seen.clear()
        return CliRunner().invoke(app, list(line)), dict(seen)

    return invoke


def test_every_field_is_an_option_and_nothing_collides_with_it():
    assert [parameter.name for parameter in config_parameters()] == list(FIELDS)
    assert [parameter.name for parameter in machine_parameters()] == [f.name for f in dataclasses.fields(Machine)]
    assert [parameter.name for parameter in task_parameters()] == [name for name in FIELDS if name in PER_TASK]
    assert not set(Signature.from_callable(run).parameters) & {*FIELDS, *MACHINE}


def test_every_option_of_a_stream_is_offered():
    offered = set(Signature.from_callable(run).parameters)
    assert set(SplitOptions.__annotations__) - {"seed"} <= offered
    assert {"data_dir", "train_shards", "image_size", "max_length"} <= offered


def test_the_help_lists_every_field_with_its_text_and_every_method(monkeypatch):
    from hamcl.cli.main import app

    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    shown = CliRunner().invoke(app, ["run", "--help"]).output
    for name, field in {**FIELDS, **{field.name: field for field in dataclasses.fields(Machine)}}.items():
        (line,) = [line for line in shown.splitlines() if f"--{name.replace('_', '-')} " in line]
        assert field.metadata["help"] in line
    (line,) = [line for line in shown.splitlines() if "--method " in line]
    assert all(name in line for name in METHODS)


def test_values_are_parsed_by_the_type_of_their_field(parse):
    result, seen = parse("--rank", "4", "--lr", "1e-4", "--later-tasks", "free", "--merge", "ties")
    assert result.exit_code == 0, result.output
    given = {name: value for name, value in seen.items() if value is not None}
    assert given == {"rank": 4, "lr": 1e-4, "later_tasks": "free", "merge": "ties"}
    assert build_config(given) == HAMConfig(rank=4, lr=1e-4, later_tasks="free", merge="ties")


def test_none_is_a_value_of_its_own(parse):
    _, seen = parse("--max-groups", "none", "--targets", "none", "--merge-rank", "8")
    config = build_config(dict(seen))
    assert (config.max_groups, config.targets, config.merge_rank) == (None, None, 8)
    _, seen = parse("--max-groups", "3")
    assert build_config(dict(seen)).max_groups == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("--rank", "four"), "--rank"),
        (("--merge", "tie"), "ties"),
        (("--max-groups", "many"), "neither of type int nor none"),
        (("--later-tasks", "yes"), "yes"),
        (("--no-such-option", "1"), "--no-such-option"),
    ],
)
def test_values_of_another_type_are_usage_errors(parse, line, words):
    result, _ = parse(*line)
    assert result.exit_code == 2 and words in " ".join(result.output.split())


def test_each_layer_overrides_the_ones_before_it(tmp_path, monkeypatch):
    file = tmp_path / "c.yaml"
    file.write_text("rank: 2\nhead: ncm\nmax_groups: null\n")
    assert build_config({}, preset="paper") == HAMConfig(**PAPER)
    monkeypatch.setattr(HAM, "defaults", {"head": "ridge", "epochs": 7})
    assert build_config({}, preset="paper").head == "ridge"
    config = build_config({"rank": 3, "lr": None}, file=file, preset="paper")
    assert config == HAMConfig(**{**PAPER, "epochs": 7, "rank": 3, "head": "ncm", "max_groups": None})


def test_a_file_or_preset_that_does_not_exist_or_holds_unknown_keys_is_refused(tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"rnak": 2}')
    with pytest.raises(UsageError, match="rank"):
        build_config({}, file=file)
    with pytest.raises(UsageError, match="missing"):
        build_config({}, file=tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="papers"):
        build_config({}, preset="papers")


def test_the_options_of_the_machine_are_taken_out_of_those_of_the_model(parse):
    _, seen = parse("--device", "cpu", "--threads", "none", "--eval-batch-size", "5", "--rank", "4")
    assert machine_of(seen) == Machine(device="cpu", eval_batch_size=5)
    assert {name: value for name, value in seen.items() if value is not None} == {"rank": 4}
    assert set(seen) == set(FIELDS), "nothing of the machine is left"
    with pytest.raises(UsageError, match=r"^option 'threads' must be from 1 to 4096, or none, got 0$"):
        machine_of({"threads": 0})


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("frozen", {"rank": 16}, "frozen does nothing with the option 'rank'"),
        ("frozen", {"rank": 8}, "frozen does nothing with the option 'rank'"),  # the default, but given
        ("frozen", {"later_tasks": "free"}, "frozen does nothing with the option 'later_tasks'"),
        ("seq-lora", {"max_groups": 3}, "seq-lora does nothing with the option 'max_groups'"),
        (
            "ham",
            {"head": "linear", "shrinkage": 0.1},
            "ham with head='linear' does nothing with the option 'shrinkage'",
        ),
        (
            "frozen",
            {"head": "ncm", "projection": 8},
            "frozen with head='ncm' does nothing with the option 'projection'",
        ),
        ("ranpac", {"density": 1.0}, "ranpac does nothing with the option 'density'"),
        ("hamm", {}, "there is no method 'hamm'; did you mean 'ham'?"),
    ],
)
def test_a_given_option_that_would_do_nothing_is_refused(method, given, words):
    with pytest.raises(UsageError) as caught:
        build_config(given, method=method)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_each_option_that_it_reads_and_refuses_the_others(method):
    kind = load_method(method)
    config = build_config({}, method=method)
    read = kind.reads(config)
    for name in FIELDS:
        given = {name: getattr(config, name)}
        if given[name] is None:
            continue  # as if it were not given
        if name in read:
            assert build_config(given, method=method) == config
        else:
            with pytest.raises(UsageError, match=f"^{method} .*does nothing with the option '{name}'; leave it out$"):
                build_config(given, method=method)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_a_preset_is_taken_by_every_method_though_some_of_its_options_do_nothing_there(toy, method, preset):
    config = build_config({}, preset=preset, method=method)
    assert load_method(method)(toy.vit(), config).config == config


def test_integers():
    assert integers("5,5,3") == [5, 5, 3]
    with pytest.raises(typer.BadParameter, match="5,x"):
        integers("5,x")


def test_options_of_one_method_are_named_on_one_option():
    given = method_options(["energy=0.9", "horizon=none"], InfLoRAConfig)
    own = build_config(given, method="inflora")
    assert own == InfLoRAConfig.from_dict({**InfLoRA.defaults, "energy": 0.9}) != build_config({}, method="inflora")
    assert build_config(method_options(["energy=9e-1", "horizon=20"], InfLoRAConfig), method="inflora").horizon == 20
    assert method_options([], HAMConfig) == {}
    with pytest.raises(UsageError, match="'energy' must be of type float"):
        build_config(method_options(["energy=[much"], InfLoRAConfig), method="inflora")


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (["energy"], InfLoRAConfig, "must be name=value"),
        (["energi=1"], InfLoRAConfig, "it has energy, horizon"),
        (["energy=1"], HAMConfig, "it has none of its own"),
        (["merge-rank=8"], InfLoRAConfig, "give it as --merge-rank"),
        (["energy=0.5", "energy=0.6"], InfLoRAConfig, "given twice"),
    ],
)
def test_options_that_are_not_the_methods_are_refused(lines, kind, words):
    with pytest.raises(UsageError, match=words):
        method_options(lines, kind)
