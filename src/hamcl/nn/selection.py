"""Which layers a specification of targets names."""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from hamcl.errors import UsageError


def select_layers(
    module: nn.Module, targets: str | Sequence[str] | None, default: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """The names of the layers to adapt and of those that were matched but left out, both in the module's order.

    Plain `nn.Linear` layers and plain `nn.Conv2d` layers without channel groups can be adapted. Other convolutions
    are left out where they are matched along with layers that can.

    Args:
        targets: None takes `default`; a string is a regular expression, which must match a layer's full name or a
            dotted ending of it (`attn.qkv` or `qkv` for `blocks.0.attn.qkv`); a sequence lists full names or, where
            no layer has that name, endings.

    Raises:
        UsageError: a target matches no layer that can be adapted, or matches a linear layer of another class.
    """
    layers: dict[str, nn.Module] = {
        name: m for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    }
    if targets is None:
        matches = [("the backbone's default targets", [name for name in layers if name in set(default)])]
    elif isinstance(targets, str):
        matches = [(f"targets {targets!r}", _matching(targets, layers))]
    else:
        matches = [(f"target {target!r}", _named(target, layers)) for target in targets]

    chosen: set[str] = set()
    skipped: set[str] = set()
    for what, names in matches:
        for name in names:
            if isinstance(layers[name], nn.Linear) and type(layers[name]) is not nn.Linear:
                raise UsageError(f"layer {name!r} cannot be adapted: {_why_not(layers[name])}")
        good = [name for name in names if _why_not(layers[name]) is None]
        if names and not good:
            raise UsageError(f"layer {names[0]!r} cannot be adapted: {_why_not(layers[names[0]])}")
        if not good:
            raise UsageError(f"no layer matches {what}: choose among {_shortened(layers)}")
        chosen.update(good)
        skipped.update(set(names) - set(good))
    if not chosen:
        raise UsageError(f"targets is empty: choose among {_shortened(layers)}")
    return [name for name in layers if name in chosen], [name for name in layers if name in skipped]


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"targets {pattern!r} is not a regular expression: {error}") from error
    return [name for name in names if any(expression.fullmatch(ending) for ending in _endings(name))]


def _named(target: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    return [target] if target in names else [name for name in names if target in _endings(name)]


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _why_not(layer: nn.Module) -> str | None:
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return f"its channels are in {layer.groups} groups"
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return (
            f"it is a {type(layer).__name__}, and only plain nn.Linear and nn.Conv2d layers can be "
            "(load a quantized model unquantized)"
        )
    return None


def _shortened(layers: Mapping[str, nn.Module]) -> str:
    """Names of the layers that can be adapted, those that differ only by a number as one."""
    good = [name for name, layer in layers.items() if _why_not(layer) is None]
    patterns = dict.fromkeys(re.sub(r"(?<![^.])\d+(?![^.])", "*", name) for name in good)
    return ", ".join(patterns) or "nothing: the model has no plain nn.Linear or nn.Conv2d layer"
