"""Tensors as content-addressed files of a store."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from hamcl.store import files
from hamcl.store.files import Damaged
from hamcl.store.records import Dtype, ObjectRecord, TensorRecord
from hamcl.tensors import pack, unpack

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
    data = pack(stored)
    return ObjectRecord(hashlib.sha256(data).hexdigest(), len(data), records), data


def decode(record: ObjectRecord, data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of an object whose bytes were read from `path` and have the checksum of the record.

    Raises:
        DataError: the bytes do not hold the tensors of the record.
    """
    try:
        loaded = unpack(data)
    except ValueError as error:
        raise Damaged(f"{path} does not hold tensors ({error})") from error
    if loaded.keys() != record.tensors.keys():
        raise Damaged(f"{path} holds other tensors than the manifest says")
    result = {}
    for name, entry in record.tensors.items():
        tensor = loaded[name]
        if tensor.dtype != DTYPES[entry.dtype] or tuple(tensor.shape) != entry.stored:
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise Damaged(f"tensor {name!r} of {path} is {found}, but the manifest says {entry.dtype} {entry.stored}")
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
            raise Damaged(f"tensor {name!r} of {root / record.name} holds numbers that are not finite")
    return tensors


def save_object(root: Path, tensors: dict[str, Tensor]) -> ObjectRecord:
    """Write an object unless it is there already.

    Raises:
        DataError: it cannot be written.
    """
    record, data = encode(tensors)
    files.put(root, record.name, data)
    return record


def _symmetric(tensor: Tensor) -> bool:
    square = tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] > 1
    if not square or tensor.element_size() not in (4, 8):
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
