"""A document of a store: JSON that begins with its checksum and its format version, and holds dataclasses."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from hamcl.errors import DataError
from hamcl.store import structure
from hamcl.store.files import Damaged

T = TypeVar("T")
FORMAT, OLDEST = 3, 1
"""What is written, and the oldest version that is read. Version 2 keeps options of the machine with those of the
model, others that are no more, and nothing that was resolved. Version 1 has no `options` of tasks either, no
`trained_on` and no calibration in evaluations, and heads without what they judge themselves by.
"""
LIMIT = 2**24
"""The most bytes of a document that are read."""


def dump(value: object, indent: int | None = None) -> bytes:
    """JSON as UTF-8, the same for the same value."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def sealed(value: dict[str, Any]) -> bytes:
    """A document of a store: JSON whose first line is "checksum", the sha256 of the rest, and whose second "format".

    Every format version begins like this, so that an older hamcl can tell that a document is newer.
    """
    rest = dump(value, indent=1)[2:] + b"\n"
    return b'{\n "checksum": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n' + rest


_BEGINNING = re.compile(rb'\{\n "checksum": "([0-9a-f]{64})",\n(?= "format": ([0-9]{1,9}),\n)')


def opened(data: bytes, path: Path) -> bytes:
    """`sealed` JSON without its checksum.

    Raises:
        DataError: it is no such document, of another format version, or a byte was changed.
    """
    found = _BEGINNING.match(data)
    if found is None:
        raise Damaged(f"{path} does not begin as hamcl writes it")
    version = int(found[2])
    if version > FORMAT:
        raise DataError(
            f"{path} has format version {version}, newer than the {FORMAT} of this hamcl; install a newer hamcl"
        )
    if version < OLDEST:
        raise DataError(
            f"{path} has format version {version}, which this hamcl does not read (it begins at {OLDEST}); learn the "
            "tasks again into a new store"
        )
    rest = data[found.end() :]
    if hashlib.sha256(rest).hexdigest().encode() != found[1]:
        raise Damaged(f"{path} was changed: its checksum is another one")
    return b"{\n" + rest


def valid(kind: type[T], data: bytes, path: Path) -> T:
    """Turn JSON into dataclasses.

    Raises:
        DataError: a key is missing or unknown, or a value of the wrong type or out of range.
    """
    if wrong := structure.fault(kind, data):
        raise Damaged(f"{path} is not valid: {wrong}")
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        raise Damaged(f"{path} is not valid: {sentence(error)}") from error


def reason(error: DataError) -> str:
    """What an error says is wrong, without the path before it and what to do after it."""
    return str(error).rpartition("; ")[0].partition(" is not valid: ")[2] or str(error).partition(";")[0]


def sentence(error: ValidationError) -> str:
    """The first of the errors, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc'])[:200] or 'the whole'}: {first['msg']}"
