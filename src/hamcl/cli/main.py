"""The `ham` command: it reads options, calls the library and shows what comes back."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import hamcl
from hamcl.cli import keep, life, predict, run
from hamcl.cli.options import config_parameters, machine_parameters, task_parameters, with_parameters
from hamcl.cli.shell import CLOSED, hush, printable, ready, shown
from hamcl.cli.silence import silence_pillow


class Commands(TyperGroup):
    """The commands, on consoles that can show every name."""

    def main(self, *args: Any, **options: Any) -> Any:
        ready()
        try:
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            hush()
            sys.exit(CLOSED)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # What the parser refuses may come from a file's name.
            if isinstance(getattr(error, "message", None), str) and hasattr(error, "exit_code"):
                error.message = printable(error.message)  # type: ignore[attr-defined]
            raise


app = typer.Typer(name="ham", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


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
    silence_pillow()


MODEL, BENCHMARKS = "A model for years", "Benchmarks"
for name, panel, command, more in (
    ("init", MODEL, life.init, [*config_parameters(), *machine_parameters("threads")]),
    ("learn", MODEL, life.learn, [*task_parameters(), *machine_parameters()]),
    ("status", MODEL, life.status, []),
    ("eval", MODEL, life.evaluate, machine_parameters("device", "eval_batch_size", "threads", "on_bad_sample")),
    ("predict", MODEL, predict.predict, machine_parameters("device", "precision", "eval_batch_size", "threads")),
    ("undo", MODEL, keep.undo, []),
    ("export", MODEL, keep.export, machine_parameters("device", "threads")),
    ("import", MODEL, keep.import_, machine_parameters()),
    ("verify", MODEL, keep.verify, machine_parameters("device", "threads")),
    ("diff", MODEL, keep.diff, []),
    ("gc", MODEL, keep.gc, []),
    ("run", BENCHMARKS, run.run, [*config_parameters(), *machine_parameters()]),
    ("report", BENCHMARKS, run.report, []),
    ("demo", BENCHMARKS, run.demo, machine_parameters("device", "precision", "threads")),
):
    app.command(name, rich_help_panel=panel)(with_parameters(command, more))
