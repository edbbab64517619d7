"""The records by which a manifest knows tensors and the files that hold them."""

import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, FailFast, Field
from pydantic.dataclasses import dataclass

from hamcl.errors import DataError
from hamcl.store import files
from hamcl.store.files import Damaged

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], FailFast()]
"""However many; the first wrong one is found, not all of them."""

HEADER = 2**24
"""The most bytes of an object besides its tensors."""

Dtype = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"]
BYTES: dict[Dtype, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
"""Of one number."""


@dataclass(frozen=True, config=STRICT)
class TensorRecord:
    """One tensor of an object.

    Attributes:
        shape: of the tensor itself.
        packed: the object holds the upper triangle of a symmetric matrix, row by row, as a vector.
    """

    dtype: Dtype
    shape: Annotated[tuple[Count, ...], Field(max_length=8)]
    packed: bool = False

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape inside the object."""
        return (self.shape[0] * (self.shape[0] + 1) // 2,) if self.packed else self.shape

    @property
    def bytes(self) -> int:
        """Its size inside the object."""
        return math.prod(self.stored) * BYTES[self.dtype]


@dataclass(frozen=True, config=STRICT)
class ObjectRecord:
    """One file of `objects/`, named by its sha256.

    Attributes:
        size: in bytes.
        tensors: what it holds.
    """

    sha256: Sha256
    size: Count
    tensors: dict[str, TensorRecord]

    @property
    def name(self) -> str:
        """The path below the store."""
        return f"{files.OBJECTS}/{self.sha256}.safetensors"

    def check(self) -> None:
        """Raise DataError if the size cannot be that of these tensors."""
        for name, tensor in self.tensors.items():
            if tensor.packed and (len(tensor.shape) != 2 or tensor.shape[0] != tensor.shape[1]):
                raise DataError(f"tensor {name!r} of {self.name} is packed but not square")
        content = sum(tensor.bytes for tensor in self.tensors.values())
        if not content <= self.size <= content + HEADER:
            raise DataError(f"{self.name} has {self.size} bytes for tensors of {content} by the manifest")


def check_object(root: Path, record: ObjectRecord) -> None:
    """Check the size and the checksum of one object without holding it in memory.

    Raises:
        DataError: it is missing or changed; the message names the file.
    """
    record.check()
    if not files.holds(root, record.name, record.size, record.sha256):
        raise Damaged(f"{root / record.name} is missing or was changed")
