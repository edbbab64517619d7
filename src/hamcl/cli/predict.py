"""The command that uses a model."""

import io
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hamcl.cli import flags, shell
from hamcl.cli.options import machine_of
from hamcl.errors import DataError, UsageError

if TYPE_CHECKING:
    from hamcl.cli.inputs import Answer


def predict(
    store: flags.Folder,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images and folders of them; texts, or text files with one a line; tables (CSV, JSONL, parquet) of "
            "either; - reads a list from standard input.",
        ),
    ],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to name for each input.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write to this file, .csv or .jsonl.")] = None,
    form: Annotated[
        Literal["table", "csv", "jsonl"] | None,
        typer.Option("--format", help="By default that of --out, else a table."),
    ] = None,
    text_column: flags.TextColumn = None,
    backbone: flags.Where = None,
    progress: flags.Moving = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    **given: Any,
) -> None:
    """Name the classes of images or texts, the most probable first."""
    with shell.sentences(shell.UNTOUCHED):
        from hamcl.cli.inputs import answers, gather
        from hamcl.cli.live import Live
        from hamcl.cli.tables import form_of, show_answers, write_answers
        from hamcl.heads.calibration import doubt

        chosen = form_of("jsonl" if json and form is None else form, out)
        if out is not None:
            out = out.expanduser()  # a shell leaves --out=~/x as it is
            check_writable(out)
        machine = machine_of(given)
        opened = shell.reopened(store, backbone, machine)
        stdin = sys.stdin.buffer if sys.stdin else io.BytesIO()
        asked = gather(inputs, opened.manifest.backbone.modality, stdin, text_column)
        shell.note(asked.notes)
        for sentence in asked.problems:
            shell.complain(sentence)

        def problem(sentence: str) -> None:
            shell.complain(sentence)
            asked.problems.append(sentence)

        model = opened.model()
        table, seen = chosen == "table", out is None and sys.stdout.isatty()
        sure: set[bool] = set()

        def answered() -> Iterator["Answer"]:
            for answer in answers(model, asked, top, problem):
                sure.add(answer.calibrated)
                yield answer

        # Rows on a terminal move up past the bar only where one console shows both.
        with Live(shell.shown if table and seen else shell.errors, False if seen and not table else progress) as live:
            found = live.counted(answered(), "predict", len(asked.names))
            if chosen == "table":
                show_answers(found, asked.names, model.classes, shell.shown)
            elif out is None:
                write_answers(found, chosen, sys.stdout)
            else:
                _write(found, chosen, out)
        if False in sure:
            shell.note([doubt(model.judged)])
        if asked.problems:
            raise typer.Exit(1)


def check_writable(out: Path) -> None:
    """Refuse a file that cannot be written, before hours of work are spent on what shall be in it."""
    where = f"cannot write {out}"
    if out.is_dir():
        raise UsageError(f"{where}: it is a folder; give --out a file")
    try:
        if out.exists() and not out.is_file():  # a device or a pipe
            return
        with NamedTemporaryFile(dir=out.resolve().parent, prefix=f".{out.name}."[:50]):
            pass
    except OSError as error:
        raise DataError(f"{where}: {error.strerror or error}; give --out another place") from error


def _write(found: Iterator["Answer"], form: Literal["csv", "jsonl"], out: Path) -> None:
    """Write predictions to a file, or to standard output what there is if the file cannot be written after all."""
    from hamcl.cli.tables import write_answers
    from hamcl.files import new_file

    kept: list[Answer] = []

    def keeping() -> Iterator["Answer"]:
        for answer in found:
            kept.append(answer)
            yield answer

    style: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with new_file(out) as temporary, temporary.open("w", **style) as file:
            write_answers(keeping(), form, file)
    except (OSError, DataError) as error:
        system = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(system, OSError):  # not the file's fault
            raise
        shell.complain(f"cannot write {out}: {system.strerror or system}; the predictions follow on standard output")
        write_answers(chain(kept, found), form, sys.stdout)
        raise typer.Exit(1) from error
