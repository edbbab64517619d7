"""Read a PEFT LoRA that was trained elsewhere as the update of a backbone."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hamcl.errors import DataError, UsageError
from hamcl.export.stock import NAMES, stock_classifier
from hamcl.ham.adapter import Factors
from hamcl.heads import Linear
from hamcl.nn.backbones import Backbone
from hamcl.nn.layers import HamLayer
from hamcl.tensors import read_tensors
from hamcl.words import shown

from peft import LoraConfig  # isort: skip  # after hamcl.nn.layers has prepared torchvision

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
READ = {"peft_type", "r", "lora_alpha", "alpha_pattern", "use_rslora", "init_lora_weights", "base_model_name_or_path"}
"""Settings that are taken into account."""
HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "runtime_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "modules_to_save"),
    *("megatron_core", "loftq_config", "eva_config", "ensure_weight_tying", "qalora_group_size", "fan_in_fan_out"),
}
"""Settings that the tensors say too, or that concern training alone. `fan_in_fan_out` is for layers that store the
transpose of their weight; an adapted backbone has none."""
LIMIT = 4 * 2**20
"""The most bytes a configuration may have; PEFT's have some hundred, and some ten thousand with ranks by layer."""
PATTERNS, WILD = 2000, 20
"""The most patterns of layer names, and the most of them that repeat something: each is compared with each layer."""
REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the base weights, so that the factors alone are not the update."""


@dataclass(frozen=True)
class Foreign:
    """A LoRA trained elsewhere.

    Attributes:
        layers: adapted layer of the backbone -> its update, the scaling folded in.
        classifier: name -> weights of the modules saved whole, such as `classifier.weight`.
        prefix: what the names of the layers had in front.
    """

    layers: dict[str, Factors]
    classifier: dict[str, Tensor]
    prefix: str


def read_foreign(folder: str | Path, backbone: Backbone) -> Foreign:
    """Read a PEFT folder for an adapted backbone; adapted layers it leaves out are not in the result.

    Of a LoRA are understood: any rank and alpha for each layer, rsLoRA, linear and convolution layers, a classifier
    saved whole, and names with the prefix of a task model (`vit.encoder...`).

    Raises:
        DataError: a file is missing or damaged, or weights are in a pickle.
        UsageError: it is not a plain LoRA, or was made for another model or other layers.
    """
    folder = Path(folder).expanduser()
    config = _config(folder)
    _check_settings(folder, config)
    tensors, metadata = _tensors(folder, backbone)
    _check_base(folder, config, metadata, backbone)
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    saved = tuple(_kept(folder, config, "modules_to_save", list) or ())
    alphas = _alphas(folder, config)
    for key, tensor in tensors.items():
        name = key.removeprefix(ROOT)
        layer, _, end = name.partition(".lora_")
        if end in ("A.weight", "B.weight"):
            pairs.setdefault(layer, {})[end[0]] = tensor
        elif any(name.rpartition(".")[0].endswith(module) for module in saved):
            whole[name] = tensor
        else:
            raise UsageError(
                f"{folder} holds {key!r}, which is neither a LoRA factor of a layer nor a module saved whole; only "
                "plain LoRA adapters can be imported"
            )
    adapted = {name: module for name, module in backbone.module.named_modules() if isinstance(module, HamLayer)}
    prefix = _prefix(folder, pairs, adapted, backbone)
    inside = {name for name, module in backbone.module.named_modules() if any(True for _ in module.parameters())}
    for name in whole:
        if name.rpartition(".")[0].removeprefix(prefix) in inside:
            raise UsageError(
                f"{folder} holds {name!r} trained as a whole, which is a part of the backbone; only plain LoRA "
                "adapters can be imported"
            )
    layers = {}
    for layer, pair in pairs.items():
        if pair.keys() != {"A", "B"}:
            raise DataError(f"{folder} lacks a factor of layer {layer!r}; export the adapter again")
        name = layer.removeprefix(prefix)
        factors = _factors(folder, layer, pair["A"], pair["B"], adapted[name].base_weight.shape)
        alpha = next((alpha for pattern, alpha in alphas if pattern.match(layer)), float(config.get("lora_alpha", 8)))
        factors = factors.scaled(alpha / (factors.rank**0.5 if config.get("use_rslora") else factors.rank))
        if not (torch.isfinite(factors.A).all() and torch.isfinite(factors.B).all()):
            raise DataError(f"{folder} is not finite in layer {layer!r}")
        layers[name] = factors
    return Foreign(layers, whole, prefix)


def linear_head(foreign: Foreign, backbone: Backbone, classes: Sequence[str]) -> Linear:
    """The adapter's classifier, if it is one linear layer on the features that a plain backbone gives.

    Raises:
        UsageError: it has none, of another size, or one that reads other features.
    """
    instead = "make a model with an analytic head and give samples"
    by_end = {name.rpartition(".")[2]: tensor.float() for name, tensor in foreign.classifier.items()}
    modules = {name.rpartition(".")[0] for name in foreign.classifier}
    wanted, weight = (len(classes), backbone.width), by_end.get("weight")
    if weight is None or len(modules) != 1 or tuple(weight.shape) != wanted:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in foreign.classifier.items())
        raise UsageError(
            f"the head is made of classifier rows, but the adapter saved {found or 'no classifier'} instead of one "
            f"linear layer of {wanted[0]} classes on {wanted[1]} features; {instead}"
        )
    head = Linear(weight, by_end.get("bias", torch.zeros(wanted[0])))
    stock = stock_classifier(backbone, head, classes, normalize=False)
    if stock is None or ({stock.classifier}, stock.prefix) != (modules, foreign.prefix):
        raise UsageError(
            f"the adapter's classifier {min(modules)!r} reads other features than backbone {backbone.spec!r} gives; "
            f"{instead}"
        )
    return head


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():  # a named pipe would never end
        raise DataError(f"{folder} is no PEFT adapter: it has no readable {CONFIG}")
    if path.stat().st_size > LIMIT:
        raise DataError(f"{path} has {path.stat().st_size} bytes, more than the {LIMIT} that are read")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder} is no PEFT adapter: it has no readable {CONFIG}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: it does not hold JSON") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is damaged: it does not hold a JSON object")
    return config


def _kept(folder: Path, config: Mapping[str, Any], option: str, kind: type[list | dict]) -> Any:
    """An option, which is absent or a list or mapping of strings."""
    value = config.get(option)
    if value is not None and (not isinstance(value, kind) or not all(isinstance(key, str) for key in value)):
        raise DataError(f"{folder / CONFIG} is damaged: {option} is {shown(value)}")
    return value


def _alphas(folder: Path, config: Mapping[str, Any]) -> list[tuple[re.Pattern[str], float]]:
    """The alphas by pattern of layer names, as PEFT reads them, without patterns that take long to compare.

    Raises:
        DataError: an alpha is no number, or a pattern no regular expression.
        UsageError: a pattern, or their number, could take long.
    """
    patterns: dict[str, Any] = _kept(folder, config, "alpha_pattern", dict) or {}
    for value in (config.get("lora_alpha", 8), *patterns.values()):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise DataError(f"{folder / CONFIG} is damaged: lora_alpha is {shown(value)}")
    bare = {pattern: re.sub(r"\\[^0-9]", "x", pattern) for pattern in patterns}
    for pattern, plain in bare.items():
        # A repeated group can take exponential time, repetitions one after another polynomial time.
        if re.search(r"\)[*+?{]|\\|\(\?", plain) or len(re.findall(r"[*+{]", plain)) > 2 or len(plain) > 1000:
            raise UsageError(
                f"{folder} names layers by {shown(pattern)}, a pattern that could take for ever; give the names of "
                f"the layers in alpha_pattern of {CONFIG}"
            )
    if len(patterns) > PATTERNS or sum(1 for plain in bare.values() if re.search(r"[*+{]", plain)) > WILD:
        raise UsageError(f"{folder} names layers by {len(patterns)} patterns, too many to compare with every layer")
    try:
        return [(re.compile(rf"(.*\.)?({pattern})$"), float(alpha)) for pattern, alpha in patterns.items()]
    except re.error as error:
        raise DataError(f"{folder / CONFIG} is damaged: {error.pattern!r:.60} is no pattern of layer names") from error


def _tensors(folder: Path, backbone: Backbone) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / "adapter_model.bin").exists():
            raise DataError(
                f"{folder} holds its weights as a pickle, which could run any code; load it with PEFT where you "
                "trust it and save it again with safe_serialization=True"
            )
        raise DataError(f"{folder} has no {WEIGHTS}")
    most = 2 * sum(4 * parameter.numel() for parameter in backbone.module.parameters()) + LIMIT
    if path.stat().st_size > most:
        raise UsageError(
            f"{path} has {path.stat().st_size} bytes, more than twice the backbone; no LoRA of it has so many"
        )
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _check_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse whatever would make the update something else than scaling * B A."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UsageError(f"{folder} is a PEFT adapter of type {shown(kind)}; only LORA can be imported")
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(REWRITES_BASE):
        raise UsageError(
            f"{folder} was initialised with {start!r}, which changes the base weights; convert it to a plain LoRA "
            "with PEFT's path_initial_model_for_weight_conversion and import that"
        )
    usual = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for option, value in config.items():
        if option in READ | HARMLESS or not value or value == usual.get(option):
            continue
        raise UsageError(
            f"{folder} has {option}={shown(value)}, which makes it more than a plain LoRA; it is not imported"
        )


def _check_base(folder: Path, config: Mapping[str, Any], metadata: Mapping[str, str], backbone: Backbone) -> None:
    """Compare the weights' fingerprint where the adapter has one (exports of hamcl do), else the models' names."""
    theirs = str(config.get("base_model_name_or_path") or "")
    known = metadata.get("base_fingerprint")
    if known is not None and known != backbone.fingerprint:
        raise UsageError(
            f"{folder} was made for other weights ({metadata.get('base', theirs) or 'unnamed'}, sha256 {known[:12]}) "
            f"than those of backbone {backbone.spec!r} ({backbone.fingerprint[:12]})"
        )
    hub, _, name = backbone.spec.partition("/")
    own = name if hub in ("hf", "timm") else NAMES.get(backbone.spec)
    # Names without their owner or their folder.
    wanted, given = (str(name or "").rstrip("/").rpartition("/")[2].lower() for name in (own, theirs))
    if known is None and own and theirs and wanted != given:
        raise UsageError(f"{folder} was made for {theirs!r}, not for backbone {backbone.spec!r}")


def _prefix(folder: Path, names: Iterable[str], adapted: Mapping[str, HamLayer], backbone: Backbone) -> str:
    """What to take off the front of all names so that they are adapted layers."""
    inside = {name for name, _ in backbone.module.named_modules() if name}
    prefix: str | None = None
    for name in names:
        parts = name.split(".")
        endings = [".".join(parts[i:]) for i in range(len(parts))]
        ending = next((e for e in endings if e in inside), None)
        if ending is None:
            raise UsageError(f"{folder} adapts layer {name!r}, which backbone {backbone.spec!r} does not have")
        if ending not in adapted:
            raise UsageError(
                f"{folder} adapts layer {ending!r}, which is not adapted here; make a model whose option targets "
                "covers its layers"
            )
        own = name.removesuffix(ending)
        if prefix not in (None, own):
            raise UsageError(f"{folder} names its layers in two ways, {prefix!r} and {own!r}; they cannot be matched")
        prefix = own
    if prefix is None:
        raise UsageError(f"{folder} adapts no layer")
    return prefix


def _factors(folder: Path, layer: str, A: Tensor, B: Tensor, shape: torch.Size) -> Factors:
    """The factors of a layer without its scaling, whose weight has this shape."""
    rank = A.shape[0] if A.ndim else 0
    expected = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
    if (tuple(A.shape), tuple(B.shape)) != expected or rank == 0:
        raise UsageError(
            f"{folder} does not fit layer {layer!r}: its factors are {tuple(A.shape)} and {tuple(B.shape)}, but the "
            f"weight is {tuple(shape)}; it was made for another model"
        )
    return Factors(A.flatten(1).float(), B.flatten(1).float())
