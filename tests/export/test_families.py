"""Every family of networks through the highest call of the library that an export is for, as a user would."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hamcl.errors import UsageError
from hamcl.nn.backbones import Backbone
from hamcl.reading.prepare import ImagePreprocess
from hamcl.streams.base import Samples, Task

IMAGES = ("vit", "swin", "resnet", "ijepa", "clip", "timm-test_vit", "timm-test_convnext", "timm-test_efficientnet")
TEXTS = ("bert", "distilbert", "llama", "t5")
WHOLE = ("bert", "distilbert", "llama", "xlnet", "vit", "swin", "resnet", "ijepa", "clip")
"""Those whose merged model a class of transformers loads."""
QUANTIZED = ("vit", "timm-test_convnext", "bert", "llama")


def prepared(model, inputs):
    preprocess = model.backbone.preprocess
    return preprocess.collate([preprocess.transform(False, "none")(x) for x in inputs])


def batch(model, inputs):
    return {name: tensor.numpy() for name, tensor in prepared(model, inputs).items()}


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(np.asarray(expected)).max())


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


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """Code of exports is copied to a folder of the tests and not to the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


def same_answers(pipe, model, inputs):
    found, expected = pipe(inputs), model.predict(inputs)
    assert [one["label"] for one in found] == [labels[0] for labels in expected.labels]
    close([one["score"] for one in found], expected.probabilities[:, 0].numpy())


@pytest.mark.parametrize("kind", ["bert", "distilbert", "llama", "xlnet"])
def test_a_pipeline_is_the_model_with_its_code_and_an_error_without(family_learner, tmp_path, kind):
    from transformers import AutoModelForSequenceClassification, pipeline

    model, inputs = family_learner(kind)
    told = model.export(tmp_path / "out", "merged")
    assert told.startswith(
        'it loads with pipeline("text-classification", FOLDER, truncation=True, trust_remote_code=True), or with the '
    )
    said = "this folder holds no classifier of transformers; run the code in its README.md"
    with pytest.raises(ValueError, match=said):
        pipeline("text-classification", model=str(tmp_path / "out"))(inputs[0])
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label == {}
    pipe = pipeline("text-classification", str(tmp_path / "out"), truncation=True, trust_remote_code=True)
    same_answers(pipe, model, [*inputs, "fat cat " * 100])
    with pytest.raises(NotImplementedError, match="copy the folder"):
        pipe.model.save_pretrained(tmp_path / "again")


def test_a_pipeline_needs_no_code_where_the_library_has_a_place_for_the_head(family_learner, tmp_path):
    from transformers import pipeline

    model, inputs = family_learner("llama", head="ncm", depths="last")
    told = model.export(tmp_path / "out", "merged")
    assert 'pipeline("text-classification", FOLDER, truncation=True), or with' in told
    pipe = pipeline("text-classification", str(tmp_path / "out"), truncation=True)
    same_answers(pipe, model, [*inputs, "fat cat " * 100])


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("head", ["auto", "lda"])
def test_an_image_classifier_of_transformers_is_the_model_or_names_no_class(family_learner, tmp_path, kind, head):
    from transformers import AutoModelForImageClassification

    model, inputs = family_learner(kind, head=head, depths="auto" if head == "auto" else "last")
    told = model.export(tmp_path / "out", "merged")

    def load(**options):
        return AutoModelForImageClassification.from_pretrained(tmp_path / "out", **options)

    if inside := not (tmp_path / "out" / "head.safetensors").exists():
        loaded = load()
    else:
        if kind.startswith("timm"):
            with pytest.raises(ValueError, match="no classifier head"):
                load()
        elif kind == "clip":  # of which the library has no classifier at all
            with pytest.raises(ValueError, match="Please pass the argument `trust_remote_code=True`"):
                load(trust_remote_code=False)
        else:
            assert load().config.id2label == {}
        loaded = load(trust_remote_code=True)
        AutoModelForImageClassification._model_mapping._extra_content.clear()  # it registers the class
    assert inside == (head == "lda" and kind not in ("vit", "clip")) and "README.md" in told
    assert loaded.config.id2label == {0: "ca", 1: "cb", 2: "cc"}
    with torch.no_grad():
        close(loaded(**prepared(model, inputs)).logits, scores(model, inputs))


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("head", ["auto", "lda"])
def test_a_pipeline_of_images_is_the_model_with_its_code_and_an_error_without(family_learner, tmp_path, kind, head):
    from transformers import AutoModelForImageClassification, pipeline

    model, inputs = family_learner(kind, head=head, depths="auto" if head == "auto" else "last")
    told = model.export(tmp_path / "out", "merged")
    assert told.startswith('it loads with pipeline("image-classification", FOLDER, trust_remote_code=True), or with')
    with pytest.raises(ValueError, match="requires you to execute the code in the pipeline file"):
        pipeline("image-classification", model=str(tmp_path / "out"))
    pipe = pipeline("image-classification", str(tmp_path / "out"), trust_remote_code=True)
    AutoModelForImageClassification._model_mapping._extra_content.clear()  # it registers the class
    noise = np.random.default_rng(0).integers(0, 256, (33, 100, 4), np.uint8)
    noise[:, :50, 3] = 0
    odd = [Image.fromarray(noise), Image.fromarray(noise[..., 0].astype(np.uint16) * 257)]
    turned, exif = Image.fromarray(noise[..., :3]), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    found = [answers[0] for answers in pipe([*inputs[:4], *odd, str(tmp_path / "turned.png")])]
    expected = model.predict([*inputs[:4], *odd, Image.open(tmp_path / "turned.png")])
    assert [one["label"] for one in found] == [labels[0] for labels in expected.labels]
    close([one["score"] for one in found], expected.probabilities[:, 0].numpy())


@pytest.mark.parametrize("kind", WHOLE)
def test_peft_finds_the_base_model_by_itself(family_learner, tmp_path, kind):
    from peft import AutoPeftModel, AutoPeftModelForFeatureExtraction

    model, inputs = family_learner(kind)
    model.export(tmp_path / "out", "peft")
    merged, given = model.merged(), prepared(model, inputs)
    with torch.no_grad():
        expected, bare = merged(given), model.backbone.fingerprint
        for auto in (AutoPeftModelForFeatureExtraction, AutoPeftModel):
            loaded = auto.from_pretrained(tmp_path / "out").eval()
            # Not the wrapper, which hands images to some models as if they were texts.
            close(merged.features(loaded.get_base_model(), given), expected)
        close(merged.features(loaded.merge_and_unload(), given), expected)
    assert model.backbone.fingerprint == bare


@pytest.mark.parametrize("kind", ["t5", "timm-test_vit"])
def test_peft_refuses_to_guess_the_base_model_of_a_part(family_learner, tmp_path, kind):
    from peft import AutoPeftModelForFeatureExtraction, PeftModel
    from transformers import AutoModel

    model, _ = family_learner(kind)
    model.export(tmp_path / "out", "peft")
    base = model.backbone.location
    if kind.startswith("timm"):  # which transformers wraps, and whose layers have other names then
        base = tmp_path / "base"
        model.export(base, "merged")
    with pytest.raises(ValueError, match="Cannot infer the auto class from the config"):
        AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="not found in the base model"):
        PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "out")


def test_an_adapter_brings_its_class_names_to_a_base_with_others(
    family, family_learner, toy, work, tmp_path, monkeypatch
):
    import transformers as tf
    from peft import AutoPeftModelForSequenceClassification

    torch.manual_seed(0)
    base = shutil.copytree(family("llama"), tmp_path / "base")
    config = tf.AutoConfig.from_pretrained(base, id2label={0: "POSITIVE", 1: "NEGATIVE"}, pad_token_id=0)
    tf.LlamaForSequenceClassification(config).save_pretrained(base)
    monkeypatch.chdir(tmp_path)  # where a relative folder still leads somewhere
    _, inputs = family_learner("llama")
    task = Task("one", ("ca", "cb", "cc"), Samples(inputs, [i % 3 for i in range(18)]), modality="text")
    model = work.learned("base", [task], head="ncm", depths="last")
    model.export(tmp_path / "out", "peft")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)

    monkeypatch.chdir(tmp_path / "out")
    names = {0: "ca", 1: "cb", 2: "cc"}
    code = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    space = {}
    exec(code, space)
    auto = AutoPeftModelForSequenceClassification.from_pretrained(".", id2label=names, ignore_mismatched_sizes=True)
    with torch.no_grad():
        for loaded in (space["model"], auto.eval(), auto.merge_and_unload()):
            assert loaded.config.id2label == names
            close(loaded(**prepared(model, inputs)).logits, scores(model, inputs))


def test_an_adapter_of_features_fits_no_classifier_of_others(family, family_learner, tmp_path):
    import transformers as tf
    from peft import PeftModel

    model, inputs = family_learner("bert")
    model.export(tmp_path / "out", "peft")
    base = tf.AutoModelForSequenceClassification.from_pretrained(
        family("bert"), id2label={0: "POSITIVE", 1: "NEGATIVE"}
    )
    with pytest.raises(ValueError, match="not found in the base model"):
        PeftModel.from_pretrained(base, tmp_path / "out")
    with pytest.raises(KeyError, match="logits"):  # it comes down to a model of features
        tf.pipeline("text-classification", model=str(tmp_path / "out"))(inputs[0])


def test_an_adapter_is_swapped_for_a_later_one(family_learner, toy, work, family, tmp_path):
    from peft import AutoPeftModel
    from peft.utils.hotswap import hotswap_adapter

    first, inputs = family_learner("bert")
    second, _ = family_learner("bert", seed=1)
    for name, model in (("first", first), ("second", second)):
        model.export(tmp_path / name, "peft")
    loaded, given = AutoPeftModel.from_pretrained(tmp_path / "first").eval(), prepared(first, inputs)
    with torch.no_grad():
        close(first.merged().features(loaded, given), first.merged()(given))
        hotswap_adapter(loaded, str(tmp_path / "second"), adapter_name="default", torch_device="cpu")
        close(second.merged().features(loaded, given), second.merged()(given))
        assert (first.merged()(given) - second.merged()(given)).abs().max() > 1e-3
