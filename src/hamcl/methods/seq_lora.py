"""Sequential LoRA: one adapter trained on task after task; the lower bound that forgets."""

from types import MappingProxyType

import torch
from torch import Tensor

from hamcl.config import BARE, HAMConfig
from hamcl.learning.learner import Learner
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.training.lesson import Lesson, State


class SeqLoRA(Learner):
    """Sequential fine-tuning of one LoRA adapter (arXiv 2106.09685), the lower bound."""

    defaults = MappingProxyType({**BARE, "head": "linear"})
    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.model.start_task()

    def begin(self, lesson: Lesson) -> None:
        """Nothing: training goes on from the adapter of the tasks before."""

    def end(self, lesson: Lesson) -> None:
        """Nothing: the adapter stays as trained."""

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        # As they are in training: a finished adapter has its scale folded in, and dividing it out again would round.
        tensors = {
            f"{name}.{part}": factor.detach().cpu()
            for name, layer in self.model.layers.items()
            for part, factor in (("A", layer.task_A), ("B", layer.task_B))
        }
        return tensors, {"importance": self.model.importance.item()}

    @torch.no_grad()
    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.model.start_task()
        for name, layer in self.model.layers.items():
            layer.task_A.copy_(tensors[f"{name}.A"])
            layer.task_B.copy_(tensors[f"{name}.B"])
        self.model.importance.fill_(meta["importance"])
