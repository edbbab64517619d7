"""Which layers of a backbone are adapted by default: found by watching it run, not from lists of model names."""

from collections import Counter
from collections.abc import Callable
from math import prod

from torch import Tensor, nn


def default_targets(module: nn.Module, run: Callable[[int], object]) -> tuple[str, ...]:
    """The names of the layers to adapt, in the order of the modules; empty if none fits.

    - Networks with linear layers inside their repeated blocks (transformers, ConvNeXt, mixers): those layers (so
      attention and MLP, but not embeddings, poolers or classifiers) and pointwise convolutions inside the blocks.
    - Other convolutional networks: every pointwise convolution (1 x 1, ungrouped). Where these hold less than a
      quarter of the weights (ResNet-18, VGG): every ungrouped convolution but the first.

    Only layers that the samples pass through count. A model may read a layer's weight without calling the layer
    (`nn.MultiheadAttention`, BEiT), or use layers to make its position biases (Swin v2): an adapter there would do
    nothing, or something else than meant.

    Args:
        run: runs the module on a batch of that many equal samples.
    """
    called = _called(module, run)
    layers = {name: layer for name, layer in module.named_modules() if name in called}
    blocks = _blocks(module)
    inside = {name: layer for name, layer in layers.items() if name.startswith(blocks)}
    if any(isinstance(layer, nn.Linear) for layer in inside.values()):
        return tuple(name for name, layer in inside.items() if isinstance(layer, nn.Linear) or _pointwise(layer))
    convolutions = {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and name != called[0]
    }
    pointwise = {name: layer for name, layer in convolutions.items() if _pointwise(layer)}
    few = 4 * _weights(pointwise) < _weights(convolutions)
    return tuple(convolutions if few else pointwise)


def _called(module: nn.Module, run: Callable[[int], object]) -> list[str]:
    """Names of the linear and convolution layers whose input grows with the batch, first call first."""
    size: Counter[str] = Counter()
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):

            def count(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                size[name] += inputs[0].numel()

            handles.append(layer.register_forward_pre_hook(count))
    try:
        run(1)
        one = size.copy()
        size.clear()
        run(2)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in size if size[name] == 2 * one[name]]


def _blocks(module: nn.Module) -> tuple[str, ...]:
    """Prefixes of the names inside the composite children of all sequences and lists of modules."""
    return tuple(
        f"{name}.{key}."
        for name, sequence in module.named_modules()
        if isinstance(sequence, nn.ModuleList | nn.Sequential)
        for key, block in sequence.named_children()
        if next(block.children(), None) is not None
    )


def _pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1


def _weights(layers: dict[str, nn.Conv2d]) -> int:
    return sum(prod(layer.weight.shape) for layer in layers.values())
