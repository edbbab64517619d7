"""What the commands print: names that are not Unicode, consoles that are not, readers that go away, terminals."""

import csv
import io
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from hamcl.cli.inputs import Answer
from hamcl.cli.live import Live
from hamcl.cli.main import app
from hamcl.cli.shell import sentences
from hamcl.cli.spoken import ARGUMENTS, spoken
from hamcl.cli.tables import show_answers, write_answers
from hamcl.training.lesson import Step

STEERS = "\x1b[31m\x9b2J\u202e"
"""What colours, clears and turns round the text of a terminal."""


@contextmanager
def printing_to(stream, monkeypatch):
    """Run something with another standard output."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        yield


def status(store, *line):
    """The exit code of `ham status`, which prints to whatever standard output is."""
    with pytest.raises(SystemExit) as stopped:
        app(["status", str(store), *line])
    return stopped.value.code


@pytest.fixture
def cafe(ham, toy, life, copy):
    """A store with a class that is not ASCII."""
    from .conftest import save_images

    store = copy()
    ham.shown("learn", store, save_images(toy, store.parent / "cafe", ["Café", "thé"]))
    return store


@pytest.mark.parametrize("line", [(), ("--json",)])
def test_a_console_without_accents_shows_escapes(cafe, monkeypatch, line):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with printing_to(stream, monkeypatch):
        assert status(cafe, *line) == 0
    shown = stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    if line:
        assert "Caf\\u00e9" in shown and "Café" in json.loads(shown)["classes"]
    else:
        assert "Caf\\xe9" in shown


@pytest.mark.parametrize("line", [(), ("--json",)])
def test_a_reader_that_goes_away_ends_the_command_quietly(life, monkeypatch, capfd, line):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, printing_to(stream, monkeypatch):
        assert status(life.store, *line) == 141
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_sentence(life, monkeypatch, capfd):
    with open("/dev/full", "w") as stream, printing_to(stream, monkeypatch):
        assert status(life.store) == 1
    shown, told = capfd.readouterr()
    assert shown == "" and told == "error: cannot read or write: No space left on device\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    ],
)
def test_too_little_memory_is_one_sentence(capsys, error):
    with pytest.raises(BaseException, match="1"), sentences():
        raise error
    told = capsys.readouterr().err
    assert told.startswith("error: there is not enough memory; lower --batch-size") and told.count("\n") == 1


def answers(*names):
    return [Answer(name, [f"c{STEERS}", "=x"], [0.75, 0.25], True) for name in names]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_no_name_steers_a_terminal(form):
    file = Terminal()
    write_answers(answers(f"a{STEERS}"), form, file)
    assert all(c.isprintable() or c == "\n" for c in file.getvalue())


def test_json_is_the_same_on_a_terminal_and_in_a_file_and_loses_nothing():
    files = Terminal(), io.StringIO()
    for file in files:
        write_answers(answers(f"a{STEERS}\udce9😀é"), "jsonl", file)
    assert files[0].getvalue() == files[1].getvalue() and "😀é" in files[1].getvalue()
    told = json.loads(files[0].getvalue())
    assert told["input"] == f"a{STEERS}\udce9😀é" and told["labels"] == [f"c{STEERS}", "=x"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_csv_is_a_formula(text):
    file = io.StringIO(newline="")
    write_answers([Answer(text, [text], [1.0], True)], "csv", file)
    (row,) = csv.DictReader(io.StringIO(file.getvalue(), newline=""))
    assert (row["input"], row["label"], row["probability"]) == (f"'{text}", f"'{text}", "1.000000")


def test_rows_appear_as_they_are_known():
    console = Console(file=io.StringIO(), width=60)
    file = io.StringIO()
    flushed = []
    file.flush = lambda: flushed.append(file.getvalue())  # type: ignore[method-assign]

    def found(written):
        for i, answer in enumerate(answers("first.png", "second.png")):
            assert written().count(".png") == i
            yield answer

    write_answers(found(lambda: flushed[-1] if flushed else ""), "jsonl", file)
    names, classes = ["first.png", "second.png"], ["=x", f"c{STEERS}"]
    show_answers(found(console.file.getvalue), names, classes, console)  # type: ignore[attr-defined]
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].split() == ["input", "class", "probability"] and lines[1].split()[-2:] == ["75.0", "%"]
    assert len({len(line) for line in lines[1:]}) == 1 and "\x1b" not in "".join(lines)


def test_the_bars_show_no_markup_and_no_escapes():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=160)
    with Live(console, True) as live:
        live.start(f"[red]{STEERS}", 2)
        live.step(Step(f"[bold]{STEERS}", 1, 3, 2, 9, 0.25, 123.4))
        live.bars.refresh()
        live.passed(f"[i]{STEERS}", 3, 10)
        live.bars.refresh()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31m" not in shown and "\x9b" not in shown and "\u202e" not in shown
    for name in ("[red]", "[bold]", "[i]"):
        assert f"{name}\\x1b[31m\\x9b2J\\u202e" in shown


@pytest.mark.parametrize("line", [(f"{STEERS}x",), ("status", f"--{STEERS}"), ("status", "a", f"b{STEERS}")])
def test_a_usage_error_names_the_command_and_steers_nothing(ham, line):
    result = ham(*line)
    assert result.exit_code == 2 and "\x1b[31m" not in result.stderr and "\\x1b[31m" in result.stderr
    assert result.stderr.startswith("Usage: ham ")


def test_shells_can_complete(ham, monkeypatch):
    assert "--install-completion" in ham.shown("--help")
    monkeypatch.setenv("_HAM_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "ham ver")
    assert "verify" in ham().stdout


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("option 'rank' must be at least 1, got 0", "--rank must be at least 1, got 0"),
        ("a model whose option targets matches it", "a model whose --targets matches it"),
        ("leave them out with known=True", "leave them out with --known"),
        ("learn with later_tasks='free'", "learn with --later-tasks free"),
        ("take max_groups=None or merge_rank=8.", "take --max-groups none or --merge-rank 8."),
        ("record=False", "--no-record"),
        ("frozen does nothing with the option 'rank'; leave it out", "frozen does nothing with --rank; leave it out"),
        ("the option head='stack' is given", "the option --head stack is given"),
        ("the option rank=16 is given", "the option --rank 16 is given"),
        ("image_size does not apply", "--image-size does not apply"),
        ("nothing was learned yet: call learn(task) first", "nothing was learned yet: use ham learn first"),
        # Names of users are left alone.
        ("a/max_length/x.png of 'max_length' and rank", "a/max_length/x.png of 'max_length' and rank"),
    ],
)
def test_sentences_speak_of_options(sentence, said):
    assert spoken(sentence) == said


def test_every_argument_named_as_an_option_is_one():
    import typer

    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    options = {parameter.name for command in commands for parameter in command.params}
    assert set(ARGUMENTS) <= options
