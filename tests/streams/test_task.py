"""One task from a path: the kind of data is seen from what is there."""

import json

import pytest

from hamcl.errors import DataError, UsageError
from hamcl.streams import load_task
from hamcl.streams.task import regroup


def test_a_folder_of_class_folders_is_a_task_of_its_name(tiny, tmp_path):
    tiny.folders(tmp_path / "week-01", {"robin": 2, "wren": 1})
    task = load_task(tmp_path / "week-01")
    assert (task.name, task.classes, task.modality, task.augmentation) == (
        "week-01",
        ("robin", "wren"),
        "image",
        "photo",
    )
    assert tiny.contents(task.train) == [(0, 0), (1, 0), (2, 1)] and len(task.test) == 0
    named = load_task(str(tmp_path / "week-01"), name="birds", augmentation="handwriting")
    assert (named.name, named.augmentation) == ("birds", "handwriting")


def test_a_test_split_comes_along(tiny, tmp_path):
    tiny.folders(tmp_path / "train", {"a": 1, "b": 1})
    tiny.folders(tmp_path / "test", {"b": 1}, first=9)
    task = load_task(tmp_path)
    assert tiny.contents(task.train) == [(0, 0), (1, 1)] and tiny.contents(task.test) == [(9, 1)]


@pytest.mark.parametrize("place", ["file", "folder"])
def test_parquet(tiny, tmp_path, place):
    file = tmp_path / "set" / "train-00000-of-00001.parquet"
    file.parent.mkdir()
    tiny.parquet(file, [tiny.image(7), tiny.image(8)], [1, 0], ["x", "y"])
    task = load_task(file if place == "file" else file.parent)
    assert task.name == ("set" if place == "folder" else file.stem)
    assert task.classes == ("x", "y") and tiny.contents(task.train) == [(7, 1), (8, 0)]


@pytest.mark.parametrize("name", ["notes.csv", "notes.TSV", "notes.jsonl", "notes/train.csv"])
def test_texts(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    rows = [("a cough", "lung"), ("a rash", "skin")]
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps({"text": x, "label": y}) + "\n" for x, y in rows))
    else:
        separator = "," if file.suffix == ".csv" else "\t"
        file.write_text("".join(f"{x}{separator}{y}\n" for x, y in [("text", "label"), *rows]))
    task = load_task(tmp_path / name.partition("/")[0])
    assert (task.name, task.classes, task.modality) == ("notes", ("lung", "skin"), "text")
    assert list(task.train.inputs) == ["a cough", "a rash"]


def test_a_path_goes_before_a_source_of_the_same_name(tiny, tmp_path, monkeypatch):
    tiny.folders(tmp_path / "digits", {"a": 1})
    monkeypatch.chdir(tmp_path)
    assert load_task("digits").classes == ("a",)
    assert load_task(f"folder:{tmp_path / 'digits'}", name="d").name == "d"


def test_what_cannot_be_a_task_is_told_in_a_sentence(tiny, tmp_path):
    (tmp_path / "notes.doc").write_text("x")
    (tmp_path / "empty").mkdir()
    for where, message in [
        ("missing", "no file or folder .*missing"),
        ("notes.doc", "is no data set"),
        ("empty", "holds"),
    ]:
        with pytest.raises(DataError, match=message):
            load_task(tmp_path / where)
    tiny.folders(tmp_path / "a", {"b": 1})
    with pytest.raises(UsageError, match="did you mean handwriting"):
        load_task(tmp_path / "a", augmentation="handwritten")
    (tmp_path / "t.csv").write_text("text,label\nx,y\n")
    with pytest.raises(UsageError, match="holds texts"):
        load_task(tmp_path / "t.csv", augmentation="photo")


def test_test_data_is_sorted_by_the_task_that_learned_its_class(tiny, tmp_path):
    tiny.folders(tmp_path / "a", {"wren": 1, "robin": 2})
    tiny.folders(tmp_path / "b" / "train", {"eagle": 1})
    tiny.folders(tmp_path / "b" / "test", {"eagle": 1}, first=9)
    tests = [load_task(tmp_path / "a"), load_task(tmp_path / "b")]
    learned = {"one": ["robin", "eagle"], "two": ["wren", "robin"], "three": ["owl"]}
    one, two = regroup(tests, learned)
    assert (one.name, one.classes, len(one.train)) == ("one", ("eagle", "robin"), 0)
    assert tiny.contents(one.test) == [(1, 1), (2, 1), (9, 0)], "robin counts to the first task, eagle's test split"
    assert (two.name, two.classes, tiny.contents(two.test)) == ("two", ("wren",), [(0, 0)])


def test_classes_that_were_not_learned_are_refused_or_left_out(tiny, tmp_path):
    tiny.folders(tmp_path / "a", {"wren": 1, "robin": 1, "owl": 1})
    with pytest.raises(DataError, match="not learned: owl, robin;"):
        regroup([load_task(tmp_path / "a")], {"one": ["wren"]})
    (task,) = regroup([load_task(tmp_path / "a")], {"one": ["wren"]}, known=True)
    assert tiny.contents(task.test) == [(0, 0)]
    with pytest.raises(DataError, match="no sample"):
        regroup([load_task(tmp_path / "a")], {"one": ["lark"]}, known=True)
