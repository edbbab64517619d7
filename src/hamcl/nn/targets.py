"""Which layers of a backbone are adapted by default, found from the modules instead of from model names."""

from torch import nn


def default_targets(module: nn.Module) -> tuple[str, ...]:
    """The names of the layers to adapt, in the order of the modules."""
    repeated = _blocks(module)
    linear = tuple(n for n, m in module.named_modules() if isinstance(m, nn.Linear) and n in repeated)
    return linear or tuple(n for n, m in module.named_modules() if isinstance(m, nn.Conv2d) and _pointwise(m))


def _pointwise(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and layer.groups == 1


def _blocks(module: nn.Module) -> set[str]:
    """Names of everything inside a ModuleList or Sequential of blocks."""
    inside: set[str] = set()
    for name, child in module.named_modules():
        if name and any(part.isdigit() for part in name.split(".")):
            inside.add(name)
    return inside
