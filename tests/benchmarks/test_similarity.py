import math
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.ham import Adapter, Factors

few = settings(derandomize=True, deadline=None, max_examples=20)
seeds = st.integers(0, 2**31)
ranks = st.integers(1, 12)


@pytest.fixture(scope="module")
def benchmark():
    """Import a benchmark by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield import_module


@pytest.fixture(scope="module")
def factor(benchmark):
    return benchmark("measures").factor


@pytest.fixture(scope="module")
def cka(benchmark):
    return benchmark("measures").cka


@few
@given(seeds, st.integers(1, 4), ranks)
def test_factor_equals_the_dense_least_squares(factor, make, pairs, dense, seed, r1, r2):
    task, group = make(seed, r1), make(seed + 1, r2)
    assert factor(task, group) == pytest.approx(dense.factor(pairs(task), pairs(group)), abs=1e-6)


@few
@given(seeds, st.integers(1, 4))
def test_factor_is_the_cosine_of_b_where_a_is_shared(factor, make, dense, seed, rank):
    task, other = make(seed, rank), make(seed + 1, rank)
    group = {n: Factors(task[n].A, other[n].B) for n in task}
    own, theirs = (torch.cat([x[n].B.flatten() for n in x]).double().numpy() for x in (task, group))
    assert factor(task, group) == pytest.approx(dense.cosine(own, theirs), abs=1e-6)


@few
@given(seeds, st.integers(2, 12), st.integers(1, 8), st.integers(1, 8))
def test_cka_equals_its_kernel_form(cka, dense, seed, n, d1, d2):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, d1, generator=g), torch.randn(n, d2, generator=g)
    assert cka(x, y) == pytest.approx(dense.cka(x, y), abs=1e-9)
    turn, _ = torch.linalg.qr(torch.randn(d1, d1, generator=g))
    assert cka(x, 3 * x @ turn + 7) == pytest.approx(1, abs=1e-5)


def test_an_update_of_zero_is_similar_to_nothing(factor, cka, make):
    x = make(0)
    zero = {n: f.scaled(0) for n, f in x.items()}
    assert factor(zero, x) == factor(x, zero) == 0
    assert cka(torch.ones(4, 2), torch.randn(4, 3)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(factor, make, pairs, dense, dtype):
    x, y = make(1, 3, dtype), make(2, 3, dtype)
    assert factor(x, y) == pytest.approx(dense.factor(pairs(x), pairs(y)), abs=1e-6)


def test_what_cannot_be_compared_is_an_error(factor, make):
    x, y = make(0), make(1)
    y["head"] = Factors(torch.ones(2, 5), torch.ones(6, 2))
    with pytest.raises(ValueError, match=r"task 'birds' and a merged adapter differ in layer 'head'"):
        factor(Adapter("birds", y), x)
    x["head"].B[1, 1] = math.nan
    with pytest.raises(ValueError, match=r"task 'birds' is not finite in layer 'head'"):
        factor(Adapter("birds", x), make(1))


@pytest.mark.parametrize("shapes", [((4, 2), (5, 2)), ((1, 2), (1, 2)), ((4,), (4,))])
def test_cka_needs_matching_samples(cka, shapes):
    with pytest.raises(ValueError, match="n >= 2"):
        cka(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_cka_needs_finite_features(cka):
    with pytest.raises(ValueError, match="finite"):
        cka(torch.tensor([[1.0], [float("nan")]]), torch.ones(2, 1))


def test_groups_are_filled_by_the_measure_and_not_by_the_learner(benchmark, make):
    similarity = benchmark("similarity")
    labels = {"a": 0, "b": 1, "c": 0, "d": 2, "e": 1}
    groups = similarity.By(2, similarity.told(labels))
    for seed, task in enumerate(labels):
        groups.absorb(groups.assign([0.0] * len(groups.groups)), Adapter(task, make(seed)), rule="svd", rank=2)
    assert [group.tasks for group in groups.groups] == [["a", "c", "d"], ["b", "e"]], "d knows none, so the first"
    opposite = similarity.By(2, lambda adapter, known: [-similarity.weight(adapter, group.layers) for group in known])
    for task, seed in (("a", 0), ("b", 1), ("c", 0)):
        opposite.absorb(opposite.assign([0.0] * len(opposite.groups)), Adapter(task, make(seed)), rule="svd", rank=2)
    assert [group.tasks for group in opposite.groups] == [["a"], ["b", "c"]]


def test_a_good_measure_is_told_from_a_bad_one(benchmark):
    judge = benchmark("similarity").judge
    kin = torch.arange(16)
    good = judge(((kin[:, None] // 2 == kin // 2) * 0.5 + (kin[:, None] // 4 == kin // 4) * 0.4).double().numpy())
    assert (good["test-retest AUC"], good["superclass AUC"], good["superclass ARI"]) == (1, 1, 1)
    assert good["mean, same task"] == pytest.approx(0.9)
    flat = judge(torch.zeros(16, 16).double().numpy())
    assert (flat["test-retest AUC"], flat["superclass AUC"]) == (0.5, 0.5)
