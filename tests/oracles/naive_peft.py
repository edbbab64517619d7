"""What the adapted layers must compute, by stock PEFT: several active LoRA adapters, a tensor as each one's scaling.

Slow and literal: every adapter is two more layers. PEFT drops the dilation of convolutions, so none may have any.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

CURRENT = "current"


class NaivePeft:
    """A copy of `module` with one frozen adapter per group and one trainable adapter.

    Attributes:
        importance, group_importances: the parameters used as `scaling`.
    """

    def __init__(self, module, groups, task, importances, importance, dropout=0.0):
        self.importance = nn.Parameter(torch.tensor(importance))
        self.group_importances = [nn.Parameter(torch.tensor(value)) for value in importances]
        adapters = {f"group_{j}": layers for j, layers in enumerate(groups)} | {CURRENT: task}
        scaling = dict(zip(adapters, [*self.group_importances, self.importance], strict=True))
        self.model = None
        for name, layers in adapters.items():
            config = LoraConfig(
                r=1,
                lora_alpha=1,
                rank_pattern={f"^{layer}": factors.rank for layer, factors in layers.items()},
                target_modules=list(layers),
                lora_dropout=dropout if name == CURRENT else 0.0,
            )
            if self.model is None:
                self.model = get_peft_model(copy.deepcopy(module), config, adapter_name=name)
            else:
                self.model.add_adapter(name, config)
        self.model.base_model.set_adapter(list(adapters))
        self.model.set_requires_grad(list(adapters), False)
        self.model.set_requires_grad([CURRENT], True)
        for layer_name, layer in self.model.base_model.model.named_modules():
            if isinstance(layer, LoraLayer):
                for name, layers in adapters.items():
                    if layer_name in layers:
                        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                        a.data.copy_(layers[layer_name].A.view_as(a))
                        b.data.copy_(layers[layer_name].B.view_as(b))
                        layer.scaling[name] = scaling[name]

    def gradients(self, layer_name):
        """Of the trainable adapter's A and B in one layer, flattened to matrices."""
        layer = self.model.base_model.model.get_submodule(layer_name)
        return layer.lora_A[CURRENT].weight.grad.flatten(1), layer.lora_B[CURRENT].weight.grad.flatten(1)
