"""What all commands share: the consoles, errors as sentences, and how stores and tasks are read."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from hamcl.cli.spoken import spoken
from hamcl.errors import HamError, UsageError

if TYPE_CHECKING:
    from hamcl.machine import Machine
    from hamcl.store import Store
    from hamcl.streams.base import Task


class Shown(Console):
    """A console that leaves it to `sentences` what to do when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        raise


shown = Shown(width=None if sys.stdout.isatty() else 120)  # a table piped to a file need not fold
errors = Shown(stderr=True)

UNTOUCHED = "interrupted; the store is as it was before"
RESUMED = "interrupted; what was finished is recorded, and --resume goes on from there"

CLOSED = 141
"""The exit code where the reader of the output has gone (`| head`): that of a program ended by SIGPIPE."""
_NO_MEMORY = ("out of memory", "allocate memory", "DefaultCPUAllocator")


@contextmanager
def sentences(interrupted: str | Callable[[], str] = RESUMED) -> Iterator[None]:
    """Turn the errors a user can cause into one sentence and an exit code: 2 usage, 1 others, 130 interrupted.

    Args:
        interrupted: what to say when the user stops the command, or what tells it then (see `since`).
    """
    try:
        yield
        sys.stdout.flush()  # what is still in the buffer may find the disk full, or nobody reading
    except HamError as error:
        fail(spoken(str(error)), 2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        hush()
        raise typer.Exit(CLOSED) from None
    except OSError as error:
        hush()
        where = f" {error.filename}" if error.filename else ""
        fail(f"cannot read or write{where}: {error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)):
            raise
        fail("there is not enough memory; lower --batch-size, --eval-batch-size or the size of the inputs", 1)
    except KeyboardInterrupt:
        fail(interrupted if isinstance(interrupted, str) else interrupted(), 130)


def since(store: Path, untouched: str = UNTOUCHED) -> Callable[[], str]:
    """What to say of a command on a store when it is interrupted: it may have made its change already.

    Args:
        untouched: what is true of the store if it has not changed since this call.
    """
    manifest = store / "manifest.json"

    def stamp() -> tuple[int, int] | None:
        with suppress(OSError):
            facts = manifest.stat()
            return facts.st_ino, facts.st_mtime_ns
        return None

    before = stamp()

    def sentence() -> str:
        if stamp() == before:
            return untouched
        try:
            event = json.loads(manifest.read_bytes())["history"][-1]["text"]
        except (OSError, ValueError, LookupError, TypeError):
            event = "ham status --history shows it"
        return f"interrupted, but the store was changed before that: {event}"

    return sentence


def hush() -> None:
    """If standard output cannot be written, let nothing more be tried: Python would complain when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # what stands for it in a test has no number
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def ready() -> None:
    """Let the consoles show what their encoding has not, as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def fail(sentence: str, code: int) -> NoReturn:
    """Say what went wrong and end the command."""
    complain(sentence)
    raise typer.Exit(code)


def complain(sentence: str) -> None:
    """Say what went wrong."""
    errors.print(Text(f"error: {printable(sentence)}", style="red"), soft_wrap=True)


def skipped(sentence: str) -> None:
    """Say of a sample that it was left out."""
    errors.print(Text(f"skipped: {printable(sentence)}"), soft_wrap=True)


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
    typer.echo(as_json(value, ascii=not unicode(sys.stdout), indent=1))


def as_json(value: Any, *, ascii: bool = False, indent: int | None = None) -> str:
    """`value` as JSON in which whatever is not printable is an escape of JSON.

    A name of a file that is not UTF-8 keeps its bytes as Python does (`\\udce9`), so `os.fsencode` gives them back.

    Args:
        ascii: escape every character that is not ASCII, too.
    """
    from hamcl.plain import plain  # numpy takes its time

    text = json.dumps(plain(value), indent=indent, ensure_ascii=ascii, allow_nan=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def unicode(stream: Any) -> bool:
    """Whether a stream takes any character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def present(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def reopened(store: Path, backbone: str | None, machine: "Machine") -> "Store":
    """Open a store to compute with; say what it no longer decides."""
    from hamcl.store import Store

    prepare(machine)
    opened = Store.open(store, backbone=backbone, machine=machine)
    if dropped := opened.manifest.dropped:
        kept = ", ".join(f"{name}={value!r}" for name, value in dropped.items())
        note([f"{store} was made with {kept}, which is no part of a model any more: give it with each command"])
    return opened


def read_task(data: str, machine: "Machine", **options: Any) -> "Task":
    """Read one task, with the options of `load_task`, and show what is said of its data."""
    from hamcl.streams import load_task

    task = load_task(data, on_bad_sample=machine.on_bad_sample, **options)
    note(task.notes)
    return task


def prepare(machine: "Machine") -> None:
    """Refuse a device that is not here before anything is read, and set the number of threads.

    The bars of libraries, which would run through our own, are silenced.

    Raises:
        UsageError: there is no such device here.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    machine.resolved()
    machine.use_threads()
