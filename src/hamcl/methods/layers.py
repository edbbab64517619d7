"""An adapter's layers as flat tensors, for state dicts."""

from torch import Tensor

from hamcl.ham import Factors, Layers


def layers_state(layers: Layers) -> dict[str, Tensor]:
    """`LAYER.A` and `LAYER.B` of every layer."""
    return {f"{name}.{part}": getattr(f, part) for name, f in layers.items() for part in ("A", "B")}


def layers_from(tensors: dict[str, Tensor]) -> dict[str, Factors]:
    """Undo `layers_state`."""
    names = [name.removesuffix(".A") for name in tensors if name.endswith(".A")]
    return {name: Factors(tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}
