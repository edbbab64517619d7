"""The structure of a JSON document, held against dataclasses at little cost and only as far as the first fault.

Documents come from strangers, too. A parser of whole documents that lists all that is wrong with them takes a hundred
times their size in memory; what passes here has few faults left to list.
"""

import dataclasses
import json
import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

CONTAINERS, VALUES = 2**17, 2**20
"""The most lists and objects, and the most values, of a document. 16 MiB as hamcl writes them hold fewer."""


def fault(kind: Any, data: bytes) -> str | None:
    """Where and how JSON differs from dataclasses in its structure, or None; ranges and patterns are not looked at.

    Args:
        kind: a dataclass.
    """
    # Counted before anything is parsed; brackets and commas inside of texts count, too.
    for count, most, what in (
        (data.count(b"[") + data.count(b"{"), CONTAINERS, "lists and objects"),
        (data.count(b","), VALUES, "values"),
    ):
        if count > most:
            return f"the whole: it holds {count} {what}, more than the {most} that are read"
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        return f"the whole: Invalid JSON: {str(error)[:200]}"
    return _fault(kind, value, "")


def _fault(kind: Any, value: Any, where: str) -> str | None:
    """The first fault, depth first."""
    if isinstance(value, _plain(kind)):
        return None
    origin, here = get_origin(kind), where[1:] or "the whole"
    if origin in (Union, types.UnionType):
        faults = [_fault(choice, value, where) for choice in get_args(kind)]
        return None if None in faults else faults[0]
    record = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    if (record or origin is dict) and not isinstance(value, dict):
        return f"{here}: Input should be an object"
    if record:
        hints, required = _facts(kind)
        for key, item in value.items():
            if key not in hints:
                return f"{where}.{key[:80]}"[1:] + ": Unexpected keyword argument"
            if found := _fault(hints[key], item, f"{where}.{key}"):
                return found
        return next((f"{where}.{name}"[1:] + ": Field required" for name in required if name not in value), None)
    items: Iterable[tuple[object, Any]]
    if origin in (tuple, list):
        if not isinstance(value, list):
            return f"{here}: Input should be a list"
        item_kind, items = get_args(kind)[0], enumerate(value)
    elif origin is dict:
        item_kind, items = get_args(kind)[1], value.items()
    else:
        name = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "null")
        return f"{here}: Input should be {name}"
    plain = _plain(item_kind)
    for key, item in items:
        if not isinstance(item, plain) and (found := _fault(item_kind, item, f"{where}.{str(key)[:80]}")):
            return found
    return None


@cache
def _plain(kind: Any) -> tuple[type, ...]:
    """The types of JSON all of whose values fit; none for what has parts."""
    if kind is Any or get_origin(kind) is Literal:
        return (object,)
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(found for choice in get_args(kind) for found in _plain(choice))
    return {float: (float, int)}.get(kind, (kind,) if kind in (str, bool, int, type(None)) else ())


@cache
def _facts(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The types of a dataclass's fields by name, and the names of those that have no default."""
    hints, fields, missing = get_type_hints(kind), dataclasses.fields(kind), dataclasses.MISSING
    required = tuple(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: hints[f.name] for f in fields}, required
