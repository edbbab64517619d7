import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.ham import Adapter, Factors, cka, factor, inner, norm, weight

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


@few
@given(seeds, st.integers(1, 4), ranks)
def test_factor_equals_the_dense_least_squares(make, pairs, dense, seed, r1, r2):
    task, group = make(seed, r1), make(seed + 1, r2)
    assert factor(task, group) == pytest.approx(dense.factor(pairs(task), pairs(group)), abs=1e-6)


@few
@given(seeds, st.integers(1, 4))
def test_factor_is_the_cosine_of_b_where_a_is_shared(make, dense, seed, rank):
    task, other = make(seed, rank), make(seed + 1, rank)
    group = {n: Factors(task[n].A, other[n].B) for n in task}
    own, theirs = (torch.cat([x[n].B.flatten() for n in x]).double().numpy() for x in (task, group))
    assert factor(task, group) == pytest.approx(dense.cosine(own, theirs), abs=1e-6)


@few
@given(seeds, st.integers(2, 12), st.integers(1, 8), st.integers(1, 8))
def test_cka_equals_its_kernel_form(dense, seed, n, d1, d2):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, d1, generator=g), torch.randn(n, d2, generator=g)
    assert cka(x, y) == pytest.approx(dense.cka(x, y), abs=1e-9)
    turn, _ = torch.linalg.qr(torch.randn(d1, d1, generator=g))
    assert cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-5)


def test_an_update_of_zero_is_similar_to_nothing(make):
    x = make(0)
    zero = {n: f.scaled(0) for n, f in x.items()}
    assert weight(x, zero) == factor(zero, x) == factor(x, zero) == 0
    assert cka(torch.ones(4, 2), torch.randn(4, 3)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make, pairs, dense, dtype):
    x, y = make(1, 3, dtype), make(2, 3, dtype)
    assert weight(x, y) == pytest.approx(dense.weight(pairs(x), pairs(y)), abs=1e-6)
    assert factor(x, y) == pytest.approx(dense.factor(pairs(x), pairs(y)), abs=1e-6)


def test_large_half_precision_values_do_not_overflow():
    big = {"fc": Factors(torch.full((2, 8), 6e4, dtype=torch.float16), torch.full((8, 2), 6e4, dtype=torch.float16))}
    assert weight(big, big) == pytest.approx(1)


@pytest.mark.parametrize("measure", [weight, factor])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_layer_and_task(make, measure, bad):
    x = make(0)
    x["head"].B[1, 1] = bad
    with pytest.raises(ValueError, match=r"task 'birds' is not finite in layer 'head'"):
        measure(Adapter("birds", x), make(1))
    with pytest.raises(ValueError, match=r"not finite in layer 'head'"):
        measure(make(1), x)


@pytest.mark.parametrize("measure", [weight, factor])
def test_mismatches_name_layer_and_task(make, measure):
    x, y = make(0), make(1)
    lacking = {n: f for n, f in y.items() if n != "blocks.0.fc"}
    with pytest.raises(ValueError, match=r"a merged adapter .*'blocks.0.fc', but .*task 'birds' does not"):
        measure(Adapter("birds", lacking), x)
    with pytest.raises(ValueError, match=r"task 'birds' .*'blocks.0.fc', but a merged adapter does not"):
        measure(lacking, Adapter("birds", x))
    y["head"] = Factors(torch.ones(2, 5), torch.ones(6, 2))
    with pytest.raises(ValueError, match=r"task 'birds' and a merged adapter differ in layer 'head': .*\(6, 5\)"):
        measure(Adapter("birds", y), x)
    with pytest.raises(ValueError, match="updates no layer"):
        measure({}, {})


@pytest.mark.parametrize("shapes", [((4, 2), (5, 2)), ((1, 2), (1, 2)), ((4,), (4,))])
def test_cka_needs_matching_samples(shapes):
    with pytest.raises(ValueError, match="n >= 2"):
        cka(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_cka_needs_finite_features():
    with pytest.raises(ValueError, match="finite"):
        cka(torch.tensor([[1.0], [float("nan")]]), torch.ones(2, 1))
