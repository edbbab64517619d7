"""The `ham` command: it reads options, calls the library and shows what comes back."""

from typing import Annotated

import typer

import hamcl
from hamcl.cli import life, run
from hamcl.cli.options import config_parameters, task_parameters, with_parameters
from hamcl.cli.shell import shown

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Continual learning by hierarchical adapter merging.",
)


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


MODEL, BENCHMARKS = "A model for years", "Benchmarks"
app.command("init", rich_help_panel=MODEL)(with_parameters(life.init, config_parameters()))
app.command("learn", rich_help_panel=MODEL)(with_parameters(life.learn, task_parameters()))
for _name, _command in (
    ("status", life.status),
    ("eval", life.evaluate),
    ("predict", life.predict),
    ("undo", life.undo),
    ("verify", life.verify),
    ("diff", life.diff),
    ("gc", life.gc),
):
    app.command(_name, rich_help_panel=MODEL)(_command)
app.command("run", rich_help_panel=BENCHMARKS)(with_parameters(run.run, config_parameters()))
app.command("report", rich_help_panel=BENCHMARKS)(run.report)
app.command("demo", rich_help_panel=BENCHMARKS)(run.demo)
