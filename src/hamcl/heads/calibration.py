"""Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks") of a head's scores.

The temperature comes from scores of samples that the head had not learned.
What is kept of such scores is their cross-entropy at each of a grid of temperatures, summed: a few hundred numbers,
however many samples there were, to which the next task's are added.
"""

import torch
from torch import Tensor

TEMPERATURES = 2.0 ** (torch.arange(-60, 61, dtype=torch.float64) / 4)
KNOWN = 100
"""Left-out samples from which on probabilities count as known."""


def doubt(judged: float) -> str:
    """One sentence about probabilities that rest on so many left-out samples; empty where there are enough."""
    if judged >= KNOWN:
        return ""
    known = f"{judged:.0f} samples that were left out, fewer than {KNOWN}" if judged >= 0.5 else "no left-out sample"
    return f"probabilities are not known well: they rest on {known}"


def evidence(scores: Tensor, labels: Tensor) -> Tensor:
    """The summed cross-entropy at each temperature, against the labels and against all classes alike.

    Args:
        scores: of samples that the head had not learned, shape (n, classes).
        labels: shape (n,).

    Returns:
        Shape (2, temperatures), float64.
    """
    scores = scores.double()
    scores = scores - scores.max(1, keepdim=True).values
    true, mean = scores.gather(1, labels[:, None]).sum(), scores.mean(1).sum()
    partition = torch.stack([(scores / t).logsumexp(1).sum() for t in TEMPERATURES])
    return torch.stack([partition - true / TEMPERATURES, partition - mean / TEMPERATURES])


def temperature(losses: Tensor, count: float) -> float:
    """The temperature of the smallest cross-entropy.

    As in Platt 1999, "Probabilistic outputs for support vector machines", one sample more than there were counts,
    whose class nobody knows: few samples, all of them right, do not make a head certain.

    Args:
        losses: a sum of `evidence`, shape (2, temperatures).
        count: the samples it was summed over, above 0.
    """
    unsure = 1 / (count + 2)
    total = (1 - unsure) * losses[0] + unsure * losses[1]
    best = min(max(int(total.argmin()), 1), len(total) - 2)
    left, middle, right = total[best - 1 : best + 2].tolist()
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(TEMPERATURES[best] * 2 ** (max(-1.0, min(1.0, shift)) / 4))
