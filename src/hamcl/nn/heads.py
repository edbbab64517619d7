"""Classifiers over all classes seen so far, without a task identity.

An analytic head keeps statistics of features, never samples: class counts and means and one shared scatter
(`Moments`), the Gram matrix of a random projection (`Ridge`), or both (`Stack`). A `Drift` carries such statistics
along when the features move.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hamcl.errors import DataError, UsageError
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

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over statistics saved by `state_dict`.

        Raises:
            DataError: the statistics are not those of this kind of head.
        """
        mine = self.state_dict()
        if state.keys() != mine.keys():
            raise DataError(f"a {type(self).__name__} head holds {sorted(mine)}, the saved one {sorted(state)}")
        for name, value in state.items():
            setattr(self, name, value.clone())
        self._solved = None


class _Moments(Head):
    """Class counts, class means and one within-class scatter shared by all classes."""

    follows = frozenset({"map"})

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.means = torch.zeros(0, width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)

    def add_classes(self, count: int) -> None:
        self.counts = torch.cat([self.counts, self.counts.new_zeros(count)])
        self.means = torch.cat([self.means, self.means.new_zeros(count, self.width)])
        self._solved = None

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        x = self._check(features)
        for column in labels.unique().tolist():
            rows = x[labels == column]
            mean, count, old = rows.mean(0), len(rows), self.counts[column].item()
            # Merging two sets of samples: Chan, Golub, LeVeque (1983), "Algorithms for computing the sample variance".
            gap = mean - self.means[column]
            centred = rows - mean
            self.scatter += centred.T @ centred + torch.outer(gap, gap) * (old * count / (old + count))
            self.means[column] += gap * (count / (old + count))
            self.counts[column] += count
        self._solved = None

    def move(self, drift: Drift) -> None:
        self.means = drift(self.means)
        self.scatter = drift.matrix.T @ self.scatter @ drift.matrix
        self._solved = None


class NearestMean(_Moments):
    """Cosine similarity to the class means (SimpleCIL, arXiv 2303.07338)."""

    def _solve(self) -> Linear:
        return Linear(F.normalize(self.means, dim=1), self.means.new_zeros(len(self.means)))


class LDA(_Moments):
    """Linear discriminant analysis with a shared covariance shrunk towards a scaled identity.

    `covariance = (1 - s) * scatter / (N - C) + s * trace / width * I`.
    """

    follows = frozenset({"map", "noise"})

    def __init__(self, width: int, shrinkage: float = 0.03) -> None:
        super().__init__(width)
        self.shrinkage = shrinkage

    def blur(self, before: Tensor, after: Tensor) -> None:
        moves = self._check(after) - self._check(before)
        self.scatter += self.counts.sum() / len(moves) * (moves.T @ moves)
        self._solved = None

    def _solve(self) -> Linear:
        covariance = self.scatter / (self.counts.sum() - len(self.counts)).clamp_min(1)
        # One sample a class leaves no scatter, equal ones little but rounding: the identity then makes this the
        # nearest mean, and the floor keeps the logits finite.
        floor = 1e-12 * self.means.square().sum() / max(1, self.means.numel())
        scale = torch.maximum(covariance.diagonal().mean(), floor).clamp_min(1e-300)
        shrunk = (1 - self.shrinkage) * covariance
        shrunk.diagonal().add_(self.shrinkage * scale + 1e-6 * scale)
        try:
            weight = torch.linalg.solve(shrunk, self.means.T).T
        except torch.linalg.LinAlgError as error:
            raise DataError("the lda head's scatter is damaged: it has no inverse") from error
        bias = -0.5 * (weight * self.means).sum(1)
        # What all classes have in common changes no probability, but is large enough to cost digits in float32.
        return Linear(weight - weight.mean(0), bias - bias.mean())


class Ridge(Head):
    """Ridge regression on a random projection (RanPAC, arXiv 2307.02251, eqs. 4 to 7).

    The penalty is the one that has made the fewest mistakes, over all updates so far, on the fifth of each update's
    samples that was held out before it was added. (RanPAC takes the smallest squared error on the current task
    alone, which measured 1.5 to 2 points worse on 160 classes: a task of few classes asks for too large a penalty.)
    The scores are multiplied by the one scale that gave those samples the smallest cross-entropy: regression scores
    lie between 0 and 1, and their softmax would be no probability.

    Sums over projected samples cannot be mapped: `move` does nothing. A projection of width 0 is none: the features as
    they are. Sums are float32, they are the largest part of the state.
    """

    follows = frozenset({"noise"})
    PROJECTION = 4096
    PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
    SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

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
        self.losses = torch.zeros(len(self.PENALTIES), len(self.SCALES))

    def add_classes(self, count: int) -> None:
        self.targets = torch.cat([self.targets, self.targets.new_zeros(len(self.targets), count)], 1)
        self._solved = None

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        fit, held = held_out(len(labels), self.seed, views)
        self.add(features[fit], labels[fit])
        if len(held):
            judged = held[: len(held) // views]
            self.validate(features[judged], labels[judged])
            self.add(features[held], labels[held])

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Add samples to the sums alone."""
        x = self._project(features)
        self.gram += x.T @ x
        self.count += len(x)
        self.targets += x.T @ F.one_hot(labels, self.targets.shape[1]).float()
        self._solved = None

    def blur(self, before: Tensor, after: Tensor) -> None:
        moves = self._project(after) - self._project(before)
        self.gram += (self.count / len(moves)) * (moves.T @ moves)
        self._solved = None

    def validate(self, features: Tensor, labels: Tensor) -> Tensor:
        """Judge the penalties and scales on samples that were not added yet; the logits under the best of them."""
        x = self._project(features)
        scores = [x @ self._weights(penalty) for penalty in self.PENALTIES]
        for i, score in enumerate(scores):
            self.mistakes[i] += (score.argmax(1) != labels).sum()
            for j, scale in enumerate(self.SCALES):
                self.losses[i, j] += F.cross_entropy(scale * score, labels, reduction="sum")
        self._solved = None
        return self.scale * scores[self._best]

    def _project(self, features: Tensor) -> Tensor:
        x = self._check(features).float()
        return x if self.projection is None else F.relu(x @ self.projection)

    @property
    def penalty(self) -> float:
        """The penalty in use, relative to the mean diagonal of the Gram matrix; the largest of those that are best."""
        return self.PENALTIES[self._best]

    @property
    def scale(self) -> float:
        """What the regression scores are multiplied by."""
        return self.SCALES[int(self.losses[self._best].argmin())]

    @property
    def _best(self) -> int:
        return int((self.mistakes == self.mistakes.min()).nonzero().max())

    def _weights(self, penalty: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """Solve for the weights, shape (projected features, classes).

        Raises:
            DataError: the Gram matrix is none: it has a negative eigenvalue, or numbers that are not finite.
        """
        penalised = self.gram.to(dtype, copy=True)
        penalised.diagonal().add_(penalty * self.gram.diagonal().mean().clamp_min(1e-12))
        try:
            factor = torch.linalg.cholesky(penalised)
        except torch.linalg.LinAlgError as error:
            raise DataError("the ridge head's Gram matrix is damaged: it is not positive definite") from error
        return torch.cholesky_solve(self.targets.to(dtype), factor).to(self.targets)

    def _solve(self) -> Linear:
        weight = self.scale * self._weights(self.penalty, torch.float64).T
        return Linear(weight, weight.new_zeros(len(weight)), self.projection)


class Stack(Head):
    """One `LDA` for each block of the features and one `Ridge` on all of them, in a weighted sum (stacked
    generalisation, Wolpert 1992, "Stacked generalization").

    Which depth of a network tells classes apart depends on the data: the last features of an ImageNet network know
    photographs best, earlier ones handwriting. The weights are learned, not chosen: on the fifth of each update's
    samples that was held out before it was added, they minimise the cross-entropy of the weighted sum, and the mean
    over all updates counts. A quadratic penalty towards the equal weighting (each expert in units of the standard
    deviation of its logits) keeps few samples from deciding.

    The sum of linear heads is a linear head, so it is exported as one.
    """

    follows = frozenset({"noise"})
    PROJECTION = 1024
    """Narrower than that of `Ridge` alone, whose time is the cube and whose state the square of it: the other experts
    know most of what a wider one adds."""
    PRIOR = 2e-3

    def __init__(
        self, blocks: Sequence[int], *, shrinkage: float = 0.03, projection: int = PROJECTION, seed: int = 0
    ) -> None:
        super().__init__(sum(blocks))
        self.blocks, self.seed = tuple(blocks), seed
        self.moments = [LDA(width, shrinkage) for width in blocks]
        self.ridge = Ridge(self.width, projection, seed)
        self.total = torch.zeros(len(blocks) + 1, dtype=torch.float64)
        self.judged = torch.zeros((), dtype=torch.float64)

    @property
    def experts(self) -> dict[str, Head]:
        """The heads that are summed, by the names they have in the state: those of the blocks, then the ridge."""
        return {**{f"block{i}": head for i, head in enumerate(self.moments)}, "ridge": self.ridge}

    @property
    def weights(self) -> Tensor:
        """What each expert's logits are multiplied by, shape (blocks + 1,); before any sample was held out, the
        ridge's alone count.
        """
        if self.judged == 0:
            return torch.tensor([0.0] * len(self.blocks) + [1.0], dtype=torch.float64)
        return self.total / self.judged

    def add_classes(self, count: int) -> None:
        for head in self.experts.values():
            head.add_classes(count)
        self._solved = None

    def update(self, features: Tensor, labels: Tensor, views: int = 1) -> None:
        fit, held = held_out(len(labels), self.seed, views)
        self._add(features[fit], labels[fit])
        if len(held):
            judged = held[: len(held) // views]
            x, y = features[judged], labels[judged]
            logits = [head.logits(part) for head, part in zip(self.moments, self._parts(x), strict=True)]
            stacked = torch.stack([*logits, self.ridge.validate(x, y)]).double()
            self.total += len(y) * stacking_weights(stacked, y, self.PRIOR)
            self.judged += len(y)
            self._add(features[held], labels[held])
        self._solved = None

    def blur(self, before: Tensor, after: Tensor) -> None:
        for head, old, new in zip(self.moments, self._parts(before), self._parts(after), strict=True):
            head.blur(old, new)
        self.ridge.blur(before, after)
        self._solved = None

    def _add(self, features: Tensor, labels: Tensor) -> None:
        for head, part in zip(self.moments, self._parts(features), strict=True):
            head.update(part, labels)
        self.ridge.add(features, labels)

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

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        for name, head in self.experts.items():
            start = name + "."
            head.load_state_dict({key.removeprefix(start): v for key, v in state.items() if key.startswith(start)})


def held_out(count: int, seed: int, views: int = 1) -> tuple[Tensor, Tensor]:
    """Split `count` rows at random: the indices of four fifths to learn from, and of one fifth to judge on.

    Views of one sample stay together, and each part lists the first view of all its samples before the next.
    """
    samples = count // views
    order = torch.randperm(samples, generator=generator(seed, "head", "held-out", samples))
    first = samples * torch.arange(views)[:, None]
    return (first + order[samples // 5 :]).flatten(), (first + order[: samples // 5]).flatten()


def stacking_weights(logits: Tensor, labels: Tensor, prior: float) -> Tensor:
    """The weights of experts whose weighted sum of logits has the smallest cross-entropy.

    The objective is convex; every expert is measured in units of the standard deviation of its centred logits, and
    `prior` times the squared distance to one common weight is added.

    Args:
        logits: shape (experts, n, classes).
        labels: shape (n,).

    Returns:
        Shape (experts,).
    """
    centred = logits - logits.mean(2, keepdim=True)
    unit = centred.square().mean((1, 2)).sqrt().clamp_min(1e-12)
    scaled = centred / unit[:, None, None]
    weights = torch.full_like(unit, 1.0).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = F.cross_entropy((weights[:, None, None] * scaled).sum(0), labels)
            loss = loss + prior * (weights - weights.mean()).square().sum() + 1e-4 * weights.square().sum()
            loss.backward()
        return loss.item()

    optimizer.step(closure)
    return weights.detach() / unit


class Rows(Head):
    """The linear classifier whose rows are trained task by task (heads "linear" and "cosine").

    The cosine variant compares directions: `scale * cos(x, row)`, without a bias.
    """

    SCALE = 16.0

    def __init__(self, width: int, cosine: bool = False) -> None:
        super().__init__(width)
        self.cosine = cosine
        self.weight = torch.zeros(0, width)
        self.bias = torch.zeros(0)

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

    def _solve(self) -> Linear:
        if self.cosine:
            return Linear(self.SCALE * F.normalize(self.weight, dim=1), torch.zeros_like(self.bias))
        return Linear(self.weight, self.bias)

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
    kind: str, blocks: Sequence[int], *, shrinkage: float = 0.03, projection: int | None = None, seed: int = 0
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
