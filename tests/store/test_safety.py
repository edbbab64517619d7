"""A store from a stranger, or from a bad disk: opened safely, or refused with one sentence that names the file."""

import hashlib
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.config import HAMConfig
from hamcl.errors import DataError, UsageError
from hamcl.store import Store
from hamcl.store.manifest import sealed
from hamcl.store.objects import decode, encode, load_object


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
        (4, r"has format version 4, newer than the 3 of this hamcl; install a newer hamcl"),
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


def test_two_dozen_damaged_and_forged_stores(soak, tmp_path):
    figures = soak("fuzz_store").run(tmp_path, stores=24, seed=3)
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
    monkeypatch.setattr("hamcl.store.model.load_object", lambda *_: pytest.fail("something was read"))
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
    options = HAMConfig(rank=2, epochs=1, projection=16)
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


def refused_cheaply(forked, work, match):
    """`work` must be refused without taking more than 500 MiB of memory."""

    def bounded():
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + 500 * 2**20, resource.RLIM_INFINITY))
        with pytest.raises(DataError, match=match) as caught:
            work()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000

    assert forked(bounded) == 0


def sparse(path, size):
    """A file of zeros that takes no place."""
    path.touch()
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(history=[{}] * 500_000), r"holds \d+ lists and objects, more than the 131072"),
        (lambda m: m.update(history=[{}] * 100_000), r"history\.0\.time: Field required"),
        (lambda m: m.update(history=[1] * 300_000), r"history\.0: Input should be an object"),
        (lambda m: m.update(history=[1] * 1_100_000), r"holds \d+ values, more than the 1048576"),
        (
            lambda m: m["state"]["tasks"][0].update(columns=[-1] * 300_000),
            r"tasks\.0\.columns\.0: Input should be gr",
        ),
        (lambda m: m.update({f"x{i}": 1 for i in range(200_000)}), r"x0: Unexpected keyword argument"),
        (
            lambda m: m["state"]["evaluations"][0].update(
                classes={str(i): {"accuracy": 5, "samples": 1} for i in range(50_000)}
            ),
            r"classes\.0\.accuracy: Input should be less",
        ),
        (lambda m: m["config"].update({f"x{i}": i for i in range(100_000)}), r"there is no option 'x0'"),
    ],
    ids=["entries", "empty", "numbers", "values", "columns", "keys", "scores", "options"],
)
def test_a_large_manifest_of_nonsense_costs_little(copied, forked, change, sentence):
    forge(copied, change)
    refused_cheaply(forked, lambda: Store.open(copied.path), sentence)


@pytest.mark.parametrize("part", ["manifest.json", "unfinished.json", "group", "head", "earlier"])
def test_a_sparse_file_is_never_read(copied, quick, week, forked, part):
    state = copied.manifest.state
    names = {"group": state.groups[0].file.name, "head": state.head["ridge.gram"].name}
    names["earlier"] = copied.manifest.earlier[-1].name
    path = copied.path / names.get(part, part)
    sparse(path, 12 * 2**30)
    work = copied.verify if part == "earlier" else lambda: copied.learn(week(3))
    refused_cheaply(forked, work, rf"{path.name} has 12884901888 bytes")


def test_a_group_of_a_forged_rank_is_not_read(copied, quick, forked):
    def change(manifest):
        file = manifest["state"]["groups"][0]["file"]
        for name, tensor in file["tensors"].items():
            tensor["shape"][0 if name.endswith(".A") else 1] = 2**24
        file["size"] = sum(4 * t["shape"][0] * t["shape"][1] for t in file["tensors"].values()) + 5000
        sparse(copied.path / "objects" / f"{file['sha256']}.safetensors", file["size"])

    forge(copied, change)
    refused_cheaply(forked, copied.model, r"of group 0 has rank 16777216")


def test_a_forged_projection_is_not_made(copied, quick, forked):
    forge(copied, lambda m: m["config"].update(projection=32768))
    refused_cheaply(forked, copied.model, r"the head has no projection of width 32768")


def test_a_forged_earlier_state_is_not_read(copied, quick, forked):
    earlier = copied.manifest.earlier[-1]
    value = json.loads((copied.path / earlier.name).read_bytes())
    value["head"]["ridge.gram"].update(size=12 * 2**30)
    value["head"]["ridge.gram"]["tensors"]["ridge.gram"].update(shape=[3 * 2**30 - 1000], packed=False)
    sparse(copied.path / "objects" / f"{value['head']['ridge.gram']['sha256']}.safetensors", 12 * 2**30)
    data = json.dumps(value).encode()
    name = hashlib.sha256(data).hexdigest()
    (copied.path / "objects" / f"{name}.json").write_bytes(data)
    forge(copied, lambda m: m["earlier"][-1].update(sha256=name, size=len(data)))
    for work in (copied.verify, copied.undo):
        refused_cheaply(forked, work, r"an earlier state in .* has \d+ bytes, the present one")


def test_a_forged_position_is_not_read(copied, quick, week, forked):
    def stop(step):
        if step.epoch == 2:
            os._exit(7)

    assert forked(lambda: copied.learn(week(3), progress=stop)) == 7
    path = copied.path / "unfinished.json"
    value = json.loads(path.read_bytes())
    value.pop("checksum")
    value["position"].update(size=12 * 2**30, tensors={"x": {"dtype": "U8", "shape": [12 * 2**30], "packed": False}})
    sparse(copied.path / "objects" / f"{value['position']['sha256']}.safetensors", 12 * 2**30)
    path.write_bytes(sealed(value))
    refused_cheaply(forked, lambda: copied.learn(week(3)), r"its position has 12884901888 bytes, where .*; drop it")


def test_layers_that_the_backbone_has_not_are_refused_before_a_pattern_is_made(copied, quick, forked):
    forge(copied, lambda m: m["backbone"].update(layers=[f"x{i}" for i in range(60_000)]))
    refused_cheaply(forked, copied.model, r"manifest\.json tells of layers that the backbone has not")
    forge(copied, lambda m: m["backbone"].update(layers=[f"x{i}" for i in range(70_000)]))
    refused_cheaply(forked, copied.model, r"backbone\.layers: Tuple should have at most 65536 items")


def test_the_fingerprint_is_compared_before_the_network_runs(copied, monkeypatch):
    forge(copied, lambda m: m["backbone"].update(fingerprint="0" * 64))
    monkeypatch.setattr("hamcl.nn.backbones.Backbone.forward", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(DataError, match=r"backbone 'timm/test_vit' is not the one .* its fingerprint is"):
        copied.model()


def forge_head(store, change):
    """Change one tensor of the head and set all checksums right."""
    record = store.manifest.state.head["ridge.targets"]
    tensors = load_object(store.path, record)
    new, data = encode({name: change(value) for name, value in tensors.items()})
    (store.path / new.name).write_bytes(data)
    forge(store, lambda m: m["state"]["head"]["ridge.targets"].update(sha256=new.sha256, size=new.size))


def test_numbers_that_are_not_finite_are_found_when_they_are_read(copied, quick):
    def change(value):
        value[0, 0] = float("nan")
        return value

    forge_head(copied, change)
    for work in (copied.model, copied.verify):
        with pytest.raises(DataError, match=r"tensor 'ridge.targets' of .* holds numbers that are not finite"):
            work()


def test_scores_that_are_not_finite_are_an_error_everywhere(copied, quick, week, tmp_path):
    forge_head(copied, lambda value: torch.full_like(value, 3e38))
    model = copied.model()
    for work in (
        lambda: model.predict(week(0).test.inputs),
        lambda: model.evaluate(week(0)),
        lambda: copied.evaluate([week(0)], record=False),
        lambda: model.export(tmp_path / "out", "merged"),
    ):
        with pytest.raises(DataError, match=r"not finite"):
            work()
    assert not (tmp_path / "out").exists()


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
