import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.ham import Adapter, Factors, inner, norm, weight

few = settings(derandomize=True, deadline=None, max_examples=20)
seeds = st.integers(0, 2**31)
ranks = st.integers(1, 12)


@few
@given(seeds, ranks, ranks)
def test_weight_equals_the_dense_cosine(make, pairs, dense, seed, r1, r2):
    x, y = make(seed, r1), make(seed + 1, r2)
    assert weight(x, y) == pytest.approx(dense.weight(pairs(x), pairs(y)), abs=1e-6)
    assert weight(y, x) == pytest.approx(weight(x, y), abs=1e-12)
    assert weight(x, x) == pytest.approx(1, abs=1e-12)


@few
@given(seeds, ranks, ranks)
def test_inner_and_norm_equal_the_dense_ones(make, pairs, dense, seed, r1, r2):
    x, y = make(seed, r1)["head"], make(seed + 1, r2)["head"]
    dx, dy = (dense.delta((f.A, f.B)) for f in (x, y))
    assert float(inner(x, y)) == pytest.approx((dx * dy).sum(), rel=1e-9, abs=1e-9)
    assert float(norm(x)) == pytest.approx((dx**2).sum() ** 0.5, rel=1e-9)


@few
@given(seeds, st.floats(0.01, 100))
def test_weight_depends_on_the_delta_alone(make, seed, scale):
    x, y = make(seed), make(seed + 1)
    turned = {n: Factors(f.A.flip(0) * scale, f.B.flip(1)) for n, f in x.items()}
    assert weight(turned, y) == pytest.approx(weight(x, y), abs=1e-6)
    assert weight({n: f.scaled(-1) for n, f in x.items()}, y) == pytest.approx(-weight(x, y), abs=1e-9)


def test_an_update_of_zero_is_similar_to_nothing(make):
    x = make(0)
    assert weight(x, {n: f.scaled(0) for n, f in x.items()}) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make, pairs, dense, dtype):
    x, y = make(1, 3, dtype), make(2, 3, dtype)
    assert weight(x, y) == pytest.approx(dense.weight(pairs(x), pairs(y)), abs=1e-6)


def test_large_half_precision_values_do_not_overflow():
    big = {"fc": Factors(torch.full((2, 8), 6e4, dtype=torch.float16), torch.full((8, 2), 6e4, dtype=torch.float16))}
    assert weight(big, big) == pytest.approx(1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_layer_and_task(make, bad):
    x = make(0)
    x["head"].B[1, 1] = bad
    with pytest.raises(ValueError, match=r"task 'birds' is not finite in layer 'head'"):
        weight(Adapter("birds", x), make(1))
    with pytest.raises(ValueError, match=r"not finite in layer 'head'"):
        weight(make(1), x)


def test_mismatches_name_layer_and_task(make):
    x, y = make(0), make(1)
    lacking = {n: f for n, f in y.items() if n != "blocks.0.fc"}
    with pytest.raises(ValueError, match=r"a merged adapter .*'blocks.0.fc', but .*task 'birds' does not"):
        weight(Adapter("birds", lacking), x)
    with pytest.raises(ValueError, match=r"task 'birds' .*'blocks.0.fc', but a merged adapter does not"):
        weight(lacking, Adapter("birds", x))
    y["head"] = Factors(torch.ones(2, 5), torch.ones(6, 2))
    with pytest.raises(ValueError, match=r"task 'birds' and a merged adapter differ in layer 'head': .*\(6, 5\)"):
        weight(Adapter("birds", y), x)
    with pytest.raises(ValueError, match="updates no layer"):
        weight({}, {})
