"""Tensors under flat names, for state dicts."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hamcl.ham.adapter import Factors, Layers


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix.` before every name."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def stripped(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries below `prefix.`, without it."""
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(prefix + ".")}


def layers_state(layers: Layers) -> dict[str, Tensor]:
    """`LAYER.A` and `LAYER.B` of every layer."""
    return {f"{name}.{part}": getattr(f, part) for name, f in layers.items() for part in ("A", "B")}


def layers_from(tensors: dict[str, Tensor]) -> dict[str, Factors]:
    """Undo `layers_state`."""
    names = [name.removesuffix(".A") for name in tensors if name.endswith(".A")]
    return {name: Factors(tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}


def adapters_state(adapters: Sequence[Layers]) -> dict[str, Tensor]:
    """`i.LAYER.A` and `i.LAYER.B` of every adapter."""
    return {name: t for i, layers in enumerate(adapters) for name, t in prefixed(str(i), layers_state(layers)).items()}


def adapters_from(tensors: dict[str, Tensor], count: int) -> list[dict[str, Factors]]:
    """Undo `adapters_state`."""
    return [layers_from(stripped(str(i), tensors)) for i in range(count)]
