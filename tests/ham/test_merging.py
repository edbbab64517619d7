import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.ham import RULES, Factors, Group, compress, concat, final, merge_layers, prune

few = settings(derandomize=True, deadline=None, max_examples=20)
seeds = st.integers(0, 2**31)
ranks = st.integers(1, 12)
densities = st.floats(0.01, 1)
SUMS, AVERAGES = ("concat", "svd", "dare"), ("mean", "ties")


def close(x, y):
    return np.allclose(x, y, rtol=1e-5, atol=1e-5)


def test_every_rule_is_tested():
    assert {*SUMS, *AVERAGES} == set(RULES)


# prune


@few
@given(seeds, densities)
def test_prune_equals_the_entry_by_entry_reference(make, dense, seed, density):
    for f in make(seed).values():
        pruned = prune(f, density)
        assert np.array_equal(pruned.A.numpy(), dense.prune(f.A.numpy(), density))
        assert np.array_equal(pruned.B.numpy(), dense.prune(f.B.numpy(), density))
        exact = f.to(torch.float64)
        cut = prune(exact, density, "delta")
        assert np.array_equal(cut.delta().numpy(), dense.prune(exact.delta().numpy(), density))
        assert cut.rank == (min(f.shape) if density < 1 else f.rank)


@few
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=30), densities)
def test_prune_keeps_the_stated_count_among_equal_magnitudes(dense, values, density):
    x = torch.tensor([values], dtype=torch.float32) + 10 * torch.tensor([values]).sign() + 0.5  # no zeros, many equals
    pruned = prune(Factors(x, torch.ones(1, 1)), density).A
    assert int((pruned != 0).sum()) == max(1, round(density * len(values)))
    assert np.array_equal(pruned.numpy(), dense.prune(x.numpy(), density))


@pytest.mark.parametrize("on", ["factors", "delta"])
def test_density_one_returns_the_input(make, on):
    f = make(0)["head"]
    assert prune(f, 1.0, on) is f


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan")])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_densities_outside_the_range_are_errors(make, rule, density):
    with pytest.raises(ValueError, match="density"):
        prune(make(0)["head"], density)
    with pytest.raises(ValueError, match="density"):
        merge_layers([make(0)], rule=rule, density=density, generator=torch.Generator())


def test_prune_on_something_else_is_an_error(make):
    with pytest.raises(ValueError, match=r"'B'.*'factors' or 'delta'"):
        prune(make(0)["head"], 0.5, "B")


# compress


@few
@given(seeds, ranks, st.integers(1, 20))
def test_compress_is_the_best_approximation(make, dense, seed, rank, target):
    for f in make(seed, rank).values():
        small, error = compress(f, target)
        best, lost = dense.truncated(dense.delta((f.A, f.B)), target)
        assert close(small.delta(), best)
        assert error == pytest.approx(lost, abs=1e-7)
        assert small.rank == min(target, rank, *f.shape)


@few
@given(seeds, ranks, st.integers(0, 3))
def test_compress_is_exact_from_the_exact_rank_on(make, seed, rank, more):
    for f in make(seed, rank).values():
        doubled = concat([f.to(torch.float64)] * 2, [0.5, 0.5])
        small, error = compress(doubled, min(rank, *f.shape) + more)
        assert error < 1e-12
        assert torch.allclose(small.delta(), doubled.delta(), rtol=1e-10, atol=1e-10)


@few
@given(seeds, st.integers(1, 4))
def test_compress_balances_and_fixes_the_signs(make, seed, rank):
    for f in make(seed, rank, torch.float64).values():
        small, _ = compress(f, rank)
        assert torch.allclose(small.A @ small.A.T, small.B.T @ small.B, atol=1e-9)
        largest = small.B.gather(0, small.B.abs().argmax(0, keepdim=True))
        assert (largest > 0).all()
        other, _ = compress(Factors(-2 * f.A.flip(0), -0.5 * f.B.flip(1)), rank)
        assert torch.allclose(other.A, small.A, atol=1e-8) and torch.allclose(other.B, small.B, atol=1e-8)


def test_compressing_zero_loses_nothing():
    small, error = compress(Factors(torch.ones(3, 4), torch.zeros(5, 3)), 2)
    assert error == 0 and not small.delta().any() and torch.isfinite(small.A).all()


def test_a_rank_below_one_is_an_error(make):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        compress(make(0)["head"], 0)
    with pytest.raises(ValueError, match="at least 1, got -1"):
        merge_layers([make(0)], rule="mean", rank=-1)


# merge


@settings(few, max_examples=60)
@given(
    seeds,
    st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 3)), min_size=1, max_size=4),
    st.one_of(densities, st.just(1.0)),
    st.sampled_from(["factors", "delta"]),
    st.sampled_from([None, 3, 50]),
)
@pytest.mark.parametrize("rule", sorted(RULES))
def test_merges_equal_the_dense_reference(make, dense, rule, seed, parts, density, prune_on, rank):
    updates = [make(seed + i, r, torch.float64) for i, (r, _) in enumerate(parts)]
    weights = [w for _, w in parts]
    draws = torch.Generator().manual_seed(seed)
    merged = merge_layers(
        updates, rule=rule, weights=weights, rank=rank, density=density, prune_on=prune_on, generator=draws
    )

    def sparsify(f):
        if density == 1:
            return f.delta().numpy()
        if rule == "dare":
            return dense.dare(f.delta().numpy(), density, draws)
        if prune_on == "delta" or rule == "ties":
            return dense.prune(f.delta().numpy(), density)
        return dense.prune(f.B.numpy(), density) @ dense.prune(f.A.numpy(), density)

    draws.manual_seed(seed)
    combine = {"ties": dense.ties, "mean": dense.mean}.get(rule, dense.total)
    pairs = {"merge": [], "prune": []}
    for name, f in merged.layers.items():
        exact = [u[name].delta().numpy() for u in updates]
        sparse = [sparsify(u[name]) for u in updates]
        combined = combine(sparse, weights)
        wanted = combined if rank is None or rule == "concat" else dense.truncated(combined, rank)[0]
        assert close(f.delta(), wanted)
        assert f.rank <= min(f.shape)
        pairs["merge"].append((combined, wanted))
        pairs["prune"].append((np.stack(exact), np.stack(sparse)))
        assert merged.errors[name] == pytest.approx(dense.relative_error(pairs["merge"][-1:]), abs=1e-6)
        assert merged.prune_errors[name] == pytest.approx(dense.relative_error(pairs["prune"][-1:]), abs=1e-6)
    assert merged.merge_error == pytest.approx(dense.relative_error(pairs["merge"]), abs=1e-6)
    assert merged.prune_error == pytest.approx(dense.relative_error(pairs["prune"]), abs=1e-6)


@few
@given(seeds, ranks, st.sampled_from([None, 12, 40]))
@pytest.mark.parametrize("rule", sorted(RULES))
def test_merging_one_adapter_is_the_identity(make, rule, seed, rank, target):
    part = make(seed, rank)
    merged = merge_layers([part], rule=rule, rank=target)
    for name, f in part.items():
        assert close(merged.layers[name].delta(), f.delta())
    assert merged.prune_error == 0 and merged.merge_error < 1e-9


@pytest.mark.parametrize("rule", SUMS)
def test_an_adapter_less_itself_is_nothing(make, rule):
    part = make(1, 3)
    merged = merge_layers([part, part], rule=rule, weights=[1.0, -1.0], rank=8)
    assert all(f.delta().abs().max() < 1e-5 for f in merged.layers.values())


@pytest.mark.parametrize("rule", AVERAGES)
def test_an_average_takes_no_weights_that_are_not_positive(make, rule):
    with pytest.raises(ValueError, match=rf"merge rule '{rule}' needs positive weights, got \[1.0, -1.0\]"):
        merge_layers([make(1, 3)] * 2, rule=rule, weights=[1.0, -1.0])


@few
@given(seeds, st.permutations(range(3)), densities)
@pytest.mark.parametrize("rule", sorted(set(RULES) - {"dare"}))  # dare draws a mask per position
def test_the_order_of_the_parts_does_not_matter(make, rule, seed, order, density):
    parts, weights = [make(seed + i) for i in range(3)], [1.0, 2.0, 0.5]
    one = merge_layers(parts, rule=rule, weights=weights, density=density, rank=5)
    two = merge_layers(
        [parts[i] for i in order], rule=rule, weights=[weights[i] for i in order], density=density, rank=5
    )
    for name in one.layers:
        assert close(one.layers[name].delta(), two.layers[name].delta())


def test_dare_is_unbiased_and_follows_its_generator(make):
    part = make(0)
    draws = torch.Generator().manual_seed(0)
    runs = [merge_layers([part], rule="dare", density=0.5, generator=draws).layers["head"].delta() for _ in range(400)]
    wanted = part["head"].delta()
    assert (torch.stack(runs).mean(0) - wanted).norm() / wanted.norm() < 0.1
    assert not torch.equal(runs[0], runs[1])
    again = merge_layers([part], rule="dare", density=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.layers["head"].delta(), runs[0])
    with pytest.raises(ValueError, match="give it a generator"):
        merge_layers([part], rule="dare", density=0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_half_precision_comes_back_as_it_went_in(make, rule, dtype):
    parts = [make(i, 2, dtype) for i in range(2)]
    options = {"rule": rule, "rank": 4, "density": 0.5}
    half = merge_layers(parts, **options, generator=torch.Generator().manual_seed(0)).layers
    exact = merge_layers(
        [{n: f.to(torch.float64) for n, f in p.items()} for p in parts],
        **options,
        generator=torch.Generator().manual_seed(0),
    ).layers
    for name, f in half.items():
        assert f.A.dtype == f.B.dtype == dtype
        wanted = exact[name].delta()
        assert (f.to(torch.float64).delta() - wanted).norm() / wanted.norm() < 4 * torch.finfo(dtype).eps


def test_half_precision_does_not_overflow_on_the_way():
    part = {"fc": Factors(torch.full((1, 4), 0.01).half(), torch.full((5, 1), 200.0).half())}
    merged = merge_layers([part], rule="svd", weights=[1000.0], rank=1).layers["fc"]
    assert torch.allclose(merged.to(torch.float64).delta(), 1000 * part["fc"].to(torch.float64).delta(), rtol=4e-3)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_results_share_no_memory_and_no_graph_with_the_parts(make, rule):
    part = make(0, dtype=torch.float64)
    before = {n: f.delta().clone() for n, f in part.items()}
    for f in part.values():
        f.B.requires_grad_(True)
    merged = merge_layers([part], rule=rule).layers
    for f in merged.values():
        assert not f.A.requires_grad and not f.B.requires_grad
        f.A.zero_()
        f.B.zero_()
    for name, f in part.items():
        assert torch.equal(f.delta(), before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "average"}, "unknown merge rule 'average': choose one of concat, svd"),
        ({"rule": "svd", "weights": [1.0]}, "2 parts to merge, with 1 weights"),
        ({"rule": "svd", "density": [1.0]}, "2 weights and 1 densities"),
        ({"rule": "svd", "weights": [1.0, float("nan")]}, "finite weights"),
        ({"rule": "mean", "weights": [1.0, -1.0]}, "positive weights"),
        ({"rule": "ties", "weights": [0.0, 1.0]}, "positive weights"),
        ({"rule": "mean", "prune_on": "rows"}, "'rows'"),
    ],
)
def test_wrong_options_are_errors(make, options, message):
    with pytest.raises(ValueError, match=message):
        merge_layers([make(0), make(1)], **options)


def test_parts_that_do_not_match_name_the_layer(make):
    bad = make(1)
    bad["head"].A[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite in layer 'head'"):
        merge_layers([make(0), bad], rule="mean")
    with pytest.raises(ValueError, match=r"'blocks.0.fc', but a merged adapter does not"):
        merge_layers([make(0), {n: f for n, f in make(1).items() if n != "blocks.0.fc"}], rule="mean")
    with pytest.raises(ValueError, match="0 parts"):
        merge_layers([], rule="mean")


@few
@given(seeds, st.lists(st.tuples(ranks, st.floats(-2, 2)), min_size=1, max_size=4))
def test_final_is_the_weighted_sum_at_a_bounded_rank(make, dense, seed, groups):
    members = [Group(make(seed + i, r), alpha) for i, (r, alpha) in enumerate(groups)]
    one = final(members)
    for name, f in one.items():
        deltas = [dense.delta((g.layers[name].A, g.layers[name].B)) for g in members]
        assert np.allclose(f.delta(), dense.total(deltas, [alpha for _, alpha in groups]), atol=1e-4)
        assert f.rank == min(sum(r for r, _ in groups), *f.shape)


def test_final_needs_a_group():
    with pytest.raises(ValueError, match="learn a task first"):
        final([])
