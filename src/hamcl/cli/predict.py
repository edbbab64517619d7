"""The command that uses a model."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from hamcl.cli.shell import (
    UNTOUCHED,
    Device,
    EvalBatch,
    Folder,
    Threads,
    Where,
    complain,
    note,
    prepare,
    present,
    sentences,
    shown,
)


def predict(
    store: Folder,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images and folders of them, or text files with one text a line; - reads a list from standard input.",
        ),
    ],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many classes to name for each input.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write to this file, .csv or .jsonl.")] = None,
    form: Annotated[
        Literal["table", "csv", "jsonl"] | None,
        typer.Option("--format", help="By default that of --out, else a table."),
    ] = None,
    device: Device = None,
    eval_batch_size: EvalBatch = None,
    backbone: Where = None,
    threads: Threads = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Name the classes of images or texts, the most probable first."""
    with sentences(UNTOUCHED):
        from hamcl.cli.inputs import answers, gather
        from hamcl.cli.tables import form_of, predictions, write_answers
        from hamcl.store import Store
        from hamcl.whole import new_file

        chosen = form_of("jsonl" if json and form is None else form, out)
        prepare(threads)
        opened = Store.open(store, backbone=backbone)
        asked = gather(inputs, opened.manifest.backbone.modality, sys.stdin)
        note(asked.notes)
        for sentence in asked.problems:
            complain(sentence)
        unread = list(asked.problems)

        def problem(sentence: str) -> None:
            complain(sentence)
            unread.append(sentence)

        model = opened.model(device)
        model.config = replace(model.config, **present(eval_batch_size=eval_batch_size))
        found = answers(model, asked, top, problem)
        if chosen == "table":
            shown.print(predictions(found), highlight=False)
        elif out is None:
            write_answers(found, chosen, sys.stdout)
        else:
            with new_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
                write_answers(found, chosen, file)
        if unread:
            raise typer.Exit(1)
