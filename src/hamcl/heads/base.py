"""What a head is: scores over all classes seen so far, and how sure they are."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.errors import DataError
from hamcl.heads.calibration import TEMPERATURES, evidence, temperature


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


class Head(ABC):
    """Logits over all classes seen so far.

    Attributes:
        width: features per sample.
    """

    trained = False
    """Whether the head trains with the tasks; its state is then kept with the rows."""
    follows: frozenset[str] = frozenset()
    """Answers to a drift of the features (`HAMConfig.drift`) that do anything: "noise" is `blur`."""

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

    def blur(self, before: Tensor, after: Tensor) -> None:  # noqa: B027 - most heads have nothing to follow with
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
    (`hamcl.heads.calibration`). Samples of one task are judged among the classes of their time. With more classes they
    would be taken for others more often, so what they said counts less as classes come: by the power `AGE` of the
    share that the classes of their time have in all.

    Attributes:
        temperature: what the scores are divided by; 1 before any sample was judged.
        evidence: the losses it rests on, see `hamcl.heads.calibration.evidence`.
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


def to_judge(labels: Tensor, views: int, most: int, counts: Tensor) -> Tensor:
    """The samples of an update to judge: evenly spread over those whose class has others, shape (n,).

    Args:
        labels: of all views, shape (views * samples,).
        counts: samples of each class there are, views counted, shape (classes,).
    """
    usable = (counts[labels[: len(labels) // views]] > views).nonzero().flatten()
    # Evenly, because samples often come class by class.
    return usable[torch.arange(min(most, len(usable))) * len(usable) // max(1, min(most, len(usable)))]
