"""Which group a finished adapter joins, and the bookkeeping of its merge."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from hamcl.ham.adapter import Adapter, Factors, Group, check_finite, check_matching
from hamcl.ham.flat import adapters_state
from hamcl.ham.merging import RULES, Merged, PruneOn, merge_layers


@dataclass
class Calibration:
    """Running mean and spread of observed similarities (Welford), which make them comparable across backbones.

    Attributes:
        count: similarities observed so far.
        mean: their mean.
        squares: the sum of their squared deviations from the mean.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def observe(self, similarity: float) -> None:
        """Take one more similarity into the mean and the spread."""
        self.count += 1
        deviation = similarity - self.mean
        self.mean += deviation / self.count
        self.squares += deviation * (similarity - self.mean)

    def score(self, similarity: float) -> float | None:
        """z-score of a similarity; None before 3 observations, or while all of them are equal.

        Mean and spread of few observations are uncertain themselves: of three, one in ten further ones lies two such
        standard deviations above. The deviation is therefore taken for what it is, Student's t of a new observation,
        and the score is the normal deviate as rare as that (Wallace 1959, "Bounds on normal approximations to
        Student's and the chi-square distributions"); with many observations the two are the same.
        """
        if self.count < 3 or self.squares <= 0:
            return None
        freedom = self.count - 1
        spread = math.sqrt(self.squares / freedom * (1 + 1 / self.count))
        t = (similarity - self.mean) / spread
        size = (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))
        return math.copysign(size, t)


@dataclass(frozen=True)
class Assignment:
    """The decision for one adapter.

    Attributes:
        index: the group it joins.
        opened: whether that group is new.
        similarities: to every group that existed.
        scores: what was compared with the threshold; None where no z-score is defined yet.
    """

    index: int
    opened: bool
    similarities: list[float]
    scores: list[float | None]


class Groups:
    """The at most `max_groups` merged adapters.

    Attributes:
        groups: the groups, in the order they were opened.
        history: every decision taken, in order.
        calibration: the similarities observed so far.
    """

    def __init__(self, max_groups: int | None, threshold: float) -> None:
        """
        Args:
            max_groups: G_max, or None for no limit.
            threshold: tau, in standard deviations above the mean of earlier similarities.
        """
        if max_groups is not None and max_groups < 1:
            raise ValueError(f"max_groups must be at least 1, or None for no limit, got {max_groups}")
        if math.isnan(threshold):
            raise ValueError("the similarity threshold must be a number, got nan")
        self.max_groups, self.threshold = max_groups, threshold
        self.groups: list[Group] = []
        self.history: list[Assignment] = []
        self.calibration = Calibration()

    def assign(self, similarities: Sequence[float]) -> Assignment:
        """Decide where an adapter with these similarities to the groups belongs, and record the decision.

        Best score >= threshold: join that group. Else, room for another group: open one. Else: join the most similar.
        A score that is not defined yet counts as below the threshold. Equal similarities: the older group.
        The similarities enter the calibration after the decision; no group changes until `absorb`.

        Raises:
            ValueError: not one finite similarity per group.
        """
        if len(similarities) != len(self.groups) or not all(math.isfinite(s) for s in similarities):
            raise ValueError(f"need one finite similarity for each of {len(self.groups)} groups, got {similarities}")
        values = [float(s) for s in similarities]
        scores = [self.calibration.score(s) for s in values]
        best = max(range(len(values)), key=values.__getitem__, default=0)
        top = scores[best] if scores else None
        joins = top is not None and top >= self.threshold
        full = self.max_groups is not None and len(self.groups) >= self.max_groups
        opened = not joins and not full
        for similarity in values:
            self.calibration.observe(similarity)
        self.history.append(Assignment(len(self.groups) if opened else best, opened, values, scores))
        return self.history[-1]

    def absorb(
        self,
        assignment: Assignment,
        adapter: Adapter,
        *,
        rule: str,
        rank: int | None,
        density: float = 1.0,
        prune_on: PruneOn = "factors",
        generator: torch.Generator | None = None,
    ) -> Merged:
        """Prune the adapter, scale it by alpha_i and merge it into its group.

        The group's alpha_Gj is folded in first and restarts at 1.
        Every adapter is sparsified once, when it arrives; the group, made of sparsified adapters, is not sparsified
        again (dropping entries of it at every task would erode old members, and for "dare" also blow up the variance).
        The sums ("concat", "svd", "dare") add the adapter to the group. "mean" is the running mean over
        members: the group of n members weighs n, the newcomer 1. "ties" uses the same weights in its sign election
        and its mean, so that a newcomer alone cannot outvote a large group.

        Returns:
            The merge and its errors, see `Merged`; `prune_error` is that of the adapter alone.

        Raises:
            ValueError: the adapter does not match the group or is not finite (names the layer and the task), or an
                option is wrong; nothing has changed then.
        """
        if assignment.index not in (range(len(self.groups)) if not assignment.opened else [len(self.groups)]):
            raise ValueError(f"assignment to group {assignment.index} is stale: there are {len(self.groups)} groups")
        own = {name: f.scaled(adapter.importance) for name, f in check_finite(adapter).items()}
        parts, weights, densities, tasks = [own], [1.0], [density], [adapter.task]
        if not assignment.opened:
            group = self.groups[assignment.index]
            check_matching(group.layers, adapter)
            parts = [{name: f.scaled(group.importance) for name, f in group.layers.items()}, *parts]
            weights = [float(len(group.tasks)), 1.0] if rule in RULES and RULES[rule].averages else [1.0, 1.0]
            densities, tasks = [1.0, density], [*group.tasks, *tasks]
        merged = merge_layers(
            parts, rule=rule, weights=weights, rank=rank, density=densities, prune_on=prune_on, generator=generator
        )
        self.groups[assignment.index : assignment.index + 1] = [Group(merged.layers, 1.0, tasks)]
        return merged

    def state_dict(self) -> dict[str, Any]:
        """A flat dict of tensors, `"<group>.<layer>.A"` and `".B"`, plus "meta", which is plain JSON."""
        groups = [{"importance": g.importance, "tasks": list(g.tasks), "layers": list(g.layers)} for g in self.groups]
        history, calibration = [asdict(a) for a in self.history], asdict(self.calibration)
        meta = {"groups": groups, "history": history, "calibration": calibration}
        return {"meta": meta, **adapters_state([g.layers for g in self.groups])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict()`; the limit and the threshold stay those of this object.

        Raises:
            ValueError: tensors are missing or left over (names the first); nothing has changed then.
        """
        meta = state["meta"]
        wanted = {f"{j}.{name}.{x}" for j, g in enumerate(meta["groups"]) for name in g["layers"] for x in "AB"}
        for key in sorted(wanted ^ (state.keys() - {"meta"})):
            what = "lacks" if key in wanted else "has an unknown"
            raise ValueError(f"the state of the groups {what} tensor {key!r}")
        self.groups = []
        for j, g in enumerate(meta["groups"]):
            layers = {name: Factors(state[f"{j}.{name}.A"], state[f"{j}.{name}.B"]) for name in g["layers"]}
            self.groups.append(Group(layers, g["importance"], list(g["tasks"])))
        self.history = [Assignment(**a) for a in meta["history"]]
        self.calibration = replace(Calibration(), **meta["calibration"])
