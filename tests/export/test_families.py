"""Every family of networks through the highest call of the library that an export is for, as a user would."""

import numpy as np
import pytest
import torch
from torch import nn

from hamcl.errors import UsageError
from hamcl.nn.backbones import Backbone
from hamcl.nn.preprocess import ImagePreprocess
from hamcl.streams.base import Samples

IMAGES = ("vit", "swin", "resnet", "ijepa", "clip", "timm-test_vit", "timm-test_convnext", "timm-test_efficientnet")
TEXTS = ("bert", "distilbert", "llama", "t5")
QUANTIZED = ("vit", "timm-test_convnext", "bert", "llama")


def batch(model, inputs):
    preprocess = model.backbone.preprocess
    prepared = preprocess.collate([preprocess.transform(False, "none")(x) for x in inputs])
    return {name: tensor.numpy() for name, tensor in prepared.items()}


def scores(model, inputs):
    return model.logits(Samples(inputs, [0] * len(inputs))).numpy()


@pytest.mark.parametrize("kind", [*IMAGES, *TEXTS])
def test_an_onnx_graph_takes_one_sample_and_eighteen(family_learner, tmp_path, kind):
    runtime = pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import quantize_dynamic

    model, inputs = family_learner(kind)
    model.export(tmp_path / "out", "onnx")
    session = runtime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 18):
        (got,) = session.run(["scores"], batch(model, inputs[:count]))
        expected = scores(model, inputs[:count])
        assert got.shape == (count, 3)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    if kind not in QUANTIZED:
        return
    quantize_dynamic(tmp_path / "out" / "model.onnx", tmp_path / "int8.onnx")
    session = runtime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["scores"], batch(model, inputs))
    assert np.corrcoef(got.ravel(), scores(model, inputs).ravel())[0, 1] > 0.5


def test_a_network_without_a_form_in_onnx_is_refused_in_one_sentence(family_learner, tmp_path):
    model, _ = family_learner("xlnet")
    with pytest.raises(UsageError, match=r"xlnet' cannot be written as onnx \([^\x1b\n]+\); export it as merged$"):
        model.export(tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


class Counting(nn.Module):
    """Counts its samples in Python, so that a tracer sees a number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 8)

    def forward(self, x):
        return self.fc(x.reshape(int(np.prod(x.shape)) // 768, 768))


def test_a_graph_of_one_batch_size_is_refused(work, toy, tmp_path):
    torch.manual_seed(0)
    net = Backbone("own/net", Counting(), lambda module, batch: module(batch["pixel_values"]), ImagePreprocess(16))
    model = work.learned(net, [toy.task("one", ["a", "b"])], targets="fc")
    with pytest.raises(UsageError, match=r"cannot be written as onnx .* export it as merged"):
        model.export(tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()
