"""The researcher's commands: run a stream, compare runs, see a demonstration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hamcl.cli import flags, shell
from hamcl.cli.options import build_config, integers, machine_of, method_options
from hamcl.methods.registry import METHODS

if TYPE_CHECKING:
    from hamcl.machine import Machine
    from hamcl.report.records import Result
    from hamcl.training.lesson import Step


def _stream(text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=flags.STREAM, **settings)


def run(
    *,
    stream: Annotated[str, _stream("NAME or NAME:WHERE, for example icd10 or folder:PATH.")],
    backbone: Annotated[str, _stream(flags.BACKBONES)],
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
    text_column: flags.TextColumn = None,
    label_column: flags.LabelColumn = None,
    image_size: flags.ImageSize = None,
    max_length: flags.MaxLength = None,
    config: flags.ConfigFile = None,
    preset: flags.Preset = "default",
    predictions: Annotated[
        Literal["auto", "all", "last"],
        typer.Option(help="Predictions to keep: of all steps, the last, or all if few."),
    ] = "auto",
    tracker: Annotated[
        flags.Tracker | None,
        typer.Option(help="Log losses and accuracies there too; tensorboard writes to OUT/tensorboard."),
    ] = None,
    resume: flags.Resume = False,
    overwrite: flags.Overwrite = False,
    progress: flags.Moving = None,
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
    asked = locals()
    with shell.sentences():
        # Imported here so that --help and --version need not wait for PyTorch.
        from hamcl.bench.grid import CUT
        from hamcl.bench.run import RunOptions, check_folder
        from hamcl.bench.run import run as run_stream
        from hamcl.cli.live import Live
        from hamcl.methods.registry import load_method
        from hamcl.nn.backbones import load_backbone
        from hamcl.report.compare import compare
        from hamcl.report.tracking import Tracking
        from hamcl.streams import load_stream

        machine = machine_of(given)
        shell.prepare(machine)
        check_folder(out, resume=resume, overwrite=overwrite)
        kind = load_method(method)
        given |= method_options(method_option, kind.config_type)
        settings = build_config(given, file=config, preset=preset, method=method)
        cut = shell.present(**{name: asked[name] for name in CUT}, seed=settings.seed)
        read = shell.present(image_size=image_size, max_length=max_length)
        data = load_stream(stream, **cut, on_bad_sample=machine.on_bad_sample)
        shell.note(data.notes)
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

        with Live(shell.errors, progress) as live, tracking:
            live.start(method, len(data))
            result = run_stream(data, learner, out, options=options, progress=stepped, on_task=learned)
        for setting in compare([result]):
            shell.shown.print(setting.table())
        shell.note(sentence for sentence in result.notes if sentence not in data.notes)
        shell.say(f"The record, the predictions and the plots are in {out}")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of runs, or folders above them.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this PNG file.")] = None,
) -> None:
    """Compare finished runs: mean and standard deviation over seeds."""
    with shell.sentences():
        from hamcl.files import new_file
        from hamcl.report.compare import LEGEND, compare, find_runs, report_markdown, report_plot

        settings = compare(find_runs(runs))
        for setting in settings:
            shell.shown.print(setting.table())
        shell.shown.print(LEGEND, style="dim", highlight=False)
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
    resume: flags.Resume = False,
    overwrite: flags.Overwrite = False,
    progress: flags.Moving = None,
    **given: Any,
) -> None:
    """Show what hamcl does: two real streams, four methods, a few minutes, no network."""
    if store is not None:
        return _practice(store, progress, machine_of(given))
    with shell.sentences():
        from hamcl.bench.demo import COMPARISON, MODEL, PARTS
        from hamcl.bench.demo import demo as run_demo
        from hamcl.bench.run import MATRIX
        from hamcl.cli.live import Live
        from hamcl.report.compare import LEGEND

        machine = machine_of(given)
        shell.prepare(machine)
        with Live(shell.errors, progress) as live:
            settings = run_demo(
                out,
                machine=machine,
                command=["ham", *sys.argv[1:]],
                resume=resume,
                overwrite=overwrite,
                on_start=live.start,
                progress=live.step,
                on_task=live.task,
            )
        for setting in settings:
            shell.shown.print(setting.table())
            shell.shown.print()
        shell.shown.print(LEGEND, style="dim", highlight=False)
        shell.shown.print("\nWhat there is to look at:", style="bold")
        for part in PARTS:
            folder = out / part.stream
            shell.say(f"  {folder / COMPARISON}   the curves of all methods")
            shell.say(f"  {folder / 'ham' / MATRIX}   the accuracy matrix of HAM")
            shell.say(f"  {folder / MODEL}   the learned model: peft/ and merged/")
        shell.shown.print("What to try next:", style="bold")
        shell.say("  ham run --stream icd10 --tasks 40 --classes-per-task 4 --backbone minilm --out runs/longer")
        shell.say("  ham run --stream folder:PATH --backbone efficientnet-lite0 --tasks 5 --out runs/own")
        shell.say(f"  ham report {out} --plot curves.png")


def _practice(folder: Path, progress: bool | None, machine: "Machine") -> None:
    """Leave data and a model that knows their first week, and say what to try."""
    with shell.sentences("interrupted; delete the folder and start again"):
        from hamcl.bench.practice import IMAGES, TEXTS, practice
        from hamcl.cli.live import Live
        from hamcl.store import Store
        from hamcl.streams import load_task

        shell.prepare(machine)
        practice(folder)
        digits, texts = folder / IMAGES, folder / TEXTS
        model, other = folder / "digits.ham", folder / "diagnoses.ham"
        made = Store.create(model, backbone="efficientnet-lite0", backbone_options={"image_size": 64})
        with Live(shell.errors, progress) as live:
            made.learn(load_task(digits / "week-1", augmentation="handwriting"), progress=live.step)
        shell.say(f"{folder} holds the data of two weeks, as images and as texts, and a model that knows the digits")
        shell.shown.print("of the first. Try:", style="bold")
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
            shell.say(f"  {line}")
