"""Where a model computes: devices, arithmetic, threads, and what is refused."""

from contextlib import nullcontext

import pytest
import torch

from hamcl.errors import UsageError
from hamcl.machine import Machine

CPU = torch.device("cpu")


@pytest.mark.parametrize(("capable", "kind"), [(True, torch.autocast), (False, nullcontext)])
def test_automatic_precision_asks_the_processor(monkeypatch, capable, kind):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: capable)
    assert type(Machine().autocast(CPU)) is kind
    with pytest.warns() if capable and not torch.cuda.is_available() else nullcontext():
        assert type(Machine().autocast(torch.device("cuda"))) is kind
    assert type(Machine().autocast(torch.device("mps"))) is nullcontext
    with Machine().autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if capable else torch.float32)


def test_automatic_precision_without_a_list_of_capabilities_is_full(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert type(Machine().autocast(CPU)) is nullcontext


def test_a_given_precision_is_taken():
    assert type(Machine(precision="fp32").autocast(CPU)) is nullcontext
    with Machine(precision="bf16").autocast(CPU):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_devices():
    assert Machine("cpu").resolved() == CPU
    automatic = Machine().resolved()
    assert torch.zeros(1, device=automatic).device.type == automatic.type
    assert (automatic.type == "cpu") == (not torch.accelerator.is_available())
    for name in ("quantum", "cuda:99", "cpu:x"):
        with pytest.raises(UsageError, match=rf"^device '{name}' cannot be used here: [^\n]+$"):
            Machine(name).resolved()


@pytest.mark.parametrize(
    ("option", "value"),
    [("eval_batch_size", 0), ("threads", 0), ("threads", 5000), ("precision", "fp64"), ("on_bad_sample", "ignore")],
)
def test_values_out_of_range_are_refused(option, value):
    with pytest.raises(UsageError, match=rf"^option '{option}' must be [^\n]+$"):
        Machine(**{option: value})


def test_threads_are_set_only_where_they_are_asked_for():
    before = torch.get_num_threads()
    try:
        Machine().use_threads()
        assert torch.get_num_threads() == before
        Machine(threads=before + 1).use_threads()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
