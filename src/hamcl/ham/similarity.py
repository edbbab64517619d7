"""How alike two updates are. All sums run in float64."""

import math

import torch
from torch import Tensor

from hamcl.ham.adapter import Adapter, Factors, Layers, check_matching


def inner(x: Factors, y: Factors) -> Tensor:
    """Frobenius inner product of two deltas, `<Bx Ax, By Ay> = sum((Bx^T By) * (Ax Ay^T))`, 0-dim float64.

    Costs O(rank_x * rank_y * (out + in)); no delta is formed.
    """
    x, y = x.to(torch.float64), y.to(torch.float64)
    return ((x.B.T @ y.B) * (x.A @ y.A.T)).sum()


def norm(x: Factors) -> Tensor:
    """Frobenius norm of the delta, 0-dim float64."""
    return inner(x, x).clamp_min(0).sqrt()


@torch.no_grad()
def weight(a: Layers | Adapter, b: Layers | Adapter) -> float:
    """Cosine of the full deltas, all layers together, in [-1, 1]; 0 where one of them is zero everywhere.

    Raises:
        ValueError: layers or shapes differ, or a value is not finite; names the layer and the task where known.
    """
    a, b = check_matching(a, b)
    terms = [(inner(a[name], b[name]), inner(a[name], a[name]), inner(b[name], b[name])) for name in a]
    ab, aa, bb = (float(sum(column)) for column in zip(*terms, strict=True))
    return ab / (math.sqrt(aa) * math.sqrt(bb)) if aa > 0 and bb > 0 else 0.0
