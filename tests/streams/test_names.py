"""Names of classes and tasks: one form, and what cannot be a name is said before anything is learned."""

import json
import unicodedata

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamcl.errors import DataError, UsageError
from hamcl.streams import Samples, Source, Task, check, load_source, load_task, split
from hamcl.streams.names import LONGEST, canonical, file_name, legible, spelled
from hamcl.streams.task import regroup

NFC = "Café"
NFD = unicodedata.normalize("NFD", NFC)
CUT = "\ud83d"  # half an emoji
LATIN = "caf\udce9"  # how Python reads the byte 0xe9 in a file's name


def table(path, labels, key="label"):
    """Texts with these labels in a file of the kind its suffix says."""
    rows = [{"text": f"text {i}", key: label} for i, label in enumerate(labels)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("text,label\n" + "".join(f'{row["text"]},"{row[key]}"\n' for row in rows))
    return path


def test_two_spellings_of_a_folder_are_one_class_and_said_to_be(tiny, tmp_path):
    tiny.folders(tmp_path, {NFC: 1, NFD: 1, "w ": 1, "w": 1, " alone": 1, "plain": 1})
    source = load_source(f"folder:{tmp_path}")
    assert source.classes == (NFC, "alone", "plain", "w") and len(source.train) == 6
    merged, changed = source.notes
    assert merged.startswith("taken for one class") and merged.endswith(f"the spellings of {NFC}, w")
    assert changed.endswith(": alone")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_two_spellings_of_a_label_are_one_class(tmp_path, suffix):
    task = load_task(table(tmp_path / f"t{suffix}", [NFC, NFD, "w ", "w"]))
    assert task.classes == (NFC, "w") and list(task.train.labels) == [0, 0, 1, 1]
    assert [note.partition(",")[0] for note in task.notes] == ["taken for one class"]


def test_a_split_of_another_spelling_has_the_same_classes(tiny, tmp_path):
    tiny.folders(tmp_path / "train", {NFC: 1, "w": 1})
    tiny.folders(tmp_path / "test", {NFD: 1, "w ": 1}, first=9)
    source = load_source(f"folder:{tmp_path}")
    assert tiny.named(source, "test") == [(9, NFC), (10, "w")]


def test_names_in_their_form_are_not_worth_a_word(tiny, tmp_path):
    tiny.folders(tmp_path, {NFC: 1, "東京": 1})
    assert load_task(tmp_path).notes == ()


def test_class_orders_superclasses_and_tests_take_any_spelling(tiny, tmp_path):
    source = Source.build(
        "made",
        (["x", "y"], [NFC, "w"]),
        modality="text",
        superclasses={NFD: "drink ", "w": "letter"},
        order=[NFD, "w"],
    )
    assert source.classes == (NFC, "w") and source.superclasses == {NFC: "drink", "w": "letter"}
    for text in (f"w \n{NFD}\n", json.dumps(["w ", NFD]), json.dumps([["w "], [NFD]])):
        (tmp_path / "order").write_text(text, encoding="utf-8")
        assert split(source, class_order_file=tmp_path / "order").classes == ("w", NFC)
    tests = [Task("t", (NFC, "w"), Samples(["x", "y"], [0, 1]), modality="text")]
    found = regroup(tests, {"old ": [NFD], "": ["w "]})
    assert [(task.name, task.classes) for task in found] == [("old ", (NFC,)), ("", ("w",))], (
        "as models of old know it"
    )


def test_a_task_keeps_its_name_and_classes_in_one_form():
    task = Task(f" {NFD} ", [NFD, "w "], Samples([1, 2], [0, 1]))  # type: ignore[arg-type]
    assert (task.name, task.classes) == (NFC, (NFC, "w"))
    assert task.notes == (f"class names kept without spaces around them and in composed Unicode (NFC): {NFC}, w",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "has an empty name"),
        (" \t", "has an empty name"),
        (LATIN, r"is called 'caf\\xe9', which is not Unicode text"),
        (CUT, r"is called '\\ud83d', which is not Unicode text"),
        ("x" * (LONGEST + 1), "has a name of 1001 characters .*at most 1000"),
        (3, "is 3, which is no text"),
    ],
)
def test_what_cannot_be_a_name(tiny, tmp_path, name, message):
    with pytest.raises(DataError, match=f"a class of task 't' {message}"):
        Task("t", ("a", name), Samples())
    with pytest.raises(DataError, match=f"the task {message}"):
        Task(name, ("a",), Samples())
    if isinstance(name, str):
        with pytest.raises(DataError, match=f"a class of made {message}"):
            Source.build("made", (["x"], [name]), modality="text")
        tiny.folders(tmp_path, {"a": 1})
        with pytest.raises(UsageError, match=f"the task {message}") as caught:
            load_task(tmp_path, name=name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_labels_that_cannot_be_names_are_refused_when_the_table_is_read(tmp_path):
    for label, message in ((CUT, "not Unicode"), ("x" * 20_000, "at most 1000")):
        with pytest.raises(DataError, match=message):
            load_task(table(tmp_path / "t.jsonl", [label, "fine"]))


def test_a_folder_named_in_another_encoding(tiny, tmp_path):
    tiny.folders(tmp_path / "data", {LATIN: 1, "a": 1})
    with pytest.raises(DataError, match=r"a class of data is called 'caf\\xe9', which is not Unicode text"):
        load_task(tmp_path / "data")
    tiny.folders(tmp_path / LATIN, {"a": 1})
    with pytest.raises(DataError, match=r"the task is called 'caf\\xe9', which is not Unicode text; give it another"):
        load_task(tmp_path / LATIN)
    assert load_task(tmp_path / LATIN, name="coffee").classes == ("a",)


def test_a_file_named_in_another_encoding_is_read_and_named_legibly(tiny, tmp_path):
    tiny.folders(tmp_path, {"a": 1})
    (tmp_path / "a" / f"{LATIN}.png").write_bytes(tiny.image(7))
    (tmp_path / "a" / f"{LATIN}2.png").write_bytes(b"no image")
    train = load_task(tmp_path).train
    usable, (message,) = check(train, "skip")
    assert [tiny.shade(x) for x in usable.inputs] == [0, 7]
    assert r"caf\xe92.png" in message and message.encode()


def test_a_text_with_half_a_character_is_a_bad_sample(tmp_path):
    task = load_task(table(tmp_path / "t.jsonl", ["a", "b"], key="label"))
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": f"good {CUT}", "label": "a"}) + "\n" * 2)
    with pytest.raises(DataError, match="line 1 holds half a character"):
        check(load_task(tmp_path / "t.jsonl").train)
    samples = Samples(["fine", f"cut {CUT}", " ", None, float("nan"), ["no", "text"]], [0] * 6)
    usable, messages = check(samples, "skip", task.classes)
    assert list(usable.inputs) == ["fine"]
    assert [message.partition(" ")[2][1:].strip() for message in messages] == [
        "holds half a character (a lone surrogate), such as a cut emoji; mend or remove it",
        "has no text; fill it in or remove the row",
        "is neither a text nor an image but None; replace or remove it",
        "is neither a text nor an image but nan; replace or remove it",
        "is neither a text nor an image but a list; replace or remove it",
    ]


def test_forms():
    assert canonical(f"  {NFD}\n") == NFC
    assert legible(f"{LATIN}{CUT}é") == r"caf\xe9\ud83dé"
    assert spelled(["w", NFC, "new"], ["w ", NFD, "w"]) == ("w", NFD, "new"), "the exact name goes before another form"


def test_a_source_takes_columns_and_class_names_only():
    frame = pd.DataFrame({"text": ["x", "y"], "label": ["b", "a"], "n": [1, 2]}, index=[1, 0])
    source = Source.build("made", (frame.text, frame.label), modality="text")
    assert [(source.train.inputs[i], source.classes[y]) for i, y in enumerate(source.train.labels)] == [
        ("x", "b"),
        ("y", "a"),
    ]
    with pytest.raises(DataError, match="made: the label 1 is no text"):
        Source.build("made", (frame.text, frame.n), modality="text")


@pytest.mark.parametrize(
    "name", [".", "..", "a/../../b", "..\\b", "\0", "week 1", "Größe", "é" * LONGEST, "e" * LONGEST]
)
def test_any_name_is_that_of_one_file_in_its_folder(tmp_path, name):
    path = tmp_path / file_name(name)
    path.write_text("kept")
    assert [found.name for found in tmp_path.iterdir()] == [path.name] and path.parent == tmp_path
    if len(name) < 10 and name.replace(" ", "").isalnum():
        assert path.name == name


def test_long_names_that_begin_alike_are_different_files():
    assert file_name("x" * 900 + "1") != file_name("x" * 900 + "2")
