"""How much each expert of a stack counts (stacked generalisation, Wolpert 1992)."""

import torch
from torch import Tensor


def stacking_weights(logits: Tensor, labels: Tensor, precision: Tensor | float, mean: Tensor | None = None) -> Tensor:
    """The weights, none negative, of experts whose weighted sum of logits explains some labels.

    They minimise the summed cross-entropy plus `(w - mean)' precision (w - mean) / 2`: what was known before counts as
    much as the samples it came from, and one or two samples decide nothing.

    Args:
        logits: of samples that no expert had learned, shape (experts, n, classes).
        labels: shape (n,).
        precision: how sure the weights before were, shape (experts, experts), positive definite; a number above 0 is
            that times the identity.
        mean: the weights before, shape (experts,), none negative; by default all alike, with the sum 1.

    Returns:
        Shape (experts,), float64.
    """
    z = logits.double()
    if mean is None:
        mean = z.new_full((len(z),), 1 / len(z))
    if not isinstance(precision, Tensor):
        precision = precision * torch.eye(len(z), dtype=z.dtype)
    true = z[:, torch.arange(len(labels)), labels].sum(1)  # of each expert, its logits of the true classes

    def objective(weights: Tensor) -> Tensor:
        gap = weights - mean
        return _scores(z, weights).logsumexp(1).sum() - true @ weights + gap @ precision @ gap / 2

    weights = mean.clone()
    value = objective(weights)
    for _ in range(100):
        slope = _expected(z, weights).sum(1) - true + precision @ (weights - mean)
        step = _bounded(slope, information(z, weights) + precision, -weights)
        length = 1.0
        while (after := objective(weights + length * step)) > value and length > 1e-6:
            length /= 2
        if length <= 1e-6:
            break
        weights, gain, value = (weights + length * step).clamp_min(0), value - after, after
        if gain < 1e-9 * value.abs().clamp_min(1):
            break
    return weights


def information(logits: Tensor, weights: Tensor) -> Tensor:
    """How much surer some samples make weights: the curvature of their summed cross-entropy.

    Args:
        logits: shape (experts, n, classes).
        weights: shape (experts,).

    Returns:
        Shape (experts, experts), float64.
    """
    z = logits.double()
    expected = _expected(z, weights)
    return torch.einsum("enc,nc,fnc->ef", z, _scores(z, weights).softmax(1), z) - expected @ expected.T


def _scores(z: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("e,enc->nc", weights, z)


def _expected(z: Tensor, weights: Tensor) -> Tensor:
    """Each expert's logit expected under the probabilities of the sum, shape (experts, n)."""
    return torch.einsum("enc,nc->en", z, _scores(z, weights).softmax(1))


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
