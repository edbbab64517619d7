"""Command-line options made from the dataclass of settings, so that the two cannot drift apart."""

import dataclasses
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from hamcl.config import MACHINE, PER_TASK, HAMConfig, read_options, read_value
from hamcl.errors import UsageError
from hamcl.machine import Machine

CONFIG_PANEL = "Method (defaults of ham; a baseline sets some of its own)"
MACHINE_PANEL = "Machine (no part of the model)"
TASK_PANEL = "For this task alone (by default what init was told)"
NONE: Any = object()
"""What `none` on the command line parses to, told apart from an option that was not given."""


def config_parameters() -> list[Parameter]:
    """One keyword parameter per option of the model; None means that it was not given."""
    return _parameters(HAMConfig, CONFIG_PANEL)


def task_parameters() -> list[Parameter]:
    """The same of the options that may differ from task to task."""
    return _parameters(HAMConfig, TASK_PANEL, PER_TASK, defaults=False)


def machine_parameters(*names: str) -> list[Parameter]:
    """The same of the options of the machine; all of them where none are named."""
    return _parameters(Machine, MACHINE_PANEL, names or MACHINE)


def machine_of(given: dict[str, Any]) -> Machine:
    """Take the options of the machine out of what was given on the command line.

    Raises:
        UsageError: a value is not allowed.
    """
    return Machine(**_asked({name: given.pop(name) for name in MACHINE if name in given}))


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, with their values."""
    return {name: None if value is NONE else value for name, value in given.items() if value is not None}


def _parameters(
    kind: type, panel: str, names: Collection[str] | None = None, *, defaults: bool = True
) -> list[Parameter]:
    hints = get_type_hints(kind)
    return [
        _parameter(field, hints[field.name], f" Default: {_shown(field.default)}" if defaults else "", panel)
        for field in dataclasses.fields(kind)
        if names is None or field.name in names
    ]


def build_config(
    given: dict[str, Any], *, file: Path | None = None, preset: str = "default", method: str = "ham"
) -> HAMConfig:
    """Put the layers of settings together; each overrides the ones before it.

    Args:
        given: from the command line; entries that are None were not given.
        file: a YAML or JSON file.
        preset: the name of a preset.
        method: its name; it brings its type of settings, and defaults of its own above the preset.

    Raises:
        UsageError: the method or an option does not exist, an option given on the command line does nothing in this
            method, or a value is not allowed.
    """
    from hamcl.methods.registry import load_method  # waits for PyTorch

    line = _asked(given)
    kind = load_method(method)
    asked = {**kind.defaults, **(read_options(file) if file else {}), **line}
    config = kind.config_type.from_dict(asked, preset=preset)
    for name in line:
        if name not in kind.reads(config):
            with_head = f" with head={config.head!r}" if name in kind.reads(replace(config, head="auto")) else ""
            raise UsageError(f"{method}{with_head} does nothing with the option {name!r}; leave it out")
    return config


def method_options(lines: Sequence[str], kind: type[HAMConfig]) -> dict[str, Any]:
    """Read "name=value" for the options that `kind` adds to `HAMConfig`; values are read as in a YAML file.

    Raises:
        UsageError: there is no "=", no such option, or two values of one.
    """
    common = {field.name for field in dataclasses.fields(HAMConfig)}
    own = [field.name for field in dataclasses.fields(kind) if field.name not in common]
    found: dict[str, Any] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--method-option {line!r} must be name=value")
        if name not in own:
            flag = f"; give it as --{name.replace('_', '-')}" if name in common else ""
            known = f"it has {', '.join(own)}" if own else "it has none of its own"
            raise UsageError(f"{name!r} is not an option of this method alone ({known}){flag}")
        if name in found:
            raise UsageError(f"--method-option {name} is given twice; leave one out")
        found[name] = NONE if value.strip().lower() == "none" else read_value(value)
    return found


def with_parameters(function: Callable[..., None], parameters: Sequence[Parameter]) -> Callable[..., None]:
    """Let `function(**values)` be a command with these options after its own."""
    own = [p for p in Signature.from_callable(function).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    everything = [*own, *parameters]

    def command(**values: Any) -> None:
        function(**values)

    command.__doc__ = function.__doc__
    command.__signature__ = Signature(everything)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in everything}
    return command


def integers(text: str) -> list[int]:
    """Parse "5,5,3".

    Raises:
        typer.BadParameter: it is something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 5,5,3") from error


def _shown(default: object) -> str:
    return "none" if default is None else str(default).lower()


def _parameter(field: dataclasses.Field[Any], hint: Any, default: str, panel: str) -> Parameter:
    flag = "--" + field.name.replace("_", "-")
    settings: dict[str, Any] = {"help": field.metadata["help"] + default, "rich_help_panel": panel}
    if hint is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    elif get_origin(hint) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(hint) if part is not type(None))
        hint, settings["metavar"] = object, f"{kind.__name__}|none"
        settings["parser"] = _or_none(kind)
    option = typer.Option(flag, **settings)
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[hint | None, option])


def _or_none(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text.lower() == "none":
            return NONE
        try:
            return kind(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is neither of type {kind.__name__} nor none") from error

    return parse
