"""Features from several depths of a network side by side.

What a network learns early (strokes, textures, words) carries over to data far from its pre-training, what it learns
late does not (Yosinski et al. 2014, "How transferable are features in deep neural networks?"). Each depth is one
block of the features, and every row of it is scaled to length 1, so that no depth outweighs another.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class Depths(ABC):
    """Features of shape (n, width) in blocks, one for each depth, the network's own features last."""

    @abstractmethod
    def blocks(self, module: nn.Module, batch: Batch) -> list[Tensor]:
        """The features at each depth, shapes (n, width of the block)."""

    def __call__(self, module: nn.Module, batch: Batch) -> Tensor:
        return torch.cat([F.normalize(block.float(), dim=1) for block in self.blocks(module, batch)], 1)


@dataclass(frozen=True)
class MapDepths(Depths):
    """Multi-layer features of a timm model: three stages, or two layers where all are alike, and its own features.

    Attributes:
        indices: of the stages or layers in timm's `forward_intermediates`.
        limit: see `pool_map`.
    """

    indices: tuple[int, ...]
    limit: int

    @classmethod
    def of(cls, module: nn.Module, batch: Batch) -> "MapDepths":
        """The last three stages of a network whose maps shrink; layers after one and two thirds of any other."""
        last, maps = module.forward_intermediates(batch["pixel_values"])  # type: ignore[operator]
        width = module.forward_head(last).shape[1]  # type: ignore[operator]
        if len({x.shape[1:] for x in maps}) > 1:
            return cls(tuple(range(len(maps))[-3:]), width)
        return cls(tuple(layer - 1 for layer in inner_layers(len(maps))), width)

    def blocks(self, module: nn.Module, batch: Batch) -> list[Tensor]:
        last, maps = module.forward_intermediates(batch["pixel_values"], indices=list(self.indices))  # type: ignore[operator]
        return [*(pool_map(x, self.limit) for x in maps), module.forward_head(last)]  # type: ignore[operator]


def inner_layers(count: int) -> tuple[int, ...]:
    """The layers, counted from 1, after one and two thirds of `count` layers."""
    return tuple(sorted({max(1, round(count / 3)), max(1, round(2 * count / 3))} - {count}))


def pool_map(x: Tensor, limit: int) -> Tensor:
    """Average pooling of a map over its four quarters, (n, 4 * channels), or over all of it, (n, channels).

    Quarters keep where something was seen; all of it is taken where they would give more than `limit` numbers.

    Args:
        x: shape (n, channels, height, width).
    """
    side = 2 if 4 * x.shape[1] <= limit and min(x.shape[2:]) > 1 else 1
    return F.adaptive_avg_pool2d(x.float(), side).flatten(1)
