"""The commands that keep a model: go back, check, compare, clean up, hand on."""

from dataclasses import replace
from json import loads
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hamcl.cli import flags, shell
from hamcl.cli.options import machine_of
from hamcl.errors import DataError, UsageError


def undo(
    store: flags.Folder,
    to: Annotated[str | None, typer.Option(metavar="TASK", help="The task that shall be the last one known.")] = None,
    json: flags.Json = False,
) -> None:
    """Go back to the state before the last task, exactly."""
    with shell.sentences(shell.since(store)):
        from hamcl.store import LightStore

        opened = LightStore.open(store)
        gone = opened.undo(to)
        if json:
            return shell.say_json({"undone": gone, "tasks": [task.name for task in opened.manifest.state.tasks]})
        shell.say(f"took back {', '.join(gone)}; {shell.count(len(opened.manifest.state.classes), 'class')} known")


def export(
    store: flags.Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    kind: Annotated[
        Literal["peft", "merged", "onnx", "adapters"],
        typer.Option("--as", help="One LoRA adapter, plain weights, an ONNX graph, or one adapter for each group."),
    ],
    title: Annotated[str | None, typer.Option(help="Title of the model card.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the model, such as mit.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    backbone: flags.Where = None,
    json: flags.Json = False,
    **given: Any,
) -> None:
    """Write the model for other libraries, with its class names and a model card."""
    with shell.sentences(shell.UNTOUCHED):
        from hamcl.export import Card, check

        machine = machine_of(given)
        check(out, kind, overwrite=overwrite)
        opened = shell.reopened(store, backbone, machine)
        model, state = opened.model(), opened.manifest.state
        card = Card(title=title, license=license)
        # An evaluation of an earlier model, or on the data it was learned from, says nothing about this one.
        for last in [e for e in state.evaluations[-1:] if e.learned == len(state.tasks) and not e.trained_on]:
            accuracy = {name: score.accuracy for name, score in last.tasks.items()}
            card = replace(card, metrics={"accuracy": last.overall.accuracy}, accuracy=accuracy)
        use = model.export(out, kind, card=card, overwrite=overwrite)
        if json:
            files = sorted(file for file in out.rglob("*") if file.is_file())
            return shell.say_json(
                {"folder": out, "use": use, "files": {f"{f.relative_to(out)}": f.stat().st_size for f in files}}
            )
        shell.say(f"wrote {kind} to {out}: {use}")


def import_(
    store: flags.Folder,
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="A LoRA as PEFT saves it, in safetensors.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help=f"Training samples of its classes. {flags.DATA}")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Without data (head linear): the class names in the order of the adapter's classifier, as a JSON "
            "list or one a line; by default classes.json in the adapter's folder."
        ),
    ] = None,
    name: flags.TaskName = None,
    augmentation: flags.Augmented = None,
    text_column: flags.TextColumn = None,
    label_column: flags.LabelColumn = None,
    backbone: flags.Where = None,
    progress: flags.Moving = None,
    json: flags.Json = False,
    **given: Any,
) -> None:
    """Make a LoRA that was trained elsewhere a task, grouped and merged like the others."""
    with shell.sentences(shell.since(store)):
        from hamcl.cli.live import Live
        from hamcl.streams import Samples, Task

        machine = machine_of(given)
        opened = shell.reopened(store, backbone, machine)
        name = adapter.resolve().name if name is None else name
        if data is None:
            if classes is None and not (adapter / "classes.json").is_file():
                raise DataError(
                    f"{adapter} has no classes.json; give its class names by --classes, or samples by --data"
                )
            names = read_names(classes or adapter / "classes.json")
            task = Task(name, names, Samples(), modality=opened.manifest.backbone.modality)
        elif classes is None:
            columns = shell.present(text_column=text_column, label_column=label_column)
            task = shell.read_task(data, machine, name=name, augmentation=augmentation, **columns)
        else:
            raise UsageError("--data has its own class names; leave --classes out")
        text = f"took over the adapter {adapter} as task {name!r}"
        with Live(shell.errors, progress) as live, opened.transaction("import", text) as model:
            model.watch = live.passed
            report = model.import_adapter(adapter, task)
        if json:
            return shell.say_json(report)
        group = f"{'opened' if report.opened else 'joined'} group {report.group}"
        known = shell.count(len(opened.manifest.state.classes), "class")
        lost = ""
        if report.merge_error >= 5e-4:
            rank = opened.manifest.config["merge_rank"]
            lost = f", of which rank {rank} (--merge-rank) cannot hold {100 * report.merge_error:.1f} %"
        shell.say(f"took over {name}: {shell.count(len(task.classes), 'class')}, {group}{lost}; {known} known")


def read_names(path: Path) -> tuple[str, ...]:
    """Read class names: a JSON list, or one a line.

    Raises:
        DataError: the file is missing or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} does not hold class names ({error}); give --classes, or samples by --data") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{path} must hold class names, as a JSON list or one a line")
    return tuple(names)


def verify(store: flags.Folder, backbone: flags.Where = None, json: flags.Json = False, **given: Any) -> None:
    """Check every checksum, every shape and every invariant."""
    with shell.sentences(shell.UNTOUCHED):
        lines = shell.reopened(store, backbone, machine_of(given)).verify()
        if json:
            return shell.say_json({"checked": lines})
        for line in lines:
            shell.say(line)


def diff(
    store: flags.Folder,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The folder of another model.")],
    json: flags.Json = False,
) -> None:
    """Compare two models: options, classes, tasks, groups, importances, tensors and evaluations."""
    with shell.sentences(shell.UNTOUCHED):
        from hamcl.cli import tables
        from hamcl.store import LightStore

        found = LightStore.open(store).diff(LightStore.open(other))
        if json:
            return shell.say_json(found)
        if not found:
            return shell.say(f"{store} and {other} hold the same model")
        shell.shown.print(tables.differences(found, store, other), highlight=False)


def gc(
    store: flags.Folder,
    keep: Annotated[int, typer.Option(min=0, help="How many earlier states to keep for ham undo.")] = 0,
    json: flags.Json = False,
) -> None:
    """Free the space of earlier states; ham undo cannot go back to them any more."""
    with shell.sentences(shell.since(store)):
        from hamcl.store import LightStore

        freed = LightStore.open(store).gc(keep)
        if json:
            return shell.say_json({"freed": freed})
        from rich.filesize import decimal

        shell.say(f"freed {decimal(freed)}")
