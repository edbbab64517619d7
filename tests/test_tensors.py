import pytest
import safetensors.torch
import torch

from hamcl.tensors import pack, read_tensors, unpack, write_tensors

TENSORS = {
    "matrix": torch.arange(6.0).reshape(2, 3),
    "number": torch.tensor(7),
    "empty": torch.zeros(0, 4, dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
}


def same(a, b):
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and a[n].equal(b[n]) for n in a)


def test_tensors_come_back_as_they_were(tmp_path):
    assert same(unpack(pack(TENSORS)), TENSORS)
    write_tensors(tmp_path / "x", TENSORS, {"who": "ä", "what": "{}"})
    found, texts = read_tensors(tmp_path / "x")
    assert same(found, TENSORS) and texts == {"who": "ä", "what": "{}"}
    write_tensors(tmp_path / "x", TENSORS)
    assert read_tensors(tmp_path / "x")[1] == {}


def test_the_bytes_are_those_of_safetensors(tmp_path):
    assert pack(TENSORS) == pack(dict(reversed(TENSORS.items()))) == safetensors.torch.save(TENSORS)
    write_tensors(tmp_path / "x", TENSORS)
    assert (tmp_path / "x").read_bytes() == pack(TENSORS)


def test_tensors_that_lie_in_one_another_or_by_columns_are_written_apart():
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    mixed = {"whole": whole, "row": whole[1], "turned": whole.T, "again": whole}
    found = unpack(pack(mixed))
    assert same(found, {name: tensor.detach() for name, tensor in mixed.items()})
    channels = torch.rand(1, 3, 2, 2).to(memory_format=torch.channels_last)
    assert unpack(pack({"x": channels}))["x"].equal(channels)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 64, pack(TENSORS)[:-1]])
def test_what_holds_no_tensors_is_a_value_error(tmp_path, data):
    with pytest.raises(ValueError):
        unpack(data)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError):
        read_tensors(tmp_path / "x")


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError, match="nothing"):
        read_tensors(tmp_path / "nothing")
