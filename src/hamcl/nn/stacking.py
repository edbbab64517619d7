"""How much each expert of a stack counts (stacked generalisation, Wolpert 1992)."""

import torch
from torch import Tensor


def stacking_weights(logits: Tensor, labels: Tensor, mean: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """The weights, none negative, of experts whose weighted sum of logits explains some labels.

    They minimise the summed cross-entropy plus `(w - mean)' precision (w - mean) / 2`: what was known before counts as
    much as the samples it came from, and one or two samples decide nothing.

    Args:
        logits: of samples that no expert had learned, shape (experts, n, classes).
        labels: shape (n,).
        mean: the weights before, shape (experts,), none negative.
        precision: how sure they were, shape (experts, experts), positive definite.

    Returns:
        The weights, shape (experts,), and how much surer the samples made them, shape (experts, experts).
    """
    z = logits.double().permute(1, 0, 2)
    true = z[torch.arange(len(labels)), :, labels]

    def objective(weights: Tensor) -> Tensor:
        scores = torch.einsum("e,nec->nc", weights, z)
        gap = weights - mean
        return scores.logsumexp(1).sum() - (true @ weights).sum() + gap @ precision @ gap / 2

    def curvature(weights: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.einsum("e,nec->nc", weights, z).softmax(1)
        expected = torch.einsum("nec,nc->ne", z, p)
        bend = torch.einsum("nec,nc,nfc->ef", z, p, z) - expected.T @ expected
        return (expected - true).sum(0), bend

    weights = mean.clone()
    value = objective(weights)
    for _ in range(100):
        slope, bend = curvature(weights)
        step = _bounded(slope + precision @ (weights - mean), bend + precision, -weights)
        length = 1.0
        while (after := objective(weights + length * step)) > value and length > 1e-6:
            length /= 2
        if length <= 1e-6:
            break
        weights, gain, value = (weights + length * step).clamp_min(0), value - after, after
        if gain < 1e-9 * value.abs().clamp_min(1):
            break
    return weights, curvature(weights)[1]


def _bounded(slope: Tensor, bend: Tensor, least: Tensor) -> Tensor:
    """The x >= `least` that minimises `slope' x + x' bend x / 2`, by coordinate descent."""
    # Plain numbers: there is one coordinate for each expert, a handful.
    g, rows, low = slope.tolist(), bend.tolist(), least.tolist()
    x = [0.0] * len(g)
    for _ in range(1000):
        change = 0.0
        for i, row in enumerate(rows):
            rest = g[i] + sum(b * v for b, v in zip(row, x, strict=True)) - row[i] * x[i]
            new = max(-rest / row[i], low[i])
            change, x[i] = max(change, abs(new - x[i])), new
        if change < 1e-10:
            break
    return slope.new_tensor(x)
