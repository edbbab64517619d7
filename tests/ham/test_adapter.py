import pytest
import torch

from hamcl.ham import Adapter, Factors


def test_factors_need_a_common_rank():
    with pytest.raises(ValueError, match=r"A \(3, 5\) and B \(4, 2\)"):
        Factors(torch.ones(3, 5), torch.ones(4, 2))
    with pytest.raises(ValueError, match="factors need"):
        Factors(torch.ones(3, 5, 1), torch.ones(4, 3))


def test_factors_describe_their_delta():
    f = Factors(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0], [-1.0]]))
    assert (f.rank, f.shape) == (1, (2, 3))
    assert f.delta().tolist() == [[2, 4, 6], [-1, -2, -3]]
    assert torch.equal(f.scaled(-2).delta(), -2 * f.delta())
    assert f.to(torch.float64).delta().dtype == torch.float64


def test_check_names_task_and_layer(make):
    layers = make(0)
    Adapter("birds", layers).check()
    layers["head"].A[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"task 'birds' is not finite in layer 'head'"):
        Adapter("birds", layers).check()
    with pytest.raises(ValueError, match=r"task 'birds' has the importance nan"):
        Adapter("birds", make(0), float("nan")).check()
