"""Tables on the command line: columns that are chosen, rows that are left out, tables of images."""

import json

import pytest

from hamcl.config import HAMConfig
from hamcl.errors import DataError
from hamcl.machine import Machine
from hamcl.store import Store


@pytest.fixture(scope="module")
def store(ham, bert_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("columns") / "texts.ham"
    ham.shown("init", path, "--backbone", bert_folder, "--projection", 16, "--max-length", 16, "--epochs", 1)
    return path


@pytest.fixture(scope="module")
def table(toy, tmp_path_factory):
    """A CSV as a colleague's spreadsheet writes it: semicolons, own names, a row without a label."""
    samples = toy.samples(["lung", "skin"], [6, 6], "text", "columns")
    rows = [
        f"{i};{x};{('lung', 'skin')[y]}" for i, (x, y) in enumerate(zip(samples.inputs, samples.labels, strict=True))
    ]
    path = tmp_path_factory.mktemp("data") / "ward.csv"
    path.write_text("\n".join(["No;Body;Team", *rows, "12;balan;"]) + "\n")
    return path


CHOSEN = ("--text-column", "body", "--label-column", "team")


def test_learn_and_eval_read_the_columns_that_are_named(ham, store, table):
    assert "has no label" in ham.refused("learn", store, table, *CHOSEN, code=1)
    result = ham("learn", store, table, *CHOSEN, "--on-bad-sample", "skip", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["classes"] == ["lung", "skin"]
    said = " ".join(result.stderr.split())
    assert "read a semicolon as the separator" in said and "left out 1 of 13 rows" in said
    result = ham("eval", store, table, *CHOSEN, "--on-bad-sample", "skip", "--json")
    assert json.loads(result.stdout)["overall"]["samples"] == 12
    assert "has no label" in ham.refused("eval", store, table, *CHOSEN, code=1)


def test_what_one_command_does_with_bad_samples_is_no_habit_of_the_store(ham, store, table):
    line = ("learn", store, table, *CHOSEN)
    assert "12 samples" in ham.shown(*line, "--name", "once", "--on-bad-sample", "skip")
    assert "has no label" in ham.refused(*line, "--name", "twice", code=1)
    assert "on_bad_sample" not in Store.open(store).manifest.config


def test_a_column_that_is_not_there_is_a_usage_error(ham, store, table):
    assert "no column of" in ham.refused("learn", store, table, "--text-column", "Bodi", code=2)
    sentence = ham.refused("learn", store, table, code=1)
    assert "No, Body, Team" in sentence and "image" not in sentence


def test_run_reads_the_columns_that_are_named(ham, bert_folder, table, tmp_path):
    line = ("--stream", f"text:{table}", "--backbone", bert_folder, "--out", tmp_path / "run", "--tasks", 2)
    more = ("--epochs", 1, "--projection", 16, "--on-bad-sample", "skip", *CHOSEN)
    ham.shown("run", *line, *more)
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["stream"]["options"]["text_column"], record["stream"]["options"]["label_column"]) == (
        "body",
        "team",
    )
    assert any("left out 1 of 13 rows" in sentence for sentence in record["notes"])


def test_an_image_model_learns_from_a_table_of_paths_and_a_text_model_refuses_it(ham, life, copy, store, tmp_path):
    files = sorted(life.later.rglob("*.png"))
    rows = [json.dumps({"image": str(file), "label": file.parent.name}) for file in files]
    (tmp_path / "week.jsonl").write_text("\n".join(rows) + "\n")
    changed = copy()
    assert "2 classes from 10 samples" in ham.shown("learn", changed, tmp_path / "week.jsonl")
    table, folder = Store.open(changed), copy("folder.ham")
    ham.shown("learn", folder, life.later, "--name", "week")
    assert table.manifest.state.files == Store.open(folder).manifest.state.files, "the same as from folders"
    assert "image" in ham.refused("learn", store, tmp_path / "week.jsonl", code=1)


def test_import_reads_the_columns_that_are_named(ham, bert_folder, store, table, tmp_path):
    ham("learn", store, table, *CHOSEN, "--on-bad-sample", "skip", "--name", "ward for the export")
    ham.shown("export", store, tmp_path / "out", "--as", "adapters")
    (adapter, *_) = sorted(path.parent for path in (tmp_path / "out").rglob("adapter_config.json"))
    line = ("--projection", 16, "--max-length", 16, "--epochs", 1)
    ham.shown("init", tmp_path / "other.ham", "--backbone", bert_folder, *line)
    line = ("import", tmp_path / "other.ham", adapter, "--data", table, *CHOSEN)
    assert "has no label" in ham.refused(*line, code=1)
    result = ham(*line, "--on-bad-sample", "skip", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["classes"] == ["lung", "skin"]
    assert "left out 1 of 13 rows" in " ".join(result.stderr.split())


def test_a_store_reads_a_path_as_the_machine_is_told_to(ham, bert_folder, tmp_path):
    (tmp_path / "week.csv").write_text("text;label;split\nbalan;lung;\nkofor;skin;\nmilan;;\nbalan;lung;test\n")
    store = Store.create(
        tmp_path / "s.ham",
        backbone=str(bert_folder),
        backbone_options={"max_length": 16},
        config=HAMConfig(projection=16, epochs=1),
    )
    with pytest.raises(DataError, match="line 4 has no label"):
        store.learn(tmp_path / "week.csv")
    lenient = Store.open(store.path, machine=Machine(on_bad_sample="skip"))
    report = lenient.learn(tmp_path / "week.csv")
    assert any("left out 1 of 3 rows" in sentence for sentence in report.notes)
    with pytest.raises(DataError, match="line 4 has no label"):
        Store.open(store.path).evaluate(tmp_path / "week.csv", record=False)
    found = lenient.evaluate(tmp_path / "week.csv", record=False)
    assert found.overall.samples == 1
