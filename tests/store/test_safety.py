"""A store from a stranger, or from a bad disk: opened safely, or refused with one sentence that names the file."""

import json
import os
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.store import Store
from hamcl.store.manifest import sealed
from hamcl.store.objects import decode, encode


def forge(store, change):
    """Change the manifest and set its checksum right."""
    path = store.path / "manifest.json"
    value = json.loads(path.read_bytes())
    value.pop("checksum")
    change(value)
    path.write_bytes(sealed(value))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (2, r"has format version 2, newer than the 1 of this hamcl; install a newer hamcl"),
        (0, r"has format version 0, which this hamcl does not read .*; learn the tasks again into a new store"),
        (None, r"does not begin as hamcl writes it"),
    ],
)
def test_other_format_versions_are_refused_with_the_way_out(copied, version, sentence):
    forge(copied, lambda value: value.update(format=version))
    with pytest.raises(DataError, match=sentence):
        Store.open(copied.path)


def test_every_changed_byte_of_the_manifest_is_found(copied):
    path = copied.path / "manifest.json"
    good = path.read_bytes()
    for position in range(0, len(good), 97):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"manifest\.json"):
            Store.open(copied.path)
    path.write_bytes(good)
    assert Store.open(copied.path).manifest == copied.manifest


def test_a_changed_byte_of_any_other_file_is_found_and_named(copied, quick):
    for path in (copied.path / "objects").iterdir():
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        with pytest.raises(DataError, match=path.name):
            copied.verify()
        path.write_bytes(good)
    copied.verify()


def test_two_dozen_damaged_and_forged_stores(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    figures = import_module("fuzz_store").run(tmp_path, stores=24, seed=3)
    assert figures["problems"] == []
    assert figures["stores"] == 24
    assert figures["sentences"] > 10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(x=1), r"not valid: x: Unexpected keyword argument"),
        (
            lambda m: m["state"]["groups"][0]["file"].update(sha256="../../../etc/passwd"),
            r"sha256: String should match",
        ),
        (lambda m: m["config"].update(projection=2**20), r"'projection' must be at most 32768, got 1048576"),
        (
            lambda m: m["config"].update(rank="8"),
            r"the config in .* cannot be used: option 'rank' must be of type int",
        ),
        (lambda m: m["config"].update(colour=1), r"the config in .* cannot be used: there is no option 'colour'"),
        (lambda m: m["backbone"]["options"].update(image_size=10**6), r"image_size: Input should be less than or"),
        (lambda m: m["state"]["rows"].update(size=2**40), r"has 1099511627776 bytes for tensors of"),
        (lambda m: m["state"]["tasks"][0].update(columns=[0, 9]), r"the columns of the tasks are not those"),
        (lambda m: m["state"]["groups"][0].update(tasks=[]), r"the groups do not hold every task once"),
        (lambda m: m["state"]["groups"][0].update(importance=-1e308), r"groups.0.importance: Input should be greater"),
        (lambda m: m["state"].update(head={}), r"the head is not the config's"),
        (lambda m: m.update(earlier=m["earlier"][::-1]), r"earlier states that are not earlier"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(copied, change, sentence):
    forge(copied, change)
    with pytest.raises(DataError, match=sentence) as caught:
        Store.open(copied.path)
    assert "\n" not in str(caught.value)


def test_tensors_are_not_read_before_their_shapes_fit_the_model(copied, quick, monkeypatch):
    def change(manifest):
        manifest["state"]["head"]["ridge.gram"].update(size=3000)
        manifest["state"]["head"]["ridge.gram"]["tensors"]["ridge.gram"].update(shape=[33, 33])

    forge(copied, change)
    monkeypatch.setattr("hamcl.store.store.load_object", lambda *_: pytest.fail("something was read"))
    with pytest.raises(
        DataError, match=r"does not fit its backbone and config: tensor 'ridge.gram' of the head has the wrong"
    ):
        copied.model()


@pytest.mark.parametrize("change", [{"spec": "x" * 10_000}, {"layers": ["x" * 9] * 1000}])
def test_long_names_do_not_make_long_sentences(copied, change):
    forge(copied, lambda m: m["backbone"].update(change))
    with pytest.raises(DataError, match="cannot be used with its backbone") as caught:
        copied.model()
    assert len(str(caught.value)) < 800


def test_a_pattern_that_takes_for_ever_is_never_matched(copied, quick, week):
    expected = copied.model().logits(week(0).test)
    forge(copied, lambda m: m["config"].update(targets="(a|b|[a-z0-9.])*" * 20 + "!"))
    assert copied.model().logits(week(0).test).equal(expected)


def test_a_backbone_that_is_missing_or_another_one_is_refused(create, copied, tmp_path):
    with pytest.raises(DataError, match=r"backbone 'timm/test_vit2' is not the one .* its fingerprint is"):
        Store.open(copied.path, backbone="timm/test_vit2").model()
    with pytest.raises(DataError, match=r"cannot be used with its backbone: unknown backbone '.*/gone'"):
        Store.open(copied.path, backbone=str(tmp_path / "gone")).model()


def test_a_backbone_folder_may_move(bert_folder, tmp_path, toy):
    shutil.copytree(bert_folder, tmp_path / "bert")
    options = HAMConfig(rank=2, epochs=1, projection=16, device="cpu")
    store = Store.create(tmp_path / "texts.ham", backbone=str(tmp_path / "bert"), config=options)
    task = toy.task("one", ("a", "b"), modality="text")
    store.learn(task)
    (tmp_path / "bert").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="cannot be used with its backbone"):
        store.model()
    moved = Store.open(store.path, backbone=str(tmp_path / "elsewhere"))
    assert moved.evaluate([task]).overall.samples == 12


@pytest.mark.parametrize("name", [".lock", "tmp", "objects"])
def test_nothing_is_written_through_links(copied, quick, week, tmp_path, name):
    outside = tmp_path / "outside"
    if name == ".lock":
        outside.write_text("precious")
    else:
        shutil.copytree(copied.path / name, outside)
        shutil.rmtree(copied.path / name)
    (copied.path / name).unlink(missing_ok=True)
    (copied.path / name).symlink_to(outside)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if "outside" in str(p))
    with pytest.raises(DataError, match=r"a store holds no links"):
        copied.evaluate([week(0)])
    assert sorted((p.name, p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if "outside" in str(p)) == before


def test_options_of_a_new_store_are_checked(tmp_path):
    for options, sentence in [({"image_sise": 3}, "image_sise"), ({"image_size": 10**6}, "image_size")]:
        with pytest.raises(UsageError, match=rf"the options of the backbone cannot be used: {sentence}"):
            Store.create(tmp_path / "x.ham", backbone="timm/test_vit", backbone_options=options)
    with pytest.raises(UsageError, match="option 'keep' must lie between 0 and"):
        Store.create(tmp_path / "x.ham", backbone="timm/test_vit", keep=-1)
    assert not os.listdir(tmp_path)


FLOATS = st.floats(width=32, allow_nan=True)


@settings(deadline=None, max_examples=40)
@given(size=st.integers(2, 6), values=st.lists(FLOATS, min_size=36, max_size=36), symmetric=st.booleans())
def test_matrices_come_back_bit_for_bit_and_symmetric_ones_take_half(size, values, symmetric):
    matrix = torch.tensor(values)[: size * size].view(size, size)
    if symmetric:
        matrix = torch.where(torch.ones(size, size).triu().bool(), matrix, matrix.T)
    record, data = encode({"m": matrix, "n": torch.arange(3)})
    entry = record.tensors["m"]
    bits = matrix.view(torch.int32)
    assert entry.packed == torch.equal(bits, bits.T)
    assert entry.bytes == 4 * (size * (size + 1) // 2 if entry.packed else size * size)
    again = decode(record, data, Path("x"))
    assert torch.equal(again["m"].view(torch.int32), bits)
    assert torch.equal(again["n"], torch.arange(3))
    assert encode({"m": matrix.clone(), "n": torch.arange(3)})[0] == record
