"""The `ham` command: it reads options, calls the library and shows what comes back."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

import hamcl
from hamcl.cli.options import build_config, config_parameters, integers, with_parameters
from hamcl.config import PRESETS
from hamcl.errors import HamError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Continual learning by hierarchical adapter merging.",
)
shown = Console(width=None if sys.stdout.isatty() else 120)  # a table piped to a file need not fold
errors = Console(stderr=True)
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}

STREAM, RECORD = "Stream and backbone", "Record"
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.", rich_help_panel=RECORD)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a run that is already there.", rich_help_panel=RECORD)
]
Moving = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", help="Show progress; by default moving bars on a terminal.", rich_help_panel=RECORD
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads of PyTorch.", rich_help_panel=RECORD)]


@contextmanager
def sentences() -> Iterator[None]:
    """Turn the errors a user can cause into one sentence and an exit code: 2 usage, 1 others, 130 interrupted."""
    try:
        yield
    except HamError as error:
        _fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _fail(f"cannot read or write{where}: {error.strerror or error}", 1)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        _fail("the device is out of memory; lower --batch-size, --eval-batch-size or the size of the inputs", 1)
    except KeyboardInterrupt:
        _fail("interrupted; what was finished is recorded, and --resume goes on from there", 130)


def _fail(sentence: str, code: int) -> None:
    errors.print(Text(f"error: {sentence}", style="red"), soft_wrap=True)
    raise typer.Exit(code)


def _version(asked: bool) -> None:
    if asked:
        shown.print(f"hamcl {hamcl.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Continual learning by hierarchical adapter merging."""


def run(
    *,
    stream: Annotated[
        str, typer.Option(help="NAME or NAME:WHERE, for example icd10 or folder:PATH.", rich_help_panel=STREAM)
    ],
    backbone: Annotated[
        str,
        typer.Option(
            help="efficientnet-lite0, minilm, timm/ID, hf/ID or a folder with a config.json.", rich_help_panel=STREAM
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the run.", rich_help_panel=RECORD)],
    method: Annotated[
        str, typer.Option(help="ham, seq-lora, lora-per-task, frozen or joint.", rich_help_panel=STREAM)
    ] = "ham",
    tasks: Annotated[int | None, typer.Option(help="Number of tasks.", rich_help_panel=STREAM)] = None,
    classes_per_task: Annotated[int | None, typer.Option(help="Classes of each task.", rich_help_panel=STREAM)] = None,
    task_sizes: Annotated[
        Any,
        typer.Option(parser=integers, metavar="int,int,...", help="Classes of each task.", rich_help_panel=STREAM),
    ] = None,
    train_per_class: Annotated[
        int | None, typer.Option(help="At most so many training samples of a class.", rich_help_panel=STREAM)
    ] = None,
    test_per_class: Annotated[
        int | None, typer.Option(help="At most so many test samples of a class.", rich_help_panel=STREAM)
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(help="Fraction of the training samples held out.", rich_help_panel=STREAM)
    ] = 0.0,
    test_fraction: Annotated[
        float | None,
        typer.Option(help="Fraction held out as test split, for data without one.", rich_help_panel=STREAM),
    ] = None,
    class_order: Annotated[
        Literal["random", "given", "superclass"],
        typer.Option(help="Order in which classes come.", rich_help_panel=STREAM),
    ] = "random",
    class_order_file: Annotated[
        Path | None,
        typer.Option(help="File with the exact order: names one a line, or JSON.", rich_help_panel=STREAM),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Local copy of a named benchmark.", rich_help_panel=STREAM)
    ] = None,
    train_shards: Annotated[
        int | None, typer.Option(help="Read only the first so many training files.", rich_help_panel=STREAM)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Height and width of images in pixels.", rich_help_panel=STREAM)
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="The most tokens of a text.", rich_help_panel=STREAM)] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML or JSON file of method options; the command line overrides it.", rich_help_panel=RECORD
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help=f"Start from these method options: {', '.join(PRESETS)}.", rich_help_panel=RECORD)
    ] = "default",
    predictions: Annotated[
        Literal["auto", "all", "last"],
        typer.Option(help="Predictions to keep: of all steps, the last, or all if few.", rich_help_panel=RECORD),
    ] = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    progress: Moving = None,
    threads: Threads = None,
    **given: Any,
) -> None:
    """Learn a stream task by task with one method and record everything."""
    with sentences():
        # Imported here so that --help and --version need not wait for PyTorch.
        from hamcl.bench.report import compare
        from hamcl.bench.run import RunOptions, check_folder
        from hamcl.bench.run import run as run_stream
        from hamcl.cli.live import Live
        from hamcl.nn.backbones import load_backbone
        from hamcl.registry import load_method
        from hamcl.streams import load_stream

        _prepare(threads)
        check_folder(out, resume=resume, overwrite=overwrite)
        kind = load_method(method)
        settings = build_config(given, file=config, preset=preset, defaults=dict(kind.defaults))
        cut = _given(
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
            seed=settings.seed,
        )
        read = _given(image_size=image_size, max_length=max_length)
        data = load_stream(stream, **cut)
        options = RunOptions(
            method=method,
            stream={"spec": stream, **cut},
            backbone=read,
            command=["ham", *sys.argv[1:]],
            resume=resume,
            overwrite=overwrite,
            predictions=predictions,
        )
        learner = kind(load_backbone(backbone, **read), settings)
        with Live(errors, progress) as live:
            live.start(method, len(data))
            result = run_stream(data, learner, out, options=options, progress=live.step, on_task=live.task)
        for setting in compare([result]):
            shown.print(setting.table())
        shown.print(f"The record, the predictions and the plots are in {out}", **PLAIN)


app.command("run")(with_parameters(run, config_parameters()))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of runs, or folders above them.")],
    markdown: Annotated[Path | None, typer.Option(help="Write the tables to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this PNG file.")] = None,
) -> None:
    """Compare finished runs: mean and standard deviation over seeds."""
    with sentences():
        from hamcl.bench.report import LEGEND, compare, find_runs, report_markdown, report_plot

        settings = compare(find_runs(runs))
        for setting in settings:
            shown.print(setting.table())
        shown.print(LEGEND, style="dim", highlight=False)
        if markdown:
            markdown.write_text(report_markdown(settings), encoding="utf-8")
        if plot:
            report_plot(plot, settings)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder of the demonstration.")] = Path("runs/demo"),
    resume: Resume = False,
    overwrite: Overwrite = False,
    progress: Moving = None,
    threads: Threads = None,
) -> None:
    """Show what hamcl does: two real streams, four methods, a few minutes, no network."""
    with sentences():
        from hamcl.bench.demo import COMPARISON, MODEL, Sizes
        from hamcl.bench.demo import demo as run_demo
        from hamcl.bench.report import LEGEND
        from hamcl.bench.run import MATRIX
        from hamcl.cli.live import Live

        _prepare(threads)
        sizes = Sizes()
        with Live(errors, progress) as live:
            settings = run_demo(
                out,
                sizes=sizes,
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
            shown.print(f"  {folder / MODEL}   the learned model: peft/, merged/ and the head", **PLAIN)
        shown.print("What to try next:", style="bold")
        shown.print(
            "  ham run --stream icd10 --tasks 40 --classes-per-task 4 --backbone minilm --out runs/longer", **PLAIN
        )
        shown.print("  ham run --stream folder:PATH --backbone efficientnet-lite0 --tasks 5 --out runs/own", **PLAIN)
        shown.print(f"  ham report {out} --plot curves.png", **PLAIN)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _prepare(threads: int | None) -> None:
    """Set the number of threads, and silence the bars of libraries, which would run through our own."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if threads is not None:
        torch.set_num_threads(threads)
