"""Pre-trained networks as frozen feature extractors with one interface."""

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from hamcl.errors import UsageError
from hamcl.nn._torchvision import ensure_torchvision
from hamcl.nn.preprocess import Preprocess
from hamcl.nn.targets import default_targets
from hamcl.rng import scoped
from hamcl.streams.base import Modality

Features = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


class Backbone(nn.Module):
    """A frozen pre-trained network from a batch to features.

    Its own modules stay in eval mode whatever `train()` says: nothing in a frozen network is learned, so dropout and
    stochastic depth would only add noise, and batch-norm statistics that moved with the current task would change the
    features of all earlier classes. Layers that are put into it later (adapters) follow `train()` as usual.

    Attributes:
        spec: what `load_backbone` was given.
        module: the timm or transformers model; layer names are relative to it.
        width: the number of features.
        modality: "image" or "text".
        targets: names of the layers that are adapted by default.
        preprocess: how the network wants its inputs.
        fingerprint: sha256 of the weights this object was made with (see `fingerprint`).
    """

    def __init__(self, spec: str, module: nn.Module, features: Features, preprocess: Preprocess) -> None:
        super().__init__()
        self.spec = spec
        self.module = module.requires_grad_(False).eval()
        self.preprocess = preprocess
        self.modality: Modality = preprocess.modality
        self.targets = default_targets(module)
        # Now, because layers may be wrapped or folded later: adapters belong to the weights as they were loaded.
        self.fingerprint = fingerprint(module)
        self._features = features
        self._frozen = tuple(module.modules())
        self.eval()
        self.width = self._measure()

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features of a collated batch, float (n, width)."""
        return self._features(self.module, batch).float()

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode of added layers; the network's own modules stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    @torch.no_grad()
    def _measure(self) -> int:
        return self(self.preprocess.example()).shape[1]


def fingerprint(module: nn.Module) -> str:
    """Sha256 over the names, dtypes, shapes and bytes of the state_dict, the same in every process."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_backbone(
    spec: str, *, pretrained: bool = True, image_size: int | None = None, max_length: int | None = None
) -> Backbone:
    """Load a frozen backbone.

    Args:
        spec: "efficientnet-lite0" or "minilm" (weights from the `demo` extra).
        pretrained: False draws the weights at random instead, the same for the same spec.
        image_size: pixels, for image backbones.
        max_length: tokens, for text backbones.

    Raises:
        UsageError: the spec or an option cannot be used, or the weights are not on this machine.
        DataError: the weights are there but damaged.
    """
    ensure_torchvision()
    with scoped(0, "backbone", spec):
        if spec == "efficientnet-lite0":
            from hamcl.nn import _timm

            return Backbone(spec, *_timm.efficientnet_lite0(pretrained, image_size))
        if spec == "minilm":
            from hamcl.nn import _transformers

            return Backbone(spec, *_transformers.minilm(pretrained, max_length))
    raise UsageError(f"unknown backbone {spec!r}")
