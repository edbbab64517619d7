"""Heads on class means and one scatter that all classes share: `NearestMean` and `LDA`."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.errors import DataError
from hamcl.heads.base import Calibrated, Linear, to_judge


class _Moments(Calibrated):
    """Class counts, class means and one within-class scatter shared by all classes."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.means = torch.zeros(0, width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    @property
    def classes(self) -> int:
        return len(self.counts)

    def _grow(self, count: int) -> None:
        self.counts = torch.cat([self.counts, self.counts.new_zeros(count)])
        self.means = torch.cat([self.means, self.means.new_zeros(count, self.width)])

    def _take(self, features: Tensor, labels: Tensor, views: int) -> tuple[Tensor, Tensor]:
        present, places, new = labels.unique(return_inverse=True, return_counts=True)
        count, old = new.double()[:, None], self.counts[present][:, None]
        means = features.new_zeros(len(present), self.width).index_add(0, places, features) / count
        # Merging two sets of samples: Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance".
        gaps = means - self.means[present]
        rows = torch.cat([features - means[places], gaps * (old * count / (old + count)).sqrt()])
        self.scatter = self.scatter + rows.T @ rows
        self.means = self.means.index_add(0, present, gaps * (count / (old + count)))
        self.counts = self.counts.index_add(0, present, new.double())
        judged = to_judge(labels, views, self.JUDGED, self.counts)
        groups = features.reshape(views, -1, self.width)[:, judged].transpose(0, 1)
        truth = labels[judged]
        return self._left_out(groups, truth) if len(judged) else features.new_zeros(0, self.classes), truth

    @abstractmethod
    def _left_out(self, groups: Tensor, labels: Tensor) -> Tensor:
        """Scores of samples by the statistics without them.

        Args:
            groups: all views of each sample, of which the first is scored, shape (n, views, width).
            labels: shape (n,).

        Returns:
            Shape (n, classes).
        """

    def _means_without(self, groups: Tensor, labels: Tensor) -> Tensor:
        """The mean of each sample's class without it, shape (n, width)."""
        count = self.counts[labels][:, None]
        return (count * self.means[labels] - groups.sum(1)) / (count - groups.shape[1])


class NearestMean(_Moments):
    """Cosine similarity to the class means (SimpleCIL, arXiv 2303.07338)."""

    def _left_out(self, groups: Tensor, labels: Tensor) -> Tensor:
        x, own = groups[:, 0], F.normalize(self._means_without(groups, labels), dim=1)
        scores = x @ F.normalize(self.means, dim=1).T
        scores[torch.arange(len(x)), labels] = (x * own).sum(1)
        return scores

    def _solve(self) -> Linear:
        return Linear(F.normalize(self.means, dim=1), self.means.new_zeros(len(self.means)))


class LDA(_Moments):
    """Linear discriminant analysis with a shared covariance shrunk towards a scaled identity.

    `covariance = (1 - s) * scatter / (N - C) + s * trace / width * I`. Where no `shrinkage` s is given it is the
    oracle approximating one (Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23): much
    where the samples are few for the width, little where they are many.
    """

    follows = frozenset({"noise"})

    def __init__(self, width: int, shrinkage: float | None = None) -> None:
        super().__init__(width)
        self.shrinkage = shrinkage
        self._factored: tuple[Tensor, Tensor, Tensor, float] | None = None

    def blur(self, before: Tensor, after: Tensor) -> None:
        moves = self._check(after) - self._check(before)
        self.scatter = self.scatter + self.counts.sum() / len(moves) * (moves.T @ moves)
        self._solved = None

    @property
    def _freedom(self) -> Tensor:
        """Degrees of freedom of the scatter."""
        return (self.counts.sum() - len(self.counts)).clamp_min(1)

    @property
    def _shrinkage(self) -> float:
        if self.shrinkage is not None:
            return self.shrinkage
        n, d = self._freedom, self.width
        square, trace2 = self.scatter.square().sum(), self.scatter.diagonal().sum().square()
        # The scatter's square is what is left of it by rounding where samples are equal.
        spread = square - trace2 / d
        if spread <= 1e-12 * square:
            return 1.0
        return min(1.0, float(((1 - 2 / d) * square + trace2) / ((n + 1 - 2 / d) * spread)))

    def _covariance(self) -> tuple[Tensor, float]:
        """The Cholesky factor of the shrunk covariance, and the weight of the scatter's outer products in it."""
        # Judging needs it, and then the weights do; statistics are replaced, never changed in place.
        if self._factored is not None and self._factored[0] is self.scatter and self._factored[1] is self.counts:
            return self._factored[2:]
        shrinkage = self._shrinkage
        covariance = self.scatter / self._freedom
        # One sample a class leaves no scatter, equal ones little but rounding: the identity then makes this the
        # nearest mean, and the floor keeps the logits finite.
        floor = 1e-12 * self.means.square().sum() / max(1, self.means.numel())
        scale = torch.maximum(covariance.diagonal().mean(), floor).clamp_min(1e-300)
        shrunk = (1 - shrinkage) * covariance
        shrunk.diagonal().add_(shrinkage * scale + 1e-6 * scale)
        try:
            factor = torch.linalg.cholesky(shrunk)
        except torch.linalg.LinAlgError as error:
            raise DataError("the lda head's scatter is damaged: it has no inverse") from error
        self._factored = self.scatter, self.counts, factor, (1 - shrinkage) / self._freedom.item()
        return self._factored[2:]

    def _left_out(self, groups: Tensor, labels: Tensor) -> Tensor:
        # The scatter without a sample is the scatter less outer products: of its views' deviations from their mean,
        # and of that mean's from the class mean. The Woodbury identity then needs one factor for all samples.
        n, views, width = groups.shape
        factor, share = self._covariance()
        count = self.counts[labels][:, None]
        centre = groups.mean(1)
        gap = (count * views / (count - views)).sqrt() * (centre - self.means[labels])
        parts = gap[:, None]
        if views > 1:
            parts = torch.cat([groups - centre[:, None], parts], 1)
        x, own = groups[:, 0], self._means_without(groups, labels)
        rows = torch.cat([parts.reshape(-1, width), self.means, own, x])
        half = torch.linalg.solve_triangular(factor, rows.T, upper=False).T  # inner products in the inverse covariance
        u, m, o, x = half.split([parts.shape[1] * n, len(self.means), n, n])
        u = u.reshape(n, -1, width)
        small = share * torch.linalg.inv(torch.eye(u.shape[1], dtype=u.dtype) - share * u @ u.transpose(1, 2))
        um, uo, ux = u @ m.T, u @ o[:, :, None], u @ x[:, :, None]
        sm, so = small @ um, small @ uo
        scores = x @ m.T + (ux * sm).sum(1) - 0.5 * (m.square().sum(1) + (um * sm).sum(1))
        mine = (x * o).sum(1) + (ux * so).sum((1, 2)) - 0.5 * (o.square().sum(1) + (uo * so).sum((1, 2)))
        scores[torch.arange(n), labels] = mine
        return scores

    def _solve(self) -> Linear:
        factor, _ = self._covariance()
        self._factored = None  # it is as large as the scatter
        weight = torch.cholesky_solve(self.means.T, factor).T
        bias = -0.5 * (weight * self.means).sum(1)
        # What all classes have in common changes no probability, but is large enough to cost digits in float32.
        return Linear(weight - weight.mean(0), bias - bias.mean())
