"""Names that cannot be kept, and spellings of one name: what the commands say, before they compute."""

import json
import unicodedata

import pytest

import hamcl.learning.learner
from hamcl.store import Store

NFC = "Café"
NFD = unicodedata.normalize("NFD", NFC)
LATIN = "caf\udce9"


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("it trains")

    monkeypatch.setattr(hamcl.learning.learner, "train", refuse)


def renamed(life, tmp_path, *names):
    """The folder of week 3 with other class names."""
    import shutil

    data = shutil.copytree(life.later, tmp_path / "data")
    for folder, name in zip(sorted(data.iterdir()), names, strict=False):
        folder.rename(data / name)
    return data


def test_a_class_folder_in_another_encoding_is_refused_before_training(ham, life, copy, tmp_path, no_training):
    store, data = copy(), renamed(life, tmp_path, LATIN)
    before = sorted(store.rglob("*"))
    assert r"a class of data is called 'caf\xe9', which is not Unicode text" in ham.refused(
        "learn", store, data, code=1
    )
    assert r"caf\xe9" in ham.refused("eval", store, data, code=1)
    assert r"caf\xe9" in ham.refused("import", store, data, "--data", data, code=1)
    line = ("--stream", f"folder:{data}", "--backbone", life.backbone, "--out", tmp_path / "run")
    assert r"caf\xe9" in ham.refused("run", *line, code=1)
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize("name", ["", " ", "x" * 1001, LATIN])
def test_a_name_that_cannot_be_kept_is_refused(ham, life, copy, name, no_training):
    store = copy()
    assert "the task " in ham.refused("learn", store, life.later, "--name", name, code=2)
    assert "the task " in ham.refused("import", store, life.later, "--data", life.later, "--name", name, code=2)


def test_spellings_of_one_class_are_one_class_and_said_to_be(ham, life, copy, tmp_path):
    store, data = copy(), renamed(life, tmp_path, NFD, " red ")
    result = ham("learn", store, data, "--json")
    assert result.exit_code == 0, result.output
    said = f"class names kept without spaces around them and in composed Unicode (NFC): red, {NFC}"
    assert result.stderr == f"note: {said}\n" and json.loads(result.stdout)["notes"] == [said]
    assert Store.open(store).manifest.state.classes == ("green", "red", "blue", NFC)
    told = ham.told("eval", store, data)
    assert told["classes"].keys() == {"red", NFC} and told["notes"][0] == said
    assert ham.shown("undo", store, "--to", " week-02").startswith("took back data")


def test_a_task_of_another_spelling_was_learned_already(ham, life, copy):
    store = copy()
    ham.shown("learn", store, life.later, "--name", NFC)
    assert "has learned task 'Café' already" in ham.refused("learn", store, life.later, "--name", f" {NFD}", code=1)


@pytest.mark.parametrize("option", ["--title", "--license"])
def test_a_card_in_another_encoding_is_refused(ham, life, tmp_path, option):
    line = ("export", life.store, tmp_path / "out", "--as", "peft", option, LATIN)
    assert f"the {option[2:]} of a card must be Unicode text" in ham.refused(*line, code=2)
    assert not (tmp_path / "out").exists()


def test_hidden_images_are_not_predicted_and_said_to_be(ham, life, tmp_path):
    inbox = renamed(life, tmp_path, ".hidden", "white")
    result = ham("predict", life.store, inbox, "--json")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 5
    assert result.stderr.startswith(f"note: left out of {inbox}: hidden folders") and ": .hidden" in result.stderr
