"""The reference of all options, docs/configuration.md: `python -m hamcl.cli.reference`."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hamcl.config import PAPER, HAMConfig
from hamcl.machine import Machine


def reference() -> str:
    """The configuration reference as Markdown."""
    return (
        "# Configuration\n\n"
        "Generated from `HAMConfig` and `Machine` by `python -m hamcl.cli.reference`. On the command line\n"
        "`lora_alpha` is written `--lora-alpha`; a YAML or JSON file of the same names goes to `--config`.\n\n"
        "## Options of the model\n\n"
        "They are chosen once, when a model is made; those of one task may differ from task to task (`ham learn "
        "--help`\nlists them). A method refuses an option that does nothing in it. The column *paper* holds what "
        "`--preset paper`\nchanges. Figures are average accuracies in %, from [ablations](ablations.md) or, of "
        "earlier\ndefaults, from its earlier versions.\n\n"
        + "\n".join(_rows(HAMConfig, "paper", PAPER))
        + "\n\n## Options of the machine\n\n"
        "They belong to no model: neither a store nor a record is told apart by them. Every command that computes\n"
        "takes those that mean something to it (in Python: `Machine`).\n\n" + "\n".join(_rows(Machine)) + "\n"
    )


def _rows(kind: type, column: str = "", values: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
    """A table of the fields of a dataclass of options, with a column of values where it has a name."""
    reasons = any(field.metadata["why"] for field in dataclasses.fields(kind))
    heads = ["option", "type", "default", *([column] if column else []), "what it does", *(["why"] * reasons)]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        name = " / ".join(get_args(hint)) if get_origin(hint) is Literal else getattr(hint, "__name__", str(hint))
        cells = [f"`{field.name}`", name.replace("|", "or"), f"`{field.default}`"]
        if column:
            cells.append(f"`{values[field.name]}`" if field.name in values else "")
        cells += [field.metadata["help"], *([field.metadata["why"]] * reasons)]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    print(reference(), end="")
