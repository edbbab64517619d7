import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from hamcl.ham import Factors
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone
from hamcl.reading._torchvision import ensure_torchvision
from hamcl.reading.prepare import ImagePreprocess, TextPreprocess

ensure_torchvision()


class ConvNet(nn.Module):
    """Kernels of 1 and 3 pixels, strides, padding, batch norm, a depthwise layer; `dilation` on one layer."""

    def __init__(self, dilation: int = 1, padding_mode: str = "zeros") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 12, 3, padding=dilation, dilation=dilation, padding_mode=padding_mode)
        self.point = nn.Conv2d(12, 16, 1, stride=2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = self.wide(self.depthwise(x).relu()).relu()
        return self.fc(self.point(x).relu().mean((2, 3)))


class Characters:
    """A tokenizer of one token per character."""

    truncation_side = "right"
    model_max_length = 32
    pad_token_id = 0

    def __call__(self, text, max_length=32, **_):
        ids = [1 + ord(c) % 40 for c in text][:max_length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def __len__(self):
        return 41


def pixels(module, batch):
    return module(batch["pixel_values"])


def mean_tokens(module, batch):
    mask = batch["attention_mask"].unsqueeze(-1)
    return (module(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def vit() -> Backbone:
    import timm

    module = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, depth=2, num_classes=0)
    return Backbone("tests/vit", module, pixels, ImagePreprocess(16))


def conv(**options) -> Backbone:
    net = ConvNet(**options)
    net.norm.running_mean.uniform_(-0.2, 0.2)
    return Backbone("tests/conv", net, pixels, ImagePreprocess(16))


def bert() -> Backbone:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=41,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=32,
    )
    return Backbone(
        "tests/bert", BertModel(config, add_pooling_layer=False), mean_tokens, TextPreprocess(Characters(), 32)
    )


TARGETS = {"vit": "qkv|fc1|fc2", "conv": "stem|wide|point|fc", "bert": "query|value|dense"}
KINDS = {"vit": vit, "conv": conv, "bert": bert}


def random_batch(backbone: Backbone, count: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(5)
    if backbone.modality == "image":
        return {"pixel_values": torch.randn(count, 3, 16, 16, generator=g)}
    batch = {"input_ids": torch.randint(1, 41, (count, 9), generator=g), "attention_mask": torch.ones(count, 9).long()}
    batch["attention_mask"][0, 5:] = 0
    return batch


def random_layers(model: AdaptedBackbone, seed: int, rank: int, size: float = 0.05) -> dict[str, Factors]:
    g = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in model.layers.items():
        out, width = layer.shape
        layers[name] = Factors(
            torch.randn(rank, width, generator=g) / width**0.5, size * torch.randn(out, rank, generator=g)
        )
    return layers


@pytest.fixture
def make() -> SimpleNamespace:
    """Backbones, batches and updates: `make.backbone(kind)`, `make.model(kind, **options)`, `make.batch`, ..."""

    def backbone(kind: str, **options) -> Backbone:
        torch.manual_seed(0)
        return KINDS[kind](**options)

    def model(kind: str, *, net: dict | None = None, **options) -> AdaptedBackbone:
        options = {"rank": 3, "max_groups": 4, "targets": TARGETS[kind]} | options
        return AdaptedBackbone(backbone(kind, **(net or {})), **options)

    return SimpleNamespace(backbone=backbone, model=model, batch=random_batch, layers=random_layers)


@pytest.fixture(scope="session")
def naive_peft() -> Callable:
    """The class in tests/oracles/naive_peft.py."""
    return oracle("naive_peft").NaivePeft


def oracle(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "oracles" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"oracles_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
