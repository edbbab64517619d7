"""The commands that keep a model: go back, check, compare, clean up, hand on."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from hamcl.cli.shell import UNTOUCHED, Folder, Json, Where, prepare, say, say_json, sentences, shown


def undo(
    store: Folder,
    to: Annotated[str | None, typer.Option(metavar="TASK", help="The task that shall be the last one known.")] = None,
    json: Json = False,
) -> None:
    """Go back to the state before the last task, exactly."""
    with sentences(UNTOUCHED):
        from hamcl.store import Store

        opened = Store.open(store)
        gone = opened.undo(to)
        if json:
            return say_json({"undone": gone, "tasks": [task.name for task in opened.manifest.state.tasks]})
        say(f"took back {', '.join(gone)}; {len(opened.manifest.state.classes)} classes are known")


def export(
    store: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    kind: Annotated[
        Literal["peft", "merged", "onnx", "adapters"],
        typer.Option("--as", help="One LoRA adapter, plain weights, an ONNX graph, or one adapter for each group."),
    ],
    title: Annotated[str | None, typer.Option(help="Title of the model card.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the model, such as mit.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    backbone: Where = None,
    json: Json = False,
) -> None:
    """Write the model for other libraries, with its class names and a model card."""
    with sentences(UNTOUCHED):
        from hamcl.export import Card
        from hamcl.store import Store

        prepare(None)
        opened = Store.open(store, backbone=backbone)
        model, state = opened.model(), opened.manifest.state
        card = Card(title=title, license=license)
        # An evaluation of an earlier model says nothing about this one.
        for last in [e for e in state.evaluations[-1:] if e.learned == len(state.tasks)]:
            accuracy = {name: score.accuracy for name, score in last.tasks.items()}
            card = replace(card, metrics={"accuracy": last.overall.accuracy}, accuracy=accuracy)
        model.export(out, kind, card=card, overwrite=overwrite)
        if json:
            files = sorted(file for file in out.rglob("*") if file.is_file())
            return say_json({"folder": out, "files": {f"{f.relative_to(out)}": f.stat().st_size for f in files}})
        say(f"wrote {kind} to {out}; README.md there says how to use it")


def verify(store: Folder, backbone: Where = None, json: Json = False) -> None:
    """Check every checksum, every shape and every invariant."""
    with sentences(UNTOUCHED):
        from hamcl.store import Store

        prepare(None)
        lines = Store.open(store, backbone=backbone).verify()
        if json:
            return say_json({"checked": lines})
        for line in lines:
            say(line)


def diff(
    store: Folder,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The folder of another model.")],
    json: Json = False,
) -> None:
    """Compare two models: options, classes, tasks, groups, importances and evaluations."""
    with sentences(UNTOUCHED):
        from hamcl.cli import tables
        from hamcl.store import Store

        found = Store.open(store).diff(Store.open(other))
        if json:
            return say_json(found)
        if not found:
            return say(f"{store} and {other} hold the same model")
        shown.print(tables.differences(found, store, other), highlight=False)


def gc(
    store: Folder,
    keep: Annotated[int, typer.Option(min=0, help="How many earlier states to keep for ham undo.")] = 0,
    json: Json = False,
) -> None:
    """Free the space of earlier states; ham undo cannot go back to them any more."""
    with sentences(UNTOUCHED):
        from hamcl.store import Store

        freed = Store.open(store).gc(keep)
        if json:
            return say_json({"freed": freed})
        from rich.filesize import decimal

        say(f"freed {decimal(freed)}")
