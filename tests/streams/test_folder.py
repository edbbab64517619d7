"""Folders as people have them: what is data, what is left out and said to be, and what is refused."""

import os
import shutil

import pytest

from hamcl.errors import DataError
from hamcl.streams import check, load_source, load_task
from hamcl.streams.walk import LeftOut, images


@pytest.fixture
def put(tiny, tmp_path):
    """Write files below the folder `data`: images of the shade given by a number, else the text."""

    def make(*paths, folder="data"):
        root = tmp_path / folder
        for shade, path in enumerate(paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(
                tiny.image(shade) if path.endswith((".png", ".jpg", ".JPG")) else b"text,label\na,b"
            )
        return root

    return make


def left_out(notes):
    """The one note on what was left out, without its beginning."""
    (note,) = [note for note in notes if note.startswith("left out of ")]
    return note.partition("data: ")[2]


def shades(tiny, source):
    return tiny.named(source, "train")


# --- what is hidden ---------------------------------------------------------------------------------------------

CLUTTER = (
    "a/.ipynb_checkpoints/x-checkpoint.png",
    "a/.Trash-1000/files/old.png",
    "a/@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg",
    "a/__MACOSX/._x.png",
    "a/$RECYCLE.BIN/gone.png",
    "a/deep/.hidden/y.png",
    "a/._x.png",
)
QUIET = ("a/Thumbs.db", "a/desktop.ini", "a/.DS_Store", ".git/config", ".DS_Store", "a/.empty/notes.txt")


def test_hidden_folders_inside_a_class_are_no_data_of_it(tiny, put):
    data = put("a/x.png", "b/z.png", *CLUTTER, *QUIET)
    source = load_source(f"folder:{data}")
    assert shades(tiny, source) == [(0, "a"), (1, "b")]
    said = left_out(source.notes)
    assert said.startswith("hidden folders and files with images (a class must not begin with . or __): ")
    assert said.endswith("a/$RECYCLE.BIN, a/.Trash-1000, a/._x.png, a/.ipynb_checkpoints, a/@eaDir and 1 more")
    left = LeftOut(data / "a")
    assert images(data / "a", left) == [data / "a" / "x.png"] and len(left.found) == 1


def test_what_systems_leave_behind_is_not_worth_a_word(put):
    assert load_source(f"folder:{put('a/x.png', 'b/y.png', *QUIET)}").notes == ()


def test_a_class_folder_that_begins_with_a_dot_is_left_out_and_said_to_be(put):
    source = load_source(f"folder:{put('.net/x.png', 'java/y.png', '__main__/z.png')}")
    assert source.classes == ("java",)
    assert "a class must not begin with . or __): .net, __main__" in left_out(source.notes)


def test_files_that_are_no_images_are_named_by_their_suffixes(put):
    data = put(
        "a/x.png", "a/x.txt", "a/y.txt", "a/z.PSD", "a/LICENSE", "b/y.png", "loose.JPG", "labels.csv", "README.md"
    )
    said = left_out(load_source(f"folder:{data}").notes)
    assert said == (
        "files that are no images by their suffix: .txt (2), LICENSE; images of formats that are not read here: .psd; "
        "tables beside the class folders: labels.csv; images that lie in no class folder: loose.JPG"
    )


def test_a_class_without_an_image_says_what_it_holds(put):
    with pytest.raises(
        DataError, match=r"class folder .*data/b holds no image \(left out of .*not read here: \.psd\)"
    ):
        load_source(f"folder:{put('a/x.png', 'b/x.psd')}")


# --- links ------------------------------------------------------------------------------------------------------


def test_linked_folders_are_followed_and_each_is_read_once(tiny, put, tmp_path):
    data = put("a/x.png", "a/sub/y.png", "b/z.png")
    elsewhere = put("one.png", "more/two.png", folder="elsewhere")
    (data / "a" / "linked").symlink_to(elsewhere)
    (data / "a" / "again").symlink_to(elsewhere / "more")
    (data / "a" / "sub" / "up").symlink_to(data / "a")
    (data / "c").symlink_to(elsewhere)
    source = load_source(f"folder:{data}")
    assert [name for _, name in shades(tiny, source)] == ["a"] * 4 + ["b"] + ["c"] * 2
    assert "links to folders that are read already: " in left_out(source.notes)


def test_a_link_that_leads_nowhere_is_a_bad_sample(put):
    data = put("a/x.png", "b/y.png")
    (data / "a" / "gone.png").symlink_to("nowhere.png")
    usable, (message,) = check(load_source(f"folder:{data}").train, "skip")
    assert len(usable) == 2 and "gone.png cannot be read" in message


def test_what_is_no_file_is_left_out(put):
    data = put("a/x.png", "b/y.png")
    os.mkfifo(data / "a" / "pipe.png")
    source = load_source(f"folder:{data}")
    assert len(source.train) == 2 and left_out(source.notes).endswith("is no file: a/pipe.png")


def test_a_folder_that_cannot_be_read_is_named(put, monkeypatch):
    data, scan = put("a/x.png", "b/locked/y.png"), os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"the folder .*b/locked cannot be read \(Permission denied\)"):
        load_source(f"folder:{data}")


# --- splits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "Testing"), ("TRAIN", "Val")])
def test_splits_have_their_names_in_any_case(tiny, put, train, test):
    source = load_source(f"folder:{put(f'{train}/a/x.png', f'{train}/b/y.png', f'{test}/a/z.png')}")
    assert shades(tiny, source) == [(0, "a"), (1, "b")] and tiny.named(source, "test") == [(2, "a")]
    assert source.notes == ((f"{train}/ is taken for the training split, {test}/ for the test split"),)


def test_folders_beside_the_training_split_are_named(tiny, put):
    data = put("train/a/x.png", "val/a/y.png", "test/one.png", "dev/a/w.png", "extra/z.png", "docs/notes.txt")
    source = load_source(f"folder:{data}")
    assert tiny.named(source, "test") == [(1, "a")]
    assert left_out(source.notes) == (
        "splits without class folders: test; splits that are not used: dev; folders beside the training split: extra"
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["train/x.png", "test/y.png"],
            r"holds test/, train/, by name splits and not classes; call the training split",
        ),
        (["Train/x.png", "Test/y.png"], r"holds Test/, Train/, by name splits"),
        (["train/x.png"], "holds train/, by name splits"),
        (
            ["test/a/x.png", "test/b/y.png"],
            "holds test/, by name splits and not classes; .* or give one of the folders",
        ),
        (["seg_train/a/x.png", "seg_test/a/y.png"], "holds seg_test/, seg_train/, by name splits"),
        (["training_set/x.png", "test_set/y.png"], "by name splits"),
        (["train/a/x.png", "Train/a/y.png"], "holds two training splits, Train/, train/; keep one"),
        (
            ["birds/wren/x.png", "birds/owl/y.png"],
            r"the one folder birds/, .* only folders \(owl, wren\); give .*/birds",
        ),
        (["train/train/a/x.png", "train/train/b/x.png"], "data/train holds train/, by name splits"),
        (["train/all/a/x.png", "train/all/b/x.png"], r"the one folder all/, in which there are only folders \(a, b\)"),
        (
            ["cat/train/x.png", "cat/test/y.png", "dog/train/z.png", "dog/test/z.png"],
            r"same names \(test, train\), so it",
        ),
        (["w1/a/x.png", "w1/b/y.png", "w2/a/x.png", "w2/b/y.png"], r"holds w1/, w2/, .* same names \(a, b\)"),
        (["x.png", "y.png"], "holds no class folders"),
        ([".net/x.png"], "holds no class folders"),
    ],
)
def test_a_layout_that_is_not_documented_is_refused(put, paths, message):
    with pytest.raises(DataError, match=message) as caught:
        load_task(put(*paths))
    assert "\n" not in str(caught.value)


def test_classes_may_be_called_as_splits_are(put):
    for paths in (["bus/x.png", "train/y.png"], ["test tube/x.png", "train station/y.png"], ["dev board/x.png"]):
        data = put(*paths)
        assert list(load_task(data).classes) == sorted(path.partition("/")[0] for path in paths)
        shutil.rmtree(data)


def test_folders_inside_classes_are_said_to_be_read(put):
    source = load_source(f"folder:{put('ape/v1/x.png', 'ape/v2/y.png', 'bat/v3/z.png', 'cat/images/z.png')}")
    assert source.classes == ("ape", "bat", "cat")
    assert source.notes == (
        "images in folders inside a class folder are taken for images of that class: "
        "ape/v1, ape/v2, bat/v3, cat/images",
    )


# --- images or tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", ["meta.parquet", "train.csv", "test.csv", "labels.csv", "sample_submission.csv"])
def test_a_stray_table_does_not_make_a_table_of_a_folder_of_images(tiny, put, stray):
    for paths in (["train/a/x.png", "train/b/y.png", "test/a/z.png"], ["a/x.png", "b/y.png"]):
        task = load_task(put(*paths, stray))
        assert task.modality == "image" and tiny.contents(task.train) == [(0, 0), (1, 1)]
        assert os.path.splitext(stray)[1] in left_out(task.notes)
        shutil.rmtree(put("x"))


def test_tables_are_read_where_the_images_are_no_classes(put, tmp_path):
    texts = load_task(put("train.csv", "figures/x.png"))
    assert (texts.modality, texts.classes) == ("text", ("b",))
    assert load_task(put("train.csv", "train/x.png", "test/y.png", folder="flat")).modality == "text"


def test_where_it_is_not_clear_whether_images_or_a_table_are_meant(tiny, put):
    data = put("birds/x.png", "labels.csv")
    with pytest.raises(DataError, match=r"holds images in birds/ and the table labels.csv: give .*data/labels.csv if"):
        load_task(data)
    assert load_task(f"folder:{data}").classes == ("birds",)
    for folder, paths, file in (("one", ["birds/x.png"], "meta"), ("two", ["a/x.png", "b/y.png"], "train")):
        data = put(*paths, folder=folder)
        tiny.parquet(data / f"{file}.parquet", [tiny.image(7)], [0], ["robin"])
        with pytest.raises(
            DataError, match=rf"holds parquet files \({file}.parquet\) and folders of images \(.*say which"
        ):
            load_task(data)
        assert load_task(f"parquet:{data}").classes == ("robin",)


def test_hidden_parquet_files_do_not_count(tiny, put):
    data = put("a/x.png", "a/notes.parquet", "b/y.png")
    tiny.parquet(data / ".cache" / "train.parquet", [tiny.image(7)], [0], ["robin"])
    assert load_task(data).classes == ("a", "b")


def test_parquet_files_and_splits_that_are_not_read_are_named(tiny, put):
    data = put("README.md")
    for i, name in enumerate(
        ("train", "test", "validation", "extra", ".cache/train", ".ipynb_checkpoints/train-copy")
    ):
        tiny.parquet(data / f"{name}.parquet", [tiny.image(i)], [0], ["a"])
    task = load_task(data)
    assert tiny.contents(task.train) == [(0, 0)] and tiny.contents(task.test) == [(1, 0)]
    assert sorted(task.notes) == [
        "parquet files that name no split are not read: extra.parquet",
        "splits that are not used: validation",
    ]
