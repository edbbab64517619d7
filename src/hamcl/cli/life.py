"""The practitioner's commands: one model that lives in a folder and learns for years."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hamcl.cli.options import build_config
from hamcl.cli.shell import (
    BACKBONES,
    STREAM,
    ConfigFile,
    ImageSize,
    Json,
    MaxLength,
    Moving,
    Preset,
    Threads,
    complain,
    errors,
    prepare,
    present,
    say,
    say_json,
    sentences,
    shown,
)

Folder = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of the model.")]
Where = Annotated[
    str | None,
    typer.Option("--backbone", help="Where the backbone lies now, if not where the store says; it must be the same."),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, ...; by default that of the store.")]
UNTOUCHED = "interrupted; the store is as it was before"
GOES_ON = f"{UNTOUCHED}, and the same command goes on from the last epoch kept"
DATA = "A folder of class folders, parquet, CSV or JSONL of texts, or hub:ID."


def init(
    store: Folder,
    *,
    backbone: Annotated[str, typer.Option(help=BACKBONES, rich_help_panel=STREAM)],
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    config: ConfigFile = None,
    preset: Preset = "default",
    keep: Annotated[int, typer.Option(min=0, help="How many earlier states are kept for ham undo.")] = 3,
    json: Json = False,
    **given: Any,
) -> None:
    """Make a new model that knows nothing yet; its options are chosen here, once."""
    with sentences(UNTOUCHED):
        settings = build_config(given, file=config, preset=preset)

        from hamcl.store import Store

        prepare(None)
        read = present(image_size=image_size, max_length=max_length)
        made = Store.create(store, backbone=backbone, backbone_options=read, config=settings, keep=keep)
        record = made.manifest.backbone
        if json:
            say_json({"store": store, "backbone": record})
        else:
            say(f"{store} is ready to learn {record.modality}s on {record.spec} ({record.width} features)")


def learn(
    store: Folder,
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA)],
    name: Annotated[str | None, typer.Option(help="Name of the task; by default that of the data.")] = None,
    augmentation: Annotated[
        Literal["photo", "handwriting", "none"] | None,
        typer.Option(help="How training images are varied; by default as photos."),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew what was left unfinished.")] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Keep the position so often, besides after every epoch.")
    ] = 10.0,
    backbone: Where = None,
    progress: Moving = None,
    threads: Threads = None,
    json: Json = False,
    **given: Any,
) -> None:
    """Learn one task; started again after a stop, go on from where it was."""
    with sentences(GOES_ON):
        from hamcl.cli.live import Live
        from hamcl.store import Store
        from hamcl.streams import load_task

        prepare(threads)
        opened = Store.open(store, backbone=backbone)
        task = load_task(data, name=name, augmentation=augmentation)
        with Live(errors, progress) as live:
            report = opened.learn(
                task,
                options=present(**given),
                restart=restart,
                progress=live.step,
                checkpoint_minutes=checkpoint_minutes,
            )
        for sentence in report.skipped:
            errors.print(f"skipped: {sentence}", highlight=False, markup=False, soft_wrap=True)
        if json:
            return say_json(report)
        group = f"{'opened' if report.opened else 'joined'} group {report.group}"
        samples = len(task.train) - len(report.skipped)
        say(
            f"learned {task.name}: {len(task.classes)} classes from {samples} samples, {group}, loss "
            f"{report.losses[-1]:.3f}, {report.seconds:.1f} s; {len(opened.manifest.state.classes)} classes are known"
        )


def status(
    store: Folder,
    history: Annotated[bool, typer.Option("--history", help="Show what happened to the store.")] = False,
    json: Json = False,
) -> None:
    """Show classes, tasks, groups, sizes and the last evaluation."""
    with sentences(UNTOUCHED):
        from hamcl.cli import tables
        from hamcl.store import Store

        opened = Store.open(store)
        if json:
            return say_json(tables.facts(opened))
        shown.print(tables.history(opened) if history else tables.status(opened), highlight=False)


def evaluate(
    store: Folder,
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help=f"{DATA} Its test split, if it has one.")],
    known: Annotated[bool, typer.Option("--known", help="Leave out classes that were not learned.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every class, not only the worst.")] = False,
    record: Annotated[bool, typer.Option("--record/--no-record", help="Keep the result in the store.")] = True,
    backbone: Where = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure the accuracy on labelled data: by task, by class, and what is taken for what."""
    with sentences(UNTOUCHED):
        from hamcl.cli import tables
        from hamcl.store import Store
        from hamcl.streams import load_task
        from hamcl.streams.task import regroup

        prepare(threads)
        opened = Store.open(store, backbone=backbone)
        state = opened.manifest.state
        learned = {task.name: [state.classes[c] for c in task.columns] for task in state.tasks}
        result = opened.evaluate(regroup([load_task(d) for d in data], learned, known=known), record=record)
        if json:
            return say_json(result)
        for table in tables.evaluation(result, everything=every):
            shown.print(table, highlight=False)


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
    backbone: Where = None,
    threads: Threads = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Name the classes of images or texts, the most probable first."""
    with sentences(UNTOUCHED):
        from hamcl.bench.files import atomic
        from hamcl.cli.inputs import answers, gather
        from hamcl.cli.tables import form_of, predictions, write_answers
        from hamcl.store import Store

        chosen = form_of("jsonl" if json and form is None else form, out)
        prepare(threads)
        opened = Store.open(store, backbone=backbone)
        asked = gather(inputs, opened.manifest.backbone.modality, sys.stdin)
        for sentence in asked.problems:
            complain(sentence)
        unread = list(asked.problems)

        def problem(sentence: str) -> None:
            complain(sentence)
            unread.append(sentence)

        found = answers(opened.model(device), asked, top, problem)
        if chosen == "table":
            shown.print(predictions(found), highlight=False)
        elif out is None:
            write_answers(found, chosen, sys.stdout)
        else:
            with atomic(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
                write_answers(found, chosen, file)
        if unread:
            raise typer.Exit(1)


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
