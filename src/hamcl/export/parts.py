"""Write what was learned as plain files that need no hamcl: a PEFT adapter, merged weights, a head."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hamcl.errors import UsageError
from hamcl.export.stock import Stock, is_whole, known_name, library, samples, unlabel
from hamcl.ham.adapter import Layers, check_finite
from hamcl.ham.merging import compress
from hamcl.heads import Linear
from hamcl.nn.backbones import Backbone
from hamcl.nn.layers import HamLayer
from hamcl.reading.prepare import PREPARATION, ImagePreprocess, TextPreprocess
from hamcl.streams.base import Augmentation
from hamcl.tensors import write_tensors

from peft import LoraConfig  # isort: skip  # after hamcl.nn.layers has prepared torchvision

CLASSES = "classes.json"
PYTORCH = {"format": "pt"}
"""What libraries look for in the header of a file of weights."""


def export_peft(
    path: str | Path,
    layers: Layers,
    backbone: Backbone,
    *,
    stock: Stock | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an update as a PEFT LoRA folder: `adapter_config.json` and `adapter_model.safetensors`.

    `peft.PeftModel.from_pretrained(module, path)` loads it onto the bare timm or transformers model. The scaling of
    every layer is 1; ranks differ by layer where they must. A rank above min(out, in) is brought down exactly.

    Args:
        layers: such as `hamcl.ham.final(groups)`.
        backbone: adapted or not; only its names and shapes are used.
        stock: the library's classification model, to write the adapter for it instead, with its classifier.
        metadata: strings for the header of the weights file.

    Raises:
        UsageError: a layer is not in the backbone or of another shape.
        ValueError: there is no layer, or one is not finite.
    """
    module, prefix = (stock.module, stock.prefix) if stock else (backbone.module, "")
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for layer, factors in check_finite(layers).items():
        name = prefix + layer
        shape = _weight(module, name).shape
        if factors.shape != (shape[0], shape[1:].numel()):
            raise UsageError(
                f"layer {name!r} cannot be exported: its update is {factors.shape}, but its weight {tuple(shape)}"
            )
        limit = min(factors.shape)
        plain = (compress(factors, limit)[0] if factors.rank > limit else factors).to(torch.float32)
        ranks[name] = plain.rank
        kernel = [1] * (len(shape) - 2)
        tensors[f"{name}.lora_A.weight"] = plain.A.reshape(-1, *shape[1:])
        tensors[f"{name}.lora_B.weight"] = plain.B.reshape(shape[0], -1, *kernel)
    if stock:
        classifier = module.get_submodule(stock.classifier).state_dict()
        tensors |= {f"{stock.classifier}.{key}": value for key, value in classifier.items()}

    usual = max(ranks.values(), key=list(ranks.values()).count)
    unusual = {f"^{re.escape(name)}": rank for name, rank in ranks.items() if rank != usual}
    config = LoraConfig(
        r=usual,
        lora_alpha=usual,
        rank_pattern=dict(unusual),
        alpha_pattern=dict(unusual),
        target_modules=_targets(module, list(ranks), classifier=stock is not None),
        modules_to_save=[stock.classifier] if stock else None,
        base_model_name_or_path=known_name(backbone),
        auto_mapping={"base_model_class": type(module).__name__, "parent_library": type(module).__module__}
        if is_whole(module)
        else None,
        inference_mode=True,
    )
    Path(path).mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(path))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    write_tensors(Path(path) / "adapter_model.safetensors", named, {**(metadata or {}), **PYTORCH})


def save_merged(
    path: str | Path,
    backbone: Backbone,
    *,
    classes: Sequence[str] = (),
    stock: Stock | None = None,
    augmentation: Augmentation = "none",
) -> None:
    """Write a plain backbone, such as a folded one, so that `load_backbone(path)` and its own library load it.

    transformers models are written by `save_pretrained` with their tokenizer, timm models in the layout of timm's hub,
    both with `preprocessing.json`; anything else as `model.safetensors` with a `config.json` that describes it.

    Args:
        classes: names of the rows of the classifier in `stock`.
        stock: the library's classification model, to write it instead.
        augmentation: the kind of images learned, see `save_inputs`.

    Raises:
        UsageError: the backbone holds adapted layers, or its library has no model of this part alone.
    """
    if any(isinstance(module, HamLayer) for module in backbone.modules()):
        raise UsageError("an adapted backbone has no merged weights to save: give AdaptedBackbone.folded()")
    out = Path(path)
    # safetensors takes no tensors with the channels last.
    module: Any = copy.deepcopy(stock.module if stock else backbone.module)
    module.to(memory_format=torch.contiguous_format)
    preprocess = backbone.preprocess
    match library(module):
        case "transformers":
            from hamcl.nn.loaders.transformers import part, quiet

            if stock is None and part(module):
                raise UsageError(
                    f"{type(module).__name__} is a part of a larger model that transformers cannot load alone: export "
                    "it as peft or onnx"
                )
            if stock is None:
                unlabel(module.config)
            with quiet():
                module.save_pretrained(out)
            save_inputs(out, backbone, augmentation)
        case "timm":
            from timm.models import save_for_hf

            names = {"label_names": list(classes)} if stock else {}
            settings = _timm_settings(preprocess)
            save_for_hf(module, str(out), model_config=names, safe_serialization=True, data_config=settings)
            save_inputs(out, backbone, augmentation)
            _drop_arguments(out / "config.json")
        case _:
            out.mkdir(parents=True, exist_ok=True)
            write_tensors(out / "model.safetensors", module.state_dict(), PYTORCH)
            config = {
                "spec": backbone.spec,
                "class": f"{type(module).__module__}.{type(module).__qualname__}",
                "width": backbone.width,
                "preprocess": preprocess.describe(),
            }
            write_json(out / "config.json", config)


def save_inputs(path: str | Path, backbone: Backbone, augmentation: Augmentation = "none") -> None:
    """Write how the inputs are prepared: `preprocessing.json`, and the tokenizer of texts.

    No `preprocessor_config.json`: the image processors of transformers cut, enlarge and flatten images otherwise than
    the model learned them, and a file that is nearly right would be believed.

    Args:
        augmentation: the kind of images learned.
    """
    preprocess = backbone.preprocess
    Path(path).mkdir(parents=True, exist_ok=True)
    settings = {**preprocess.describe(), "inputs": list(samples(backbone)), "steps": preprocess.steps(augmentation)}
    write_json(Path(path) / PREPARATION, settings)
    if isinstance(preprocess, TextPreprocess):
        tokenizer = copy.deepcopy(preprocess.tokenizer)
        if tokenizer.pad_token is None:  # any will do, the mask hides it
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        # Stock code that says truncation=True then cuts as was learned, and finds the last token where it was.
        tokenizer.model_max_length, tokenizer.padding_side = preprocess.max_length, "right"
        tokenizer.save_pretrained(path)


def export_head(path: str | Path, head: Linear, classes: Sequence[str], *, normalize: bool = False) -> None:
    """Write a head in float32: `head.safetensors` and `classes.json`.

    The tensors are `weight`, `bias`, and perhaps `projection` and `direct`:
    `logits = phi(features) @ weight.T + features @ direct.T + bias`, where phi is the identity, or
    relu(features @ projection) if there is a projection, and no direct is 0. `classes.json` is the list of class
    names, row by row.

    Args:
        normalize: features must be scaled to length 1 first; the header of the weights file says so.

    Raises:
        UsageError: there is not one row per class.
    """
    if len(head.weight) != len(classes):
        raise UsageError(f"a head of {len(head.weight)} rows cannot be exported for {len(classes)} classes")
    out = Path(path)
    out.mkdir(parents=True, exist_ok=True)
    floats = {name: tensor.float() for name, tensor in vars(head).items() if tensor is not None}
    write_tensors(out / "head.safetensors", floats, {"normalize": json.dumps(normalize), **PYTORCH})
    export_classes(out, classes)


def export_classes(path: str | Path, classes: Sequence[str]) -> None:
    """Write `classes.json`, the class names in the order of the scores."""
    write_json(Path(path) / CLASSES, list(classes))


def _weight(module: nn.Module, name: str) -> Tensor:
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise UsageError(f"layer {name!r} cannot be exported: the backbone has no such layer") from error
    base = layer.base_layer if isinstance(layer, HamLayer) else layer
    if not isinstance(base, nn.Linear | nn.Conv2d):
        raise UsageError(f"layer {name!r} cannot be exported: it is a {type(base).__name__}")
    return base.weight


def _targets(module: nn.Module, names: list[str], *, classifier: bool) -> list[str] | str:
    """The names as a list, which every library reads, unless PEFT would take one for the ending of another layer.

    Without a classifier a pattern of whole names, which fits nothing but the model of features: a list would fit
    classification models as well, whose classifier knows nothing of what was learned.
    """
    endings = tuple("." + name for name in names)
    if not classifier or any(name.endswith(endings) and name not in names for name, _ in module.named_modules()):
        return "|".join(re.escape(name) for name in names)
    return names


def _timm_settings(preprocess: object) -> dict[str, Any]:
    """The settings in the form of timm's configurations.

    None of timm's transforms prepares images as ours do. Left out, a setting would be taken from ImageNet's, so one of
    them says where to look, which is the message of the error that timm's own transform then ends with.
    """
    if not isinstance(preprocess, ImagePreprocess):
        return {}
    return {
        "input_size": (3, preprocess.size, preprocess.size),
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": "prepare() in README.md",
        "crop_pct": preprocess.crop_pct,
    }


def _drop_arguments(path: Path) -> None:
    """Take arguments that stand elsewhere too out of timm's configuration.

    Transformers, which loads timm's folders, would give them twice.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("num_classes", "in_chans"):
        config.get("model_args", {}).pop(name, None)
    write_json(path, config)


def write_json(path: Path, value: object) -> None:
    """Write a file of an export as JSON, in the manner of the libraries that read it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
