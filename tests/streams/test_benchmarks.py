"""The named benchmarks: tiny copies in every official layout, and the real data where it is at hand."""

import codecs
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hamcl.errors import DataError
from hamcl.streams import check, hub, load_source, load_stream
from hamcl.streams.registry import SOURCES

# --- CIFAR-100 --------------------------------------------------------------------------------------------------


def python2_bytes(text: bytes) -> bytes:
    """A pickled Python 2 `str`, as in the official files."""
    return pickle.BINSTRING + len(text).to_bytes(4, "little") + text


def python2_array(pixels: np.ndarray) -> bytes:
    """A uint8 array as Python 2 and an old numpy pickled it: bytes, and the old name of numpy's module."""
    rows, columns = pixels.shape
    dtype = (
        b"cnumpy\ndtype\n" + python2_bytes(b"u1") + b"K\x00K\x01\x87R(K\x03" + python2_bytes(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )  # fmt: skip
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_bytes(b"b") + b"\x87R"
    shape = b"M" + rows.to_bytes(2, "little") + b"M" + columns.to_bytes(2, "little") + b"\x86"
    return empty + b"(K\x01" + shape + dtype + b"\x89" + python2_bytes(pixels.tobytes()) + b"tb"


def python2_dict(items: dict[bytes, bytes]) -> bytes:
    """A dictionary of values that are pickled already."""
    return b"\x80\x02}(" + b"".join(python2_bytes(key) + value for key, value in items.items()) + b"u."


def python2_list(items: list[bytes]) -> bytes:
    return b"](" + b"".join(items) + b"e"


def write_cifar(root: Path, old: bool) -> tuple[np.ndarray, np.ndarray]:
    """Write `cifar-100-python` with 3 classes; return the pixels of both splits."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    fine, coarse, labels = [b"apple", b"bear", b"train"], [b"fruit", b"large"], [2, 0, 1, 0]
    parents = [1, 0, 1, 0]
    arrays = []
    for split, n in (("train", 4), ("test", 3)):
        pixels = random.integers(0, 256, (n, 3072), dtype=np.uint8)
        arrays.append(pixels)
        if old:
            numbers = [python2_list([b"K" + bytes([y]) for y in values[:n]]) for values in (labels, parents)]
            table = python2_dict(
                {b"data": python2_array(pixels), b"fine_labels": numbers[0], b"coarse_labels": numbers[1]}
            )
        else:
            content = {b"data": pixels, b"fine_labels": labels[:n], b"coarse_labels": parents[:n]}
            table = pickle.dumps(content, protocol=2)
        (folder / split).write_bytes(table)
    if old:
        names = [python2_list([python2_bytes(name) for name in group]) for group in (fine, coarse)]
        (folder / "meta").write_bytes(python2_dict({b"fine_label_names": names[0], b"coarse_label_names": names[1]}))
    else:
        meta = {b"fine_label_names": fine, b"coarse_label_names": coarse}
        (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return arrays[0], arrays[1]


@pytest.mark.parametrize("old", [True, False], ids=["python2", "python3"])
@pytest.mark.parametrize("inside", [True, False])
def test_cifar100_official(tmp_path, old, inside):
    train, test = write_cifar(tmp_path, old)
    source = load_source(f"cifar100:{tmp_path / 'cifar-100-python' if inside else tmp_path}")
    assert source.classes == ("apple", "bear", "train")
    assert source.superclasses == {"apple": "fruit", "bear": "large", "train": "large"}
    assert (list(source.train.labels), list(source.test.labels)) == ([2, 0, 1, 0], [2, 0, 1])
    for images, pixels in ((source.train.inputs, train), (source.test.inputs, test)):
        for image, row in zip(images, pixels, strict=True):
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), row.reshape(3, 32, 32).transpose(1, 2, 0))


def test_the_python2_bytes_are_what_numpy_itself_reads():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    table = pickle.loads(python2_dict({b"data": python2_array(pixels)}), encoding="bytes")
    np.testing.assert_array_equal(table[b"data"], pixels)


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Call:
    def __init__(self, function, *arguments) -> None:
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("split", ["meta", "train", "test"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_unexecuted(tmp_path, split, protocol):
    write_cifar(tmp_path, old=False)
    trap = tmp_path / "trap"
    bomb = pickle.dumps({b"data": Touch(trap)}, protocol=protocol)
    pickle.loads(bomb)[b"data"].close()
    assert trap.exists()  # the bomb works
    trap.unlink()
    (tmp_path / "cifar-100-python" / split).write_bytes(bomb)
    with pytest.raises(DataError, match=r"it asks for \w*io\.open"):
        load_source(f"cifar100:{tmp_path}")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Call(os.system, "true"), "asks for posix.system|asks for nt.system"),
        (Call(eval, "1"), r"asks for \w+\.eval"),
        (Call(np.load, "x"), r"asks for numpy\S*\.load"),
        (Call(codecs.encode, "x", "rot13"), "asks for the encoding 'rot13'"),
    ],
)
def test_other_functions_are_refused(tmp_path, item, message):
    write_cifar(tmp_path, old=False)
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps([item], protocol=2))
    with pytest.raises(DataError, match=message):
        load_source(f"cifar100:{tmp_path}")


def array_of(kind: str, shape: tuple[object, ...], data: object, fortran: bool = False) -> bytes:
    """The pickle {b"data": an array}, as numpy writes it, with whatever is claimed of it."""
    from numpy._core.multiarray import _reconstruct

    class Dtype:
        def __reduce__(self):
            return np.dtype, (kind, False, True), (3, "|", None, None, None, -1, -1, 0)

    class Array:
        def __reduce__(self):
            return _reconstruct, (np.ndarray, (0,), b"b"), (1, shape, Dtype(), fortran, data)

    return pickle.dumps({b"data": Array(), b"fine_labels": [0], b"coarse_labels": [0]}, protocol=2)


@pytest.mark.parametrize(
    ("kind", "shape", "data"),
    [
        ("O8", (1, 3072), b"\x10" * 3072 * 8),  # pointers of the file's own
        ("u1", (1, 3072), b"short"),
        ("u1", (2**40, 3072), b"short"),
        ("u1", (-1, 3072), bytes(3072)),
        ("u1", (1.0, 3072), bytes(3072)),
        ("u1", 3072, bytes(3072)),
        ("u1", (1, 3072), [1] * 3072),
        ("f4", (1, 768), bytes(3072)),
    ],
)
def test_an_array_of_anything_but_bytes_never_reaches_numpy(tmp_path, kind, shape, data):
    write_cifar(tmp_path, old=False)
    (tmp_path / "cifar-100-python" / "train").write_bytes(array_of(kind, shape, data))
    with pytest.raises(DataError, match="its data is no array of bytes"):
        load_source(f"cifar100:{tmp_path}")


def test_the_crafted_arrays_are_what_numpy_itself_reads(tmp_path):
    write_cifar(tmp_path, old=False)
    (tmp_path / "cifar-100-python" / "train").write_bytes(array_of("u1", (1, 3072), bytes(range(256)) * 12))
    assert np.asarray(pickle.loads(array_of("u1", (1, 4), b"abcd"))[b"data"]).tolist() == [[97, 98, 99, 100]]
    with pytest.raises(DataError, match="no training sample of"):  # read, and too few
        load_source(f"cifar100:{tmp_path}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"no pickle",
        b"\x80\x02.",
        b"\x80\x02}e.",
        b"\x80\x02](" + b"(" * 100_000 + b".",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # remembered at place 2**31
        b"\x80\x02j\x01\x00\x00\x00.",
        b"\x80\x02X\xff\xff\xff\x7fx.",
        b"\x80\x02cnumpy\ndtype\n)\x81}b.",  # built without a call
        b"\x80\x02Pelsewhere\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02}]](e]s.",
        pickle.dumps({b"data": 1, b"fine_labels": [-1]}, protocol=2),
    ],
)
def test_a_damaged_pickle_is_one_sentence(tmp_path, content):
    write_cifar(tmp_path, old=False)
    (tmp_path / "cifar-100-python" / "test").write_bytes(content)
    with pytest.raises(DataError, match="unpack the archive again") as caught:
        load_source(f"cifar100:{tmp_path}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_broken_cifar_files_are_named(tmp_path):
    write_cifar(tmp_path, old=False)
    folder = tmp_path / "cifar-100-python"
    (folder / "test").unlink()
    with pytest.raises(DataError, match=r"cifar-100-python/test is not an official CIFAR-100 file"):
        load_source(f"cifar100:{tmp_path}")
    for content in ({b"data": np.zeros((1, 3))}, [1]):
        (folder / "train").write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(DataError, match=r"not (the|an) official CIFAR-100"):
            load_source(f"cifar100:{tmp_path}")


def test_cifar100_as_parquet_and_as_folders(tiny, tmp_path):
    tiny.parquet(
        tmp_path / "p" / "train-00000-of-00001.parquet",
        [tiny.image(1), tiny.image(2)],
        [1, 0],
        ["apple", "bear"],
        ([1, 0], ["fruit", "large"]),
    )
    source = load_source(f"cifar100:{tmp_path / 'p'}")
    assert (source.name, source.superclasses) == ("cifar100", {"apple": "fruit", "bear": "large"})
    tiny.folders(tmp_path / "f" / "train", {"apple": 1, "train": 1})
    tiny.folders(tmp_path / "f" / "test", {"apple": 1}, first=9)
    source = load_source(f"cifar100:{tmp_path / 'f'}")
    assert (source.name, tiny.named(source, "test")) == ("cifar100", [(9, "apple")])


# --- CUB-200 ----------------------------------------------------------------------------------------------------


def write_cub(tiny, root: Path) -> None:
    folder = root / "CUB_200_2011"
    rows = [
        ("001.Black_footed_Albatross", "a_0001.png", 1),
        ("001.Black_footed_Albatross", "a_0002.png", 0),
        ("002.Laysan_Albatross", "b_0001.png", 1),
        ("022.Chuck_will_Widow", "c_0001.png", 1),
        ("022.Chuck_will_Widow", "c_0002.png", 0),
    ]
    classes = list(dict.fromkeys(name for name, _, _ in rows))
    for i, (name, file, _) in enumerate(rows):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        (folder / "images" / name / file).write_bytes(tiny.image(i))
    tables = {
        "classes": enumerate(classes, 1),
        "images": ((i, f"{name}/{file}") for i, (name, file, _) in enumerate(rows, 1)),
        "image_class_labels": ((i, classes.index(name) + 1) for i, (name, _, _) in enumerate(rows, 1)),
        "train_test_split": ((i, trained) for i, (_, _, trained) in enumerate(rows, 1)),
    }
    for name, table in tables.items():
        (folder / f"{name}.txt").write_text("".join(f"{i} {value}\n" for i, value in table))


def test_cub200_official(tiny, tmp_path):
    write_cub(tiny, tmp_path)
    for path in (tmp_path, tmp_path / "CUB_200_2011"):
        source = load_source(f"cub200:{path}")
        names = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "022.Chuck_will_Widow")
        assert source.classes == names
        assert tiny.named(source, "train") == [(0, names[0]), (2, names[1]), (3, names[2])]
        assert tiny.named(source, "test") == [(1, names[0]), (4, names[2])]
        assert list(source.superclasses.values()) == ["Albatross", "Albatross", "Widow"]
    (tmp_path / "CUB_200_2011" / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(DataError, match="not the official CUB-200-2011 folder"):
        load_source(f"cub200:{tmp_path}")


def test_cub200_as_folders(tiny, tmp_path):
    tiny.folders(tmp_path / "train", {"001.Black_footed_Albatross": 1, "002.Ovenbird": 1})
    source = load_source(f"cub200:{tmp_path}")
    assert (source.name, list(source.superclasses.values())) == ("cub200", ["Albatross", "Ovenbird"])


# --- Tiny-ImageNet ----------------------------------------------------------------------------------------------


def test_tiny_imagenet_official_and_parquet_are_the_same_data(tiny, tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for i, wnid in enumerate(("n02", "n01")):
        tiny.folders(folder / "train" / wnid, {"images": 2}, first=10 * i)
    tiny.folders(folder / "val", {"images": 3}, first=100)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcat\nn03\tother\n")
    labels = ["n01", "n02", "n01"]
    lines = [f"{i}.png\t{wnid}\t0\t0\t62\t57\n" for i, wnid in enumerate(labels)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    source = load_source("tiny-imagenet", data_dir=tmp_path)
    assert (source.name, source.classes, source.augmentation) == (
        "tiny-imagenet",
        ("n02 cat", "n01 goldfish"),
        "photo",
    )
    assert tiny.named(source, "train") == [(0, "n02 cat"), (1, "n02 cat"), (10, "n01 goldfish"), (11, "n01 goldfish")]
    assert tiny.named(source, "test") == [(100, "n01 goldfish"), (101, "n02 cat"), (102, "n01 goldfish")]

    names = ["n02 cat", "n01 goldfish"]
    target = tmp_path / "parquet"
    tiny.parquet(target / "train.parquet", [tiny.image(i) for i in (0, 1, 10, 11)], [0, 0, 1, 1], names)
    tiny.parquet(target / "validation.parquet", [tiny.image(i) for i in (100, 101, 102)], [1, 0, 1], names)
    streams = [
        load_stream("tiny-imagenet", data_dir=path, tasks=2, val_fraction=0.5, seed=7) for path in (tmp_path, target)
    ]
    views = [
        [(t.classes, *(tiny.contents(s) for s in (t.train, t.val, t.test))) for t in stream] for stream in streams
    ]
    assert views[0] == views[1]

    (folder / "words.txt").write_text("n01\tgoldfish\n")
    with pytest.raises(DataError, match="not the official Tiny-ImageNet folder"):
        load_source("tiny-imagenet", data_dir=tmp_path)


def test_tiny_imagenet_real(real):
    path = real("tiny-imagenet-200")
    source = load_source(f"tiny-imagenet:{path}", train_shards=1)
    assert (len(source.classes), len(source.train), len(source.test)) == (200, 20_000, 10_000)
    assert {source.train.labels.count(y) for y in range(200)} == {100}
    stream = load_stream(f"tiny-imagenet:{path}", train_shards=1, tasks=20, train_per_class=100, seed=1)
    assert [(len(t.classes), len(t.train), len(t.test)) for t in stream] == [(10, 1000, 500)] * 20
    assert stream[3].train.inputs[17].size == (64, 64)


# --- Omniglot ---------------------------------------------------------------------------------------------------


def write_omniglot(tiny, root: Path) -> None:
    """Background: two alphabets, evaluation: one; the small set repeats an alphabet."""
    first = 0
    for name, alphabets in (
        ("images_background", {"Greek": 2, "Latin": 1}),
        ("images_evaluation", {"Tengwar": 1}),
        ("images_background_small1", {"Greek": 2}),
    ):
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                first += 1
                for drawer in range(1, 21):
                    file = root / name / alphabet / f"character{character:02d}" / f"{first:04d}_{drawer:02d}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(tiny.image(20 * first + drawer))


def zip_up(folder: Path, keep: bool) -> None:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for file in sorted(folder.rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(folder.parent).as_posix())
    if not keep:
        shutil.rmtree(folder)


@pytest.mark.parametrize("layout", ["folders", "zips", "mixed", "omniglot-py"])
def test_omniglot_official(tiny, tmp_path, layout):
    root = tmp_path / "omniglot-py" if layout == "omniglot-py" else tmp_path
    write_omniglot(tiny, root)
    deleted = root / "images_background" / ".Trash-1000" / "files" / "Greek" / "character01" / "0001_15.png"
    deleted.parent.mkdir(parents=True)
    deleted.write_bytes(tiny.image(255))
    for name in {"zips": ("images_background", "images_evaluation"), "mixed": ("images_evaluation",)}.get(layout, ()):
        zip_up(root / name, keep=False)
    source = load_source(f"omniglot:{tmp_path}")
    names = ("Greek/character01", "Greek/character02", "Latin/character01", "Tengwar/character01")
    assert source.classes == names
    assert source.augmentation == "handwriting"
    assert dict(source.superclasses) == {name: name.split("/")[0] for name in names}
    shades = {name: 20 * (i + 1) for i, name in enumerate(names)}
    assert tiny.named(source, "train") == [(shades[name] + d, name) for name in names for d in range(1, 15)]
    assert tiny.named(source, "test") == [(shades[name] + d, name) for name in names for d in range(15, 21)]
    stream = load_stream(f"omniglot:{tmp_path}", classes_per_task=2, class_order="superclass", train_per_class=5)
    assert [len(task.train) for task in stream] == [10, 10]


def test_a_broken_omniglot_zip_is_named(tmp_path):
    (tmp_path / "images_background.zip").write_bytes(b"half a download")
    with pytest.raises(DataError, match=r"images_background\.zip cannot be read"):
        load_source(f"omniglot:{tmp_path}")


def test_omniglot_real(real):
    source = load_source(f"omniglot:{real('omniglot-8')}")
    assert (len(source.classes), len(source.train), len(source.test)) == (242, 3388, 1452)
    assert {source.train.labels.count(y) for y in range(242)} == {14}
    assert len(set(source.superclasses.values())) == 8
    stream = load_stream(f"omniglot:{real('omniglot-8')}", tasks=20, classes_per_task=12, seed=0)
    assert [(len(t.train), len(t.test)) for t in stream] == [(168, 72)] * 20
    usable, skipped = check(stream[0].test)
    assert (len(usable), skipped) == (72, [])
    assert stream[0].train.inputs[0].getpixel((0, 0)) == (255, 255, 255)


# --- where no local copy is named -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar100", "cub200", "tiny-imagenet"])
def test_without_a_path_the_hub_is_asked_for_the_documented_id(tiny, tmp_path, monkeypatch, name):
    asked = []

    def load(request):
        asked.append(request.where)
        tiny.folders(tmp_path / "x", {"a_b": 1})
        return load_source(f"folder:{tmp_path / 'x'}")

    monkeypatch.setattr(hub, "load", load)
    assert SOURCES[name].__module__.startswith("hamcl.streams.")
    assert load_source(name).name == name
    documented = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    assert f"`{asked[0]}`" in documented


def test_official_class_names_that_repeat_are_refused(tiny, tmp_path):
    write_cifar(tmp_path / "a", old=False)
    meta = {b"fine_label_names": [b"apple", b"apple", b"train"], b"coarse_label_names": [b"fruit", b"large"]}
    (tmp_path / "a" / "cifar-100-python" / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    write_cub(tiny, tmp_path / "b")
    classes = tmp_path / "b" / "CUB_200_2011" / "classes.txt"
    classes.write_text(classes.read_text().replace("Laysan", "Black_footed").replace("002.", "001."))
    for spec in (f"cifar100:{tmp_path / 'a'}", f"cub200:{tmp_path / 'b'}"):
        with pytest.raises(DataError, match="class names repeat"):
            load_source(spec)
