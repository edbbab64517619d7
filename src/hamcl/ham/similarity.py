"""How alike two updates are: one function per measure, each in [-1, 1] (`cka` in [0, 1]).

All sums run in float64. An update (or a feature change) that is zero everywhere is similar to nothing: 0.
"""

import math
from collections.abc import Iterable

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
    """Cosine of the full deltas, all layers together.

    Raises:
        ValueError: layers or shapes differ, or a value is not finite; names the layer and the task where known.
    """
    a, b = check_matching(a, b)
    return _cosine((inner(a[name], b[name]), inner(a[name], a[name]), inner(b[name], b[name])) for name in a)


@torch.no_grad()
def factor(a: Layers | Adapter, b: Layers | Adapter) -> float:
    """Cosine of the stacked B of all layers, with `b` expressed in the A of `a`.

    B alone compares two updates only if both read the same input directions. `a` is the finished task, `b` a group,
    whose rank and directions training and merging have changed. Its B is therefore replaced by the least-squares
    solution of `X A_a = B_b A_b`, that is `X = B_b A_b A_a^+`: exactly B_b where the two A are equal (and of full
    row rank), and without what `b` does outside the row space of A_a. Ranks may differ; not symmetric in general.

    Raises:
        ValueError: as `weight`.
    """
    a, b = check_matching(a, b)
    terms = []
    for name in a:
        x, y = a[name].to(torch.float64), b[name].to(torch.float64)
        moved = y.B @ (y.A @ torch.linalg.pinv(x.A))
        terms.append(((x.B * moved).sum(), x.B.square().sum(), moved.square().sum()))
    return _cosine(terms)


@torch.no_grad()
def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same n samples.

    `|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)` after centring every column (Kornblith et al. 2019, 1905.00414); invariant
    to rotation and to isotropic scaling.

    Args:
        x: shape (n, d1).
        y: shape (n, d2).

    Raises:
        ValueError: the two do not have the same number of rows, at least two, or a value is not finite.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"cka needs features (n, d1) and (n, d2) with n >= 2, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("cka needs finite features")
    x, y = x.double(), y.double()
    x, y = x - x.mean(0), y - y.mean(0)
    return _cosine([((y.T @ x).square().sum(), (x.T @ x).square().sum(), (y.T @ y).square().sum())])


def _cosine(terms: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Cosine from (<x, y>, <x, x>, <y, y>) of the blocks that x and y are stacked from."""
    xy, xx, yy = (float(sum(column)) for column in zip(*terms, strict=True))
    return xy / (math.sqrt(xx) * math.sqrt(yy)) if xx > 0 and yy > 0 else 0.0
