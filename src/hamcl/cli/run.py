"""The researcher's commands: run a stream, compare runs, see a demonstration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hamcl.cli.options import build_config, integers, machine_of, method_options
from hamcl.cli.shell import (
    BACKBONES,
    PLAIN,
    STREAM,
    ConfigFile,
    ImageSize,
    LabelColumn,
    MaxLength,
    Moving,
    Preset,
    TextColumn,
    errors,
    note,
    prepare,
    present,
    sentences,
    shown,
)
from hamcl.methods.registry import METHODS

if TYPE_CHECKING:
    from hamcl.machine import Machine
    from hamcl.report.records import Result
    from hamcl.training.lesson import Step

Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")]


def _stream(text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=STREAM, **settings)


def run(
    *,
    stream: Annotated[str, _stream("NAME or NAME:WHERE, for example icd10 or folder:PATH.")],
    backbone: Annotated[str, _stream(BACKBONES)],
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
    method: Annotated[str, _stream(f"{', '.join(METHODS)}.")] = "ham",
    tasks: Annotated[int | None, _stream("Number of tasks.")] = None,
    classes_per_task: Annotated[int | None, _stream("Classes of each task.")] = None,
    task_sizes: Annotated[Any, _stream("Classes of each task.", parser=integers, metavar="int,int,...")] = None,
    train_per_class: Annotated[int | None, _stream("At most so many training samples of a class.")] = None,
    test_per_class: Annotated[int | None, _stream("At most so many test samples of a class.")] = None,
    val_fraction: Annotated[float, _stream("Fraction of the training samples held out.")] = 0.0,
    test_fraction: Annotated[float | None, _stream("Fraction held out as test split, for data without one.")] = None,
    class_order: Annotated[
        Literal["random", "given", "superclass"], _stream("Order in which classes come.")
    ] = "random",
    class_order_file: Annotated[Path | None, _stream("File with the exact order: names one a line, or JSON.")] = None,
    data_dir: Annotated[Path | None, _stream("Local copy of a named benchmark.")] = None,
    train_shards: Annotated[int | None, _stream("Read only the first so many training files.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    config: ConfigFile = None,
    preset: Preset = "default",
    predictions: Annotated[
        Literal["auto", "all", "last"],
        typer.Option(help="Predictions to keep: of all steps, the last, or all if few."),
    ] = "auto",
    tracker: Annotated[
        Literal["tensorboard", "wandb", "mlflow", "trackio"] | None,
        typer.Option(help="Log losses and accuracies there too; tensorboard writes to OUT/tensorboard."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    progress: Moving = None,
    method_option: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            metavar="NAME=VALUE",
            help="An option that this method alone has (docs/methods.md); may be repeated.",
        ),
    ],
    **given: Any,
) -> None:
    """Learn a stream task by task with one method and record everything."""
    with sentences():
        # Imported here so that --help and --version need not wait for PyTorch.
        from hamcl.bench.run import RunOptions, check_folder
        from hamcl.bench.run import run as run_stream
        from hamcl.cli.live import Live
        from hamcl.methods.registry import load_method
        from hamcl.nn.backbones import load_backbone
        from hamcl.report.compare import compare
        from hamcl.report.tracking import Tracking
        from hamcl.streams import load_stream

        machine = machine_of(given)
        prepare(machine)
        check_folder(out, resume=resume, overwrite=overwrite)
        kind = load_method(method)
        given |= method_options(method_option, kind.config_type)
        settings = build_config(given, file=config, preset=preset, method=method)
        cut = present(
            tasks=tasks,
            classes_per_task=classes_per_task,
            task_sizes=task_sizes,
            train_per_class=train_per_class,
            test_per_class=test_per_class,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            class_order=class_order,
            class_order_file=class_order_file,
            data_dir=data_dir,
            train_shards=train_shards,
            text_column=text_column,
            label_column=label_column,
            seed=settings.seed,
        )
        read = present(image_size=image_size, max_length=max_length)
        data = load_stream(stream, **cut, on_bad_sample=machine.on_bad_sample)
        note(data.notes)
        options = RunOptions(
            method=method,
            stream={"spec": stream, **cut},
            backbone=read,
            command=["ham", *sys.argv[1:]],
            resume=resume,
            overwrite=overwrite,
            predictions=predictions,
        )
        learner = kind(load_backbone(backbone, depths=settings.depths_to_read, **read), settings, machine)
        tracking = Tracking(tracker, out, settings.to_dict(), fresh=overwrite)

        def stepped(step: "Step") -> None:
            live.step(step)
            tracking.step(step)

        def learned(result: "Result") -> None:
            live.task(result)
            tracking.task(result.scalars)

        with Live(errors, progress) as live, tracking:
            live.start(method, len(data))
            result = run_stream(data, learner, out, options=options, progress=stepped, on_task=learned)
        for setting in compare([result]):
            shown.print(setting.table())
        note(sentence for sentence in result.notes if sentence not in data.notes)
        shown.print(f"The record, the predictions and the plots are in {out}", **PLAIN)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of runs, or folders above them.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this PNG file.")] = None,
) -> None:
    """Compare finished runs: mean and standard deviation over seeds."""
    with sentences():
        from hamcl.files import new_file
        from hamcl.report.compare import LEGEND, compare, find_runs, report_markdown, report_plot

        settings = compare(find_runs(runs))
        for setting in settings:
            shown.print(setting.table())
        shown.print(LEGEND, style="dim", highlight=False)
        if markdown:
            with new_file(markdown) as fresh:
                fresh.write_text(report_markdown(settings), encoding="utf-8")
        if plot:
            report_plot(plot, settings)


def demo(
    out: Annotated[Path, typer.Option(help="The folder of the demonstration.")] = Path("runs/demo"),
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead, make a new folder with a little data and a model to try init, learn, predict and undo on.",
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    progress: Moving = None,
    **given: Any,
) -> None:
    """Show what hamcl does: two real streams, four methods, a few minutes, no network."""
    if store is not None:
        return _practice(store, progress, machine_of(given))
    with sentences():
        from hamcl.bench.demo import COMPARISON, MODEL, Sizes
        from hamcl.bench.demo import demo as run_demo
        from hamcl.bench.run import MATRIX
        from hamcl.cli.live import Live
        from hamcl.report.compare import LEGEND

        machine = machine_of(given)
        prepare(machine)
        sizes = Sizes()
        with Live(errors, progress) as live:
            settings = run_demo(
                out,
                sizes=sizes,
                machine=machine,
                command=["ham", *sys.argv[1:]],
                resume=resume,
                overwrite=overwrite,
                on_start=live.start,
                progress=live.step,
                on_task=live.task,
            )
        for setting in settings:
            shown.print(setting.table())
            shown.print()
        shown.print(LEGEND, style="dim", highlight=False)
        shown.print("\nWhat there is to look at:", style="bold")
        for part in sizes.parts:
            folder = out / part.stream
            shown.print(f"  {folder / COMPARISON}   the curves of all methods", **PLAIN)
            shown.print(f"  {folder / 'ham' / MATRIX}   the accuracy matrix of HAM", **PLAIN)
            shown.print(f"  {folder / MODEL}   the learned model: peft/ and merged/", **PLAIN)
        shown.print("What to try next:", style="bold")
        shown.print(
            "  ham run --stream icd10 --tasks 40 --classes-per-task 4 --backbone minilm --out runs/longer", **PLAIN
        )
        shown.print("  ham run --stream folder:PATH --backbone efficientnet-lite0 --tasks 5 --out runs/own", **PLAIN)
        shown.print(f"  ham report {out} --plot curves.png", **PLAIN)


def _practice(folder: Path, progress: bool | None, machine: "Machine") -> None:
    """Leave data and a model that knows their first week, and say what to try."""
    with sentences("interrupted; delete the folder and start again"):
        from hamcl.bench.practice import IMAGES, TEXTS, practice
        from hamcl.cli.live import Live
        from hamcl.store import Store
        from hamcl.streams import load_task

        prepare(machine)
        practice(folder)
        digits, texts = folder / IMAGES, folder / TEXTS
        model, other = folder / "digits.ham", folder / "diagnoses.ham"
        made = Store.create(model, backbone="efficientnet-lite0", backbone_options={"image_size": 64})
        with Live(errors, progress) as live:
            made.learn(load_task(digits / "week-1", augmentation="handwriting"), progress=live.step)
        shown.print(f"{folder} holds the data of two weeks, as images and as texts, and a model that knows the digits")
        shown.print("of the first. Try:", style="bold")
        for line in (
            f"ham status {model}",
            f"ham predict {model} {digits / 'inbox'}   # digits of the second week are taken for others",
            f"ham learn {model} {digits / 'week-2'} --augmentation handwriting",
            f"ham predict {model} {digits / 'inbox'}",
            f"ham eval {model} {digits / 'test'}",
            f"ham undo {model}",
            f"ham init {other} --backbone minilm",
            f"ham learn {other} {texts / 'week-1.csv'}",
            f"ham learn {other} {texts / 'week-2.csv'}",
            f"ham predict {other} {texts / 'inbox.txt'}",
        ):
            shown.print(f"  {line}", **PLAIN)
