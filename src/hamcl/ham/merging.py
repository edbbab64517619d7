"""Pruning, merging and compressing low-rank updates: pure functions on per-layer factors.

A merge is three steps, each layer on its own: sparsify every part, combine the parts, compress to a fixed rank.
The arithmetic runs in float64; results come back in the precision of the first part and never share its memory.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hamcl.ham.adapter import Factors, Group, Layers, check_finite, check_matching
from hamcl.ham.similarity import inner, norm

PruneOn = Literal["factors", "delta"]


@torch.no_grad()
def prune(f: Factors, density: float, on: PruneOn = "factors") -> Factors:
    """Keep the largest magnitudes and set the rest to zero.

    Exactly `max(1, round(density * numel))` entries are kept; among equal magnitudes the first in row-major order
    stay. Density 1 returns `f` itself.

    Args:
        density: the fraction kept (rho), in (0, 1].
        on: "factors" prunes A and B each on its own and keeps the rank; "delta" prunes B @ A and returns the result
            exactly, at rank min(out, in), with an identity as the smaller factor.
    """
    _check_density(density)
    if on not in ("factors", "delta"):
        raise ValueError(f"cannot prune on {on!r}: choose 'factors' or 'delta'")
    if density == 1:
        return f
    if on == "factors":
        return Factors(_largest(f.A, density), _largest(f.B, density))
    return _from_dense(_largest(_dense(f), density), f)


def concat(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The exact weighted sum `sum_i w_i B_i A_i`; its rank is the sum of the ranks."""
    return Factors(
        torch.cat([f.A for f in parts]), torch.cat([f.scaled(w).B for f, w in zip(parts, weights, strict=True)], dim=1)
    )


@torch.no_grad()
def compress(f: Factors, rank: int) -> tuple[Factors, float]:
    """The best approximation of rank `min(rank, f.rank, out, in)`, with its relative Frobenius error.

    QR of B and of A^T, then the SVD of the small core R_B R_A^T: O(f.rank^2 (out + in + f.rank)), no delta is formed.
    The square root of every singular value goes to both factors, and the largest entry of each column of B is
    positive, so that the result does not depend on the arbitrary signs of an SVD.
    """
    if rank < 1:
        raise ValueError(f"the rank to compress to must be at least 1, got {rank}")
    q_b, r_b = torch.linalg.qr(f.B.double())
    q_a, r_a = torch.linalg.qr(f.A.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    left, right, root = q_b @ u[:, :rank], vh[:rank] @ q_a.T, s[:rank].sqrt()
    largest = left.gather(0, left.abs().argmax(0, keepdim=True)).squeeze(0)
    sign = torch.where(largest < 0, -1.0, 1.0)
    error = float(s[rank:].norm() / s.norm()) if s.norm() > 0 else 0.0
    return Factors(((sign * root)[:, None] * right).to(f.A.dtype), (left * (sign * root)).to(f.B.dtype)), error


@dataclass(frozen=True)
class Merged:
    """A merged adapter and what it cost, as relative Frobenius errors.

    Attributes:
        layers: the merged update of every layer.
        errors: layer -> what compressing to `rank` lost of the exact combination; `merge_error` is that of all layers.
        prune_errors: layer -> what sparsifying lost of the parts that were sparsified; `prune_error` likewise.
    """

    layers: dict[str, Factors]
    errors: dict[str, float]
    merge_error: float
    prune_errors: dict[str, float]
    prune_error: float


@dataclass(frozen=True)
class Rule:
    """How updates are merged.

    Attributes:
        sparsify: (factors, density, prune_on, generator) -> factors.
        combine: (factors, weights) -> factors, exactly.
        averages: the weights are normalised, so they must be positive; a group of n members then weighs n.
        compresses: False keeps the exact combination whatever its rank.
    """

    sparsify: Callable[[Factors, float, PruneOn, torch.Generator | None], Factors]
    combine: Callable[[Sequence[Factors], Sequence[float]], Factors]
    averages: bool = False
    compresses: bool = True


@torch.no_grad()
def merge_layers(
    parts: Sequence[Layers],
    *,
    rule: str,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    density: float | Sequence[float] = 1.0,
    prune_on: PruneOn = "factors",
    generator: torch.Generator | None = None,
) -> Merged:
    """Merge the updates `parts`, layer by layer.

    | rule | sparsified by | combined to |
    |---|---|---|
    | concat | `prune` on `prune_on` | sum_i w_i delta_i, never compressed to `rank` |
    | svd | the same | the same sum |
    | mean | the same | sum_i w_i delta_i / sum_i w_i |
    | ties | largest magnitudes of the delta | per entry: the sign of sum_i w_i delta_i is elected, then the weighted
      mean over the parts that have it (TIES, Yadav et al. 2023, 2306.01708) |
    | dare | every entry of the delta kept with probability `density` and divided by it (DARE, Yu et al. 2023,
      2311.03099), drawn from `generator` | the sum |

    Args:
        parts: updates of the same layers and shapes; ranks may differ.
        weights: one per part, default 1.
        rank: the result is compressed to this rank; None keeps it exact. A rank above min(out, in) is never kept,
            it is brought down exactly.
        density: the fraction of entries kept, one for all parts or one each.
        prune_on: only for concat, svd and mean: the other rules sparsify the delta.

    Raises:
        ValueError: an option is out of range, or the parts do not match or are not finite (names the layer).
    """
    if rule not in RULES:
        raise ValueError(f"unknown merge rule {rule!r}: choose one of {', '.join(RULES)}")
    how = RULES[rule]
    weights = [1.0] * len(parts) if weights is None else weights
    densities = [density] * len(parts) if isinstance(density, int | float) else density
    if not parts or len(weights) != len(parts) or len(densities) != len(parts):
        raise ValueError(f"{len(parts)} parts to merge, with {len(weights)} weights and {len(densities)} densities")
    if not all(math.isfinite(w) and (w > 0 or not how.averages) for w in weights):
        raise ValueError(
            f"merge rule {rule!r} needs {'positive' if how.averages else 'finite'} weights, got {weights}"
        )
    first = check_finite(parts[0])
    for part in parts[1:]:
        check_matching(first, part)

    layers: dict[str, Factors] = {}
    pruned: dict[str, tuple[float, float]] = {}  # squared norms: what was lost, what there was
    compressed: dict[str, tuple[float, float]] = {}
    for layer, like in first.items():
        exact = [part[layer].to(torch.float64) for part in parts]
        sparse = [how.sparsify(f, d, prune_on, generator) for f, d in zip(exact, densities, strict=True)]
        cut = [(f, s) for f, s, d in zip(exact, sparse, densities, strict=True) if d < 1]
        pruned[layer] = sum(_squared_distance(f, s) for f, s in cut), sum(float(inner(f, f)) for f, _ in cut)
        combined = _capped(how.combine(sparse, weights))
        if rank is None or not how.compresses:
            result, error = combined, 0.0
        else:
            result, error = compress(combined, rank)
        total = float(norm(combined))
        compressed[layer] = (error * total) ** 2, total**2
        layers[layer] = Factors(result.A.to(like.A.dtype), result.B.to(like.B.dtype))
    return Merged(layers, *_relative(compressed), *_relative(pruned))


def final(groups: Sequence[Group]) -> dict[str, Factors]:
    """All groups as ONE adapter, `sum_j alpha_Gj delta_Gj` per layer: exact, at most of rank min(out, in)."""
    if not groups:
        raise ValueError("there is no group to merge: learn a task first")
    return merge_layers([g.layers for g in groups], rule="concat", weights=[g.importance for g in groups]).layers


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise ValueError(f"density is the fraction of entries kept and must lie in (0, 1], got {density}")


def _dense(f: Factors) -> Tensor:
    return f.B.double() @ f.A.double()


def _from_dense(delta: Tensor, like: Factors) -> Factors:
    """Exact factors of a dense update, in the precision of `like`; the identity is the smaller factor."""
    out, width = delta.shape
    eye = torch.eye(min(out, width), dtype=delta.dtype, device=delta.device)
    a, b = (delta, eye) if out < width else (eye, delta)
    return Factors(a.to(like.A.dtype), b.to(like.B.dtype))


def _largest(x: Tensor, density: float) -> Tensor:
    """`x` with all but its max(1, round(density * numel)) largest magnitudes set to zero."""
    count = max(1, round(density * x.numel()))
    magnitude = x.abs().flatten()
    threshold = magnitude.kthvalue(x.numel() - count + 1).values
    keep = magnitude > threshold
    tied = (magnitude == threshold).nonzero().flatten()
    keep[tied[: count - int(keep.sum())]] = True
    return torch.where(keep.view(x.shape), x, 0)


def _drop(f: Factors, density: float, on: PruneOn, generator: torch.Generator | None) -> Factors:
    _check_density(density)
    if density == 1:
        return f
    if generator is None:
        raise ValueError("merge rule 'dare' draws at random at a density below 1: give it a generator")
    delta = _dense(f)
    keep = torch.rand(delta.shape, generator=generator, device=generator.device).to(delta.device) < density
    return _from_dense(torch.where(keep, delta / density, 0), f)


def _mean(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    return concat(parts, [w / sum(weights) for w in weights])


def _elect(parts: Sequence[Factors], weights: Sequence[float]) -> Factors:
    deltas = torch.stack([_dense(f) for f in parts])
    w = torch.tensor(weights, dtype=deltas.dtype, device=deltas.device)[:, None, None]
    elected = (w * deltas).sum(0).sign()
    agreeing = w * ((deltas.sign() == elected) & (elected != 0))
    mean = (agreeing * deltas).sum(0) / agreeing.sum(0)
    return _from_dense(torch.where(elected == 0, 0, mean), parts[0])


def _capped(f: Factors) -> Factors:
    if f.rank <= min(f.shape):
        return f
    # Many sparse parts make a rank far above that of any delta, and what follows takes its square in time.
    return compress(_from_dense(_dense(f), f), min(f.shape))[0]


def _squared_distance(x: Factors, y: Factors) -> float:
    return max(0.0, float(inner(x, x) - 2 * inner(x, y) + inner(y, y)))


def _relative(squares: dict[str, tuple[float, float]]) -> tuple[dict[str, float], float]:
    """Relative errors per layer and of all layers together; nothing lost of nothing is 0."""

    def ratio(lost: float, total: float) -> float:
        return math.sqrt(lost / total) if total > 0 else 0.0

    lost, total = (sum(column) for column in zip(*squares.values(), strict=True))
    return {layer: ratio(*pair) for layer, pair in squares.items()}, ratio(lost, total)


RULES: dict[str, Rule] = {
    "concat": Rule(lambda f, density, on, _: prune(f, density, on), concat, compresses=False),
    "svd": Rule(lambda f, density, on, _: prune(f, density, on), concat),
    "mean": Rule(lambda f, density, on, _: prune(f, density, on), _mean, averages=True),
    "ties": Rule(lambda f, density, on, _: prune(f, density, "delta"), _elect, averages=True),
    "dare": Rule(_drop, concat),
}
