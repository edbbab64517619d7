"""The models of timm and transformers that hold a head as their own classifier."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hamcl.heads import Linear
from hamcl.nn.backbones import Backbone, is_folder
from hamcl.reading.prepare import TextPreprocess

TOLERANCE = 1e-4
"""Largest difference from the head's scores, relative to the largest score, at which a model is taken for equal."""
NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""Names under which others know a backbone that has a short one here."""
NO_CLASSIFIER = (
    "this folder holds no classifier of transformers; run the code in its README.md, or load it with "
    "trust_remote_code=True"
)


@dataclass(frozen=True)
class Stock:
    """A model as its library builds it, whose forward gives the scores.

    Attributes:
        module: with the backbone's weights and the head as its classifier.
        classifier: the name of the classifier inside `module`.
        prefix: what the backbone's layer names have in front inside `module`.
    """

    module: nn.Module
    classifier: str
    prefix: str = ""


def library(module: nn.Module) -> str:
    """The top-level package a model comes from, such as "timm" or "transformers"."""
    return type(module).__module__.partition(".")[0]


def samples(backbone: Backbone) -> dict[str, Tensor]:
    """A batch of unequal samples, texts of unequal length, to compare models on."""
    if backbone.modality == "text":
        prepare = backbone.preprocess.transform(False, "none")
        return backbone.preprocess.collate([prepare(t) for t in ("one example", "another example, a longer one", "a")])
    noise = backbone.preprocess.example(3)["pixel_values"]
    return {"pixel_values": noise * torch.tensor([0.2, 1.0, 3.0]).view(-1, 1, 1, 1)}


def stock_classifier(backbone: Backbone, head: Linear, classes: Sequence[str], *, normalize: bool) -> Stock | None:
    """A copy of a plain backbone as its library's own classification model, or None where the scores would differ.

    Whether the library's model pools its features as the backbone does is not looked up but tried out on a batch.

    Args:
        backbone: plain, such as a folded one.
        head: one row per class.
        normalize: the head takes features of length 1, which no classifier of a library does; nor does one take
            features of several depths.
    """
    if normalize or head.projection is not None or head.direct is not None or len(backbone.blocks) > 1:
        return None
    match library(backbone.module):
        case "timm":
            stock = _timm(backbone, len(classes))
        case "transformers":
            stock = _transformers(backbone, classes)
        case _:
            return None
    if stock is None or not _set(stock, head):
        return None
    return stock if _agree(stock, backbone, head) else None


def unlabel(config: Any) -> None:
    """Take what is said of any classifier out of the configuration of a transformers model that has none.

    A class that makes a fresh classifier for it then has no classes to name, and a pipeline, left to apply what the
    configuration says, ends with the sentence that stands there.
    """
    config.id2label, config.label2id, config.problem_type = {}, {}, None
    config.function_to_apply = NO_CLASSIFIER
    config.__dict__.pop("auto_map", None)


def _timm(backbone: Backbone, count: int) -> Stock | None:
    module: Any = copy.deepcopy(backbone.module)
    name = module.pretrained_cfg.get("classifier")
    if not isinstance(name, str):  # distilled models have two
        return None
    module.reset_classifier(count)
    return Stock(module, name)


def known_name(backbone: Backbone) -> str | None:
    """The name or the folder by which other libraries find the weights of a backbone; None where they do not."""
    hub, _, name = backbone.spec.partition("/")
    if hub in ("hf", "timm"):
        return name if hub == "hf" else backbone.spec
    return NAMES.get(backbone.spec) or (backbone.location if is_folder(backbone.location) else None)


def is_whole(module: nn.Module) -> bool:
    """Whether a class of transformers loads this model by itself: no part of a larger one, none of another library."""
    if library(module) != "transformers":
        return False
    from hamcl.nn.loaders.transformers import part

    return hasattr(module, module.base_model_prefix) or not part(module)  # type: ignore[arg-type]


def auto_class(backbone: Backbone) -> Any:
    """The class of transformers that makes classification models of a backbone's kind."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if backbone.modality == "text" else AutoModelForImageClassification


def classification_class(backbone: Backbone) -> str:
    """The name that class has for a backbone, which pipelines know; one of our own where the library has none."""
    if library(backbone.module) == "timm":
        return "TimmWrapperForImageClassification"
    config: Any = backbone.module.config
    known = _known(auto_class(backbone), config)
    return known.__name__ if known else "MergedClassifier"


def _known(auto: Any, config: Any) -> type | None:
    """The library's own class for a configuration, none that somebody registered in this process."""
    known = auto._model_mapping.get(type(config), None)
    return known if isinstance(known, type) and known.__module__.startswith("transformers.") else None


def _transformers(backbone: Backbone, classes: Sequence[str]) -> Stock | None:
    auto = auto_class(backbone)
    own: Any = backbone.module
    config = copy.deepcopy(own.config)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}
    config.problem_type = "single_label_classification"
    config.__dict__.pop("auto_map", None)  # code that stays where the base model is
    preprocess = backbone.preprocess
    if isinstance(preprocess, TextPreprocess) and getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = preprocess.tokenizer.pad_token_id
    if _known(auto, config) is None:
        return None
    module = auto.from_config(config)
    prefix = module.base_model_prefix
    base: Any = getattr(module, prefix, None)
    if type(base) is not type(own) or base.load_state_dict(own.state_dict(), strict=False).missing_keys:
        return None
    inside = {id(p) for p in base.parameters()}
    outside = [name for name, p in module.named_parameters() if id(p) not in inside]
    linear = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and m.out_features == len(classes)]
    holders = {name.rpartition(".")[0] for name in outside}
    # A model with more layers between features and scores would leave them untrained.
    if len(holders) != 1 or not holders <= set(linear):
        return None
    return Stock(module.eval(), holders.pop(), prefix + ".")


def _set(stock: Stock, head: Linear) -> bool:
    """Put the head's weights into the classifier; False where it has no place for them."""
    layer = stock.module.get_submodule(stock.classifier)
    if not isinstance(layer, nn.Linear) or layer.weight.shape != head.weight.shape:
        return False
    if layer.bias is None and head.bias.any():
        return False
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        if layer.bias is not None:
            layer.bias.copy_(head.bias)
    return True


@torch.no_grad()
def _agree(stock: Stock, backbone: Backbone, head: Linear) -> bool:
    batch = samples(backbone)
    expected = head(backbone(batch))
    if library(stock.module) == "timm":
        scores = stock.module(batch["pixel_values"])
    else:
        scores = stock.module(**batch, **getattr(backbone.features, "options", {})).logits
    return bool((scores - expected).abs().max() <= TOLERANCE * expected.abs().max())
