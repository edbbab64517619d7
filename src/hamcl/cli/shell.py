"""What all commands share: the consoles, errors as sentences, and options that mean the same everywhere."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from hamcl.config import PRESETS
from hamcl.errors import HamError, UsageError

shown = Console(width=None if sys.stdout.isatty() else 120)  # a table piped to a file need not fold
errors = Console(stderr=True)
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

UNTOUCHED = "interrupted; the store is as it was before"
RESUMED = "interrupted; what was finished is recorded, and --resume goes on from there"

Folder = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of the model.")]
Where = Annotated[
    str | None,
    typer.Option("--backbone", help="Where the backbone lies now, if not where the store says; it must be the same."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...; by default that of the store.")]
EvalBatch = Annotated[
    int | None, typer.Option("--eval-batch-size", help="Samples at a time; by default that of the store.")
]
TaskName = Annotated[str | None, typer.Option("--name", help="Name of the task; by default that of the data.")]
Augmented = Annotated[
    Literal["photo", "handwriting", "none"] | None,
    typer.Option("--augmentation", help="What kind of images these are, which says how they are varied and cut."),
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", help="The column of a table that holds the texts, if not a usual one.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="The column of a table that holds the labels, if not a usual one.")
]
DATA = "A folder of class folders, parquet, CSV or JSONL of texts or image paths, or hub:ID."
STREAM = "Stream and backbone"
BACKBONES = "efficientnet-lite0, minilm, timm/ID, hf/ID or a folder with a config.json."

ImageSize = Annotated[int | None, typer.Option(help="Height and width of images in pixels.", rich_help_panel=STREAM)]
MaxLength = Annotated[int | None, typer.Option(help="The most tokens of a text.", rich_help_panel=STREAM)]
ConfigFile = Annotated[
    Path | None, typer.Option(help="YAML or JSON file of method options; the command line overrides it.")
]
Preset = Annotated[str, typer.Option(help=f"Start from these method options: {', '.join(PRESETS)}.")]
Moving = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Show progress; by default moving bars on a terminal."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads of PyTorch.")]


@contextmanager
def sentences(interrupted: str = RESUMED) -> Iterator[None]:
    """Turn the errors a user can cause into one sentence and an exit code: 2 usage, 1 others, 130 interrupted.

    Args:
        interrupted: what to say when the user stops the command.
    """
    try:
        yield
    except HamError as error:
        fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        fail(f"cannot read or write{where}: {error.strerror or error}", 1)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        fail("the device is out of memory; lower --batch-size, --eval-batch-size or the size of the inputs", 1)
    except KeyboardInterrupt:
        fail(interrupted, 130)


def fail(sentence: str, code: int) -> NoReturn:
    """Say what went wrong and end the command."""
    complain(sentence)
    raise typer.Exit(code)


def complain(sentence: str) -> None:
    """Say what went wrong."""
    errors.print(Text(f"error: {printable(sentence)}", style="red"), soft_wrap=True)


def note(sentences: Iterable[str]) -> None:
    """Say what was left out, renamed or guessed: each sentence once, on stderr, so that the answer stays clean."""
    for sentence in dict.fromkeys(sentences):
        errors.print(Text(f"note: {printable(sentence)}"), soft_wrap=True)


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal: names come from files of strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 class", "2 classes"."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def say(sentence: str) -> None:
    """Print a line as it is."""
    shown.print(Text(printable(sentence)), soft_wrap=True)


def say_json(value: Any) -> None:
    """Print one JSON document for scripts, not folded or coloured."""
    from hamcl.bench.files import plain  # numpy takes its time

    typer.echo(json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def present(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def prepare(threads: int | None) -> None:
    """Set the number of threads, and silence the bars of libraries, which would run through our own."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
