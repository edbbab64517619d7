"""Decoding on demand, and the check that reads every sample once."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from hamcl.errors import DataError, UsageError
from hamcl.streams import Samples, check, load_source, read_image
from hamcl.streams.lazy import Kept, Lazy
from hamcl.streams.pixels import decode_image


def test_nothing_is_decoded_before_it_is_indexed(tiny, tmp_path):
    tiny.folders(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    inputs = load_source(f"folder:{tmp_path}").train.inputs
    assert len(inputs) == 3
    assert tiny.shade(inputs[1]) == 1
    assert [tiny.shade(image) for image in inputs[1:]] == [1, 2]
    assert tiny.shade(inputs[-1]) == 2
    with pytest.raises(IndexError):
        inputs[3]
    with pytest.raises(DataError, match=r"a/0\.png is not a readable image \(of no known format\); replace it"):
        inputs[0]


def test_images_are_decoded_once_where_there_is_room():
    decoded = []

    def decode(side, where):
        decoded.append(where)
        return Image.new("RGB", (side, side))

    source = Lazy([4, 6, 4, 2], decode, "sample {}".format)
    kept = Kept(source, room=3 * (16 + 16 + 4))
    for _ in range(3):
        assert [image.width for image in kept] == [4, 6, 4, 2]
        assert kept[-1].width == 2 and [image.width for image in kept[1:3]] == [6, 4]
    # The second needs more room than is left at its turn and is decoded at each of six readings.
    assert [decoded.count(f"sample {i}") for i in range(4)] == [1, 6, 1, 1]
    with pytest.raises(IndexError):
        kept[4]
    texts = Kept(Lazy(["a", "b"], lambda text, where: text, str))
    assert list(texts) == list(texts) == ["a", "b"] and not texts.kept


def test_inputs_survive_a_worker_process(tiny, tmp_path):
    tiny.folders(tmp_path / "folder", {"a": 2, "b": 1})
    tiny.parquet(tmp_path / "x.parquet", [tiny.image(5), tiny.image(6)], [0, 0], ["a"])
    for spec, shades in ((f"folder:{tmp_path / 'folder'}", [0, 1, 2]), (f"parquet:{tmp_path / 'x.parquet'}", [5, 6])):
        copy = pickle.loads(pickle.dumps(load_source(spec).train))
        assert [tiny.shade(image) for image in copy.inputs] == shades
    copy = pickle.loads(pickle.dumps(load_source("digits").test))
    assert copy.inputs[3].size == (32, 32)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_rgb_with_its_brightness(mode):
    ramp = np.linspace(0, 255, 64).reshape(8, 8)
    if mode in ("I;16", "I"):
        image = Image.fromarray((ramp * 257).astype(np.uint16))
        image = image.convert("I") if mode == "I" else image
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "TIFF" if mode in ("CMYK", "I", "F") else "PNG")
    decoded = decode_image(stream.getvalue(), "here")
    assert decoded.mode == "RGB"
    assert np.asarray(decoded).mean() == pytest.approx(127.5, abs=20 if mode == "1" else 4)


def test_images_stand_upright(tmp_path):
    image = Image.new("RGB", (8, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").size == (4, 8)


def test_unreadable_files_are_named(tiny, tmp_path):
    whole = tiny.image(7, size=(60, 60))
    for name, data in (("empty", b""), ("text", b"hello"), ("cut", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{tmp_path}/{name} is"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="missing cannot be read"):
        read_image(tmp_path / "missing")


def test_check_returns_good_samples_untouched(tiny):
    samples = tiny.source({"a": (3, 0), "b": (2, 0)}).train
    assert check(samples) == (samples, [])


def test_check_skips_or_raises(tiny, tmp_path):
    tiny.folders(tmp_path, {"a": 3, "b": 1})
    (tmp_path / "a" / "1.png").write_bytes(b"")
    samples = load_source(f"folder:{tmp_path}").train
    with pytest.raises(DataError, match=r"a/1\.png is empty"):
        check(samples)
    usable, messages = check(samples, "skip")
    assert tiny.contents(usable) == [(0, 0), (2, 0), (3, 1)]
    assert len(messages) == 1
    assert "a/1.png" in messages[0]
    (tmp_path / "b" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no sample of class b is usable; the first bad one: .*a/1\.png"):
        check(samples, "skip", classes=("a", "b"))
    with pytest.raises(UsageError, match="did you mean skip"):
        check(samples, "skipp")  # type: ignore[arg-type]


def test_check_lets_programming_errors_through():
    class Broken(list):
        def __getitem__(self, i):
            raise RuntimeError("not a data error")

    with pytest.raises(RuntimeError):
        check(Samples(Broken([1]), [0]), "skip")
