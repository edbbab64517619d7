"""A weighted sum of heads, one for each depth of the features and one for all of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hamcl.heads.base import Calibrated, Linear
from hamcl.heads.moments import LDA
from hamcl.heads.ridge import Ridge
from hamcl.heads.stacking import information, stacking_weights


class Stack(Calibrated):
    """Stacking (Wolpert 1992, "Stacked generalization"): a weighted sum of analytic heads.

    One `LDA` for each block of the features and one `Ridge` on all of them.

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
    PRIOR = 20.0
    """How sure the first weights are: as if so many samples, each of a curvature of 1, had been seen."""
    CURVATURE = 0.1
    """What a judged sample of a state of hamcl 0.1.0 is taken to have added to the precision."""

    def __init__(
        self, blocks: Sequence[int], *, shrinkage: float | None = None, projection: int, seed: int = 0
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
