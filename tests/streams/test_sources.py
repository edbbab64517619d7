"""The sources anybody can use: folders, parquet files, text tables, the hub, and the packaged data sets."""

import contextlib
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hamcl.errors import DataError, UsageError
from hamcl.streams import SOURCES, load_source, load_stream
from hamcl.streams.source import Request

# --- specifications ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("digit", {}, "did you mean digits"),
        ("cifar10", {}, "did you mean cifar100"),
        ("", {}, "there is no source ''"),
        ("digits:here", {}, "takes no path"),
        ("digits", {"data_dir": "here"}, "takes no path"),
        ("folder", {}, "needs a path"),
        ("parquet", {}, "needs a path"),
        ("text", {}, "needs a path"),
        ("hub", {}, "needs an ID"),
        ("omniglot", {}, "needs a path"),
        ("folder:x", {"data_dir": "y"}, "leave data_dir out"),
        ("digits", {"train_shards": 1}, "leave train_shards out"),
        ("digits", {"task": 3}, "no option 'task'; did you mean tasks"),
        ("digits", {"tasks": 11}, "10 classes, too few"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_sentence(spec, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_stream(spec, **options)
    assert "\n" not in str(caught.value)


def test_a_bare_folder_is_recognised(tmp_path):
    with pytest.raises(UsageError, match=f"did you mean folder:{tmp_path}"):
        load_stream(str(tmp_path))


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"digits", "icd10", "hub"}))
def test_a_path_that_is_not_there_is_named(name):
    with pytest.raises(DataError, match="there is no file or folder '/no/such/place'"):
        load_source(f"{name}:/no/such/place")


# --- digits and icd10 -------------------------------------------------------------------------------------------


def test_digits():
    source = load_source("digits")
    assert (len(source.classes), len(source.train), len(source.test)) == (10, 1348, 449)
    assert source.augmentation == "handwriting"
    assert min(source.train.labels.count(y) for y in range(10)) > 100
    extremes = [image.getextrema()[0] for image in source.train.inputs[:50]]
    assert min(low for low, _ in extremes) == 0  # ink is black
    assert {high for _, high in extremes} == {255}  # paper is white
    stream = load_stream("digits", tasks=5, seed=1)
    assert [len(task.classes) for task in stream] == [2] * 5


def test_icd10():
    source = load_source("icd10")
    assert source.modality == "text"
    assert len(source.classes) > 150
    train, test = ([text.casefold() for text in part.inputs] for part in (source.train, source.test))
    assert len(train) == len(set(train))
    assert not set(train) & set(test)
    n_train, n_test = Counter(source.train.labels), Counter(source.test.labels)
    for y in range(len(source.classes)):
        assert n_train[y] + n_test[y] >= 40
        assert n_test[y] == min(20, (n_train[y] + n_test[y]) // 4)
    assert set(source.superclasses) == set(source.classes)
    assert 15 < len(set(source.superclasses.values())) <= 22
    assert source.superclasses["A00-A09 Intestinal infectious diseases"].startswith("1 Certain infectious")
    stream = load_stream("icd10", tasks=4, classes_per_task=3, class_order="superclass", train_per_class=30)
    assert {len(task.train) for task in stream} == {90}
    assert set(stream.superclasses) == set(stream.classes)


def test_icd10_takes_each_text_once_and_only_large_blocks(monkeypatch):
    leaves = {f"A{i}": f"Text {i}" for i in range(48)} | {f"B{i}": f"TEXT {i}" for i in range(40)}
    leaves |= {f"C{i}": f"Other {i}" for i in range(39)}
    monkeypatch.setitem(
        sys.modules,
        "simple_icd_10_cm",
        SimpleNamespace(
            get_all_codes=lambda with_dots: ["1", "A", "B", "C", *leaves],
            is_leaf=lambda code: code in leaves,
            is_block=lambda code: code in ("A", "B", "C"),
            get_ancestors=lambda code: [code[0], "1"],
            get_description=lambda code, prioritize_blocks=False: leaves.get(code, f"Name of {code} (x-y)"),
        ),
    )
    source = load_source("icd10")
    assert source.classes == ("A Name of A",)  # B repeats the texts of A, C has too few
    assert source.superclasses == {"A Name of A": "1 Name of 1"}
    assert (len(source.train), len(source.test)) == (36, 12)


# --- folders ----------------------------------------------------------------------------------------------------


def test_folder_of_classes(tiny, tmp_path, monkeypatch):
    tiny.folders(tmp_path / "birds", {"Robin": 3, "eagle": 2})
    source = load_source(f"folder:{tmp_path / 'birds'}")
    assert (source.name, source.classes, source.augmentation) == ("birds", ("Robin", "eagle"), "photo")
    assert tiny.named(source, "train") == [(0, "Robin"), (1, "Robin"), (2, "Robin"), (3, "eagle"), (4, "eagle")]
    assert len(source.test) == 0
    assert load_source("folder", data_dir=tmp_path / "birds").classes == source.classes
    monkeypatch.chdir(tmp_path / "birds")
    assert load_source("folder:.").name == "birds"


@pytest.mark.parametrize(("present", "used"), [(["test"], "test"), (["val"], "val"), (["val", "test"], "test")])
def test_folder_with_splits(tiny, tmp_path, present, used):
    tiny.folders(tmp_path / "train", {"a": 2, "b": 1})
    for i, split in enumerate(present, 1):
        tiny.folders(tmp_path / split, {"b": 1}, first=10 * i)
    source = load_source(f"folder:{tmp_path}")
    assert tiny.named(source, "train") == [(0, "a"), (1, "a"), (2, "b")]
    assert tiny.named(source, "test") == [(10 * (1 + present.index(used)), "b")]


def test_a_class_may_be_called_train(tiny, tmp_path):
    tiny.folders(tmp_path, {"bus": 1, "train": 2, "test": 1})
    assert load_source(f"folder:{tmp_path}").classes == ("bus", "test", "train")


def test_a_folder_does_not_depend_on_the_order_of_listing(tiny, tmp_path, monkeypatch):
    tiny.folders(tmp_path, {f"class {i}": 4 for i in range(6)})
    options = {"tasks": 3, "val_fraction": 0.3, "seed": 4}

    def view():
        stream = load_stream(f"folder:{tmp_path}", **options)
        return [(task.classes, *(tiny.contents(s) for s in (task.train, task.val, task.test))) for task in stream]

    expected = view()
    original = os.scandir

    def shuffled(path):
        with original(path) as entries:
            found = list(entries)
        random.Random(len(found)).shuffle(found)
        return contextlib.nullcontext(iter(found))

    monkeypatch.setattr(os, "scandir", shuffled)
    assert view() == expected


def test_folders_that_cannot_be_used(tiny, tmp_path):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    tiny.folders(tmp_path / "empty", {"b": 1})
    (tmp_path / "empty" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(tiny.image(0))
    tiny.folders(tmp_path / "case", {"Cat": 1, "cat": 1})
    tiny.folders(tmp_path / "extra" / "train", {"a": 1})
    tiny.folders(tmp_path / "extra" / "test", {"z": 1})
    for name, message in (
        ("empty", r"the class folder .*empty/a holds no image"),
        ("flat", "holds no class folders"),
        ("case", "differ only by case: Cat, cat"),
        ("extra", "no training sample of z"),
        ("flat/0.png", "is not a folder"),
    ):
        with pytest.raises(DataError, match=message):
            load_source(f"folder:{tmp_path / name}")


# --- parquet ----------------------------------------------------------------------------------------------------


def test_parquet_shards_and_class_names(tiny, tmp_path):
    names = ["zebra", "ant", "unused"]
    for shard, labels in enumerate(([0, 1, 0], [1, 1, 0])):
        images = [tiny.image(10 * shard + i) for i in range(3)]
        tiny.parquet(tmp_path / f"train-0000{shard}-of-00002.parquet", images, labels, names)
    tiny.parquet(tmp_path / "validation-00000-of-00001.parquet", [tiny.image(50)], [1], names)
    source = load_source(f"parquet:{tmp_path}")
    assert source.classes == ("zebra", "ant")
    expected = [(0, "zebra"), (1, "ant"), (2, "zebra"), (10, "ant"), (11, "ant"), (12, "zebra")]
    assert tiny.named(source, "train") == expected
    assert tiny.named(source, "test") == [(50, "ant")]
    assert tiny.named(load_source(f"parquet:{tmp_path}", train_shards=1), "train") == expected[:3]
    for wrong in (0, 3):
        with pytest.raises(UsageError, match="between 1 and 2"):
            load_source(f"parquet:{tmp_path}", train_shards=wrong)
    tiny.parquet(tmp_path / "data" / "test-00000-of-00001-0a1b2c.parquet", [tiny.image(60)], [0], names)
    assert tiny.named(load_source(f"parquet:{tmp_path}"), "test") == [(60, "zebra")]


def test_parquet_with_missing_shards(tiny, tmp_path):
    tiny.parquet(tmp_path / "train-00000-of-00005.parquet", [tiny.image(1)], [0], ["a"])
    with pytest.raises(DataError, match=r"lacks the files 1, 2, 3, 4 of the 5"):
        load_source(f"parquet:{tmp_path}")
    assert len(load_source(f"parquet:{tmp_path}", train_shards=1).train) == 1
    tiny.parquet(tmp_path / "train-00002-of-00005.parquet", [tiny.image(1)], [0], ["a"])
    with pytest.raises(DataError, match="lacks the files 1 of the 5"):
        load_source(f"parquet:{tmp_path}", train_shards=3)
    (tmp_path / "train-00000-of-00005.parquet").unlink()
    with pytest.raises(DataError, match="lacks the files 0 of the 5"):
        load_source(f"parquet:{tmp_path}", train_shards=1)


def test_the_same_shard_twice_is_refused(tiny, tmp_path):
    for folder in ("a", "b"):
        tiny.parquet(tmp_path / folder / "train-00000-of-00001.parquet", [tiny.image(1)], [0], ["a"])
    with pytest.raises(DataError, match="a file is there twice"):
        load_source(f"parquet:{tmp_path}")


def test_parquet_files_of_any_name_are_the_training_split(tiny, tmp_path):
    for i, name in enumerate(("x", "y")):
        tiny.parquet(tmp_path / f"{name}.parquet", [tiny.image(i)], [0], ["a"])
    assert tiny.named(load_source(f"parquet:{tmp_path}"), "train") == [(0, "a"), (1, "a")]


def test_one_parquet_file_with_numbers_for_labels(tiny, tmp_path):
    file = tmp_path / "train-00003-of-00005.parquet"
    tiny.parquet(file, [tiny.image(i) for i in range(3)], [10, 9, 10], None)
    source = load_source(f"parquet:{file}")
    assert (source.name, source.classes) == ("train-00003-of-00005", ("9", "10"))
    assert tiny.named(source, "train") == [(0, "10"), (1, "9"), (2, "10")]
    with pytest.raises(UsageError, match="leave train_shards out"):
        load_source(f"parquet:{file}", train_shards=1)


def test_a_test_split_without_labels_is_not_used(tiny, tmp_path):
    tiny.parquet(tmp_path / "train.parquet", [tiny.image(1)], [0], ["a"])
    tiny.parquet(tmp_path / "test.parquet", [tiny.image(2)], [-1], ["a"])
    assert len(load_source(f"parquet:{tmp_path}").test) == 0
    tiny.parquet(tmp_path / "validation.parquet", [tiny.image(3)], [0], ["a"])
    assert tiny.named(load_source(f"parquet:{tmp_path}"), "test") == [(3, "a")]


def test_superclasses_from_a_coarse_label(tiny, tmp_path):
    tiny.parquet(tmp_path / "x.parquet", [tiny.image(1), tiny.image(2)], [0, 1], ["a", "b"], ([1, 0], ["low", "high"]))
    assert load_source(f"parquet:{tmp_path / 'x.parquet'}").superclasses == {"a": "high", "b": "low"}


def test_bad_parquet_rows_are_named(tiny, tmp_path):
    for shard, images in enumerate(([tiny.image(1), tiny.image(2)], [tiny.image(3), b"junk", None])):
        file = tmp_path / f"train-0000{shard}-of-00002.parquet"
        tiny.parquet(file, images, [0] * len(images), ["a"])
    inputs = load_source(f"parquet:{tmp_path}").train.inputs
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet, row 1 is not a readable image"):
        inputs[3]
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet, row 2 has no image bytes"):
        inputs[4]


def test_parquet_that_cannot_be_used(tiny, tmp_path):
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "columns.parquet")
    tiny.parquet(tmp_path / "unlabelled.parquet", [tiny.image(1)], [None], ["a"])
    tiny.parquet(tmp_path / "large.parquet", [tiny.image(1)], [3], ["a"])
    (tmp_path / "mixed").mkdir()
    typed = pq.read_schema(tmp_path / "large.parquet").metadata
    table = pa.table({"text": ["x"], "label": ["a"]}).replace_schema_metadata(typed)
    pq.write_table(table, tmp_path / "mixed" / "train.parquet")
    tiny.parquet(tmp_path / "only" / "test.parquet", [tiny.image(1)], [0], ["a"])
    (tmp_path / "none").mkdir()
    for name, message in (
        ("junk.parquet", "not a readable parquet file"),
        ("columns.parquet", "has the columns a; name one of them image"),
        ("unlabelled.parquet", "row 0 has no label"),
        ("large.parquet", "row 0: label is 3, but only 1 classes have names"),
        ("mixed", "row 0: label is 'a'; a label must be an integer"),
        ("only", "no parquet file of a training split"),
        ("none", "no parquet file of a training split"),
    ):
        with pytest.raises(DataError, match=message):
            load_source(f"parquet:{tmp_path / name}")


def test_parquet_of_texts(tmp_path):
    pq.write_table(pa.table({"text": ["x", " "], "label": ["b", "a"]}), tmp_path / "t.parquet")
    source = load_source(f"parquet:{tmp_path / 't.parquet'}")
    assert (source.modality, source.classes, source.train.inputs[0]) == ("text", ("a", "b"), "x")
    with pytest.raises(DataError, match="row 1 has no text"):
        source.train.inputs[1]


# --- text tables ------------------------------------------------------------------------------------------------


def test_text_tables(tiny, tmp_path):
    rows = [("one, two", "b", "train"), ('say "x"', "a", "train"), ("drei", "b", "test")]
    quoted = ['"' + text.replace('"', '""') + '"' for text, _, _ in rows]
    (tmp_path / "t.csv").write_text(
        "text,label,split\n" + "".join(f"{q},{y},{s}\n" for q, (_, y, s) in zip(quoted, rows, strict=True))
    )
    (tmp_path / "t.tsv").write_text(
        "text\tlabel\tsplit\n" + "".join(f"{q}\t{y}\t{s}\n" for q, (_, y, s) in zip(quoted, rows, strict=True))
    )
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps(dict(zip(("text", "label", "split"), row, strict=True))) + "\n" for row in rows)
    )
    (tmp_path / "folder").mkdir()
    for split in ("train", "test"):
        lines = [f"{q},{y}\n" for q, (_, y, s) in zip(quoted, rows, strict=True) if s == split]
        (tmp_path / "folder" / f"{split}.csv").write_text("text,label\n" + "".join(lines))
    for name in ("t.csv", "t.tsv", "t.jsonl", "folder"):
        source = load_source(f"text:{tmp_path / name}")
        assert (source.modality, source.classes) == ("text", ("a", "b"))
        assert tiny.named(source, "train") == [("one, two", "b"), ('say "x"', "a")]
        assert tiny.named(source, "test") == [("drei", "b")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,label\na,b\nx,y,z\n", "line 3 has more fields"),
        ("t.csv", "text,label\na,b\nx\n", "line 3 has no label"),
        ("t.csv", "text,label\na,\n", "line 2 has no label"),
        ("t.csv", "words,label\na,b\n", "name one of them text, sentence, content, or"),
        ("t.csv", "text,label,split\na,b,tset\n", "line 2: split is 'tset'"),
        ("t.csv", "text,label,split\na,b,test\n", "no training row"),
        ("t.csv", "", "no training row"),
        ("t.csv", b"text,label\n\xff\xfe,b\n", "UTF-8"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "line 2 is not valid JSON"),
        ("t.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("t.jsonl", '{"text": "a", "label": [1, 2]}\n', r"line 1: label holds 2 labels \(1, 2\); a sample has one"),
        ("t.xml", "<a/>", r"give one of \.csv, \.tsv, \.jsonl"),
    ],
)
def test_bad_text_tables_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_source(f"text:{tmp_path / name}")


def test_numbers_and_texts_as_labels_are_sorted_each(tmp_path):
    labels = ["b", 10, 9, "10", "a"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": "x", "label": y}) + "\n" for y in labels))
    source = load_source(f"text:{tmp_path / 't.jsonl'}")
    assert source.classes == ("9", "10", "a", "b")
    assert source.train.labels.count(1) == 2


def test_a_blank_text_is_a_bad_sample(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": " ", "label": 2}\n\n{"label": 10}\n')
    source = load_source(f"text:{tmp_path / 't.jsonl'}")
    assert source.classes == ("2", "10")
    for i, line in ((0, 1), (1, 3)):
        with pytest.raises(DataError, match=f"line {line} has no text"):
            source.train.inputs[i]


# --- the hub ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path


def test_hub_reads_what_the_datasets_library_reads(tiny, hub_cache):
    path = hub_cache / "saved"
    tiny.parquet(path / "train-00000-of-00001.parquet", [tiny.image(i) for i in range(3)], [1, 0, 1], ["a", "b"])
    tiny.parquet(path / "test-00000-of-00001.parquet", [tiny.image(9)], [0], ["a", "b"])
    source = load_source(f"hub:{path}")
    assert (source.name, source.classes, source.augmentation) == ("saved", ("a", "b"), "photo")
    assert tiny.named(source, "train") == [(0, "b"), (1, "a"), (2, "b")]
    assert tiny.named(source, "test") == [(9, "a")]
    local = load_source(f"parquet:{path}")
    assert tiny.named(local, "train") == tiny.named(source, "train")


def test_hub_texts_and_image_files(tiny, hub_cache):
    (hub_cache / "texts").mkdir()
    (hub_cache / "texts" / "train.csv").write_text("text,label\nhello,b\nbye,a\n")
    source = load_source(f"hub:{hub_cache / 'texts'}")
    assert (source.modality, tiny.named(source, "train")) == ("text", [("hello", "b"), ("bye", "a")])
    tiny.folders(hub_cache / "images" / "train", {"x": 1, "y": 1})
    assert tiny.named(load_source(f"hub:{hub_cache / 'images'}"), "train") == [(0, "x"), (1, "y")]


def test_no_network_is_one_clear_sentence(hub_cache):
    with pytest.raises(
        DataError, match=r"data set 'nobody/nothing' cannot be loaded .*check the ID and the network"
    ) as e:
        load_source("hub:nobody/nothing")
    assert "\n" not in str(e.value)
    with pytest.raises(DataError, match="local copy by data_dir"):
        load_source("cifar100")


# --- a source of one's own --------------------------------------------------------------------------------------


def test_the_documented_example_of_a_source(tiny, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    example = page.partition("## Adding a source")[2].partition("```python")[2].partition("```")[0]
    namespace: dict[str, object] = {}
    exec(example, namespace)
    for species, first in (("oak", 0), ("elm", 100)):
        for i in range(12):
            (tmp_path / f"{species}_{i:02d}.jpg").write_bytes(tiny.image(first + i))
    source = namespace["load"](Request("leaves", str(tmp_path)))
    assert tiny.named(source, "train") == [(100, "elm"), (101, "elm"), (0, "oak"), (1, "oak")]
    assert len(source.test) == 20
