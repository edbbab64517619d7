"""Measures of how alike two updates are, besides the `weight` that `ham` groups by.

All sums run in float64. An update (or a change of features) that is zero everywhere is similar to nothing: 0.
"""

import math

import torch
from torch import Tensor

from hamcl.ham import Adapter, Layers, check_matching


@torch.no_grad()
def factor(a: Layers | Adapter, b: Layers | Adapter) -> float:
    """Cosine of the stacked B of all layers, with `b` expressed in the A of `a`; in [-1, 1].

    B alone compares two updates only if both read the same input directions. `a` is the finished task, `b` a group,
    whose rank and directions training and merging have changed. Its B is therefore replaced by the least-squares
    solution of `X A_a = B_b A_b`, that is `X = B_b A_b A_a^+`: exactly B_b where the two A are equal (and of full
    row rank), and without what `b` does outside the row space of A_a. Ranks may differ; not symmetric in general.

    Raises:
        ValueError: layers or shapes differ, or a value is not finite; names the layer and the task where known.
    """
    a, b = check_matching(a, b)
    own, moved = [], []
    for name in a:
        x, y = a[name].to(torch.float64), b[name].to(torch.float64)
        own.append(x.B.flatten())
        moved.append((y.B @ (y.A @ torch.linalg.pinv(x.A))).flatten())
    return _cosine(torch.cat(own), torch.cat(moved))


@torch.no_grad()
def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same n samples; in [0, 1].

    `|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F)` after centring every column (Kornblith et al. 2019, 1905.00414), which is
    the cosine of the two kernels; invariant to rotation and to isotropic scaling.

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
    return _cosine((x @ x.T).flatten(), (y @ y.T).flatten())


def _cosine(x: Tensor, y: Tensor) -> float:
    xy, xx, yy = float(x @ y), float(x @ x), float(y @ y)
    return xy / (math.sqrt(xx) * math.sqrt(yy)) if xx > 0 and yy > 0 else 0.0
