"""Tables of every format: separators, headers, labels by one rule, paths of images, rows left out, hostile files."""

import json
import math
import random
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamcl.errors import DataError, HamError, UsageError
from hamcl.streams import check, load_source, load_stream, load_task, parquet
from hamcl.streams.labels import Labels
from hamcl.streams.unlabelled import read_unlabelled


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def lines(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def labels(path, **options):
    """The class of each training row, and the notes."""
    task = load_task(path, **options)
    return [task.classes[y] for y in task.train.labels], " ".join(task.notes)


# --- how a CSV is written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("separator", "word"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "vertical bar")]
)
def test_the_separator_is_seen_from_the_header_and_said(tmp_path, suffix, separator, word):
    rows = [("text", "label"), ("well, that; is | it", "a,b"), ("x", "c;d")]
    content = "".join(separator.join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    task = load_task(write(tmp_path / f"t.{suffix}", content))
    assert list(task.train.inputs) == ["well, that; is | it", "x"] and task.classes == ("a,b", "c;d")
    usual = separator == {"csv": ",", "tsv": "\t"}[suffix]
    assert [note for note in task.notes if "separator" in note] == (
        [] if usual else [f"read a {word} as the separator of {tmp_path / f't.{suffix}'}"]
    )


def test_the_separator_that_shows_the_columns_wins_over_one_that_only_splits(tmp_path):
    path = write(tmp_path / "t.csv", "id;text;label, as agreed, of the team\n1;a, b, c;x\n")
    assert labels(path, label_column="label, as agreed, of the team")[0] == ["x"]


def test_the_separator_that_excel_declares(tmp_path):
    path = write(tmp_path / "t.csv", "sep=;\ntext;label\na;b\nx;\n")
    with pytest.raises(DataError, match="line 4 has no label"):
        load_task(path)
    assert labels(path, on_bad_sample="skip")[0] == ["b"]


@pytest.mark.parametrize("header", ["Text,Label", " text , label ", "TEXT,LABEL\r", "\ufefftext,label"])
def test_a_header_is_read_without_regard_to_case_and_spaces(tmp_path, header):
    assert labels(write(tmp_path / "t.csv", f"{header}\na,b\n"))[0] == ["b"]
    if "\r" not in header and "\ufeff" not in header:
        assert labels(lines(tmp_path / "t.jsonl", [dict(zip(header.split(","), "ab", strict=True))]))[0] == ["b"]
        table = pa.table(dict(zip(header.split(","), (["a"], ["b"]), strict=True)))
        pq.write_table(table, tmp_path / "t.parquet")
        assert labels(tmp_path / "t.parquet")[0] == ["b"]


def test_a_split_is_named_without_regard_to_case(tmp_path):
    task = load_task(write(tmp_path / "t.csv", "text,label,Split\na,b,Train\nc,b,TEST \nd,b,\n"))
    assert (list(task.train.inputs), list(task.test.inputs)) == (["a", "d"], ["c"])


def test_a_file_that_excel_wrote_in_utf_16(tmp_path):
    (tmp_path / "t.tsv").write_text("text\tlabel\ncafé\tb\n", encoding="utf-16")
    assert list(load_task(tmp_path / "t.tsv").train.inputs) == ["café"]


def test_long_fields(tmp_path):
    import csv

    before, text = csv.field_size_limit(), "word " * 40_000
    task = load_task(write(tmp_path / "t.csv", f"text,label\n{text},b\n"))
    assert task.train.inputs[0] == text and csv.field_size_limit() == before


@pytest.mark.parametrize("text", ['a,b\n"open,c\nd,e\n', 'a,b\n"x"y,c\n'])
def test_a_quotation_mark_that_is_not_closed_is_named(tmp_path, text):
    with pytest.raises(DataError, match=r"t\.csv, line 3 cannot be read .*quotation mark"):
        load_task(write(tmp_path / "t.csv", f"text,label\n{text}"))


def test_tabs_without_quoting_leave_quotation_marks_as_they_stand(tmp_path):
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"quoted" start\ta\nsay "hi"\tb\n"never closed\tc\n')
    task = load_task(path)
    assert list(task.train.inputs) == ['"quoted" start', 'say "hi"', '"never closed']
    assert "its quotation marks are read as they stand" in " ".join(task.notes)
    with pytest.raises(DataError, match="quotation mark that is not closed"):
        load_task(write(tmp_path / "q.tsv", '"text"\t"label"\n"quoted" start\t"a"\n'))


def test_rows_that_a_quotation_mark_may_have_swallowed_are_said(tmp_path):
    path = write(tmp_path / "t.tsv", 'text\tlabel\n"one\ta\ntwo\tb\nthree"\tc\nfour\td\n')
    found, notes = labels(path)
    assert found == ["c", "d"] and "line 2 has a quoted text that holds line breaks and separators (1 such" in notes
    assert labels(write(tmp_path / "t.csv", 'text,label\n"one,\ntwo",b\n')) == (["b"], "")


@pytest.mark.parametrize("declared", ["sep=x", 'sep="', "sep= "])
def test_a_separator_that_is_none_is_no_declaration(tmp_path, declared):
    with pytest.raises(DataError, match="has the columns"):
        load_task(write(tmp_path / "t.csv", f"{declared}\ntext,label\na,b\n"))


def test_a_path_given_for_a_stream_is_recognised(tmp_path):
    for path, source in (
        (write(tmp_path / "t.csv", "text,label\na,b\n"), "text"),
        (save(tmp_path / "t.parquet", {"text": ["a"], "label": ["b"]}), "parquet"),
        (write(tmp_path / "s" / "dataset_dict.json", "{}").parent, "hub"),
        (tmp_path, "folder"),
    ):
        with pytest.raises(UsageError, match=f"did you mean {source}:{path}"):
            load_stream(str(path))


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv, line 4 has no label"):
        load_task(write(tmp_path / "t.csv", 'text,label\n"one\ntwo",b\n"three\nfour",\n'))


def test_empty_columns_at_the_end_are_left_alone(tmp_path):
    assert labels(write(tmp_path / "t.csv", "text,label,,\na,b,,\nc,d,,,,\n"))[0] == ["b", "d"]


@pytest.mark.parametrize(
    "header", ["text,label,label", "text,text,label", "Text,text,label", "text,label,split,Split"]
)
def test_a_column_that_is_there_twice_is_refused(tmp_path, header):
    cells = ",".join("train" for _ in header.split(","))
    with pytest.raises(DataError, match="has 2 columns called"):
        load_task(write(tmp_path / "t.csv", f"{header}\n{cells}\n"))


def test_a_column_that_is_there_twice_in_other_formats(tmp_path):
    write(tmp_path / "t.jsonl", '{"text": "a", "label": "b", "label": "c"}\n')
    with pytest.raises(DataError, match=r"line 1 is not valid JSON .*'label' twice"):
        load_task(tmp_path / "t.jsonl")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["text", "label", "Label"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has 2 columns called"):
        load_task(tmp_path / "t.parquet")


# --- which columns ------------------------------------------------------------------------------------------------


def save(path, columns):
    """The same table in the format of the path's suffix."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
        return path
    if path.suffix == ".jsonl":
        return lines(path, rows)
    table = [list(columns), *zip(*columns.values(), strict=True)]
    return write(path, "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in table))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_can_be_chosen(tmp_path, suffix):
    columns = {"Body": ["a", "b"], "label": ["no", "no"], "Team": ["x", "y"], "text": ["no", "no"]}
    path = save(tmp_path / f"t{suffix}", columns)
    task = load_task(path, text_column="body", label_column="TEAM")
    assert (list(task.train.inputs), task.classes) == (["a", "b"], ("x", "y"))
    source = load_source(f"{'parquet' if suffix == '.parquet' else 'text'}:{path}", text_column="Body")
    assert (list(source.train.inputs), source.classes) == (["a", "b"], ("no",))
    (stream,) = load_stream(f"text:{path}" if suffix != ".parquet" else f"parquet:{path}", label_column="Team")
    assert set(stream.classes) == {"x", "y"}
    for options, message in (
        ({"text_column": "bod"}, "text_column is 'bod', no column of .*choose from Body, label, Team, text"),
        ({"label_column": "tem"}, "label_column is 'tem', no column of"),
        ({"label_column": "text"}, "cannot hold both the samples and the labels"),
    ):
        with pytest.raises(UsageError, match=message):
            load_task(path, **options)


def test_columns_cannot_be_chosen_where_there_is_no_table(tiny, tmp_path):
    tiny.folders(tmp_path / "f", {"a": 1})
    with pytest.raises(UsageError, match="not read from a table; leave label_column out"):
        load_task(tmp_path / "f", label_column="x")


def test_the_message_for_a_table_of_texts_offers_no_columns_of_images(tmp_path):
    with pytest.raises(DataError) as caught:
        load_task(write(tmp_path / "t.csv", "words,label\na,b\n"))
    assert "text_column" in str(caught.value) and "image" not in str(caught.value) and "img" not in str(caught.value)
    with pytest.raises(DataError, match=r"columns text, team; .* label_column which holds the labels"):
        load_task(write(tmp_path / "t.csv", "text,team\na,b\n"))


def test_a_choice_among_columns_is_said(tmp_path):
    path = save(tmp_path / "t.csv", {"text": ["a"], "content": ["b"], "label": ["x"], "class": ["y"]})
    found, notes = labels(path)
    assert found == ["x"] and "texts in the column text of" in notes and "labels in the column label of" in notes
    assert "not content" in notes and "not class" in notes


# --- one rule for labels ------------------------------------------------------------------------------------------


def all_formats(tmp_path, cells):
    """The classes that the same cells give in CSV, JSON lines and parquet."""
    texts = [f"text {i}" for i in range(len(cells))]
    found = [labels(lines(tmp_path / "t.jsonl", [{"text": t, "label": y} for t, y in zip(texts, cells, strict=True)]))]
    written = [y if isinstance(y, str) else json.dumps(y) for y in cells]
    quoted = [y.replace('"', '""') for y in written]
    found.append(labels(save(tmp_path / "t.csv", {"text": texts, "label": quoted})))
    try:
        pq.write_table(pa.table({"text": texts, "label": cells}), tmp_path / "t.parquet")
        found.append(labels(tmp_path / "t.parquet"))
    except pa.ArrowException:  # a parquet column has one type
        pq.write_table(pa.table({"text": texts, "label": written}), tmp_path / "t.parquet")
        found.append(labels(tmp_path / "t.parquet"))
    return found


WHOLE, CHOICE = "are read as whole numbers", "are read as the one choice they hold"


@pytest.mark.parametrize(
    ("cells", "expected", "note"),
    [
        (["b", "a", "b"], ["b", "a", "b"], ""),
        ([10, 9, 10], ["10", "9", "10"], ""),
        ([1.0, 2.0, 1.0], ["1", "2", "1"], WHOLE),
        (["1.0", "2.00", "1"], ["1", "2", "1"], WHOLE),
        ([1.5, 2.0, 2.5], ["1.5", "2", "2.5"], WHOLE),
        ([True, False, True], ["true", "false", "true"], ""),
        ([True, 1, 1.0, "1", "true"], ["true", "1", "1", "1", "true"], WHOLE),
        (["v1.0", "3.10", "03"], ["v1.0", "3.10", "03"], ""),
        ([["a"], ["b"]], ["a", "b"], CHOICE),
        (['["a"]', "['b']"], ["a", "b"], CHOICE),
        ([{"choices": ["billing"]}, {"choices": ["urgent"]}], ["billing", "urgent"], CHOICE),
        (
            ['{"choices": ["billing"]}', "{'choices': 'urgent'}", "plain"],
            ["billing", "urgent", "plain"],
            CHOICE,
        ),
        (["[other]", "{x", "[]]"], ["[other]", "{x", "[]]"], ""),
    ],
)
def test_a_label_means_the_same_in_every_format(tmp_path, cells, expected, note):
    for found, notes in all_formats(tmp_path, cells):
        assert found == expected
        assert [words for words in (WHOLE, CHOICE) if words in notes] == [note] * bool(note)


def test_classes_have_the_same_order_in_every_format(tmp_path):
    for path in (
        save(tmp_path / "t.csv", {"text": list("abcd"), "label": ["10", "b", "9", "a"]}),
        lines(tmp_path / "t.jsonl", [{"text": "a", "label": y} for y in (10, "b", 9, "a")]),
    ):
        assert load_task(path).classes == ("9", "10", "a", "b")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"choices": ["billing", "urgent"]}, r"holds 2 labels \(billing, urgent\); a sample has one class"),
        (["billing", "urgent"], "holds 2 labels"),
        ('{"choices": ["billing", "urgent"]}', "holds 2 labels"),
        ("['billing', 'urgent']", "holds 2 labels"),
        ({"billing": 1, "urgent": 0}, "is the structure .*; write the name of one class"),
        ({"choices": ["a"], "label": "b"}, "is the structure"),
        ([[[[[[[[[["a"]]]]]]]]]], "is .*must be a text, a number or one choice"),
        (math.inf, "is inf, which is no class"),
    ],
)
def test_what_is_no_one_label_is_refused_with_the_row(tmp_path, cell, reason):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": cell}, {"text": "c", "label": "y"}]
    path = lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(DataError, match=f"t.jsonl, line 2: label {reason}"):
        load_task(path)
    found, notes = labels(path, on_bad_sample="skip")
    assert (
        found == ["x", "y"] and f"left out 1 of 3 rows, which have no usable label; the first: {path}, line 2" in notes
    )
    if isinstance(cell, str):
        with pytest.raises(DataError, match=f"t.csv, line 2: label {reason}"):
            load_task(save(tmp_path / "t.csv", {"text": ["a"], "label": [cell.replace('"', '""')]}))


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([0, 1.0, -1, None, math.nan, [1], [], [1, 1]], ["x", "y", None, None, None, "y", None, "y"]),
        ([True, "a", 5, math.inf, 0.5, [0, 1], [[0]], {"choices": [0]}], [None] * 8),
    ],
)
def test_numbers_that_stand_for_class_names(cells, names):
    read = Labels.read(cells, ["x", "y"])
    assert read.names == names
    assert sorted(read.problems) == ([] if names[0] else list(range(8)))


def test_labels_that_are_hardly_ever_met():
    cells = [
        Decimal("1.0"),
        Decimal("1.5"),
        1e300,
        -0.0,
        b"x",
        date(2020, 1, 1),
        {},
        "[]",
        {"choices": []},
        ["a", "a"],
    ]
    read = Labels.read(cells)
    assert read.names == ["1", "1.5", "1e+300", "0", None, None, None, None, None, "a"]
    assert sorted(read.problems) == [4, 5]


def test_two_labels_in_a_list_column_of_parquet(tmp_path):
    names = {"label": {"feature": {"names": ["joy", "fear"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    for cells, kind in (([[0], [1, 0]], pa.list_(pa.int64())), ([["joy"], ["fear", "joy"]], pa.list_(pa.string()))):
        table = pa.table({"text": ["a", "b"], "label": pa.array(cells, kind)})
        if kind == pa.list_(pa.int64()):
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})
        pq.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(DataError, match=r"row 1: label holds 2 labels \(fear, joy\)"):
            load_task(tmp_path / "t.parquet")
        assert labels(tmp_path / "t.parquet", on_bad_sample="skip")[0] == ["joy"]


def test_a_struct_column_of_parquet_is_its_choice(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [{"choices": ["x"]}]}), tmp_path / "t.parquet")
    assert labels(tmp_path / "t.parquet")[0] == ["x"]


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "b", "a "], ["caf\u00e9", "b", "cafe\u0301"]])
def test_class_names_that_repeat_are_refused(tiny, tmp_path, names):
    tiny.parquet(tmp_path / "t.parquet", [tiny.image(i) for i in range(3)], [0, 1, 2], names)
    with pytest.raises(DataError, match="give several numbers of the column label one class name"):
        load_task(tmp_path / "t.parquet")


# --- rows without a label ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("empty", [None, "", " "])
def test_rows_without_a_label_are_left_out_or_refused(tmp_path, suffix, empty):
    cells = ["x", "" if empty is None and suffix == ".csv" else empty, "y"]
    path = save(tmp_path / f"t{suffix}", {"text": ["a", "b", "c"], "label": cells})
    with pytest.raises(DataError, match=r"(line [23]|row 1) has no label"):
        load_task(path)
    task = load_task(path, on_bad_sample="skip")
    assert list(task.train.inputs) == ["a", "c"] and task.classes == ("x", "y")
    assert "left out 1 of 3 rows" in " ".join(task.notes)
    with pytest.raises(UsageError, match="on_bad_sample is 'drop'"):
        load_task(path, on_bad_sample="drop")


def test_rows_that_cannot_be_read_are_left_out_like_those_without_a_label(tmp_path):
    path = write(tmp_path / "t.csv", "text,label\na,x\nb,x,too much\nc,y\n")
    assert labels(path, on_bad_sample="skip")[0] == ["x", "y"]
    path = write(tmp_path / "t.jsonl", '{"text": "a", "label": "x"}\n{"text"\n[1]\n{"text": "b", "label": NaN}\n')
    found, notes = labels(path, on_bad_sample="skip")
    assert found == ["x"] and "left out 3 of 4 rows" in notes and "line 2 is not valid JSON" in notes


def test_a_test_split_without_labels_is_said(tmp_path):
    (tmp_path / "t").mkdir()
    save(tmp_path / "t" / "train.csv", {"text": ["a"], "label": ["x"]})
    save(tmp_path / "t" / "test.csv", {"text": ["b"], "label": [""]})
    task = load_task(tmp_path / "t")
    assert len(task.test) == 0 and "left out the split test, which has no labels" in task.notes


def test_files_of_a_folder_may_name_their_columns_differently(tmp_path):
    save(tmp_path / "t" / "train.csv", {"Text": ["a"], "Label": ["x"]})
    lines(tmp_path / "t" / "test.jsonl", [{"sentence": "b", "class": "x"}])
    task = load_task(tmp_path / "t")
    assert (list(task.train.inputs), list(task.test.inputs)) == (["a"], ["b"])
    lines(tmp_path / "t" / "train.jsonl", [{"sentence": "c", "class": "x"}])
    task = load_task(tmp_path / "t")
    assert list(task.train.inputs) == ["a", "c"]
    assert "read train.csv, train.jsonl as one split, train" in task.notes


# --- tables of images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["image", "Image", "img", "file_name", "image_path"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_of_paths_is_a_table_of_images(tiny, tmp_path, suffix, column):
    tiny.folders(tmp_path / "t" / "pictures", {"p": 2}, first=7)
    paths = ["pictures/p/0.png", str(tmp_path / "t" / "pictures" / "p" / "1.png")]
    task = load_task(save(tmp_path / "t" / f"list{suffix}", {column: paths, "label": ["b", "a"]}))
    assert (task.modality, task.augmentation, task.classes) == ("image", "photo", ("a", "b"))
    assert tiny.contents(task.train) == [(7, 1), (8, 0)]


def test_paths_in_the_struct_of_an_image_column(tiny, tmp_path):
    (tmp_path / "0.png").write_bytes(tiny.image(5))
    structs = pa.array([{"bytes": None, "path": "0.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pa.table({"image": structs, "label": ["a"]}), tmp_path / "t.parquet")
    assert tiny.contents(load_task(tmp_path / "t.parquet").train) == [(5, 0)]


def test_paths_that_cannot_be_read_are_bad_samples(tiny, tmp_path):
    (tmp_path / "0.png").write_bytes(tiny.image(5))
    cells = ["0.png", "gone.png", "", "https://example.org/0.png"]
    inputs = load_task(save(tmp_path / "t.csv", {"image": cells, "label": list("abcd")})).train.inputs
    assert tiny.shade(inputs[0]) == 5
    for i, message in ((1, "line 3: .*gone.png cannot be read"), (2, "line 4 names no image"), (3, "is an address")):
        with pytest.raises(DataError, match=message):
            inputs[i]


def test_paths_that_windows_wrote(tiny, tmp_path):
    tiny.folders(tmp_path, {"a": 1}, first=3)
    path = lines(tmp_path / "t.jsonl", [{"image": "a\\0.png", "label": "x"}])
    assert tiny.contents(load_task(path).train) == [(3, 0)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_names_of_images_are_never_texts(tmp_path, suffix):
    path = save(tmp_path / f"t{suffix}", {"content": ["a/0.png", "b/1.JPG"], "label": ["x", "y"]})
    with pytest.raises(DataError, match=r"holds names of image files .*call it image"):
        load_task(path)
    with pytest.raises(DataError, match=r"holds names of image files .*choose another column"):
        load_task(path, text_column="content")


def test_images_go_before_texts_unless_the_texts_are_asked_for(tiny, tmp_path):
    (tmp_path / "0.png").write_bytes(tiny.image(5))
    path = save(tmp_path / "t.csv", {"image": ["0.png"], "text": ["a bird"], "label": ["x"]})
    task = load_task(path)
    assert task.modality == "image" and "its texts are read with text_column=text" in " ".join(task.notes)
    assert list(load_task(path, text_column="text").train.inputs) == ["a bird"]


# --- what `save_to_disk` writes ------------------------------------------------------------------------------------


def test_saved_data_sets_are_read_by_path(tiny, tmp_path, monkeypatch):
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    part = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    part.save_to_disk(tmp_path / "one")
    test = datasets.Dataset.from_dict({"text": ["z"], "label": [1]}, features=features)
    datasets.DatasetDict(train=part, test=test).save_to_disk(tmp_path / "two: both")
    for name in ("one", "two: both"):
        task = load_task(tmp_path / name)
        assert (task.name, task.classes, task.modality) == (name, ("b", "a"), "text")
        assert tiny.contents(task.train) == [("x", 1), ("y", 0)]
        assert tiny.contents(task.test) == ([("z", 1)] if name != "one" else [])
    monkeypatch.chdir(tmp_path / "one")
    assert load_task(".").name == "one"


def test_saved_images_are_read_by_path(tiny, tmp_path):
    import datasets

    (tmp_path / "0.png").write_bytes(tiny.image(6))
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"image": [str(tmp_path / "0.png")], "label": ["a"]}, features=features)
    made.save_to_disk(tmp_path / "saved")
    task = load_task(tmp_path / "saved")
    assert (task.modality, tiny.contents(task.train)) == ("image", [(6, 0)])


def test_a_saved_data_set_that_is_damaged_is_one_sentence(tmp_path):
    write(tmp_path / "s" / "dataset_dict.json", "{")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_task(tmp_path / "s")
    assert "\n" not in str(caught.value)


# --- hostile files -------------------------------------------------------------------------------------------------


def test_deeply_nested_json_is_a_sentence(tmp_path):
    deep = "[" * 20_000 + "]" * 20_000
    write(tmp_path / "t.jsonl", f'{{"text": "a", "label": "x"}}\n{{"text": "b", "label": {deep}}}\n')
    with pytest.raises(DataError, match="line 2 is nested too deeply"):
        load_task(tmp_path / "t.jsonl")
    lines(tmp_path / "t.jsonl", [{"text": "b", "label": deep[:8_000] + deep[-8_000:]}])
    with pytest.raises(DataError, match="line 1: label is a structure of 16,000 characters"):
        load_task(tmp_path / "t.jsonl")
    short = "[" * 4_000 + "]" * 4_000
    assert Labels.read([short, "a"]).names[1] == "a"
    table = pa.table({"text": ["a"], "label": ["b"]}).replace_schema_metadata({"huggingface": deep})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"metadata 'huggingface' of .* is no JSON"):
        load_task(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "metadata",
    [
        *("null", "[]", "3", '{"info": null}', '{"info": []}', '{"info": {"features": null}}'),
        *('{"info": {"features": [1]}}', '{"info": {"features": {"label": null, "text": 3}}}'),
        *('{"info": {"features": {"label": ["x"], "text": {"_type": ["Image"]}}}}',),
        '{"info": {"features": {"label": {"_type": "Sequence"}}}}',
    ],
)
def test_odd_metadata_say_nothing_about_the_columns(tmp_path, metadata):
    table = pa.table({"text": ["a", "b"], "label": ["x", "y"]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    assert labels(tmp_path / "t.parquet")[0] == ["x", "y"]


@pytest.mark.parametrize("names", [None, [], [1, 2], "ab", {"0": "a"}, [None]])
def test_class_names_that_are_none_are_refused(tmp_path, names):
    metadata = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
    table = pa.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="call the column label a class label, but its class names are"):
        load_task(tmp_path / "t.parquet")


def test_more_rows_than_a_file_can_mean_are_refused(tmp_path):
    numbers = pa.repeat(pa.scalar(0, pa.int32()), 200_000)
    texts = pa.DictionaryArray.from_arrays(numbers, pa.array(["hello"]))
    pq.write_table(pa.table({"text": texts, "label": numbers}), tmp_path / "t.parquet")
    for spec in (f"parquet:{tmp_path / 't.parquet'}", f"hub:{tmp_path}"):
        with pytest.raises(DataError, match=r"says that it holds 200,000 rows in [\d,]+ bytes, more than are read"):
            load_source(spec)


def test_what_a_file_holds_once_stays_once_in_memory(tmp_path):
    rows = 3_000
    numbers = pa.repeat(pa.scalar(0, pa.int32()), rows)
    texts = pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 2**20]))
    noise = pa.array([str(hash(i)) * 3 for i in range(rows)])
    pq.write_table(pa.table({"text": texts, "label": texts, "noise": noise}), tmp_path / "t.parquet")
    before = pa.total_allocated_bytes()
    source = load_source(f"parquet:{tmp_path / 't.parquet'}", label_column="noise")
    assert pa.total_allocated_bytes() - before < 2**26 and len(source.train) == rows
    assert len(source.train.inputs[rows - 1]) == 2**20


def test_bytes_that_unpack_too_far_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_UNPACKED", 3)
    for size in (2**20, 2**22):
        pq.write_table(pa.table({"text": [" " * size + "a"], "label": ["a"]}), tmp_path / f"{size}.parquet")
    assert len(load_task(tmp_path / f"{2**20}.parquet").train) == 1
    with pytest.raises(DataError, match="says that they unpack to 4,"):
        load_task(tmp_path / f"{2**22}.parquet")


def test_deeply_nested_json_is_a_sentence_wherever_json_is_read(tmp_path):
    from hamcl.config import read_options, read_value
    from hamcl.nn.backbones import load_backbone
    from hamcl.plain import read_json

    deep = write(tmp_path / "config.json", "[" * 20_000 + "]" * 20_000)
    yaml = write(tmp_path / "options.yaml", "[" * 400 + "]" * 400)
    rows = lines(tmp_path / "t.jsonl", [{"text": "a", "label": "x"}])
    for read, error in (
        (lambda: load_stream(f"text:{rows}", class_order_file=deep), DataError),
        (lambda: read_json(deep), DataError),
        (lambda: read_options(yaml), UsageError),
        (lambda: load_backbone(str(tmp_path)), UsageError),
    ):
        with pytest.raises(error) as caught:
            read()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert read_value("[" * 400) == "[" * 400
    assert read_value("2001-99-99") == "2001-99-99", "no date is a text"


# --- samples without labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_samples_are_read_without_labels(tiny, tmp_path, suffix):
    (tmp_path / "0.png").write_bytes(tiny.image(5))
    path = save(tmp_path / f"t{suffix}", {"image": ["0.png", "gone.png"], "Text": ["a bird", ""]})
    found = read_unlabelled(path, "text")
    assert (found.names[0], found.inputs[0]) == ("a bird", "a bird")
    assert found.names[1].startswith(f"{path}, ") and len(found.names) == 2
    with pytest.raises(DataError, match="has no text"):
        found.inputs[1]
    found = read_unlabelled(path, "image")
    assert tiny.shade(found.inputs[0]) == 5
    with pytest.raises(DataError, match=r"gone\.png"):
        found.inputs[1]
    other = save(tmp_path / f"o{suffix}", {"body": ["x"], "n": [1]})
    assert list(read_unlabelled(other, "text", "Body").inputs) == ["x"]
    with pytest.raises(DataError, match="holds texts, but the model reads images"):
        read_unlabelled(other, "image", "body")
    with pytest.raises(DataError, match="has the columns body, n"):
        read_unlabelled(other, "text")


def test_rows_that_cannot_be_read_are_bad_samples_where_labels_do_not_matter(tmp_path):
    found = read_unlabelled(write(tmp_path / "t.jsonl", '{"text": "a"}\n{"text"\n{"text": "b"}\n'), "text")
    assert found.names == ["a", f"{tmp_path / 't.jsonl'}, line 2", "b"] and found.inputs[2] == "b"
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        found.inputs[1]
    assert read_unlabelled(write(tmp_path / "e.csv", "text\n"), "text").names == []


def test_a_named_pipe_is_no_table(tmp_path):
    import os

    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DataError, match="is no file"):
        load_source(f"text:{tmp_path / 't.csv'}")


# --- the same rules through the `datasets` library -----------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "data"


def test_the_hub_follows_the_same_rules(tiny, hub_cache):
    hub_cache.mkdir()
    rows = {"Body": ["a", "b", "c"], "Team": [["x"], ["y", "x"], []], "label": [1.0, 2.0, None]}
    save(hub_cache / "train.jsonl", rows)
    source = load_source(f"hub:{hub_cache}", text_column="body", on_bad_sample="skip")
    assert tiny.named(source, "train") == [("a", "1"), ("b", "2")]
    assert "are read as whole numbers" in " ".join(source.notes) and "left out 1 of 3 rows" in " ".join(source.notes)
    with pytest.raises(DataError, match=r"sample 1: Team holds 2 labels \(y, x\)"):
        load_source(f"hub:{hub_cache}", text_column="body", label_column="team")
    with pytest.raises(UsageError, match="no column of"):
        load_source(f"hub:{hub_cache}", text_column="bodies")


def test_the_hub_reads_paths_of_images(tiny, hub_cache):
    tiny.folders(hub_cache / "pictures", {"p": 1}, first=7)
    save(hub_cache / "train.csv", {"image": ["pictures/p/0.png"], "label": ["x"]})
    source = load_source(f"hub:{hub_cache}")
    assert (source.modality, tiny.named(source, "train")) == ("image", [(7, "x")])


# --- damaged files -------------------------------------------------------------------------------------------------


def damaged(content, draw):
    """The bytes with a few of them changed, taken out or put in."""
    found = bytearray(content)
    for _ in range(draw.choice([1, 2, 5])):
        i, how = draw.randrange(len(found)), draw.random()
        if how < 0.6:
            found[i] = draw.randrange(256)
        elif how < 0.8:
            del found[i : i + draw.randrange(1, 9)]
        else:
            found[i:i] = draw.choice([b'"', b"\0", b"[[[", b"{", b"NaN", b"1e999", b"\xff\xfe", b"null", b"\n"])
    return bytes(found)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "plain parquet", "saved"])
def test_a_damaged_file_is_read_or_refused_in_a_sentence(tmp_path, kind):
    draw = random.Random(kind)
    columns = {"text": ["x", "yy", "x"], "label": ["a", "b", "a"]}
    path = tmp_path / f"t.{kind.split()[-1]}"
    if kind == "csv":
        path.write_text('text;label;split\n"a;b";x;train\nc;"[""x""]";test\n')
    elif kind == "jsonl":
        lines(path, [{"text": "a", "label": {"choices": ["x"]}}, {"text": "b", "label": 1.0}])
    elif kind == "parquet":
        names = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}})
        table = pa.table({"text": columns["text"], "label": [0, 1, 0]})
        pq.write_table(table.replace_schema_metadata({"huggingface": names}), path)
    elif kind == "plain parquet":
        pq.write_table(pa.table(columns), path, compression="none", use_dictionary=False)
    else:
        import datasets

        datasets.disable_progress_bars()
        path = tmp_path / "saved"
        datasets.Dataset.from_dict(columns).save_to_disk(path)
    whole = {file: file.read_bytes() for file in ([path] if path.is_file() else path.iterdir())}
    for _ in range(20 if kind == "saved" else 60):
        file = draw.choice(list(whole))
        file.write_bytes(damaged(whole[file], draw))
        try:
            task = load_task(path, on_bad_sample="skip")
            check(task.train, "skip", task.classes)
        except HamError as error:
            assert "\n" not in str(error)
        file.write_bytes(whole[file])
    assert len(load_task(path).train), "it can be read when it is whole"


def test_texts_of_parquet_that_are_no_unicode_are_refused(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xb3")])
    pq.write_table(pa.table({"text": bad, "label": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="Invalid UTF8"):
        load_task(tmp_path / "t.parquet")


def test_a_table_of_texts_knows_superclasses(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("text,label,superclass\na cat,cat,animal\na dog,dog,animal\na car,car,vehicle\n")
    source = load_source(f"text:{file}")
    assert source.superclasses == {"cat": "animal", "dog": "animal", "car": "vehicle"}
