"""Tensors by name as safetensors, in memory and on disk: the one form in which tensors are kept, and no pickle."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a file that holds these tensors; the same tensors always give the same bytes."""
    return save(_plain(tensors))


def unpack(data: bytes) -> dict[str, Tensor]:
    """Undo `pack`.

    Raises:
        ValueError: the bytes do not hold tensors.
    """
    try:
        return load(data)
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None) -> None:
    """Write tensors, and texts that go into the header of the file."""
    save_file(_plain(tensors), path, metadata=dict(texts) if texts is not None else None)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Undo `write_tensors`: the tensors, on the CPU, and the texts.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it does not hold tensors.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, row by row, and none in the memory of another."""
    plain: dict[str, Tensor] = {}
    taken = set()
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return plain
