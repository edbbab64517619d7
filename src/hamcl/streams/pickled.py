"""Read the data in a pickle and run nothing: texts, numbers, lists, dictionaries and arrays of bytes.

No constructor of any library is called, not even numpy's: a crafted file can make one read foreign memory. Python's
own reader gets a note of the name for what it wants to import, and knows no opcodes but those of plain data. An array
is known by the names that its pickle writes down; of it only the shape and as many raw bytes are taken.
"""

import pickle
from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any, ClassVar

import numpy as np

MOST_BYTES = 2**30  # the largest official file has 155 MB
KNOWN = (
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
)
OPCODES = (
    *("PROTO", "FRAME", "STOP", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("FLOAT", "BINFLOAT", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"),
)
"""Those of plain data; any other is none that the reader knows."""


@dataclass
class Made:
    """What the pickle would make by calling `name`, not called as long as `arguments` is None.

    Attributes:
        state: what it would then set.
    """

    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """What a call gives: bytes for the one function that is known well enough, else a note of the call."""
        if self.arguments is not None:
            raise ValueError("it calls what is no function")
        if self.name != "_codecs.encode":
            return Made(self.name, arguments)
        text, encoding = arguments  # protocol 2 stores the bytes of Python 3 so
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"it asks for the encoding {encoding!r}")
        return str.encode(text, "latin1")

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Reader(pickle._Unpickler):  # the one in Python: that in C makes a table as long as a file says
    """Python's reader of pickles without all that could run or take memory which the file does not fill."""

    dispatch: ClassVar = {code: pickle._Unpickler.dispatch[code] for (code,) in (getattr(pickle, o) for o in OPCODES)}

    def find_class(self, module: str, name: str) -> Made:
        if f"{module}.{name}" not in KNOWN:
            raise ValueError(f"it asks for {module}.{name}")
        return Made(f"{module}.{name}")


def loads(data: bytes) -> Any:
    """Return what a pickle of protocol 0 to 4 holds; an array in it is a `Made`, see `array`.

    Raises:
        ValueError: it is no pickle, is damaged, or asks for anything else.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, more than {MOST_BYTES:,}")
    try:
        return Reader(BytesIO(data), encoding="bytes").load()  # the texts of Python 2 were bytes
    except ValueError:
        raise
    except Exception as error:  # there are many ways to be damaged
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


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
