"""Reference computations on dense float64 matrices: slow, literal, and independent of `hamcl.ham`.

A layer is a pair (A, B); an update maps layer names to such pairs.
"""

import numpy as np
import torch


def delta(pair):
    a, b = pair
    return b.double().numpy() @ a.double().numpy()


def stack(update):
    return np.concatenate([delta(update[name]).ravel() for name in sorted(update)])


def cosine(x, y):
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def weight(x, y):
    return cosine(stack(x), stack(y))


def factor(task, group):
    """Cosine of the task's B and of the best B for the group's delta in the task's A, by a dense solver."""
    own, moved = [], []
    for name in sorted(task):
        a, b = (t.double().numpy() for t in task[name])
        own.append(b.ravel())
        moved.append(np.linalg.lstsq(a.T, delta(group[name]).T, rcond=None)[0].T.ravel())
    return cosine(np.concatenate(own), np.concatenate(moved))


def cka(x, y):
    """HSIC form: tr(K H L H) / sqrt(tr(K H K H) tr(L H L H)) with linear kernels and the centring matrix H."""
    x, y = x.double().numpy(), y.double().numpy()
    h = np.eye(len(x)) - 1 / len(x)
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


def prune(x, density):
    """Keep the largest magnitudes, the first of equals, one entry at a time."""
    flat, out = x.ravel(), np.zeros(x.size)
    order = sorted(range(x.size), key=lambda i: (-abs(flat[i]), i))
    for i in order[: max(1, round(density * x.size))]:
        out[i] = flat[i]
    return out.reshape(x.shape)


def total(deltas, weights):
    return sum(w * d for w, d in zip(weights, deltas, strict=True))


def mean(deltas, weights):
    return total(deltas, weights) / sum(weights)


def ties(deltas, weights):
    """Sign election and mean of the agreeing parts, entry by entry."""
    out = np.zeros(deltas[0].shape)
    for i in np.ndindex(*out.shape):
        votes = [(w, d[i]) for w, d in zip(weights, deltas, strict=True)]
        elected = np.sign(sum(w * v for w, v in votes))
        agreeing = [(w, v) for w, v in votes if elected != 0 and np.sign(v) == elected]
        if agreeing:
            out[i] = sum(w * v for w, v in agreeing) / sum(w for w, _ in agreeing)
    return out


def dare(x, density, generator):
    """Drop at random and rescale; uniform numbers are drawn in row-major order."""
    keep = torch.rand(x.shape, generator=generator).numpy() < density
    return np.where(keep, x / density, 0.0)


def relative_error(pairs):
    """Frobenius error over all (exact, approximate) pairs together; nothing lost of nothing is 0."""
    lost = sum(((x - y) ** 2).sum() for x, y in pairs)
    there = sum((x**2).sum() for x, _ in pairs)
    return float(np.sqrt(lost / there)) if there else 0.0


def truncated(x, rank):
    """The best approximation of this rank and its relative error."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    return best, relative_error([(x, best)])
