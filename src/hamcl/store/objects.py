"""Tensors as content-addressed safetensors objects, and the records by which a manifest knows them."""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import ConfigDict, FailFast, Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hamcl.errors import DataError
from hamcl.store import files

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], FailFast()]
"""However many; the first wrong one is found, not all of them."""

HEADER = 2**24
"""The most bytes of an object besides its tensors."""

Dtype = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"]
DTYPES: dict[Dtype, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
        return math.prod(self.stored) * DTYPES[self.dtype].itemsize


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


def encode(tensors: dict[str, Tensor]) -> tuple[ObjectRecord, bytes]:
    """The record and the bytes of an object; the same tensors always give the same bytes.

    A matrix that is symmetric bit for bit takes half its size.
    """
    stored, records = {}, {}
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        packed = _symmetric(tensor)
        records[name] = TensorRecord(_NAMES[tensor.dtype], tuple(tensor.shape), packed)
        stored[name] = tensor[_upper(len(tensor))] if packed else tensor
    data = save(stored)
    return ObjectRecord(hashlib.sha256(data).hexdigest(), len(data), records), data


def decode(record: ObjectRecord, data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of an object whose bytes were read from `path` and have the checksum of the record.

    Raises:
        DataError: the bytes do not hold the tensors of the record.
    """
    try:
        loaded = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"{path} does not hold tensors ({error}); restore it from a copy of the store") from error
    if loaded.keys() != record.tensors.keys():
        raise DataError(f"{path} holds other tensors than the manifest says; restore it from a copy of the store")
    result = {}
    for name, entry in record.tensors.items():
        tensor = loaded[name]
        if tensor.dtype != DTYPES[entry.dtype] or tuple(tensor.shape) != entry.stored:
            raise DataError(
                f"tensor {name!r} of {path} is {tensor.dtype} {tuple(tensor.shape)}, but the manifest says "
                f"{entry.dtype} {entry.stored}; restore the store from a copy"
            )
        result[name] = _unpacked(tensor, entry.shape[0]) if entry.packed else tensor
    return result


def load_object(root: Path, record: ObjectRecord, *, finite: bool = False) -> dict[str, Tensor]:
    """Read and check one object; the caller has made sure that its size is one to be read.

    Args:
        finite: every number must be.

    Raises:
        DataError: it is missing or changed; the message names the file.
    """
    record.check()
    data = files.read(root, record.name, limit=record.size, size=record.size, sha256=record.sha256)
    tensors = decode(record, data, root / record.name)
    for name, tensor in tensors.items() if finite else ():
        if not tensor.isfinite().all():
            raise DataError(
                f"tensor {name!r} of {root / record.name} holds numbers that are not finite; restore it from a copy "
                "of the store"
            )
    return tensors


def check_object(root: Path, record: ObjectRecord) -> None:
    """Check the size and the checksum of one object without holding it in memory.

    Raises:
        DataError: it is missing or changed; the message names the file.
    """
    record.check()
    if not files.holds(root, record.name, record.size, record.sha256):
        raise DataError(f"{root / record.name} is missing or was changed; restore it from a copy of the store")


def save_object(root: Path, tensors: dict[str, Tensor]) -> ObjectRecord:
    """Write an object unless it is there already.

    Raises:
        DataError: it cannot be written.
    """
    record, data = encode(tensors)
    put(root, record.name, data)
    return record


def put(root: Path, name: str, data: bytes) -> None:
    """Write a content-addressed file unless it is there already, with these very bytes: a leftover may be damaged."""
    if not files.holds(root, name, len(data), hashlib.sha256(data).hexdigest()):
        files.write(root, name, data)


def _symmetric(tensor: Tensor) -> bool:
    if (
        tensor.ndim != 2
        or tensor.shape[0] != tensor.shape[1]
        or len(tensor) < 2
        or tensor.element_size() not in (4, 8)
    ):
        return False
    bits = tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int64)
    return torch.equal(bits, bits.T)


def _upper(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).triu_()


def _unpacked(vector: Tensor, size: int) -> Tensor:
    upper = _upper(size)
    matrix = vector.new_zeros(size, size)
    matrix[upper] = vector
    return torch.where(upper, matrix, matrix.T)
