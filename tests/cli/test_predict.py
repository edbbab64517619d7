"""`ham predict`: what it reads, what it writes, and what becomes of inputs that cannot be read."""

import csv
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hamcl.cli import tables
from hamcl.heads.calibration import doubt
from hamcl.store import Store
from hamcl.streams.lazy import read_image


@pytest.fixture
def birds(life, tmp_path, monkeypatch):
    """The store, in a folder with five images that are named below it, and what the model says of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    names = ["one.png", "in/a.png", "in/b.PNG", "in/deep/c.png", "in/deep/d.png"]
    for name, image in zip(names, sorted(life.test.rglob("*.png")), strict=False):
        shutil.copy(image, tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    model = Store.open(life.store).model()
    best = model.predict([read_image(name) for name in names], k=2)
    return SimpleNamespace(store=life.store, names=names, best=best)


@pytest.fixture(scope="session")
def notes(ham, toy, bert_folder, tmp_path_factory):
    """A store that learned two classes of texts."""
    root = tmp_path_factory.mktemp("notes")
    samples = toy.samples(["lung", "skin"], [6, 6], "text", "notes")
    with (root / "notes.csv").open("w") as file:
        rows = zip(samples.inputs, samples.labels, strict=True)
        file.write("text,label\n" + "".join(f"{text},{('lung', 'skin')[y]}\n" for text, y in rows))
    ham.shown("init", root / "notes.ham", "--backbone", bert_folder, "--projection", 16, "--max-length", 16)
    ham.shown("learn", root / "notes.ham", root / "notes.csv")
    return SimpleNamespace(store=root / "notes.ham", texts=list(samples.inputs))


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_files_and_folders_in_order(ham, birds):
    result = ham("predict", birds.store, "one.png", "in", "--json", "--top", 2, "--eval-batch-size", 4)
    assert result.exit_code == 0, result.stderr
    told = lines(result.stdout)
    assert [answer["input"] for answer in told] == birds.names
    assert [answer["labels"] for answer in told] == birds.best.labels
    for answer, probabilities in zip(told, birds.best.probabilities.tolist(), strict=True):
        assert answer["probabilities"] == pytest.approx(probabilities, abs=1e-5)


def test_probabilities_from_few_samples_are_said_not_to_be_known_well(ham, birds, monkeypatch):
    result = ham("predict", birds.store, "one.png", "--json")
    judged = Store.open(birds.store).model().judged
    assert 0 < judged < 100
    assert result.stderr.splitlines() == [f"note: {doubt(judged)}"]
    assert lines(result.stdout)[0]["calibrated"] is False
    monkeypatch.setattr("hamcl.learning.learner.Learner.judged", 100.0)
    result = ham("predict", birds.store, "one.png", "--json")
    assert result.stderr == "" and lines(result.stdout)[0]["calibrated"] is True


def test_a_list_on_standard_input(ham, birds):
    result = ham("predict", birds.store, "-", "--json", stdin="in\n\none.png\n")
    assert [answer["input"] for answer in lines(result.stdout)] == [*birds.names[1:], "one.png"]


def test_csv_has_one_line_for_each_input_and_rank(ham, birds):
    result = ham("predict", birds.store, "one.png", "in", "--format", "csv", "-k", 2)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["input"], row["rank"], row["label"]) for row in rows] == [
        (name, str(rank), label)
        for name, labels in zip(birds.names, birds.best.labels, strict=True)
        for rank, label in enumerate(labels, 1)
    ]
    assert float(rows[0]["probability"]) == pytest.approx(birds.best.probabilities[0, 0].item(), abs=1e-5)


def test_a_file_says_its_format(ham, birds, tmp_path):
    for line in (("--out", "p.csv"), ("--out", "p.JSONL"), ("--out", "p.out", "--format", "jsonl")):
        result = ham("predict", birds.store, "in", *line)
        assert result.exit_code == 0 and result.stdout == ""
    assert [row["label"] for row in csv.DictReader((tmp_path / "p.csv").read_text().splitlines())] == [
        best[0] for best in birds.best.labels[1:]
    ]
    assert (tmp_path / "p.JSONL").read_text() == (tmp_path / "p.out").read_text()
    assert [answer["input"] for answer in lines((tmp_path / "p.out").read_text())] == birds.names[1:]


def test_a_table_names_every_class_asked_for(ham, birds):
    shown = ham.shown("predict", birds.store, "one.png", "--top", 9)
    assert "one.png" in shown and all(name in shown for name in ("red", "green", "blue"))
    assert f"{100 * birds.best.probabilities[0, 0].item():.1f} %" in shown


def test_what_cannot_be_read_is_named_and_the_rest_is_predicted(ham, birds, tmp_path):
    for name in ("in/b.PNG", "in/deep/d.png"):
        (tmp_path / name).write_bytes(b"broken")
    (tmp_path / "none").mkdir()
    result = ham("predict", birds.store, "in", "none", "gone.png", "one.png", "--json")
    assert result.exit_code == 1
    assert [answer["input"] for answer in lines(result.stdout)] == ["in/a.png", "in/deep/c.png", "one.png"]
    assert [answer["labels"] for answer in lines(result.stdout)] == [birds.best.labels[i][:1] for i in (1, 3, 0)]
    note, *errors, last = result.stderr.splitlines()
    assert note == "note: left out of in: files that are no images by their suffix: .txt"
    assert last.startswith("note: probabilities are not known well")
    assert len(errors) == 4 and all(line.startswith("error: ") for line in errors)
    for name in ("none", "in/b.PNG", "in/deep/d.png", "gone.png"):
        assert any(name in line for line in errors)
    assert ham("predict", birds.store, "in/b.PNG", "--json").stdout == ""


def test_texts_come_from_files_and_standard_input(ham, notes, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join([*notes.texts[:3], "", notes.texts[8]]) + "\n")
    expected = [notes.texts[0], notes.texts[1], notes.texts[2], notes.texts[8], notes.texts[5]]
    result = ham("predict", notes.store, tmp_path / "a.txt", "-", "--json", stdin=f"{notes.texts[5]}\n")
    told = lines(result.stdout)
    assert [answer["input"] for answer in told] == expected
    best = Store.open(notes.store).model().predict(expected).labels
    assert [answer["labels"] for answer in told] == best


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"words,n\nx,1\n", "has the columns words, n in its first line"),
        ("a.csv", b"image\n0.png\n", "holds images, but the model reads texts"),
        ("a.csv", b"content\n0.png\n", "holds names of image files"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("gone.txt", None, "cannot be read"),
        ("inbox/gone", None, "cannot be read"),
        ("", None, "is a folder"),
    ],
)
def test_texts_that_cannot_be_read(ham, notes, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert words in ham.refused("predict", notes.store, tmp_path / name, code=1)


def test_a_text_is_an_argument_of_its_own(ham, notes):
    first, second = notes.texts[0], notes.texts[5]
    result = ham("predict", notes.store, first, second, "--json")
    assert [answer["input"] for answer in lines(result.stdout)] == [first, second] and "no file" not in result.stderr
    assert [answer["labels"] for answer in lines(result.stdout)] == Store.open(notes.store).model().predict(
        [first, second]
    ).labels
    result = ham("predict", notes.store, "balan", "--json")
    assert [answer["input"] for answer in lines(result.stdout)] == ["balan"]
    assert "there is no file 'balan'; it is taken for a text" in " ".join(result.stderr.split())
    long = "balan milan " * 5_000
    assert lines(ham("predict", notes.store, long, "--json").stdout)[0]["input"] == long


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_texts_come_from_tables(ham, notes, tmp_path, suffix):
    file, texts = tmp_path / f"t.{suffix}", [notes.texts[0], notes.texts[9]]
    if suffix == "jsonl":
        file.write_text("".join(json.dumps({"id": 1, "Text": x}) + "\n" for x in texts))
    elif suffix == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"id": [1, 2], "Text": texts}), file)
    else:
        separator = {"csv": ",", "tsv": "\t"}[suffix]
        file.write_text("".join(f"{i}{separator}{x}\n" for i, x in [("id", "Text"), *enumerate(texts)]))
    result = ham("predict", notes.store, "balan milan", file, notes.texts[3], "--json")
    assert result.exit_code == 0, result.stderr
    expected = ["balan milan", *texts, notes.texts[3]]
    assert [answer["input"] for answer in lines(result.stdout)] == expected
    best = Store.open(notes.store).model().predict(expected).labels
    assert [answer["labels"] for answer in lines(result.stdout)] == best


def test_the_column_of_the_texts_is_named(ham, notes, tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(f"No;Body\n1;{notes.texts[0]}\n2;\n3;{notes.texts[1]}\n")
    result = ham("predict", notes.store, file, "--text-column", "body", "--json")
    assert [answer["input"] for answer in lines(result.stdout)] == notes.texts[:2]
    said = " ".join(result.stderr.split())
    assert result.exit_code == 1 and "line 3 has no text" in said and "read a semicolon as the separator" in said
    assert "no column of" in ham.refused("predict", notes.store, file, "--text-column", "bodies", code=2)
    sentence = ham.refused("predict", notes.store, "balan milan", "--text-column", "body", code=2)
    assert "no table is given" in sentence


def test_one_bad_text_does_not_stop_the_others(ham, notes, tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"text": "balan"}\n{"text": "cut \\ud83d"}\n{"text"\n{"text": "milan"}\n')
    result = ham("predict", notes.store, file, " ".join(["x" * 2_000_000]), "milan kofor", "--json")
    assert [answer["input"] for answer in lines(result.stdout)] == ["balan", "milan", "milan kofor"]
    assert result.exit_code == 1
    for words in ("line 2 holds half a character", "line 3 is not valid JSON", "2,000,000 characters"):
        assert words in " ".join(result.stderr.split())


def test_images_come_from_tables_of_paths(ham, birds, tmp_path):
    (tmp_path / "list.csv").write_text("file_name,label\none.png,red\nin/a.png,\ngone.png,x\n")
    result = ham("predict", birds.store, "list.csv", "in", "--json")
    assert [answer["input"] for answer in lines(result.stdout)] == ["one.png", "in/a.png", *birds.names[1:]]
    assert [answer["labels"] for answer in lines(result.stdout)][:2] == [row[:1] for row in birds.best.labels[:2]]
    assert result.exit_code == 1 and "line 4" in result.stderr and "gone.png" in result.stderr


def test_nothing_to_predict_is_no_error(ham, birds):
    assert ham.shown("predict", birds.store, "-", "--format", "csv", stdin="\n") == "input,rank,label,probability"


def test_a_store_that_knows_nothing_is_one_sentence(ham, life, tmp_path):
    ham.shown("init", tmp_path / "new.ham", "--backbone", life.backbone)
    assert "nothing was learned" in ham.refused("predict", tmp_path / "new.ham", life.test, code=2)


LATIN = os.fsdecode(b"in/caf\xe9.png")


@pytest.fixture
def latin(birds, tmp_path):
    """The name of an image that is not UTF-8."""
    try:
        shutil.copy(tmp_path / "one.png", tmp_path / LATIN)
    except OSError:
        pytest.skip("this file system takes no name that is not UTF-8")
    return LATIN


def test_a_name_that_is_not_utf8(ham, birds, latin):
    for line in (("--json",), ("--out", "p.jsonl")):
        result = ham("predict", birds.store, latin, *line)
        assert result.exit_code == 0, result.output
        (told,) = lines(result.stdout if line == ("--json",) else Path("p.jsonl").read_text(encoding="utf-8"))
        assert os.fsencode(told["input"]) == b"in/caf\xe9.png" and told["labels"] == birds.best.labels[0][:1]
    assert ham("predict", birds.store, latin, "--out", "p.csv").exit_code == 0
    (row,) = csv.DictReader(Path("p.csv").read_text(encoding="utf-8").splitlines())
    assert row["input"] == "in/caf\\udce9.png"
    assert "in/caf\\udce9.png" in ham.shown("predict", birds.store, latin)


@pytest.mark.parametrize("between", [b"\0", b"\n"])
def test_a_list_of_paths_in_the_bytes_of_the_file_system(ham, birds, latin, between):
    stdin = between.join([os.fsencode(latin), b"one.png", b""])
    told = lines(ham("predict", birds.store, "-", "--json", stdin=stdin).stdout)
    assert [answer["input"] for answer in told] == [latin, "one.png"]


def test_a_name_with_a_line_break_in_a_list_with_zero_bytes(ham, birds, tmp_path):
    shutil.copy(tmp_path / "one.png", tmp_path / "two\nlines.png")
    told = lines(ham("predict", birds.store, "-", "--json", stdin=b"two\nlines.png\0").stdout)
    assert [answer["input"] for answer in told] == ["two\nlines.png"]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_an_image_on_standard_input(ham, birds, tmp_path, form):
    data = io.BytesIO()
    read_image(tmp_path / "one.png").save(data, form)
    (told,) = lines(ham("predict", birds.store, "in/a.png", "-", "--json", stdin=data.getvalue()).stdout)[1:]
    assert told["input"] == "-" and told["labels"] == birds.best.labels[0][:1]


def test_an_image_on_standard_input_is_no_text(ham, notes, birds, tmp_path):
    sentence = ham.refused("predict", notes.store, "-", stdin=(tmp_path / "one.png").read_bytes(), code=1)
    assert "standard input is not UTF-8" in sentence


@pytest.mark.parametrize(("out", "code", "words"), [("gone/p.csv", 1, "gone/p.csv"), ("in", 2, "it is a folder")])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(ham, birds, monkeypatch, out, code, words):
    monkeypatch.setattr(Store, "model", lambda *_: pytest.fail("the model was loaded"))
    assert words in ham.refused("predict", birds.store, "one.png", "--out", out, "--format", "csv", code=code)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_a_full_disk_did_not_take_is_on_standard_output(ham, birds, monkeypatch, tmp_path, form):
    """The disk is full after the first answer of two batches."""
    whole = ham("predict", birds.store, *birds.names, "--format", form).stdout
    write = tables.write_answers

    def fails(answers, form, file):
        if file is not sys.stdout:
            write([next(answers)], form, file)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(answers, form, file)

    monkeypatch.setattr(tables, "write_answers", fails)
    result = ham("predict", birds.store, *birds.names, "--out", f"p.{form}", "--eval-batch-size", 2)
    assert result.exit_code == 1 and result.stdout == whole
    assert result.stderr.startswith(f"error: cannot write p.{form}: No space left") and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*p.*"))


def test_a_link_stays_a_link(ham, birds, tmp_path):
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert ham("predict", birds.store, "one.png", "--out", "link.csv").exit_code == 0
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text().startswith("input,rank")


def test_what_is_no_file_is_written_to_and_not_replaced(ham, birds, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert ham("predict", birds.store, "one.png", "--out", "pipe", "--format", "csv").exit_code == 0
    assert os.read(reader, 1000).startswith(b"input,rank") and (tmp_path / "pipe").is_fifo()
    os.close(reader)
