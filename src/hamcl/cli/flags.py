"""Options that mean the same in several commands."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from hamcl.config import PRESETS

Folder = Annotated[Path, typer.Argument(metavar="STORE", help="The folder of the model.")]
Where = Annotated[
    str | None,
    typer.Option("--backbone", help="Where the backbone lies now, if not where the store says; it must be the same."),
]
TaskName = Annotated[str | None, typer.Option("--name", help="Name of the task; by default that of the data.")]
Augmented = Annotated[
    Literal["photo", "handwriting", "none"] | None,
    typer.Option("--augmentation", help="What kind of images these are, which says how they are varied and cut."),
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", help="The column of a table that holds the texts, if not a usual one.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="The column of a table that holds the labels, if not a usual one.")
]
DATA = "A folder of class folders, parquet, CSV or JSONL of texts or image paths, or hub:ID."
STREAM = "Stream and backbone"
BACKBONES = "efficientnet-lite0, minilm, timm/ID, hf/ID or a folder with a config.json."

ImageSize = Annotated[int | None, typer.Option(help="Height and width of images in pixels.", rich_help_panel=STREAM)]
MaxLength = Annotated[int | None, typer.Option(help="The most tokens of a text.", rich_help_panel=STREAM)]
ConfigFile = Annotated[
    Path | None, typer.Option(help="YAML or JSON file of method options; the command line overrides it.")
]
Preset = Annotated[str, typer.Option(help=f"Start from these method options: {', '.join(PRESETS)}.")]
Moving = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Show progress; by default moving bars on a terminal.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
