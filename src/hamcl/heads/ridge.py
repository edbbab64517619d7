"""Ridge regression on a random projection of the features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.errors import DataError
from hamcl.heads.base import Calibrated, Linear, to_judge
from hamcl.rng import generator


class Ridge(Calibrated):
    """Ridge regression on a random projection (RanPAC, arXiv 2307.02251, eqs. 4 to 7).

    The penalty is the one that has made the fewest mistakes, over all updates so far, on samples that were left out
    of the sums. (RanPAC takes the smallest squared error on the current task alone, which measured 1.5 to 2 points
    worse on 160 classes: a task of few classes asks for too large a penalty.)

    A projection of width 0 is none: the features as
    they are. Sums are float32, they are the largest part of the state.
    """

    follows = frozenset({"noise"})
    PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)

    def __init__(self, width: int, projection: int, seed: int = 0) -> None:
        super().__init__(width)
        self.seed = seed
        self.projection: Tensor | None = None
        if projection:
            random = generator(seed, "head", "projection")
            self.projection = torch.randn(width, projection, generator=random) / width**0.5
        size = projection or width
        self.gram = torch.zeros(size, size)
        self.targets = torch.zeros(size, 0)
        self.count = torch.zeros((), dtype=torch.long)
        self.mistakes = torch.zeros(len(self.PENALTIES), dtype=torch.long)

    @property
    def classes(self) -> int:
        return self.targets.shape[1]

    def _grow(self, count: int) -> None:
        self.targets = torch.cat([self.targets, self.targets.new_zeros(len(self.targets), count)], 1)

    def _take(self, features: Tensor, labels: Tensor, views: int) -> tuple[Tensor, Tensor]:
        x = self._project(features)
        self.gram += x.T @ x
        self.count += len(x)
        self.targets += x.T @ F.one_hot(labels, self.classes).float()
        judged = to_judge(labels, views, self.JUDGED, torch.bincount(labels, minlength=self.classes))
        truth = labels[judged]
        if not len(judged):
            return x.new_zeros(0, self.classes), truth
        groups = x.reshape(views, -1, x.shape[1])[:, judged].transpose(0, 1)
        scores = [self._left_out(groups, truth, penalty) for penalty in self.PENALTIES]
        self.mistakes += torch.stack([(score.argmax(1) != truth).sum() for score in scores])
        return scores[self._best], truth

    def _left_out(self, groups: Tensor, labels: Tensor, penalty: float) -> Tensor:
        """Scores of samples by the sums without them, shape (n, classes); see `_Moments._left_out`."""
        n, views, size = groups.shape
        factor = self._factor(penalty)
        half = torch.linalg.solve_triangular(factor, groups.reshape(-1, size).T, upper=False).T.reshape(n, views, size)
        fitted = groups @ torch.cholesky_solve(self.targets, factor)
        rest = torch.eye(views) - half @ half.transpose(1, 2)
        wanted = F.one_hot(labels, self.classes).float()[:, None]
        return (wanted - torch.linalg.solve(rest, wanted - fitted))[:, 0]

    def blur(self, before: Tensor, after: Tensor) -> None:
        moves = self._project(self._check(after)) - self._project(self._check(before))
        self.gram += (self.count / len(moves)) * (moves.T @ moves)
        self._solved = None

    def _project(self, features: Tensor) -> Tensor:
        x = features.float()
        return x if self.projection is None else F.relu(x @ self.projection)

    @property
    def penalty(self) -> float:
        """The penalty in use, relative to the mean diagonal of the Gram matrix; the largest of those that are best."""
        return self.PENALTIES[self._best]

    @property
    def _best(self) -> int:
        return int((self.mistakes == self.mistakes.min()).nonzero().max())

    def _factor(self, penalty: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """The Cholesky factor of the penalised Gram matrix; DataError: its eigenvalues are not all at least 0."""
        penalised = self.gram.to(dtype, copy=True)
        penalised.diagonal().add_(penalty * self.gram.diagonal().mean().clamp_min(1e-12))
        try:
            return torch.linalg.cholesky(penalised)
        except torch.linalg.LinAlgError as error:
            raise DataError("the ridge head's Gram matrix is damaged: it is not positive definite") from error

    def _earlier(self) -> dict[str, Tensor]:
        return {**super()._earlier(), "losses": self.gram.new_zeros(len(self.PENALTIES), 7)}

    def _load(self, state: dict[str, Tensor]) -> None:
        losses = state.pop("losses", None)
        super()._load(state)
        if losses is not None:
            # Those of the scales 1, 2, 4, ..., 64, of which the best multiplied the scores.
            self.temperature = torch.tensor(0.5 ** int(losses[self._best].argmin()), dtype=torch.float64)

    def _solve(self) -> Linear:
        factor = self._factor(self.penalty, torch.float64)
        weight = torch.cholesky_solve(self.targets.double(), factor).T.float()
        return Linear(weight, weight.new_zeros(len(weight)), self.projection)
