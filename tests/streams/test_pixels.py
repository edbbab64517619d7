"""One function makes RGB pixels of every image, by the file's own mode and values, or refuses it in one sentence."""

import copy
import importlib.util
import io
import os
import struct
import sys
import tempfile
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from hamcl.cli.main import main
from hamcl.errors import DataError
from hamcl.streams import Samples, check, load_source, read_image
from hamcl.streams.pixels import FORMATS, MAX_PIXELS, SUFFIXES, UNREAD, decode_image, rgb
from hamcl.streams.walk import images

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = np.rint(RAMP * 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png(width: int, height: int, bits: int, kind: int, pixels: bytes) -> bytes:
    """A PNG of any kind: 0 grey, 2 colour, 4 grey with alpha; Pillow writes no 16-bit colours."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    step = len(pixels) // height
    rows = b"".join(b"\0" + pixels[i * step : (i + 1) * step] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def both(data: bytes) -> np.ndarray:
    """The pixels of a file, after a check that an image opened by somebody else, loaded or not, gives the same."""
    expected = np.asarray(decode_image(data, "here"))
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        assert np.array_equal(np.asarray(read_image(file.name)), expected)
    for load in (False, True):
        with Image.open(io.BytesIO(data)) as image:
            if load:
                image.load()
            assert np.array_equal(np.asarray(rgb(image)), expected)
    assert np.array_equal(np.asarray(rgb(decode_image(data, "here"))), expected)
    return expected


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("top", [255, 4095, 65535])
def test_sixteen_bits_are_scaled_from_the_bits_they_use(form, top):
    image = Image.fromarray((RAMP * top).astype(np.uint16))
    pixels = both(encoded(image, form))
    assert np.abs(pixels - GREY[..., None]).max() <= 1 and (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
@pytest.mark.parametrize(
    ("kind", "top"),
    [(np.float32, 1), (np.float32, 255), (np.float32, 65535), (np.int32, 255), (np.int32, 4095), (np.int32, 65535)],
)
def test_numbers_in_a_known_range_are_scaled_from_it(kind, top, options):
    pixels = both(encoded(Image.fromarray((RAMP * top).astype(kind)), "TIFF", **options))
    assert np.abs(pixels - GREY[..., None]).max() <= 1 and (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((RAMP * 2e9).astype(np.int32), "from 0 to 2e+09"),
        ((RAMP * 255 - 9).astype(np.int32), "from -9 to 246"),
        ((RAMP * 2 - 1).astype(np.float32), "from -1 to 1"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "nan"),
        (np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32), "inf"),
    ],
)
def test_numbers_in_no_known_range_are_refused(values, said):
    with pytest.raises(DataError, match=r"here holds values .*save it with values in 0\.\.255") as error:
        decode_image(encoded(Image.fromarray(values), "TIFF"), "here")
    assert said in str(error.value)


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_sixteen_bits_are_seen_or_refused(kind, channels):
    def data(top: int) -> bytes:
        values = np.repeat(RAMP[..., None] * top, channels, 2).astype(">u2")
        if channels % 2 == 0:
            values[..., -1] = 65535
        return png(8, 8, 16, kind, values.tobytes())

    assert np.abs(both(data(65535)) - GREY[..., None]).max() <= 1
    with pytest.raises(DataError, match="here is nearly black: it stores 16 bits a channel but uses 12 or fewer"):
        decode_image(data(4095), "here")


def blot(mode: str) -> Image.Image:
    """Black on transparent: 2 x 2 of 8 x 8."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:4, 2:4, 3] = 255
    image = Image.fromarray(pixels)
    return image.quantize(4) if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("GIF", "RGBA"), ("WEBP", "RGBA")]
)
def test_what_is_transparent_is_white(form, mode):
    pixels = both(encoded(blot(mode), form, **({"lossless": True} if form == "WEBP" else {})))
    expected = np.full((8, 8, 3), 255)
    expected[2:4, 2:4] = 0
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "I;16", "P"])
def test_a_transparent_colour_is_white(mode):
    image = Image.new(mode, (8, 8), (0, 0, 0) if mode == "RGB" else 0)
    image.paste({"RGB": (9, 9, 9), "1": 1, "I;16": 65535}.get(mode, 1), (2, 2, 4, 4))
    if mode == "P":
        image.putpalette([0, 0, 0, 90, 0, 0])
    pixels = both(encoded(image, transparency=(0, 0, 0) if mode == "RGB" else 0))
    seen = {"RGB": [9, 9, 9], "L": [1, 1, 1], "P": [90, 0, 0]}.get(mode, [255, 255, 255])
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[3, 3].tolist() == seen


def test_half_transparent_is_half_white():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert np.abs(both(encoded(image)).astype(int) - 127).max() <= 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright_in_every_orientation(form, orientation):
    if form not in FORMATS:
        pytest.skip(f"this Pillow cannot read {form}")
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:16, :32] = 255  # the light corner is top left before it is turned
    image = Image.fromarray(pixels).convert("RGB")
    exif = image.getexif()
    exif[0x0112] = orientation
    turned = both(encoded(image, form, exif=exif))
    assert turned.shape[:2] == ((32, 64) if orientation < 5 else (64, 32))
    corners = [turned[8, 8, 0], turned[8, -8, 0], turned[-8, -8, 0], turned[-8, 8, 0]]  # clockwise from top left
    assert corners.index(max(corners)) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]


def test_deep_grey_is_turned_upright_too():
    image = Image.fromarray((RAMP[:4] * 65535).astype(np.uint16))
    exif = image.getexif()
    exif[0x0112] = 6
    assert np.array_equal(both(encoded(image, exif=exif)), np.rot90(both(encoded(image)), -1))


def test_ordinary_images_are_what_pillow_makes_of_them():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for form in ("PNG", "JPEG", "BMP"):
        data = encoded(Image.fromarray(pixels), form)
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(both(data), np.asarray(image.convert("RGB")))
    image = Image.fromarray(pixels)
    assert rgb(image) is image


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_the_first_of_several_frames_is_taken(form):
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    pixels = both(encoded(first, form, save_all=True, append_images=[second]))
    assert np.abs(pixels.astype(int) - [250, 0, 0]).max() <= 6


def test_only_the_documented_formats_are_opened(tmp_path):
    """An EPS would start Ghostscript, whatever its name; others have decoders that nobody looks after."""
    for form in ("EPS", "ICO", "TGA", "PCX"):
        (tmp_path / "x.png").write_bytes(encoded(Image.new("RGB", (32, 32)), form))
        with pytest.raises(DataError, match=r"x\.png is not a readable image \(of no known format\)"):
            read_image(tmp_path / "x.png")
    drawing = Image.open(io.BytesIO(encoded(Image.new("RGB", (32, 32)), "EPS")))
    with pytest.raises(DataError, match="the image is of the format EPS, which is not read"):
        rgb(drawing)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9500, 13_000, 20_000])
def test_huge_images_are_refused_before_they_are_decoded(side):
    data = png(side, side, 8, 0, b"x" * side)  # the pixels are missing, which nobody notices
    with pytest.raises(DataError, match="more than the 89 million pixels that are read; save a smaller copy"):
        decode_image(data, "here")
    if side**2 < 2 * MAX_PIXELS:
        with Image.open(io.BytesIO(data)) as image, pytest.raises(DataError, match=f"{side} x {side} pixels"):
            rgb(image)


def test_images_without_pixels_are_refused():
    with pytest.raises(DataError, match=r"the image has no pixels \(0 x 5\)"):
        rgb(Image.new("RGB", (0, 5)))


def test_one_list_of_suffixes(tmp_path):
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".jp2", ".bmp", ".gif", ".webp", ".tif", ".tiff"} <= SUFFIXES
    assert {".ppm", ".pgm", ".pbm"} <= SUFFIXES and (".avif" in SUFFIXES) == ("AVIF" in FORMATS)
    assert (".heic" in SUFFIXES) == ("HEIF" in FORMATS) and ".heic" in SUFFIXES | UNREAD
    assert not SUFFIXES & UNREAD and ".eps" in UNREAD
    for i, suffix in enumerate((".jfif", ".jpe", ".JP2", ".png", ".eps", ".txt")):
        (tmp_path / f"{i}{suffix}").write_bytes(b"x")
    assert [path.suffix for path in images(tmp_path)] == [".jfif", ".jpe", ".JP2", ".png"]


def test_a_guessed_range_is_said():
    tops = [65535, 4095, 4095, 255]
    files = [encoded(Image.fromarray((RAMP * top).astype(np.uint16))) for top in tops]
    numbers = encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF")
    given = [decode_image(data, "x") for data in (*files[:2], numbers, encoded(Image.new("L", (8, 8))))]
    given += [Image.open(io.BytesIO(data)) for data in files[2:]]
    notes: list[str] = ["kept"]
    check(Samples(given, [0] * 6), notes=notes)
    said = "of 6 training images could hold larger numbers than they do and were scaled from"
    assert notes == [
        "kept",
        f"1 {said} 0..1",
        f"1 {said} 0..255",
        f"2 {said} 0..4095",
    ]


@pytest.mark.skipif("HEIF" in FORMATS, reason="pillow-heif is installed and reads it")
def test_heic_is_told_what_reads_it(tmp_path):
    for name in ("a/0.png", "a/1.heic", "b/0.png", "b/1.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (8, 8))))
    assert (
        "images that are read where pillow-heif is installed: .heic (2)" in load_source(f"folder:{tmp_path}").notes[0]
    )
    with pytest.raises(DataError, match="here is a HEIC image: pip install pillow-heif, or save it as JPEG"):
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "here")


def test_images_given_by_hand_are_checked_before_training():
    bad = Image.open(io.BytesIO(encoded(Image.new("RGB", (60, 60), "red"), "TIFF")[:-2000]))
    samples = Samples([Image.new("RGB", (8, 8)), bad, Image.new("RGBA", (8, 8))], [0, 0, 0])
    with pytest.raises(DataError, match="training image 1 is not a readable image"):
        check(samples)
    usable, messages = check(samples, "skip")
    assert len(usable) == 2 and len(messages) == 1


def test_the_command_shows_no_warnings_of_pillow(tmp_path):
    """Damaged EXIF is no reason to talk: the image is read as it lies there."""
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0garbage")
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        read_image(tmp_path / "x.jpg")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        main(False)
        assert read_image(tmp_path / "x.jpg").size == (8, 4)
    assert seen == []


def test_the_command_shows_no_messages_of_libtiff(capfd):
    data = bytearray(encoded(Image.fromarray(GREY.astype(np.uint8)), "TIFF", compression="tiff_adobe_deflate"))
    data[12] ^= 255
    main(False)
    with pytest.raises(DataError, match="here is not a readable image"):
        decode_image(bytes(data), "here")
    assert capfd.readouterr() == ("", "")


def test_no_more_of_a_file_is_read_than_its_first_image_takes(tmp_path):
    """A stack of pages, or a hole of 4 GiB behind the image."""
    (tmp_path / "x.tif").write_bytes(encoded(Image.new("RGB", (8, 8), "red"), "TIFF"))
    with (tmp_path / "x.tif").open("r+b") as file:
        file.truncate(2**32)
    assert read_image(tmp_path / "x.tif").getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "y.png").write_bytes(b"")
    with (tmp_path / "y.png").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"y\.png is not a readable image"):
        read_image(tmp_path / "y.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_an_image_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "x")
    data = encoded(Image.new("RGB", (8, 8), "red"))
    writer = threading.Thread(target=lambda: (tmp_path / "x").write_bytes(data))
    writer.start()
    assert read_image(tmp_path / "x").getpixel((0, 0)) == (255, 0, 0)
    writer.join()


def test_heic_is_read_where_its_package_is(tmp_path, monkeypatch):
    """A stand-in for pillow-heif, which registers its format in the same way."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import BmpImagePlugin, Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', BmpImagePlugin.BmpImageFile, lambda start: start[:2] == b'BM')\n"
        "    Image.register_extensions('HEIF', ['.heic', '.heif'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ID", "OPEN", "EXTENSION"):  # what Pillow knows of formats, to be forgotten again
        monkeypatch.setattr(Image, name, copy.copy(getattr(Image, name)))
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    spec = importlib.util.spec_from_file_location("again", sys.modules[rgb.__module__].__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    monkeypatch.delitem(sys.modules, "pillow_heif")
    assert "HEIF" in again.FORMATS and ".heic" in again.SUFFIXES - again.UNREAD
