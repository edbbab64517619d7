"""Folders, cards, preparation of inputs and ONNX, without running a card."""

import json
import re
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from torch import nn

from hamcl.errors import DataError, UsageError
from hamcl.export import Card
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.nn.loaders.transformers import _prepared
from hamcl.reading.prepare import ImagePreprocess
from hamcl.streams.base import Samples


@pytest.fixture(scope="module")
def model(work, toy):
    tasks = [toy.task("one", ["a|b", "c\nd"]), toy.task("two", ["Ü", "e"])]
    return work.learned(toy.vit(), tasks, head="lda")


def test_an_export_is_there_whole_or_not_at_all_and_replaces_nothing_unasked(model, tmp_path, monkeypatch):
    out = tmp_path / "a" / "out"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("hamcl.export.write_card", dies)
        model.export(out, "adapters")
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    model.export(out, "adapters")  # an empty one is as good as none
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"out is not empty; choose a new folder"):
        model.export(out, "adapters")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("hamcl.export.write_card", dies)
        model.export(out, "adapters", overwrite=True)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "mine.txt").write_text("x")
    model.export(out, "adapters", overwrite=True)
    assert {path.name for path in out.parent.iterdir()} == {"out"} and not (out / "mine.txt").exists()


def dies(*_):
    raise RuntimeError


def test_only_exports_are_replaced(model, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds no earlier export, so it is not replaced"):
        model.export(tmp_path / "home", "peft", overwrite=True)
    with pytest.raises(UsageError, match="is not a folder"):
        model.export(tmp_path / "home" / "thesis.tex", "peft", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "x"


def test_a_card_tells_tasks_metrics_settings_and_versions(model, tmp_path):
    card = Card(
        title="Birds\n of the week",
        text="Photographs.",
        license="mit",
        metrics={"accuracy": 0.875},
        accuracy={"two": 0.5},
    )
    model.export(tmp_path / "out", "merged", card=card)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "mit",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["continual-learning", "lora", "hamcl"],
    }
    assert body.startswith("\n# Birds of the week\n\nPhotographs.\n")
    assert "| one | 0 | a\\|b, c d |  |\n" in body and "| two | 1 | Ü, e | 50.0 % |\n" in body
    assert "| accuracy | 0.875 |" in body and model.backbone.fingerprint in body
    settings = body.split("```json\n")[1].split("```")[0]
    assert json.loads(settings) == model.config.to_dict()
    assert f"torch {torch.__version__}" in body and "timm " in body
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == list(model.classes)


def test_a_card_is_written_where_a_version_is_unknown_and_takes_unicode_alone(model, tmp_path, monkeypatch):
    monkeypatch.setattr("hamcl.export.card.version", missing)
    model.export(tmp_path / "out", "merged", card=Card(title="café"))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# café" in text and "timm (unknown)" in text
    for given in ({"title": "caf\udce9"}, {"text": "\ud83d"}, {"license": "\udce9"}):
        with pytest.raises(UsageError, match="of a card must be Unicode text"):
            Card(**given)


def missing(package):
    raise PackageNotFoundError(package)


def test_the_base_is_named_where_others_can_find_it(work, toy, tmp_path):
    backbone = toy.vit()
    backbone.spec = "timm/vit_tiny_patch16_224"
    model = work.learned(backbone, [toy.task("one", ["a", "b"])], head="ridge")
    model.export(tmp_path / "out", "peft")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "timm/vit_tiny_patch16_224"
    assert 'timm.create_model("vit_tiny_patch16_224", pretrained=True, num_classes=0' in text.replace("'", '"')
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "timm/vit_tiny_patch16_224"


@pytest.mark.parametrize("augmentation", ["none", "photo", "handwriting"])
def test_images_are_prepared_as_in_learning(work, toy, tmp_path, augmentation):
    model = work.learned(toy.vit(), [toy.task("one", ["a", "b"], augmentation=augmentation)], head="ncm")
    model.export(tmp_path / "out", "merged")
    code = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    space = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(re.search(r"def prepare.*?\n\n", code, re.DOTALL)[0], space)
    ours = model.backbone.preprocess.transform(False, augmentation)
    random = np.random.default_rng(0)
    sizes = [(16, 16), (8, 8), (40, 40), (33, 20), (17, 90), (9, 12), (5000, 3)]
    plain = {
        str(size): Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)) for size in sizes
    }
    numbers = {
        str(array.dtype): Image.fromarray(array)
        for array in (random.random((20, 24)).astype(np.float32), random.integers(0, 60000, (9, 31), dtype=np.int32))
    }
    for name, image in {**plain, **numbers, **work.pictures()}.items():
        np.testing.assert_allclose(space["prepare"](image), ours(image).numpy(), atol=1e-5, err_msg=name)
    for bad in (random.random((8, 8)) - 0.5, random.random((8, 8)) * 1e6, np.full((8, 8), np.nan)):
        with pytest.raises(StopIteration):
            space["prepare"](Image.fromarray(bad.astype(np.float32)))
    settings = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert settings["crop_pct"] == 0.875 and len(settings["steps"]) > 7
    assert ("square" in " ".join(settings["steps"])) == (augmentation == "handwriting")


def test_no_stock_settings_are_left_that_see_other_pixels(work, toy, tmp_path):
    """The libraries' own ways to prepare images end with an error, and hamcl reads what it wrote."""
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from transformers import AutoImageProcessor, ViTConfig, ViTModel, pipeline

    task = toy.task("one", ["a", "b"], augmentation="photo")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(
        tmp_path / "vit"
    )
    given = {"size": 36, "crop_size": 32, "do_center_crop": True, "image_mean": [0.4, 0.5, 0.6]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(given))
    model = work.learned(str(tmp_path / "vit"), [task], head="linear")
    for kind in ("merged", "peft", "adapters"):
        model.export(tmp_path / kind, kind)
        assert not (tmp_path / kind / "preprocessor_config.json").exists()
        assert "Images go through `prepare`" in (tmp_path / kind / "README.md").read_text()
    with pytest.raises(OSError, match="Can't load image processor"):
        AutoImageProcessor.from_pretrained(str(tmp_path / "merged"))
    with pytest.raises(ValueError, match="requires you to execute the code in the pipeline file"):
        pipeline("image-classification", model=str(tmp_path / "merged"))
    again = load_backbone(str(tmp_path / "merged"))
    assert again.preprocess == model.backbone.preprocess and again.preprocess.mean == (0.4, 0.5, 0.6)
    assert load_backbone(str(tmp_path / "merged"), image_size=48).preprocess.size == 48
    assert _prepared("hf/somebody/merged", str(tmp_path / "merged"), 32) == again.preprocess  # as from the hub

    work.learned(toy.vit(), [task], head="lda").export(tmp_path / "timm", "merged")
    module = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    with pytest.raises(KeyError, match=r"prepare\(\) in README\.md"):
        create_transform(**resolve_model_data_config(module))
    assert load_backbone(str(tmp_path / "timm")).preprocess == toy.vit().preprocess
    (tmp_path / "timm" / "preprocessing.json").unlink()
    with pytest.raises(UsageError, match=r"says of the images it reads 'prepare\(\) in README.md': give a local copy"):
        load_backbone(str(tmp_path / "timm"))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": "16"},
        {"mean": [0.5]},
        {"mean": "abc"},
        {"std": [0, 1, 1]},
        {"std": [1, 1, 1e999]},
        {"crop_pct": 2},
        {"interpolation": "best"},
        None,
    ],
)
def test_a_damaged_preparation_is_one_sentence(work, tmp_path, change):
    settings = {"size": 16, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic", "crop_pct": 1}
    path = tmp_path / "preprocessing.json"
    path.write_text(json.dumps(settings))
    assert ImagePreprocess.read(tmp_path) == ImagePreprocess(16, (0, 0, 0), (1, 1, 1), "bicubic", 1)
    path.write_text("[1]" if change is None else json.dumps({**settings, **change}))
    with pytest.raises(DataError, match=r"preprocessing\.json does not say how images are prepared"):
        ImagePreprocess.read(tmp_path)


class Net(nn.Module):
    """A network of no library."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(2))

    def forward(self, x):
        return self.net(x).mean(2)


def test_any_network_becomes_onnx(work, toy, tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    backbone = Backbone("own/net", Net(), lambda module, batch: module(batch["pixel_values"]), ImagePreprocess(16))
    task = toy.task("one", ["a", "b", "c"])
    model = work.learned(backbone, [task], head="cosine")
    with pytest.raises(UsageError, match="'own/net' is neither a timm nor a transformers model; export it as onnx"):
        model.export(tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()
    model.export(tmp_path / "out", "onnx")

    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert next(o.version for o in graph.opset_import if o.domain == "") >= 17
    assert json.loads({p.key: p.value for p in graph.metadata_props}["classes"]) == ["a", "b", "c"]
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = [task.test.inputs[i] for i in range(count)]
        prepared = torch.stack([backbone.preprocess.transform(False, "none")(image) for image in images])
        (scores,) = session.run(["scores"], {"pixel_values": prepared.numpy()})
        expected = model.logits(Samples(images, [0] * count)).numpy()
        np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())
    settings = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert (settings["size"], settings["inputs"]) == (16, ["pixel_values"]) and len(settings["steps"]) > 3


def test_what_cannot_be_exported_is_told(model, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="there is no export 'pickle'; choose peft, merged, onnx, adapters"):
        model.export(tmp_path / "out", "pickle")
    monkeypatch.setattr("hamcl.export.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package onnx: pip install 'hamcl\[onnx\]'"):
        model.export(tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_exports_are_silent(work, toy, bert_folder, tmp_path, capfd):
    model = work.learned(str(bert_folder), [toy.task("one", ["a", "b"], modality="text")])
    capfd.readouterr()
    model.export(tmp_path / "out", "merged")
    assert capfd.readouterr() == ("", "")
