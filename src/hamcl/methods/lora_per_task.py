"""One LoRA adapter per task, trained apart, all of them merged into one (task arithmetic, TIES, DARE)."""

from types import MappingProxyType

from torch import Tensor

from hamcl.config import BARE, HAMConfig
from hamcl.ham import Adapter, merge_layers
from hamcl.ham.flat import adapters_from, adapters_state
from hamcl.learning.learner import Learner
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.rng import generator
from hamcl.training.lesson import Lesson, State


class LoRAPerTask(Learner):
    """A LoRA adapter per task from the bare backbone, all kept and merged anew; `config.merge` says how.

    "concat" is their sum (arXiv 2212.04089 with weight 1), "mean" their average, "ties" arXiv 2306.01708, "dare"
    arXiv 2311.03099. What is merged is pruned to `density`, and exact unless `merge_rank` says otherwise.
    """

    defaults = MappingProxyType({**BARE, "head": "linear", "merge_rank": None})
    own = frozenset({"merge", "merge_rank", "density"})
    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.adapters: list[Adapter] = []

    def begin(self, lesson: Lesson) -> None:
        """A new adapter on the bare backbone."""
        self.model.load_groups([], [])
        self.model.start_task()

    def end(self, lesson: Lesson) -> None:
        """Keep the adapter, and merge all of them."""
        adapter = lesson.finite_adapter()
        self.adapters.append(adapter)
        self._show_merged()

    def _show_merged(self) -> None:
        self.model.end_task()
        if not self.adapters:
            return self.model.load_groups([], [])
        merged = merge_layers(
            [adapter.layers for adapter in self.adapters],
            rule=self.config.merge,
            weights=[adapter.importance for adapter in self.adapters],
            rank=self.config.merge_rank,
            density=self.config.density,
            generator=generator(self.config.seed, len(self.adapters), "merge"),
        )
        self.model.load_groups([merged.layers], [1.0])

    def parameter_counts(self) -> dict[str, int]:
        counts = super().parameter_counts()
        # The merged adapter is shown as a group, but taken away before the next task trains.
        return {**counts, "trainable": counts["trainable"] - bool(self.adapters)}

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        tensors = adapters_state([adapter.layers for adapter in self.adapters])
        return tensors, {"adapters": [[adapter.task, adapter.importance] for adapter in self.adapters]}

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        found = adapters_from(tensors, len(meta["adapters"]))
        self.adapters = [
            Adapter(task, layers, importance)
            for (task, importance), layers in zip(meta["adapters"], found, strict=True)
        ]
        self._show_merged()
