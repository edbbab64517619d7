"""Adapters trained by stock PEFT become tasks."""

import copy
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hamcl.errors import DataError, UsageError
from hamcl.export.foreign import read_foreign
from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.streams.base import Samples, Task

SMALL = {"epochs": 1, "batch_size": 4, "rank": 2, "lr": 5e-3, "projection": 40}


def fresh(backbone, **options):
    """A learner that knows nothing, on a backbone or on that of a folder."""
    config = HAM.configured(options, SMALL)
    if isinstance(backbone, Path):
        backbone = load_backbone(str(backbone), depths=config.depths_to_read)
    return HAM(backbone, config, Machine(device="cpu", precision="fp32"))


def lora(module: nn.Module, folder, task_type=None, **options):
    """Save a LoRA of random factors with stock PEFT; the PEFT model."""
    import peft  # after hamcl has prepared torchvision

    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["qkv", "fc1", "fc2"], **options}
    torch.manual_seed(0)
    model = peft.get_peft_model(copy.deepcopy(module), peft.LoraConfig(task_type=task_type, **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return model


def change(folder, **values):
    """Edit the adapter's configuration."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.fixture(scope="module")
def hf_vit(tmp_path_factory):
    """The folder of a transformers ViT that reads 16 pixels, whose classifier sees the class token."""
    from hamcl.reading._torchvision import ensure_torchvision

    ensure_torchvision()
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "vit"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 16}')
    return folder


KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "few layers": {"target_modules": ["qkv"]},
    "patterns": {"rank_pattern": {"qkv": 5, r".*\.fc2": 1}, "alpha_pattern": {"qkv": 2, "^blocks.0.mlp.fc1": 9}},
    "high rank": {"r": 40, "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_that_of_peft(toy, tmp_path, kind):
    bare = toy.vit()
    theirs = lora(bare.module, tmp_path, **KINDS[kind])
    model = fresh(toy.vit())
    foreign = read_foreign(tmp_path, model.backbone)
    batch = bare.preprocess.example(2)
    with torch.no_grad():
        expected = theirs(batch["pixel_values"])
    assert (expected - bare(batch)).abs().max() > 1e-2 * expected.abs().max()
    close(model.model.folded(foreign.layers)(batch), expected)


@pytest.mark.parametrize("kind", ["plain", "rslora", "patterns"])
def test_one_adapter_comes_back_as_it_was_and_its_export_too(toy, tmp_path, kind):
    """Through a group, an export and another import, with ranks and alphas by layer."""
    bare, task = toy.vit(), toy.task("theirs", ["a", "b"])
    theirs = lora(bare.module, tmp_path / "theirs", **KINDS[kind])
    batch = bare.preprocess.example(2)
    with torch.no_grad():
        expected = theirs(batch["pixel_values"])
    for source, out in (("theirs", "first"), ("first", "second")):
        model = fresh(toy.vit())
        report = model.import_adapter(tmp_path / source, task)
        assert report.merge_error < 1e-6
        close(model.merged()(batch), expected)
        model.export(tmp_path / out, "peft")
        import peft

        loaded = peft.PeftModel.from_pretrained(toy.vit().module, tmp_path / out).eval()
        with torch.no_grad():
            close(loaded(batch["pixel_values"]), expected)


@pytest.mark.parametrize("merge", ["concat", "svd", "mean", "ties", "dare"])
def test_an_imported_adapter_is_grouped_and_merged(toy, tmp_path, merge):
    model = fresh(toy.vit(), merge=merge, max_groups=1, density=0.5, head="lda")
    model.learn(toy.task("first", ["a", "b"]))
    lora(toy.vit().module, tmp_path, target_modules=["qkv"])
    report = model.import_adapter(tmp_path, toy.task("theirs", ["c", "d"]))
    assert (report.task, report.group, report.opened) == ("theirs", 0, False)
    assert len(report.similarities) == 1 and math.isfinite(report.similarities[0])
    assert model.classes == ("a", "b", "c", "d") and model.tasks == [[0, 1], [2, 3]]
    assert [group.tasks for group in model.groups.groups] == [["first", "theirs"]]
    scores = model.logits(toy.task("theirs", ["c", "d"]).test)
    assert scores.shape == (12, 4) and scores.isfinite().all()
    model.learn(toy.task("last", ["e", "f"]))
    assert model.task_names == ["first", "theirs", "last"]


@pytest.mark.parametrize("head", ["lda", "ridge"])
def test_importing_what_was_learned_gives_the_same_model(toy, tmp_path, head):
    task = toy.task("one", ["a", "b", "c"])
    learned, imported = (fresh(toy.vit(), head=head, merge="concat", max_groups=None) for _ in range(2))
    learned.learn(task)
    learned.export(tmp_path / "out", "adapters")
    imported.import_adapter(tmp_path / "out" / "group-0", task)
    close(imported.logits(task.test), learned.logits(task.test))
    assert imported.classes == learned.classes and imported.objective.augmentation == learned.objective.augmentation


@pytest.mark.parametrize("head", ["linear", "lda"])
def test_an_adapter_of_a_task_model(toy, hf_vit, tmp_path, head):
    """Its layers have the model's prefix; with its classifier no sample is needed."""
    from transformers import ViTForImageClassification

    bare = ViTForImageClassification.from_pretrained(hf_vit, num_labels=3)
    targets = [f"{name}" for name in load_backbone(str(hf_vit)).targets]
    theirs = lora(bare, tmp_path, target_modules=[name.rpartition(".")[2] for name in targets],
                  modules_to_save=["classifier"])  # fmt: skip
    with torch.no_grad():
        theirs.base_model.model.classifier.modules_to_save["default"].weight.normal_()
    theirs.save_pretrained(tmp_path)
    model = fresh(hf_vit, head=head)
    task = toy.task("theirs", ["x", "y", "z"])
    if head == "lda":
        model.import_adapter(tmp_path, task)
        assert model.evaluate(task) > 1 / 3
        return
    model.import_adapter(tmp_path, Task("theirs", ("x", "y", "z"), Samples()))
    prepare = model.backbone.preprocess.transform(False, "none")
    with torch.no_grad():
        expected = theirs(torch.stack([prepare(image) for image in task.test.inputs])).logits
    close(model.logits(task.test), expected)


def test_a_classifier_must_see_the_features(toy, bert_folder, tmp_path):
    from transformers import BertForSequenceClassification

    bare = BertForSequenceClassification.from_pretrained(bert_folder, num_labels=2)
    lora(bare, tmp_path, task_type="SEQ_CLS", target_modules=["query"])
    model = fresh(bert_folder, head="linear")
    with pytest.raises(UsageError, match="'classifier' reads other features than backbone"):
        model.import_adapter(tmp_path, Task("t", ("x", "y"), Samples(), modality="text"))
    with pytest.raises(UsageError, match=r"saved classifier.bias \(2,\), classifier.weight \(2, 16\) instead of one"):
        model.import_adapter(tmp_path, Task("t", ("x", "y", "z"), Samples(), modality="text"))
    analytic = fresh(bert_folder, head="ncm")
    analytic.import_adapter(tmp_path, toy.task("t", ["x", "y"], modality="text"))
    assert analytic.classes == ("x", "y")


def test_what_the_head_needs_is_said(toy, tmp_path):
    lora(toy.vit().module, tmp_path)
    empty = Task("theirs", ("c", "d"), Samples())
    for head, message in [
        ("ridge", "the head takes its statistics from samples: give training samples of each class of 'theirs'"),
        ("linear", "the adapter saved no classifier instead of one linear layer of 2 classes on 32 features"),
        ("cosine", "head 'cosine' compares directions"),
    ]:
        model = fresh(toy.vit(), head=head)
        with pytest.raises(UsageError, match=message):
            model.import_adapter(tmp_path, empty)
        assert model.classes == () and not model.groups.groups


def test_a_failed_import_changes_nothing(toy, tmp_path, monkeypatch):
    model = fresh(toy.vit())
    model.learn(toy.task("first", ["a", "b"]))
    before = model.state_dict()
    lora(toy.vit().module, tmp_path)

    class Broken(list):
        def __getitem__(self, index):
            raise DataError("unreadable")

    task = toy.task("theirs", ["c", "d"])
    with pytest.raises(DataError, match="unreadable"):
        model.import_adapter(
            tmp_path, Task("theirs", ("c", "d"), Samples(Broken(task.train.inputs), task.train.labels))
        )
    assert toy.same(model.state_dict(), before)


REFUSED = {
    "dora": (dict(use_dora=True), "holds '.*lora_magnitude_vector.*neither a LoRA factor|use_dora=True"),
    "bias": (dict(bias="lora_only"), "bias='lora_only', which makes it more than a plain LoRA"),
    "olora": (dict(init_lora_weights="olora"), "was initialised with 'olora', which changes the base weights"),
    "whole layers": (dict(modules_to_save=["norm"], target_modules=["qkv"]), "holds 'norm.bias' trained as a whole"),
    "whole adapted layers": (dict(modules_to_save=["fc2"], target_modules=["qkv"]), "trained as a whole"),
    "lora bias": (dict(lora_bias=True), "lora_bias=True"),
    "kasa": (dict(kasa_config={}), "has kasa_config="),
    "other layers": (dict(target_modules=["proj"]), r"adapts layer 'blocks.0.attn.proj', which is not adapted here"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_lora_is_refused(toy, tmp_path, kind):
    options, message = REFUSED[kind]
    lora(toy.vit().module, tmp_path, **options)
    model = fresh(toy.vit(), targets="qkv|fc1")
    with pytest.raises(UsageError, match=message):
        read_foreign(tmp_path, model.backbone)


def test_other_kinds_and_unknown_settings_are_refused(toy, tmp_path):
    backbone = fresh(toy.vit()).backbone
    lora(toy.vit().module, tmp_path)
    for values, message in [
        ({"peft_type": "LOHA"}, "of type 'LOHA'; only LORA"),
        ({"brand_new": 3}, "has brand_new=3"),
        ({"layer_replication": [[0, 1]]}, "has layer_replication"),
    ]:
        kept = (tmp_path / "adapter_config.json").read_text()
        change(tmp_path, **values)
        with pytest.raises(UsageError, match=message):
            read_foreign(tmp_path, backbone)
        (tmp_path / "adapter_config.json").write_text(kept)
    assert read_foreign(tmp_path, backbone).prefix == ""


def test_another_base_is_refused(toy, tmp_path):
    backbone = fresh(toy.vit()).backbone
    lora(toy.vit().module, tmp_path)
    backbone.spec = "hf/google/vit-base-patch16"
    change(tmp_path, base_model_name_or_path="facebook/deit-small")
    with pytest.raises(UsageError, match="was made for 'facebook/deit-small', not for backbone 'hf/google/vit-base"):
        read_foreign(tmp_path, backbone)
    change(tmp_path, base_model_name_or_path="models/vit-base-patch16")
    assert read_foreign(tmp_path, backbone).layers

    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(tensors, weights, metadata={"base_fingerprint": "0" * 64, "base": "another"})
    with pytest.raises(UsageError, match=r"was made for other weights \(another, sha256 000000000000\)"):
        read_foreign(tmp_path, backbone)

    name = "base_model.model.blocks.0.attn.qkv.lora_A.weight"
    save_file({**tensors, name: torch.zeros(3, 64)}, weights)
    with pytest.raises(UsageError, match=r"does not fit layer 'blocks.0.attn.qkv'.*it was made for another model"):
        read_foreign(tmp_path, backbone)
    save_file({key.replace("blocks.0", "blocks.7"): tensor for key, tensor in tensors.items()}, weights)
    with pytest.raises(UsageError, match=r"adapts layer 'blocks.7.attn.qkv', which backbone .* does not have"):
        read_foreign(tmp_path, backbone)


def test_damaged_adapters_are_told(toy, tmp_path):
    backbone = fresh(toy.vit()).backbone
    with pytest.raises(DataError, match="is no PEFT adapter"):
        read_foreign(tmp_path, backbone)
    lora(toy.vit().module, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file({**tensors, name: torch.full_like(tensors[name], torch.nan)}, weights)
    with pytest.raises(DataError, match="is not finite in layer"):
        read_foreign(tmp_path, backbone)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, weights)
    with pytest.raises(DataError, match="lacks a factor of layer"):
        read_foreign(tmp_path, backbone)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match="is damaged"):
        read_foreign(tmp_path, backbone)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(DataError, match="holds its weights as a pickle"):
        read_foreign(tmp_path, backbone)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(DataError, match="does not hold JSON"):
        read_foreign(tmp_path, backbone)


HOSTILE = {
    "a pattern without an end": ({"alpha_pattern": {"(([a-z0-9.]+)+)+!": 1}}, UsageError, "could take for ever"),
    "a pattern of many repetitions": ({"alpha_pattern": {".*.*.*.*x": 1}}, UsageError, "could take for ever"),
    "a look-ahead": ({"alpha_pattern": {r"(?=qkv)\1": 1}}, UsageError, "could take for ever"),
    "many patterns": (
        {"alpha_pattern": {f"layer{i}": 1 for i in range(3000)}},
        UsageError,
        "by 3000 patterns, too many",
    ),
    "many repetitions": ({"alpha_pattern": {f".*{i}": 1 for i in range(30)}}, UsageError, "by 30 patterns, too many"),
    "no pattern": ({"alpha_pattern": {"(": 1}}, DataError, r"'\(.*' is no pattern of layer names"),
    "a list for a mapping": ({"alpha_pattern": ["qkv"]}, DataError, r"damaged: alpha_pattern is \['qkv'\]"),
    "an alpha of 401 digits": ({"lora_alpha": 10**400}, DataError, r"damaged: lora_alpha is 10+\.\.\.$"),
    "an alpha of 5000 digits": (
        '{"peft_type": "LORA", "lora_alpha": 1' + "0" * 5000 + "}",
        DataError,
        "not hold JSON",
    ),
    "an infinite alpha": ({"alpha_pattern": {"qkv": math.inf}}, DataError, "lora_alpha is inf"),
    "an alpha that is none": ({"lora_alpha": True}, DataError, "lora_alpha is True"),
    "a number for a list": ({"modules_to_save": 5}, DataError, "damaged: modules_to_save is 5"),
    "a list of numbers": ({"modules_to_save": [5]}, DataError, r"damaged: modules_to_save is \[5\]"),
    "a long value": ({"brand_new": "x" * 10**5}, UsageError, r"has brand_new='x{56}\.\.\., which makes"),
    "deep brackets": ("[" * 20_000 + "]" * 20_000, DataError, "does not hold JSON"),
    "a huge file": ("{" + " " * 5_000_000 + "}", DataError, "has 5000002 bytes, more than"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_configuration_is_one_sentence(toy, tmp_path, kind):
    values, error, message = HOSTILE[kind]
    backbone = fresh(toy.vit()).backbone
    lora(toy.vit().module, tmp_path)
    if isinstance(values, str):
        (tmp_path / "adapter_config.json").write_text(values)
    else:
        change(tmp_path, **values)
    with pytest.raises(error, match=message) as told:
        read_foreign(tmp_path, backbone)
    assert len(str(told.value)) < 400 + len(str(tmp_path)) and "\n" not in str(told.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_named_pipe_in_place_of_a_file_does_not_hang(toy, tmp_path, name):
    lora(toy.vit().module, tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"has no (readable )?{name}"):
        read_foreign(tmp_path, fresh(toy.vit()).backbone)


def test_weights_larger_than_the_model_are_not_read(toy, tmp_path):
    lora(toy.vit().module, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    with weights.open("rb+") as file:
        file.truncate(12 * 2**30)  # sparse
    with pytest.raises(
        UsageError, match="has 12884901888 bytes, more than twice the backbone; no LoRA of it has so many"
    ):
        read_foreign(tmp_path, fresh(toy.vit()).backbone)
