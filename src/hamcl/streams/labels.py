"""From a cell of a table to a class name: one rule for every format, so that a table means the same in each of them.

A class name is the text in the cell. A number is the text that writes it, a whole one without a fraction however it is
written (3, 3.0 and "3.0" are 3: pandas writes 3.0 where another row has no label), and a truth value is true or false.
A structure that holds one choice, as labelling tools write it, is that choice. Nothing, blanks and NaN are no label.
"""

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hamcl.words import cut, shown

CHOICE_KEYS = ("choices", "choice", "labels", "label")
LONGEST_STRUCTURE = 10_000
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
WHOLE = re.compile(r"(-?\d+)\.0+")
DEEPEST = 8
EXACT = 2**53  # up to here a float can be told from the next whole number


@dataclass
class Labels:
    """One column of cells, read.

    Attributes:
        names: the class name of each cell; None where it has none.
        problems: position -> why the cell has none, where it is not just empty.
        notes: what was not taken as it is written.
    """

    names: list[str | None] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, cells: Sequence[Any], classes: Sequence[str] | None = None) -> "Labels":
        """Read a column, the integers of which stand for `classes` (-1: no label) where the table knows those."""
        read = cls()
        seen: dict[tuple[type, Any], tuple[str | None, str]] = {}
        examples: dict[str, Any] = {}
        for i, cell in enumerate(cells):
            try:
                simple = not isinstance(cell, list | dict | tuple)
                if simple and (type(cell), cell) in seen:
                    name, how = seen[type(cell), cell]
                else:
                    name, how = _read(cell) if classes is None else _numbered(cell, classes)
                    if simple:
                        seen[type(cell), cell] = name, how
                    examples.setdefault(how, cell)
            except ValueError as error:
                name = None
                read.problems[i] = str(error)
            read.names.append(name)
        read.notes = [text.format(shown(examples[how])) for how, text in _NOTES.items() if how in examples]
        return read


_NOTES = {
    "whole": "labels such as {} are read as whole numbers",
    "choice": "labels such as {} are read as the one choice they hold",
}


def in_order(names: Sequence[str]) -> list[str]:
    """The class names sorted: numbers by size, then texts."""
    return sorted(names, key=lambda name: (0, float(name), name) if NUMBER.fullmatch(name) else (1, 0.0, name))


def _read(cell: Any, depth: int = 0) -> tuple[str | None, str]:
    """The class name in a cell and how it was read ("" as it is written); ValueError: there is none, or several."""
    match cell:
        case None:
            return None, ""
        case bool():
            return str(cell).lower(), ""
        case int():
            return str(cell), ""
        case float() | Decimal():
            if math.isnan(cell):
                return None, ""
            if math.isinf(cell):
                raise ValueError(f"is {cell}, which is no class")
            whole = -EXACT < cell < EXACT and cell == int(cell)
            return (str(int(cell)), "whole") if whole else (str(cell), "")
        case str():
            text = cell.strip()
            if not text:
                return None, ""
            if found := WHOLE.fullmatch(text):
                return str(int(found[1])), "whole"
            structure = _structure(text)
            return (cell, "") if structure is None else _read(structure, depth + 1)
        case list() | tuple() | dict() if depth < DEEPEST:
            return _choice(cell, depth)
    raise ValueError(f"is {shown(cell)}; a label must be a text, a number or one choice")


def _choice(cell: Any, depth: int) -> tuple[str | None, str]:
    if isinstance(cell, Mapping):
        keys = [key for key in CHOICE_KEYS if key in cell]
        if cell and len(keys) != 1:
            raise ValueError(f"is the structure {shown(cell)}; write the name of one class")
        return (_read(cell[keys[0]], depth + 1)[0], "choice") if cell else (None, "")
    return _only([_read(item, depth + 1)[0] for item in cell])


def _only(names: Sequence[str | None]) -> tuple[str | None, str]:
    """The one class name of a structure, and that it was read from one."""
    different = list(dict.fromkeys(name for name in names if name is not None))
    if len(different) > 1:
        raise ValueError(f"holds {len(different)} labels ({cut(', '.join(different))}); a sample has one class")
    return (different[0], "choice") if different else (None, "")


def _structure(text: str) -> Any:
    """The list or dictionary that a text writes in JSON or Python, else None."""
    if (text[0], text[-1]) not in (("[", "]"), ("{", "}")):
        return None
    if len(text) > LONGEST_STRUCTURE:
        raise ValueError(f"is a structure of {len(text):,} characters; write the name of one class")
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return found if isinstance(found, list | dict | tuple) else None
    return None


def _numbered(cell: Any, classes: Sequence[str]) -> tuple[str | None, str]:
    """The class name that an integer stands for, alone or in a list of one."""
    if isinstance(cell, list | tuple):
        if any(isinstance(y, list | tuple) for y in cell):
            raise ValueError(f"is the structure {shown(cell)}; write the number of one class")
        return _only([_numbered(y, classes)[0] for y in cell])
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None, ""
    if isinstance(cell, bool) or not isinstance(cell, int | float) or math.isinf(cell) or cell != int(cell):
        raise ValueError(f"is {shown(cell)}; a label must be an integer, for the classes have names")
    if cell >= len(classes):
        raise ValueError(f"is {cell}, but only {len(classes)} classes have names; fix it")
    return (classes[int(cell)] if cell >= 0 else None), ""
