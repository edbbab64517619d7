"""Folders, cards, preparation of inputs and ONNX, without running a card."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from hamcl.errors import UsageError
from hamcl.export import Card
from hamcl.export import onnx as onnx_room
from hamcl.export.folder import export_folder
from hamcl.nn.backbones import Backbone
from hamcl.nn.preprocess import ImagePreprocess
from hamcl.streams.base import Samples


@pytest.fixture(scope="module")
def model(work, toy):
    tasks = [toy.task("one", ["a|b", "c\nd"]), toy.task("two", ["Ü", "e"])]
    return work.learned(toy.vit(), tasks, head="lda")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "a" / "out"
    with pytest.raises(RuntimeError), export_folder(out, overwrite=False) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    with export_folder(out, overwrite=False) as folder:  # an empty one is as good as none
        (folder / "classes.json").write_text("1")
        assert list(out.iterdir()) == []
    with (
        pytest.raises(UsageError, match=r"out is not empty; choose a new folder"),
        export_folder(out, overwrite=False),
    ):
        pass
    with pytest.raises(RuntimeError), export_folder(out, overwrite=True):
        raise RuntimeError
    assert (out / "classes.json").read_text() == "1"
    with export_folder(out, overwrite=True) as folder:
        (folder / "classes.json").write_text("2")
    assert [path.name for path in out.parent.iterdir()] == ["out"] and (out / "classes.json").read_text() == "2"


def test_only_exports_are_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    message = "holds no earlier export, so it is not replaced"
    with pytest.raises(UsageError, match=message), export_folder(tmp_path / "home", overwrite=True):
        pass
    with (
        pytest.raises(UsageError, match="is not a folder"),
        export_folder(tmp_path / "home" / "thesis.tex", overwrite=True),
    ):
        pass
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
    space = {"np": np, "Image": Image}
    exec(re.search(r"def prepare.*?\n\n", code, re.DOTALL)[0], space)
    ours = model.backbone.preprocess.transform(False, augmentation)
    random = np.random.default_rng(0)
    for size in [(16, 16), (8, 8), (40, 40), (33, 20), (17, 90), (9, 12)]:
        image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        np.testing.assert_allclose(space["prepare"](image), ours(image).numpy(), atol=1e-5)
    grey = Image.fromarray(random.integers(0, 256, (20, 24), dtype=np.uint8))
    np.testing.assert_allclose(space["prepare"](grey), ours(grey).numpy(), atol=1e-5)


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
    monkeypatch.setattr(onnx_room, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package onnx: pip install 'hamcl\[onnx\]'"):
        model.export(tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_exports_are_silent(work, toy, bert_folder, tmp_path, capfd):
    model = work.learned(str(bert_folder), [toy.task("one", ["a", "b"], modality="text")])
    capfd.readouterr()
    model.export(tmp_path / "out", "merged")
    assert capfd.readouterr() == ("", "")
