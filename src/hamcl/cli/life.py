"""The practitioner's commands: one model that lives in a folder and learns for years."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hamcl.cli import flags, shell
from hamcl.cli.options import MACHINE_PANEL, build_config, machine_of
from hamcl.cli.spoken import spoken

if TYPE_CHECKING:
    from hamcl.training.lesson import Step

GOES_ON = f"{shell.UNTOUCHED}, and the same command goes on from the last epoch kept"


def init(
    store: flags.Folder,
    *,
    backbone: Annotated[str, typer.Option(help=flags.BACKBONES, rich_help_panel=flags.STREAM)],
    image_size: flags.ImageSize = None,
    max_length: flags.MaxLength = None,
    config: flags.ConfigFile = None,
    preset: flags.Preset = "default",
    keep: Annotated[int, typer.Option(min=0, help="How many earlier states are kept for ham undo.")] = 3,
    json: flags.Json = False,
    **given: Any,
) -> None:
    """Make a new model that knows nothing yet; its options are chosen here, once."""
    with shell.sentences(shell.since(store, "interrupted; no store was made")):
        from hamcl.store import Store

        shell.prepare(machine_of(given))
        settings = build_config(given, file=config, preset=preset)
        read = shell.present(image_size=image_size, max_length=max_length)
        made = Store.create(store, backbone=backbone, backbone_options=read, config=settings, keep=keep)
        record = made.manifest.backbone
        if json:
            shell.say_json({"store": store, "backbone": record})
        else:
            shell.say(f"{store} is ready to learn {record.modality}s on {record.spec} ({record.width} features)")


def learn(
    store: flags.Folder,
    data: Annotated[str, typer.Argument(metavar="DATA", help=flags.DATA)],
    name: flags.TaskName = None,
    augmentation: flags.Augmented = None,
    text_column: flags.TextColumn = None,
    label_column: flags.LabelColumn = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew what was left unfinished.")] = False,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Keep the position so often, besides after every epoch.")
    ] = 10.0,
    backbone: flags.Where = None,
    tracker: Annotated[
        flags.Tracker | None,
        typer.Option(help="Log the training there too; tensorboard writes to STORE.runs/TASK beside the store."),
    ] = None,
    progress: flags.Moving = None,
    json: flags.Json = False,
    **given: Any,
) -> None:
    """Learn one task; started again after a stop, go on from where it was."""
    with shell.sentences(shell.since(store, GOES_ON)):
        from hamcl.cli.live import Live
        from hamcl.report.tracking import Tracking
        from hamcl.streams.names import file_name

        machine = machine_of(given)
        opened = shell.reopened(store, backbone, machine)
        options = shell.present(**given)
        columns = shell.present(text_column=text_column, label_column=label_column)
        task = shell.read_task(data, machine, name=name, augmentation=augmentation, **columns)
        folder = Path(f"{store}.runs") / file_name(task.name)
        tracking = Tracking(tracker, folder, {**opened.manifest.config, **options}, fresh=restart)

        def stepped(step: "Step") -> None:
            live.step(step)
            tracking.step(step)

        with Live(shell.errors, progress) as live, tracking:
            report = opened.learn(
                task,
                options=options,
                restart=restart,
                progress=stepped,
                watch=live.passed,
                checkpoint_minutes=checkpoint_minutes,
            )
            try:
                tracking.task({"loss": report.losses[-1], "seconds": report.seconds, "group": report.group})
            except (OSError, RuntimeError) as error:
                shell.note([f"the task is learned, but not tracked: {error}"])
        shell.note(sentence for sentence in report.notes if sentence not in task.notes)
        for sentence in report.skipped:
            shell.skipped(sentence)
        if json:
            return shell.say_json(report)
        group = f"{'opened' if report.opened else 'joined'} group {report.group}"
        samples = shell.count(len(task.train) - len(report.skipped), "sample")
        known = shell.count(len(opened.manifest.state.classes), "class")
        shell.say(
            f"learned {task.name}: {shell.count(len(task.classes), 'class')} from {samples}, {group}, loss "
            f"{report.losses[-1]:.3f}, {report.seconds:.1f} s; {known} known"
        )


def status(
    store: flags.Folder,
    history: Annotated[bool, typer.Option("--history", help="Show what happened to the store.")] = False,
    json: flags.Json = False,
) -> None:
    """Show classes, tasks, groups, sizes and the last evaluation."""
    with shell.sentences(shell.UNTOUCHED):
        from hamcl.cli import tables
        from hamcl.store import LightStore

        opened = LightStore.open(store)
        if json:
            return shell.say_json(tables.facts(opened))
        shell.shown.print(tables.history(opened) if history else tables.status(opened), highlight=False)


def evaluate(
    store: flags.Folder,
    data: Annotated[list[str], typer.Argument(metavar="DATA...", help=f"{flags.DATA} Its test split, if it has one.")],
    text_column: flags.TextColumn = None,
    label_column: flags.LabelColumn = None,
    known: Annotated[bool, typer.Option("--known", help="Leave out classes that were not learned.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every class, not only the worst.")] = False,
    record: Annotated[bool, typer.Option("--record/--no-record", help="Keep the result in the store.")] = True,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "both"],
        typer.Option(
            help="Arithmetic of the backbone; both also says how many answers differ between bf16 and fp32, in which "
            "exports compute (three times the work).",
            rich_help_panel=MACHINE_PANEL,
        ),
    ] = "auto",
    backbone: flags.Where = None,
    progress: flags.Moving = None,
    json: flags.Json = False,
    **given: Any,
) -> None:
    """Measure the accuracy on labelled data: by task, by class, and what is taken for what."""
    with shell.sentences(shell.since(store)):
        from hamcl.cli import tables
        from hamcl.cli.live import Live
        from hamcl.heads.calibration import doubt
        from hamcl.store import Unrecorded
        from hamcl.store.evaluation import once
        from hamcl.streams import load_task
        from hamcl.streams.task import regroup

        machine = machine_of({**given, "precision": "auto" if precision == "both" else precision})
        opened = shell.reopened(store, backbone, machine)
        state = opened.manifest.state
        learned = {task.name: [state.classes[c] for c in task.columns] for task in state.tasks}
        columns = shell.present(text_column=text_column, label_column=label_column)
        read, twice = once([load_task(where, **columns, on_bad_sample=machine.on_bad_sample) for where in data])
        notes = [*(sentence for task in read for sentence in task.notes), *twice]
        shell.note(notes)
        tasks, unrecorded = regroup(read, learned, known=known), ""
        try:
            with Live(shell.errors, progress) as live:
                result = opened.evaluate(tasks, record=record, on_skip=shell.skipped, watch=live.passed)
        except Unrecorded as error:
            result, unrecorded = error.evaluation, f"{error} (--no-record does not try)"
        own = result.trained_on or tuple(name for task in read for name in opened.trained_on(task))
        said = [
            f"among these are the samples that {name!r} was learned from: new ones will come out worse" for name in own
        ]
        shell.note(said)
        more: dict[str, Any] = {"unrecorded": unrecorded} if unrecorded else {}
        if precision == "both":
            answers, differ = opened.between_precisions(tasks)
            more["precision"] = {"answers": answers, "differ": differ}
        if json:
            shell.say_json({**asdict(result), "notes": notes + said, **more})
        else:
            for table in tables.evaluation(result, everything=every):
                shell.shown.print(table, highlight=False)
            if precision == "both":
                total = shell.count(answers, "answer")
                shell.say(f"in bf16 and in fp32, in which exports compute, {differ} of {total} differ")
        if result.reliability and (sentence := doubt(result.reliability.judged)):
            shell.note([sentence])
        if unrecorded:
            shell.fail(spoken(unrecorded), 1)
