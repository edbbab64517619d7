"""Read the data in a pickle and run nothing: texts, numbers, lists, dictionaries and arrays of bytes.

No constructor of any library is called, not even numpy's: a crafted file can make one read foreign memory. The opcodes
that carry data are carried out here, in Python's own lists and dictionaries. An array is known by the names that its
pickle writes down; of it only the shape and as many raw bytes are taken.
"""

import pickletools
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

MOST_BYTES = 2**30  # the largest official file has 155 MB
KNOWN = (
    *("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"),
    *("numpy ndarray", "numpy dtype", "_codecs encode"),
)


VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
"""Opcodes whose argument is the value."""


@dataclass(frozen=True)
class Named:
    """A name of something importable, which is not imported."""

    name: str


@dataclass
class Made:
    """What the pickle would make by calling `name`; `state` is what it would then set."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


def loads(data: bytes) -> Any:
    """Return what a pickle of protocol 0 to 4 holds; an array in it is a `Made`, see `array`.

    Raises:
        ValueError: it is no pickle, is damaged, or asks for anything else.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, more than {MOST_BYTES:,}")
    machine = Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def array(made: Any) -> np.ndarray:
    """Return an array of bytes, whatever its shape.

    Raises:
        ValueError: it is another object, an array of anything but uint8 in C order, or its shape and bytes disagree.
    """
    try:
        _, shape, dtype, fortran, data = made.state
        kind = dtype.arguments[0]
        raw = data.encode("latin1") if isinstance(data, str) else data
        whole = isinstance(raw, bytes) and all(type(size) is int and size >= 0 for size in shape)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError("its data is no array of bytes") from error
    if kind not in ("u1", b"u1", "|u1", b"|u1") or fortran or not whole or prod(shape) != len(raw):
        raise ValueError("its data is no array of bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape)


@dataclass
class Machine:
    """The stack of a pickle, the stacks that its marks set aside, and what it remembers."""

    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if name in VALUES:
                self.stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # bytes, as Python 2 had them
                self.stack.append(argument.encode("latin1"))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                self.stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop(int(name[-1]))))
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE" | "LIST":
                items = self.marked()
                self.stack.append(tuple(items) if name == "TUPLE" else items)
            case "DICT":
                items = self.marked()
                self.stack.append({})
                self.set(items)
            case "APPEND" | "APPENDS":
                items = self.pop(1) if name == "APPEND" else self.marked()
                of(list, self.stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                self.set(self.pop(2) if name == "SETITEM" else self.marked())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.stack.append(named(argument))
            case "STACK_GLOBAL":
                self.stack.append(named(" ".join(of(str, part) for part in self.pop(2))))
            case "REDUCE":
                function, arguments = self.pop(2)
                self.stack.append(called(of(Named, function).name, of(tuple, arguments)))
            case "BUILD":
                (state,) = self.pop(1)
                of(Made, self.stack[-1]).state = state
            case _:
                raise ValueError(f"it holds the opcode {name}, which is no plain data")

    def pop(self, count: int) -> list[Any]:
        """Take that many values from the top of the stack."""
        if len(self.stack) < count:
            raise IndexError("a value is missing")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def marked(self) -> list[Any]:
        """Everything above the last mark, which goes."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def set(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dictionary on top of the stack."""
        table = of(dict, self.stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            table[of((str, bytes, int), key)] = value


def of(kinds: Any, value: Any) -> Any:
    """Return `value`, which must be of these kinds."""
    if not isinstance(value, kinds):
        raise TypeError(f"there is {type(value).__name__} in a wrong place")
    return value


def named(name: str) -> Named:
    """Return one of the names that plain data needs."""
    if name not in KNOWN:
        raise ValueError(f"it asks for {name.replace(' ', '.')}")
    return Named(name)


def called(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a call gives: bytes for the one function that is known well enough, else a note of the call."""
    if name != "_codecs encode":
        return Made(name, arguments)
    text, encoding = arguments  # protocol 2 stores the bytes of Python 3 so
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"it asks for the encoding {encoding!r}")
    return of(str, text).encode("latin1")
