"""Classifiers over all classes seen so far, without a task identity.

An analytic head keeps statistics of features, never samples: class counts and means and one shared scatter
(`Moments`), the Gram matrix of a random projection (`Ridge`), or both (`Stack`). A `Drift` carries such statistics
along when the features move.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.errors import DataError, UsageError
from hamcl.nn.calibration import TEMPERATURES, evidence, temperature
from hamcl.nn.stacking import information, stacking_weights
from hamcl.rng import generator


@dataclass(frozen=True)
class Linear:
    """A head as plain weights: `logits = phi(x) @ weight.T + x @ direct.T + bias`.

    `phi` is the identity, or `relu(x @ projection)` where a projection is given.

    Attributes:
        weight: shape (classes, width or projection width).
        bias: shape (classes,).
        projection: shape (width, projection width) or None.
        direct: shape (classes, width), what the features add past the projection, or None.
    """

    weight: Tensor
    bias: Tensor
    projection: Tensor | None = None
    direct: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        features = features.to(self.weight.dtype)
        projected = features if self.projection is None else F.relu(features @ self.projection)
        logits = projected @ self.weight.T + self.bias
        return logits if self.direct is None else logits + features @ self.direct.T

    def scaled(self, factor: Tensor | float) -> "Linear":
        """The same with all logits multiplied by `factor`."""
        direct = None if self.direct is None else factor * self.direct
        return Linear(factor * self.weight, factor * self.bias, self.projection, direct)


@dataclass(frozen=True)
class Drift:
    """An affine map of features from before a task to after it, `x -> x @ matrix + offset`.

    Attributes:
        matrix: shape (width, width).
        offset: shape (width,).
    """

    matrix: Tensor
    offset: Tensor

    @classmethod
    def fit(cls, before: Tensor, after: Tensor, ridge: float = 1.0) -> "Drift":
        """Fit the change of features by ridge regression around the identity.

        Directions the samples do not span stay where they are. `ridge` is relative to the mean variance of a
        feature times the number of samples.

        Args:
            before, after: features of the same samples, shape (n, width).
        """
        x, y = before.double(), after.double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        centred = x - mean_x
        gram = centred.T @ centred
        strength = ridge * gram.diagonal().mean().clamp_min(torch.finfo(gram.dtype).tiny)
        gram.diagonal().add_(strength)
        change = torch.linalg.solve(gram, centred.T @ ((y - mean_y) - centred))
        matrix = torch.eye(x.shape[1], dtype=x.dtype) + change
        return cls(matrix, mean_y - mean_x @ matrix)

    def __call__(self, features: Tensor) -> Tensor:
        return features @ self.matrix + self.offset


class Head(ABC):
    """Logits over all classes seen so far.

    Attributes:
        width: features per sample.
    """

    follows: frozenset[str] = frozenset()
    """Answers to a drift of the features (`HAMConfig.drift`) that do anything: "map" is `move`, "noise" is `blur`."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._solved: Linear | None = None

    @property
    def judged(self) -> float:
        """Left-out samples that the softmax of the logits was fitted to, see `Calibrated`; 0: it is a guess."""
        return 0.0

    @abstractmethod
    def add_classes(self, count: int) -> None:
        """Append `count` classes that have no statistics yet."""

    @abstractmethod
    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        """Add samples of one task; a class seen before is updated.

        Args:
            features: shape (n, width).
            labels: columns of the logits, shape (n,).
            views: how many times the same samples follow one another, as they are first and then augmented.
        """

    def move(self, drift: Drift) -> None:  # noqa: B027 - a head without movable statistics keeps them as they are
        """Carry the statistics along with the features."""

    def blur(self, before: Tensor, after: Tensor) -> None:  # noqa: B027 - as `move`
        """Count the features' moves as noise in the statistics of all samples so far.

        Nobody can know where the features of earlier samples went, but the moves of the current task's samples show
        which directions move, and how far: they are taken for the moves of all, in an unknown direction.

        Args:
            before, after: features of the current task's samples before and after it was learned, shape (n, width).
        """

    @abstractmethod
    def _solve(self) -> Linear:
        """Turn the statistics into weights."""

    def linear(self) -> Linear:
        """The head as plain weights, for inference and export."""
        if self._solved is None:
            self._solved = self._solve()
        return self._solved

    def logits(self, features: Tensor) -> Tensor:
        """Scores of shape (n, classes) for features of shape (n, width)."""
        return self.linear()(self._check(features)).float()

    def _check(self, features: Tensor) -> Tensor:
        if features.ndim != 2 or features.shape[1] != self.width:
            raise DataError(f"the head takes features of shape (n, {self.width}), got {tuple(features.shape)}")
        return features.double()

    def state_dict(self) -> dict[str, Tensor]:
        """All statistics as tensors."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def layout(self, names: Collection[str]) -> dict[str, Tensor]:
        """Tensors of the shapes and types that a state of these names must have: today's, or an earlier version's."""
        return self.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over statistics saved by `state_dict`.

        Raises:
            DataError: the statistics are not those of this kind of head.
        """
        layout = self.layout(state)
        if state.keys() != layout.keys():
            raise DataError(f"a {type(self).__name__} head holds {sorted(layout)}, the saved one {sorted(state)}")
        self._load({name: value.clone() for name, value in state.items()})
        self._solved = None

    def _load(self, state: dict[str, Tensor]) -> None:
        vars(self).update(state)


class Calibrated(Head):
    """A head that judges itself, so that the softmax of its logits is a probability.

    The scores of samples left out of the statistics (`_take`) give the temperature that all scores are divided by
    (`hamcl.nn.calibration`). Samples of one task are judged among the classes of their time. With more classes they
    would be taken for others more often, so what they said counts less as classes come: by the power `AGE` of the
    share that the classes of their time have in all.

    Attributes:
        temperature: what the scores are divided by; 1 before any sample was judged.
        evidence: the losses it rests on, see `hamcl.nn.calibration.evidence`.
        held: the samples it rests on, those of fewer classes counted in part.
    """

    AGE = 3.0
    JUDGED = 256
    """The most samples of an update that are judged: more cost time and tell little."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.temperature = torch.ones((), dtype=torch.float64)
        self.evidence = torch.zeros(2, len(TEMPERATURES), dtype=torch.float64)
        self.held = torch.zeros((), dtype=torch.float64)

    @property
    def judged(self) -> float:
        return self.held.item()

    @property
    @abstractmethod
    def classes(self) -> int:
        """Classes there are."""

    def add_classes(self, count: int) -> None:
        share = self._share(count)
        self.evidence, self.held = share * self.evidence, share * self.held
        self._grow(count)
        self._solved = None

    def _share(self, count: int) -> float:
        """How much evidence counts after `count` more classes."""
        return (self.classes / max(1, self.classes + count)) ** self.AGE

    @abstractmethod
    def _grow(self, count: int) -> None:
        """Make room for `count` more classes."""

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        self.learn(self._check(features), labels, views)

    def learn(self, features: Tensor, labels: Tensor, views: int) -> tuple[Tensor, Tensor]:
        """`update`; the scores and labels of the samples that were judged, see `_take`."""
        scores, truth = self._take(features, labels, views)
        if len(truth):
            self.evidence = self.evidence + evidence(scores, truth)
            self.held = self.held + len(truth)
            self.temperature = self.temperature.new_tensor(temperature(self.evidence, self.judged))
        self._solved = None
        return scores, truth

    @abstractmethod
    def _take(self, features: Tensor, labels: Tensor, views: int) -> tuple[Tensor, Tensor]:
        """Add samples, then judge some as if they had not been added.

        Returns:
            Scores before the temperature, shape (n, classes), and labels, shape (n,); perhaps of no sample.
        """

    def linear(self) -> Linear:
        if self._solved is None:
            self._solved = self._solve().scaled(1 / self.temperature)
        return self._solved

    def layout(self, names: Collection[str]) -> dict[str, Tensor]:
        earlier = self._earlier()
        return earlier if set(names) == earlier.keys() else self.state_dict()

    def _earlier(self) -> dict[str, Tensor]:
        """The layout of hamcl 0.1.0, which knew no calibration."""
        known = {"temperature", "evidence", "held"}
        return {name: value for name, value in self.state_dict().items() if name not in known}


class _Moments(Calibrated):
    """Class counts, class means and one within-class scatter shared by all classes."""

    follows = frozenset({"map"})

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
        self._solved = None
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

    def move(self, drift: Drift) -> None:
        self.means = drift(self.means)
        self.scatter = drift.matrix.T @ self.scatter @ drift.matrix
        self._solved = None


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

    follows = frozenset({"map", "noise"})

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


class Ridge(Calibrated):
    """Ridge regression on a random projection (RanPAC, arXiv 2307.02251, eqs. 4 to 7).

    The penalty is the one that has made the fewest mistakes, over all updates so far, on samples that were left out
    of the sums. (RanPAC takes the smallest squared error on the current task alone, which measured 1.5 to 2 points
    worse on 160 classes: a task of few classes asks for too large a penalty.)

    Sums over projected samples cannot be mapped: `move` does nothing. A projection of width 0 is none: the features as
    they are. Sums are float32, they are the largest part of the state.
    """

    follows = frozenset({"noise"})
    PROJECTION = 4096
    PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)

    def __init__(self, width: int, projection: int = PROJECTION, seed: int = 0) -> None:
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
        self._solved = None
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
        """The Cholesky factor of the penalised Gram matrix.

        Raises:
            DataError: the Gram matrix is none: it has a negative eigenvalue, or numbers that are not finite.
        """
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


class Stack(Calibrated):
    """One `LDA` for each block of the features and one `Ridge` on all of them, in a weighted sum (stacked
    generalisation, Wolpert 1992, "Stacked generalization").

    Which depth of a network tells classes apart depends on the data: the last features of an ImageNet network know
    photographs best, earlier ones handwriting. The weights are learned, not chosen, see `stacking_weights`: from
    samples that were left out of the statistics, starting from the ridge alone. Every expert is calibrated by itself,
    so that a weight means the same whatever the size of an expert's scores.

    The sum of linear heads is a linear head, so it is exported as one.

    Attributes:
        weights: of the experts' logits, shape (blocks + 1,).
        precision: how sure they are, besides the prior, shape (blocks + 1, blocks + 1).
    """

    follows = frozenset({"noise"})
    PROJECTION = 1024
    """Narrower than that of `Ridge` alone, whose time is the cube and whose state the square of it: the other experts
    know most of what a wider one adds."""
    PRIOR = 20.0
    """How sure the first weights are: as if so many samples, each of a curvature of 1, had been seen."""
    CURVATURE = 0.1
    """What a judged sample of a state of hamcl 0.1.0 is taken to have added to the precision."""

    def __init__(
        self, blocks: Sequence[int], *, shrinkage: float | None = None, projection: int = PROJECTION, seed: int = 0
    ) -> None:
        super().__init__(sum(blocks))
        self.blocks = tuple(blocks)
        self.moments = [LDA(width, shrinkage) for width in blocks]
        self.ridge = Ridge(self.width, projection, seed)
        self.weights = torch.tensor([0.0] * len(blocks) + [1.0], dtype=torch.float64)
        self.precision = torch.zeros(len(blocks) + 1, len(blocks) + 1, dtype=torch.float64)

    @property
    def experts(self) -> dict[str, Calibrated]:
        """The heads that are summed, by the names they have in the state: those of the blocks, then the ridge."""
        return {**{f"block{i}": head for i, head in enumerate(self.moments)}, "ridge": self.ridge}

    @property
    def classes(self) -> int:
        return self.ridge.classes

    def _grow(self, count: int) -> None:
        self.precision = self._share(count) * self.precision
        for head in self.experts.values():
            head.add_classes(count)

    def _take(self, features: Tensor, labels: Tensor, views: int) -> tuple[Tensor, Tensor]:
        logits = []
        for i, (head, part) in enumerate(zip(self.experts.values(), [*self._parts(features), features], strict=True)):
            unknown, before = head.held == 0, head.temperature
            scores, truth = head.learn(part, labels, views)
            logits.append(scores.double() / head.temperature)
            if unknown and self.precision.any():
                # The state of an earlier version: its weights were those of scores that nobody had calibrated.
                change = head.temperature / before
                self.weights[i] *= change
                self.precision[i, i] /= change.square()
        stacked = torch.stack(logits)
        if len(truth):
            precision = self.precision + self.PRIOR * torch.eye(len(logits), dtype=torch.float64)
            self.weights = stacking_weights(stacked, truth, precision, self.weights)
            self.precision = self.precision + information(stacked, self.weights)
        return torch.einsum("e,enc->nc", self.weights, stacked), truth

    def blur(self, before: Tensor, after: Tensor) -> None:
        for head, old, new in zip(self.moments, self._parts(before), self._parts(after), strict=True):
            head.blur(old, new)
        self.ridge.blur(before, after)
        self._solved = None

    def _parts(self, features: Tensor) -> tuple[Tensor, ...]:
        return self._check(features).split(self.blocks, 1)

    def _solve(self) -> Linear:
        *shares, share = self.weights
        linears = [head.linear() for head in self.moments]
        ridge = self.ridge.linear()
        direct = torch.cat([w * head.weight for w, head in zip(shares, linears, strict=True)], 1).to(ridge.weight)
        bias = torch.stack([w * head.bias for w, head in zip(shares, linears, strict=True)]).sum(0).to(ridge.weight)
        if ridge.projection is None:
            return Linear(share * ridge.weight + direct, bias)
        return Linear(share * ridge.weight, bias, ridge.projection, direct)

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        for name, head in self.experts.items():
            state |= {f"{name}.{key}": value for key, value in head.state_dict().items()}
        return state

    def _earlier(self) -> dict[str, Tensor]:
        state = {"total": torch.zeros_like(self.weights), "judged": torch.zeros((), dtype=torch.float64)}
        for name, head in self.experts.items():
            state |= {f"{name}.{key}": value for key, value in head._earlier().items()}
        return state

    def _load(self, state: dict[str, Tensor]) -> None:
        for name, head in self.experts.items():
            start = name + "."
            head.load_state_dict({key.removeprefix(start): v for key, v in state.items() if key.startswith(start)})
        own = {name: value for name, value in state.items() if "." not in name}
        if "total" not in own:
            return super()._load(own)
        # Weights from few samples could be negative, which made the best class the worst.
        total, judged = own["total"].clamp_min(0), own["judged"]
        if total.any():
            self.weights = total / judged
            self.precision = self.CURVATURE * judged * torch.eye(len(total), dtype=torch.float64)


def to_judge(labels: Tensor, views: int, most: int, counts: Tensor) -> Tensor:
    """The samples of an update to judge: evenly spread over those whose class has others, shape (n,).

    Args:
        labels: of all views, shape (views * samples,).
        counts: samples of each class there are, views counted, shape (classes,).
    """
    usable = (counts[labels[: len(labels) // views]] > views).nonzero().flatten()
    # Evenly, because samples often come class by class.
    return usable[torch.arange(min(most, len(usable))) * len(usable) // max(1, min(most, len(usable)))]


class Rows(Head):
    """The linear classifier whose rows are trained task by task (heads "linear" and "cosine").

    The cosine variant compares directions: `scale * cos(x, row)`, without a bias.

    Attributes:
        temperature: what the scores are divided by, shape (); None where nothing asked for it.
    """

    SCALE = 16.0

    def __init__(self, width: int, cosine: bool = False) -> None:
        super().__init__(width)
        self.cosine = cosine
        self.weight = torch.zeros(0, width)
        self.bias = torch.zeros(0)
        self.temperature: Tensor | None = None

    def add_classes(self, count: int) -> None:
        self.weight = torch.cat([self.weight, self.weight.new_zeros(count, self.width)])
        self.bias = torch.cat([self.bias, self.bias.new_zeros(count)])
        self._solved = None

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        """Nothing: the rows are trained with the adapter."""

    def trainable(self, columns: Tensor, random: torch.Generator) -> "TaskRows":
        """The rows of one task as a module to train; untrained rows start small and random."""
        weight, bias = self.weight[columns].clone(), self.bias[columns].clone()
        fresh = torch.randn(weight.shape, generator=random) * (0.02 / self.width**0.5)
        weight = torch.where(weight.abs().sum(1, keepdim=True) > 0, weight, fresh)
        return TaskRows(weight, bias, self.SCALE if self.cosine else None)

    def store(self, columns: Tensor, rows: "TaskRows") -> None:
        """Write the trained rows of one task back."""
        self.weight[columns] = rows.weight.detach().cpu().float()
        self.bias[columns] = rows.bias.detach().cpu().float()
        self._solved = None

    def calibrate(self, features: Tensor, labels: Tensor) -> None:
        """Fit the temperature to the latest task's samples among all classes.

        Rows keep no statistics that a sample could be left out of, so these are samples they were trained on, and none
        of earlier tasks: what comes of it is a guess.

        Args:
            features: shape (n, width).
            labels: columns of the logits, shape (n,).
        """
        self.temperature, self._solved = None, None
        found = temperature(evidence(self.logits(features), labels), len(labels))
        self.temperature, self._solved = torch.tensor(found), None

    def layout(self, names: Collection[str]) -> dict[str, Tensor]:
        own = {name: value for name, value in self.state_dict().items() if name != "temperature"}
        return {**own, "temperature": torch.ones(())} if "temperature" in names else own

    def _load(self, state: dict[str, Tensor]) -> None:
        super()._load({"temperature": None, **state})  # type: ignore[dict-item]

    def _solve(self) -> Linear:
        found = Linear(self.weight, self.bias)
        if self.cosine:
            found = Linear(self.SCALE * F.normalize(self.weight, dim=1), torch.zeros_like(self.bias))
        return found if self.temperature is None else found.scaled(1 / self.temperature)

    def logits(self, features: Tensor) -> Tensor:
        x = self._check(features).float()
        return self.linear()(F.normalize(x, dim=1) if self.cosine else x)


class TaskRows(nn.Module):
    """The classifier rows of the task in training: features (n, width) -> logits (n, classes of the task)."""

    def __init__(self, weight: Tensor, bias: Tensor, cosine_scale: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias, requires_grad=cosine_scale is None)
        self.cosine_scale = cosine_scale

    def forward(self, features: Tensor) -> Tensor:
        if self.cosine_scale is None:
            return F.linear(features, self.weight, self.bias)
        return self.cosine_scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def build_head(
    kind: str, blocks: Sequence[int], *, shrinkage: float | None = None, projection: int | None = None, seed: int = 0
) -> Head:
    """Make an empty head, "linear", "cosine", "ncm", "lda", "ridge" or "stack", for features of one or more blocks.

    A `projection` of None has the width that suits the head.
    """
    width = sum(blocks)
    match kind:
        case "linear" | "cosine":
            return Rows(width, cosine=kind == "cosine")
        case "ncm":
            return NearestMean(width)
        case "lda":
            return LDA(width, shrinkage)
        case "ridge":
            return Ridge(width, Ridge.PROJECTION if projection is None else projection, seed)
        case "stack":
            projection = Stack.PROJECTION if projection is None else projection
            return Stack(blocks, shrinkage=shrinkage, projection=projection, seed=seed)
    raise UsageError(f"there is no head {kind!r}; choose linear, cosine, ncm, lda, ridge or stack")


def within_task(logits: Tensor, tasks: Sequence[Sequence[int]]) -> Tensor:
    """Log-probabilities of each class among the classes of its own task; a class in two tasks counts to the last.

    Args:
        logits: shape (n, classes).
        tasks: the columns of each task, in the order learned.
    """
    owner = {column: index for index, columns in enumerate(tasks) for column in columns}
    scores = torch.zeros_like(logits)
    for index in range(len(tasks)):
        columns = [column for column, task in owner.items() if task == index]
        if columns:
            scores[:, columns] = logits[:, columns].log_softmax(1)
    return scores
