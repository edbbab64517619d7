"""SD-LoRA (arXiv 2501.13198): directions of earlier tasks stay fixed, all magnitudes are learned anew."""

import math
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from hamcl.config import BARE, HAMConfig
from hamcl.ham import Adapter, Layers
from hamcl.ham.flat import adapters_from, adapters_state
from hamcl.learning.learner import Learner, adapted
from hamcl.machine import Machine
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.training.lesson import Lesson, State


class SDLoRA(Learner):
    """SD-LoRA (arXiv 2501.13198): directions and magnitudes of LoRA apart, `W0 + sum_k alpha_k D_k` (eq. 4).

    While task t is learned, its A and B train together with `alpha_1 ... alpha_t`. A magnitude is one number for all
    layers, as in the authors' code. They divide every layer's B A by |A| |B| (Frobenius norms) and restart all
    magnitudes at 0.8 for each task; here the direction of a task is its whole update, divided by the root mean square
    of |A| |B| over the layers, and its magnitude starts from what it was, so that nothing jumps between tasks. The
    magnitudes train at `importance_lr`. The variants that save parameters (RR and KD) are not here: all methods
    share one rank.
    """

    defaults = MappingProxyType({**BARE, "head": "linear"})
    model: AdaptedBackbone

    def __init__(self, backbone: Backbone, config: HAMConfig, machine: Machine | None = None) -> None:
        super().__init__(backbone, config, machine)
        self.directions: list[Layers] = []
        self.magnitudes: list[float] = []

    def adapt(self) -> AdaptedBackbone:
        return adapted(self.backbone, replace(self.settings, max_groups=None))

    def begin(self, lesson: Lesson) -> None:
        """A new direction beside the others, whose magnitudes train with it."""
        self.model.start_task()

    def end(self, lesson: Lesson) -> None:
        """Take the adapter apart into its direction and its magnitude."""
        adapter = lesson.finite_adapter()
        self.magnitudes = self.model.group_importance.detach().cpu().tolist()
        direction, magnitude = _decoupled(adapter)
        self.directions.append(direction)
        self.magnitudes.append(magnitude)
        self._show_directions()

    def _show_directions(self) -> None:
        self.model.end_task()
        self.model.load_groups(self.directions, self.magnitudes)

    def model_state(self) -> tuple[dict[str, Tensor], State]:
        return adapters_state(self.directions), {"magnitudes": list(self.magnitudes)}

    def load_model(self, tensors: dict[str, Tensor], meta: State) -> None:
        self.magnitudes = list(meta["magnitudes"])
        self.directions = list(adapters_from(tensors, len(self.magnitudes)))
        self._show_directions()


def _decoupled(adapter: Adapter) -> tuple[Layers, float]:
    """The adapter's direction and magnitude; one that never moved has magnitude 0."""
    squares = [float(f.A.square().sum() * f.B.square().sum()) for f in adapter.layers.values()]
    size = math.sqrt(sum(squares) / len(squares))
    direction = {name: f.scaled(1 / size if size else 0.0) for name, f in adapter.layers.items()}
    return direction, adapter.importance * size
