"""Sequential LoRA: one adapter trained on task after task; the lower bound that forgets."""

from types import MappingProxyType

from torch import Tensor

from hamcl.classifier import Classifier, adapted
from hamcl.config import HAMConfig
from hamcl.method import State, TaskReport
from hamcl.methods.layers import layers_from, layers_state
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.streams.base import Samples, Task


class SeqLoRA(Classifier):
    """One LoRA adapter (arXiv 2106.09685), fine-tuned in sequence."""

    defaults = MappingProxyType({"head": "linear", "distill": 0.0})
    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig) -> None:
        super().__init__(backbone, config, adapted(backbone, config))
        self.model.start_task()

    def _begin(self) -> None:
        """Nothing: training goes on from the adapter of the tasks before."""

    def _end(self, task: Task, samples: Samples, index: int, report: TaskReport) -> None:
        """Nothing: the adapter stays as trained."""

    def _model_state(self) -> tuple[dict[str, Tensor], State]:
        adapter = self.model.task_adapter("all")
        return layers_state(adapter.layers), {"importance": adapter.importance}

    def _load_model_state(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.model.load_task(layers_from(tensors), meta["importance"])
