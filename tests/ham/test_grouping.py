import json
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.ham import RULES, Adapter, Assignment, Calibration, Group, Groups, final, merge_layers

few = settings(derandomize=True, deadline=None, max_examples=20)
values = st.floats(-1, 1)


class Raw(Calibration):
    """Takes similarities for scores, so that a test need not calibrate them first."""

    def score(self, similarity):
        return similarity


def filled(make, count, max_groups=None, threshold=0.5, calibrated=False):
    """Groups with `count` members of one task each and no recorded decision."""
    groups = Groups(max_groups, threshold)
    groups.calibration = Calibration() if calibrated else Raw()
    groups.groups = [Group(make(i), 1.0, [f"task {i}"]) for i in range(count)]
    return groups


@few
@given(st.lists(values, min_size=3, max_size=30), values)
def test_scores_are_normal_deviates_as_rare_as_the_similarity(observed, similarity):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    calibration = Calibration()
    for value in observed:
        calibration.observe(value)
    spread, count = statistics.stdev(observed), len(observed)
    if spread > 1e-6:
        t = (similarity - statistics.fmean(observed)) / (spread * (1 + 1 / count) ** 0.5)
        if abs(t) < 20:
            wanted = stats.norm.isf(stats.t.sf(abs(t), count - 1))
            assert calibration.score(similarity) == pytest.approx(math.copysign(wanted, t), rel=0.04, abs=0.02)


def test_of_many_observations_the_score_is_the_plain_one_and_of_three_it_is_careful():
    many = Calibration()
    for i in range(20_000):
        many.observe(i % 2)
    assert many.score(1.5) == pytest.approx(2, rel=1e-3)
    few = Calibration()
    for value in (0.1, 0.3, 0.2):
        few.observe(value)
    # Three standard deviations above the mean of three.
    assert 1 < few.score(0.5) < 2


def test_there_is_no_score_before_three_different_observations():
    calibration = Calibration()
    for value in (0.1, 0.3):
        calibration.observe(value)
        assert calibration.score(0.2) is None
    calibration.observe(0.2)
    assert calibration.score(0.2) == pytest.approx(0)
    same = Calibration()
    for _ in range(5):
        same.observe(0.25)
    assert same.score(0.9) is None


@few
@given(st.lists(values, min_size=0, max_size=5), st.sampled_from([None, 1, 3, 5]), values)
def test_the_rule_of_assignment(make, similarities, max_groups, threshold):
    similarities = similarities[:max_groups]
    groups = filled(make, len(similarities), max_groups, threshold)
    decision = groups.assign(similarities)
    best = max(similarities, default=None)
    if best is not None and best >= threshold:
        wanted = (similarities.index(best), False)
    elif max_groups is None or len(similarities) < max_groups:
        wanted = (len(similarities), True)
    else:
        wanted = (similarities.index(best), False)
    assert (decision.index, decision.opened) == wanted
    assert decision.similarities == decision.scores == similarities
    assert groups.history == [decision]
    assert len(groups.groups) == len(similarities)


def test_calibrated_scores_use_earlier_similarities_only(make):
    groups = filled(make, 2, calibrated=True, threshold=1.0)
    first = groups.assign([0.1, 0.2])
    second = groups.assign([0.3, 0.2])
    third = groups.assign([0.9, 0.2])
    assert first.scores == second.scores == [None, None]
    assert first.opened and second.opened
    earlier = Calibration()
    for value in (0.1, 0.2, 0.3, 0.2):
        earlier.observe(value)
    assert third.scores == [earlier.score(0.9), earlier.score(0.2)]
    assert (third.index, third.opened) == (0, False)
    assert groups.calibration.count == 6


def test_without_a_score_a_full_set_takes_the_most_similar(make):
    groups = filled(make, 2, max_groups=2, calibrated=True, threshold=1.0)
    decision = groups.assign([0.01, 0.02])
    assert (decision.index, decision.opened) == (1, False)


@few
@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=8), st.floats(0.001, 1000), values)
def test_calibrated_decisions_do_not_depend_on_the_scale_of_the_similarities(make, rows, scale, shift):
    rows = [[round(v, 2) for v in row] for row in rows]
    one, two = (filled(make, 3, calibrated=True, threshold=0.7) for _ in range(2))
    for row in rows:
        first, second = one.assign(row), two.assign([scale * v + shift for v in row])
        scores = [s for s in first.scores if s is not None]
        if all(abs(s - 0.7) > 1e-3 for s in scores) and one.calibration.squares > 1e-3:
            assert (first.index, first.opened) == (second.index, second.opened)


@pytest.mark.parametrize("similarities", [[], [0.1], [0.1, float("nan")], [0.1, float("inf")], [0.1, 0.2, 0.3]])
def test_similarities_must_be_finite_and_one_per_group(make, similarities):
    groups = filled(make, 2)
    with pytest.raises(ValueError, match="one finite similarity for each of 2 groups"):
        groups.assign(similarities)
    assert groups.history == [] and groups.calibration.count == 0


def test_options_out_of_range_are_errors():
    with pytest.raises(ValueError, match="max_groups must be at least 1"):
        Groups(0, 0.5)
    with pytest.raises(ValueError, match="threshold must be a number"):
        Groups(2, float("nan"))


# absorb


def learn(groups, adapter, similarities, **options):
    decision = groups.assign(similarities)
    return decision, groups.absorb(decision, adapter, **{"rule": "mean", "rank": None, **options})


@few
@given(st.integers(0, 1000), st.lists(st.tuples(st.integers(1, 3), st.floats(0.2, 2)), min_size=1, max_size=5))
@pytest.mark.parametrize("rule", ["concat", "svd", "dare", "mean"])
def test_one_group_is_the_sum_or_the_running_mean_of_its_members(make, dense, rule, seed, members):
    groups = Groups(1, 0.0)
    for i, (rank, alpha) in enumerate(members):
        adapter = Adapter(f"t{i}", make(seed + i, rank), alpha)
        learn(groups, adapter, [0.1] * len(groups.groups), rule=rule)
    (group,) = groups.groups
    assert group.tasks == [f"t{i}" for i in range(len(members))] and group.importance == 1
    for name, f in group.layers.items():
        deltas = [
            alpha * dense.delta((make(seed + i, rank)[name].A, make(seed + i, rank)[name].B))
            for i, (rank, alpha) in enumerate(members)
        ]
        wanted = sum(deltas) / (len(deltas) if rule == "mean" else 1)
        assert np.allclose(f.delta(), wanted, atol=1e-4)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_importances_are_folded_in_and_only_the_newcomer_is_pruned(make, dense, rule):
    groups = Groups(1, 0.0)
    _, opened = learn(groups, Adapter("a", make(0), 2.0), [], rule=rule)
    learn(groups, Adapter("b", make(1)), [0.0], rule=rule)
    before = {n: f.delta().double() for n, f in groups.groups[0].layers.items()}
    groups.groups[0].importance = 0.5
    draws = torch.Generator().manual_seed(7)
    _, merged = learn(groups, Adapter("c", make(2), 3.0), [0.0], rule=rule, density=0.4, generator=draws)
    newcomer = merge_layers([make(2)], rule=rule, density=0.4, generator=torch.Generator().manual_seed(7))
    assert opened.prune_error == 0 and merged.prune_error > 0
    assert merged.prune_error == pytest.approx(newcomer.prune_error, rel=1e-5)
    for name, f in groups.groups[0].layers.items():
        both = [0.5 * before[name].numpy(), 3.0 * newcomer.layers[name].delta().double().numpy()]
        combine = {"mean": dense.mean, "ties": dense.ties}.get(rule, dense.total)
        weights = [2.0, 1.0] if RULES[rule].averages else [1.0, 1.0]
        assert np.allclose(f.delta(), combine(both, weights), atol=1e-4)
    assert groups.groups[0].importance == 1 and groups.groups[0].tasks == ["a", "b", "c"]


@few
@given(st.permutations(range(4)))
@pytest.mark.parametrize("rule", ["concat", "svd", "mean"])
def test_the_order_of_the_tasks_does_not_matter_at_full_rank(make, rule, order):
    results = []
    for sequence in (range(4), order):
        groups = Groups(1, 0.0)
        for i in sequence:
            learn(groups, Adapter(str(i), make(i)), [0.0] * len(groups.groups), rule=rule, density=0.5)
        results.append(final(groups.groups))
    for name, f in results[0].items():
        assert np.allclose(f.delta(), results[1][name].delta(), atol=1e-4)


def test_groups_keep_a_constant_rank_and_report_the_loss(make):
    groups = Groups(2, 0.5)
    groups.calibration = Raw()
    for i in range(6):
        similarities = [0.9, 0.1][: len(groups.groups)] if i != 1 else [0.0]
        decision, merged = learn(groups, Adapter(str(i), make(i)), similarities, rule="svd", rank=3)
        assert all(f.rank <= 3 for g in groups.groups for f in g.layers.values())
        assert (merged.merge_error > 1e-3) == (not decision.opened)
        assert set(merged.errors) == set(make(0))
        assert min(merged.errors.values()) - 1e-9 <= merged.merge_error <= max(merged.errors.values()) + 1e-9
    assert [g.tasks for g in groups.groups] == [["0", "2", "3", "4", "5"], ["1"]]


def test_a_group_does_not_change_with_the_adapter_it_came_from(make):
    layers = make(0)
    groups = Groups(None, 0.0)
    learn(groups, Adapter("a", layers), [], rule="concat")
    for f in layers.values():
        f.A.zero_()
    assert all(f.delta().any() for f in groups.groups[0].layers.values())


@pytest.mark.parametrize("opened", [True, False])
def test_a_bad_adapter_names_layer_and_task_and_changes_nothing(make, opened):
    groups = filled(make, 1)
    decision = Assignment(1, True, [], []) if opened else Assignment(0, False, [], [])
    bad = make(5)
    bad["blocks.0.fc"].A[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"task 'birds' is not finite in layer 'blocks.0.fc'"):
        groups.absorb(decision, Adapter("birds", bad), rule="mean", rank=4)
    if not opened:
        with pytest.raises(ValueError, match=r"'blocks.0.qkv', but the adapter of task 'birds' does not"):
            groups.absorb(decision, Adapter("birds", {"blocks.0.fc": make(5)["blocks.0.fc"]}), rule="mean", rank=4)
    with pytest.raises(ValueError, match="unknown merge rule"):
        groups.absorb(decision, Adapter("birds", make(5)), rule="median", rank=4)
    assert [g.tasks for g in groups.groups] == [["task 0"]]
    assert all(torch.equal(f.A, make(0)[n].A) for n, f in groups.groups[0].layers.items())


@pytest.mark.parametrize(("index", "opened"), [(0, True), (3, True), (2, False), (-1, False)])
def test_a_stale_assignment_is_an_error(make, index, opened):
    groups = filled(make, 2)
    with pytest.raises(ValueError, match=f"assignment to group {index} is stale: there are 2 groups"):
        groups.absorb(Assignment(index, opened, [], []), Adapter("a", make(3)), rule="mean", rank=4)


# state


def stream(make, groups, first, last):
    for i in range(first, last):
        similarities = [((7 * i + 3 * j) % 10) / 10 for j in range(len(groups.groups))]
        learn(groups, Adapter(str(i), make(i), 1 + i / 10), similarities, rule="svd", rank=3)
        groups.groups[-1].importance = 1 + i / 7


def test_a_restored_state_goes_on_as_if_never_interrupted(make):
    whole, first, second = (Groups(3, 0.8) for _ in range(3))
    stream(make, whole, 0, 9)
    stream(make, first, 0, 5)
    state = first.state_dict()
    meta = json.loads(json.dumps(state.pop("meta")))
    assert all(isinstance(value, torch.Tensor) and value.is_contiguous() for value in state.values())
    second.load_state_dict({**{key: value.clone() for key, value in state.items()}, "meta": meta})
    stream(make, second, 5, 9)
    assert second.history == whole.history and second.calibration == whole.calibration
    assert len(second.groups) == len(whole.groups)
    for x, y in zip(second.groups, whole.groups, strict=True):
        assert (x.importance, x.tasks, list(x.layers)) == (y.importance, y.tasks, list(y.layers))
        for name, f in x.layers.items():
            assert torch.equal(f.A, y.layers[name].A) and torch.equal(f.B, y.layers[name].B)
    assert {len(a.similarities) for a in whole.history} == {0, 1, 2, 3}  # the run opened groups and joined some


def test_a_state_is_a_snapshot(make):
    groups = Groups(2, 0.5)
    stream(make, groups, 0, 2)
    state = groups.state_dict()
    kept = {key: value.clone() for key, value in state.items() if key != "meta"}
    meta = json.dumps(state["meta"])
    stream(make, groups, 2, 6)
    assert json.dumps(state["meta"]) == meta
    assert all(torch.equal(state[key], value) for key, value in kept.items())


def test_a_state_with_other_tensors_is_an_error(make):
    groups = Groups(2, 0.5)
    stream(make, groups, 0, 1)
    state = groups.state_dict()
    empty = Groups(2, 0.5)
    with pytest.raises(ValueError, match=r"unknown tensor '1\.head\.A'"):
        empty.load_state_dict({**state, "1.head.A": torch.ones(1)})
    del state["0.head.B"]
    with pytest.raises(ValueError, match=r"lacks tensor '0\.head\.B'"):
        empty.load_state_dict(state)
    assert empty.groups == []
