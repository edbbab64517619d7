"""Features from several depths of a backbone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hamcl.config import HAMConfig
from hamcl.errors import UsageError
from hamcl.methods.ham import HAM
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.nn.depths import Depths, inner_layers, pool_map


@pytest.mark.parametrize(
    ("spec", "widths"),
    [
        ("timm/resnet18", (512, 256, 512, 512)),
        ("timm/vit_tiny_patch16_224", (192, 192, 192)),
        ("timm/convnext_atto", (320, 160, 320, 320)),
    ],
)
def test_blocks_of_length_one_and_the_own_features_last(spec, widths):
    last, backbone = (load_backbone(spec, depths=depths, pretrained=False) for depths in ("last", "all"))
    assert last.fingerprint == backbone.fingerprint and len(last.blocks) == 1
    batch = backbone.preprocess.example(2)
    own, features = last(batch), backbone(batch)
    assert backbone.blocks == widths
    assert features.shape == (2, backbone.width) == (2, sum(widths))
    for block in features.split(widths, 1):
        torch.testing.assert_close(block.norm(dim=1), torch.ones(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.split(widths, 1)[-1], F.normalize(own, dim=1), rtol=1e-4, atol=1e-5)
    assert load_backbone(spec, pretrained=False).blocks == widths, "by default several, where the network shows them"


def test_what_a_layer_of_a_vision_transformer_shows():
    backbone = load_backbone("timm/vit_tiny_patch16_224", pretrained=False)
    batch = backbone.preprocess.example(1)
    seen: list[torch.Tensor] = []
    backbone.module.blocks[3].register_forward_hook(lambda *call: seen.append(call[2]))
    backbone(batch)
    expected = F.normalize(seen[0][:, 1:].mean(1), dim=1)  # without the class token
    torch.testing.assert_close(backbone(batch)[:, :192], expected, rtol=1e-4, atol=1e-5)


def test_an_adapter_changes_the_depths_from_its_layer_on():
    backbone = load_backbone("timm/vit_tiny_patch16_224", pretrained=False)
    batch = backbone.preprocess.example(1)
    before = backbone(batch)
    adapted = AdaptedBackbone(backbone, rank=2, max_groups=1, targets=r"blocks\.6\.mlp\.fc1")
    adapted.start_task()
    with torch.no_grad():
        for layer in adapted.layers.values():
            nn.init.normal_(layer.task_B)
    changed = (adapted(batch) - before).abs()
    early, middle, late = changed.split(backbone.blocks, 1)
    assert early.max() == 0
    assert middle.max() > 1e-3
    assert late.max() > 1e-3


def test_gradients_reach_early_layers_through_the_first_block_alone():
    backbone = load_backbone("timm/resnet18", pretrained=False)
    adapted = AdaptedBackbone(backbone, rank=2, max_groups=1, targets=r"layer[24]\.0\.conv1")
    adapted.start_task()
    adapted(backbone.preprocess.example(1)).split(backbone.blocks, 1)[0].square().sum().backward()
    layers = {name: layer.task_B.grad for name, layer in adapted.layers.items()}
    assert layers["layer2.0.conv1"] is not None
    late = layers["layer4.0.conv1"]
    assert late is None or not late.any()


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.flat(x.flatten(1))


def raising(module: nn.Module, batch: object) -> Depths:
    raise NotImplementedError


@pytest.mark.parametrize("depths", [None, raising])
def test_a_network_that_does_not_show_its_inside_gives_its_last_features_unless_all_are_asked_for(depths):
    like = load_backbone("timm/resnet18", pretrained=False, image_size=8)
    read = lambda module, batch: module(batch["pixel_values"])  # noqa: E731
    backbone = Backbone("opaque", Opaque(), read, like.preprocess, depths)
    assert HAM(backbone, HAMConfig(targets="flat")).backbone.blocks == (5,)
    with pytest.raises(UsageError, match="'opaque' does not show the features inside it: choose depths='last'"):
        Backbone("opaque", Opaque(), read, like.preprocess, depths, read="all")
    last = Backbone("opaque", Opaque(), read, like.preprocess, depths, read="last")
    with pytest.raises(UsageError, match="asks for features of several depths, but the backbone gives others"):
        HAM(last, HAMConfig(depths="all", targets="flat"))


def test_analytic_heads_read_all_depths_and_trained_rows_the_last():
    for head, depths in (("auto", 4), ("lda", 4), ("linear", 1), ("cosine", 1)):
        model = HAM.from_backbone("timm/resnet18", HAMConfig(head=head), pretrained=False, image_size=32)
        assert len(model.backbone.blocks) == depths
        assert model.settings.depths == ("last" if depths == 1 else "all")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("all", {"head": "linear"}),
        ("all", {"head": "cosine"}),
        ("all", {"depths": "last"}),
        ("last", {"depths": "all"}),
    ],
)
def test_a_backbone_that_gives_other_depths_than_the_options_ask_for_is_refused(given, asked):
    backbone = load_backbone("timm/resnet18", depths=given, pretrained=False, image_size=32)
    other = {"all": "last", "last": "all"}[given]
    with pytest.raises(UsageError, match=rf"but the backbone gives others: load it with depths='{other}'$") as caught:
        HAM(backbone, HAMConfig(**asked))
    assert "\n" not in str(caught.value)
    assert backbone.blocks == load_backbone("timm/resnet18", depths=given, pretrained=False, image_size=32).blocks
    assert HAMConfig(**asked).depths_to_read == other


def test_a_map_is_pooled_by_quarters_where_they_fit():
    x = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).float()
    quarters = pool_map(x, 12)
    assert quarters.shape == (2, 12)
    torch.testing.assert_close(
        quarters[1, :4], torch.stack([x[1, 0, i : i + 2, j : j + 2].mean() for i in (0, 2) for j in (0, 2)])
    )
    torch.testing.assert_close(pool_map(x, 11), x.mean((2, 3)))
    torch.testing.assert_close(pool_map(x[..., :1, :1], 12), x[..., 0, 0])


@pytest.mark.parametrize(("count", "layers"), [(1, ()), (2, (1,)), (3, (1, 2)), (6, (2, 4)), (12, (4, 8))])
def test_inner_layers(count, layers):
    assert inner_layers(count) == layers


def test_depths_that_cannot_be_meant_are_refused(bert_folder):
    with pytest.raises(UsageError, match=r"^depths is 'some'; choose from auto, last, all$"):
        load_backbone(str(bert_folder), depths="some")


@pytest.mark.parametrize(("given", "what"), [(({"rank": 3},), "config"), ((HAMConfig(), "cpu"), "machine")])
def test_a_learner_names_what_it_is_given_wrongly(bert_folder, given, what):
    with pytest.raises(UsageError, match=rf"^the {what} of a learner is a (HAMConfig|Machine), got "):
        HAM.from_backbone(str(bert_folder), *given)
