"""The head that weighs the depths of a backbone against each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.errors import DataError
from hamcl.heads import LDA, Stack, build_head
from hamcl.heads.base import to_judge
from hamcl.heads.stacking import information, stacking_weights
from hamcl.rng import generator

BLOCKS, CLASSES = (5, 8), 6


def data(telling: int, seed: int = 0, each: int = 30) -> tuple[Tensor, Tensor]:
    """Two blocks of features of which only the block `telling` depends on the class."""
    g = generator(seed, "data")
    labels = torch.arange(CLASSES).repeat_interleave(each)
    # The same centres for every seed: the seed draws samples.
    centres = torch.randn(CLASSES, BLOCKS[telling], generator=generator(0, "centres"))
    blocks = [torch.randn(len(labels), width, generator=g) for width in BLOCKS]
    blocks[telling] += 2 * centres[labels]
    return torch.cat(blocks, 1), labels


def learned(x: Tensor, y: Tensor, *, tasks: int = 3, projection: int = 40) -> Stack:
    head = Stack(BLOCKS, projection=projection)
    for columns in torch.arange(CLASSES).chunk(tasks):
        head.add_classes(len(columns))
        chosen = torch.isin(y, columns)
        head.update(x[chosen], y[chosen])
    return head


@pytest.mark.parametrize(("given", "ridge", "stack"), [(None, 4096, 1024), (24, 24, 24), (0, 13, 13)])
def test_a_projection_has_the_width_that_suits_the_head_unless_it_is_given(given, ridge, stack):
    assert build_head("ridge", BLOCKS, projection=given).state_dict()["gram"].shape == (ridge, ridge)
    assert build_head("stack", BLOCKS, projection=given).state_dict()["ridge.gram"].shape == (stack, stack)


@pytest.mark.parametrize("telling", [0, 1])
def test_the_block_that_tells_classes_apart_gets_the_weight(telling):
    head = learned(*data(telling))
    x, y = data(telling, seed=1)
    parts = x.split(BLOCKS, 1)
    shares = [
        (w * expert.logits(part)).std().item()
        for w, expert, part in zip(head.weights, head.moments, parts, strict=False)
    ]
    assert shares[telling] > 3 * shares[1 - telling]
    alone, part = head.moments[telling], parts[telling]
    accuracy = (head.logits(x).argmax(1) == y).float().mean()
    assert accuracy >= (alone.logits(part).argmax(1) == y).float().mean() - 0.05
    assert accuracy > 0.8


@pytest.mark.parametrize("projection", [0, 40])
def test_it_is_the_weighted_sum_of_its_experts(projection):
    x, y = data(0)
    head = learned(x, y, projection=projection)
    logits = [expert.logits(part) for expert, part in zip(head.moments, x.split(BLOCKS, 1), strict=True)]
    logits.append(head.ridge.logits(x))
    expected = sum(w * part.double() for w, part in zip(head.weights, logits, strict=True))
    torch.testing.assert_close(head.logits(x).double(), expected / head.temperature, rtol=1e-4, atol=1e-4)


def test_every_sample_counts_in_the_statistics():
    x, y = data(1)
    head, alone = learned(x, y), LDA(BLOCKS[1])
    alone.add_classes(CLASSES)
    alone.update(x[:, BLOCKS[0] :], y)
    torch.testing.assert_close(head.moments[1]._solve().weight, alone._solve().weight)


def two_experts(count: int = 200) -> tuple[Tensor, Tensor]:
    """Logits of an expert that knows something and of one that guesses, and the labels."""
    g = generator(0, "logits")
    labels = torch.arange(4).repeat(count // 4)
    logits = torch.stack([torch.randn(count, 4, generator=g).double() for _ in range(2)])
    logits[0, torch.arange(count), labels] += 2
    return logits, labels


def weigh(logits: Tensor, labels: Tensor, sure: float, mean: tuple[float, ...] = (0.0, 1.0)) -> Tensor:
    return stacking_weights(logits, labels, sure, torch.tensor(mean, dtype=torch.float64))


def test_weights_have_the_smallest_loss_of_all_that_are_not_negative():
    logits, labels = two_experts()
    weights = weigh(logits, labels, 1e-6)

    def loss(w: Tensor) -> float:
        return F.cross_entropy((w[:, None, None] * logits).sum(0), labels).item()

    assert weights[0] > 10 * weights[1] >= 0
    for change in ((0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.05, 0.05)):
        assert loss(weights + torch.tensor(change)) >= loss(weights)


def test_an_expert_that_is_wrong_has_no_weight_rather_than_a_negative_one():
    logits, labels = two_experts()
    logits[1, torch.arange(200), labels] -= 2
    weights = weigh(logits, labels, 1e-6)
    assert weights[1] == 0 < weights[0]


def test_one_or_two_samples_decide_nothing():
    logits = torch.tensor([[[1.0, -1.0]], [[2.0, -2.0]]])
    assert (stacking_weights(logits, torch.tensor([1]), 2e-3) >= 0).all()
    weights = weigh(logits, torch.tensor([1]), Stack.PRIOR)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=0.2)
    more = weigh(logits.repeat(1, 200, 1), torch.ones(200, dtype=torch.long), Stack.PRIOR)
    torch.testing.assert_close(more, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-6)


def test_information_is_the_curvature_of_the_loss():
    logits, labels = two_experts(40)
    weights = torch.tensor([0.7, 0.4], dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy((w[:, None, None] * logits).sum(0), labels, reduction="sum")

    torch.testing.assert_close(information(logits, weights), torch.autograd.functional.hessian(loss, weights))


def test_weights_leave_those_before_by_the_number_of_samples():
    logits, labels = two_experts()
    moved = []
    for count in (2, 8, 32, 200):
        moved.append((weigh(logits[:, :count], labels[:count], 20) - torch.tensor([0.0, 1.0])).norm().item())
    assert moved == sorted(moved)
    assert moved[0] < 0.2 < 0.5 < moved[-1]
    torch.testing.assert_close(
        weigh(logits, labels, 1e9), torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("each", [3, 5, 20])
def test_small_tasks_are_classified_as_well_as_by_the_ridge_alone(each):
    """Two classes of two blocks of 32 features, of which 8 are shifted by 1."""
    right = {"stack": 0.0, "ridge": 0.0}
    learned = []
    for draw in range(20):
        g = generator(draw, "small")
        means = torch.zeros(2, 64)
        means[1, torch.randperm(64, generator=g)[:8]] = 1.0
        labels, test = torch.arange(2).repeat_interleave(each), torch.arange(2).repeat_interleave(50)
        x, probes = (means[y] + torch.randn(len(y), 64, generator=g) for y in (labels, test))
        for kind in right:
            head = build_head(kind, (32, 32), projection=128)
            head.add_classes(2)
            head.update(x, labels)
            right[kind] += (head.logits(probes).argmax(1) == test).double().mean().item() / 20
            if kind == "stack":
                assert (head.weights >= 0).all()
                learned.append((head.logits(x).argmax(1) == labels).double().mean().item())
    assert min(learned) >= 0.8
    assert right["stack"] >= right["ridge"] - 0.01


def test_classes_that_nothing_tells_apart_are_hardly_told_apart():
    """Leaving out one of two equal halves makes every sample look like the other class."""
    x = torch.randn(20, 6, generator=generator(0, "twins")).repeat(2, 1).double()
    y = torch.arange(2).repeat_interleave(20)
    head = Stack((3, 3), projection=40)
    head.add_classes(2)
    for _ in range(20):
        head.update(x, y)
    assert (head.weights >= 0).all() and head.weights.any()
    scores = head.logits(x)
    assert scores.isfinite().all() and scores.softmax(1).max() < 0.6


def test_too_few_samples_to_leave_any_out_leave_the_ridge_alone():
    x, y = data(0, each=1)
    head = Stack(BLOCKS, projection=40)
    head.add_classes(4)
    head.update(x[:4], y[:4])
    assert head.weights.tolist() == [0, 0, 1]
    assert head.judged == 0
    torch.testing.assert_close(head.logits(x[:4]), head.ridge.logits(x[:4]), rtol=1e-5, atol=1e-5)


def test_a_state_is_enough_to_go_on_and_another_is_refused():
    x, y = data(0)
    head, again = learned(x, y), Stack(BLOCKS, projection=40)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.logits(x), head.logits(x))
    for one in (head, again):
        one.add_classes(1)
        one.update(x[:10], torch.full((10,), CLASSES))
    assert torch.equal(again.logits(x), head.logits(x))
    with pytest.raises(DataError, match="a Stack head holds"):
        again.load_state_dict({name: v for name, v in head.state_dict().items() if not name.startswith("block0")})
    with pytest.raises(DataError, match=r"features of shape \(n, 13\), got"):
        head.logits(x[:, 1:])


def test_samples_are_judged_whose_class_has_others_spread_evenly():
    labels, counts = torch.tensor([0, 0, 1, 2, 2, 2]).repeat(2), torch.tensor([4, 2, 6])
    assert to_judge(labels, 2, 10, counts).tolist() == [0, 1, 3, 4, 5]
    assert to_judge(labels, 2, 2, counts).tolist() == [0, 3]
    assert to_judge(labels, 2, 10, torch.tensor([4, 4, 6])).tolist() == list(range(6))


@pytest.mark.parametrize("kind", ["ncm", "lda", "ridge", "stack"])
def test_heads_judge_samples_as_they_are_by_statistics_without_any_view_of_them(kind):
    x, y = data(0, each=6)
    wild = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    head = build_head(kind, BLOCKS, projection=24, shrinkage=0.2)
    head.add_classes(CLASSES)
    both, labels = torch.cat([x, wild]), y.repeat(2)
    scores, truth = head._take(both.double(), labels, 2)
    assert torch.equal(truth, y)
    if kind == "stack":
        return
    for i in range(0, len(x), 5):
        rest = torch.arange(len(both)) % len(x) != i
        other = build_head(kind, BLOCKS, projection=24, shrinkage=0.2)
        other.add_classes(CLASSES)
        other._take(both[rest].double(), labels[rest], 1)
        other.load_state_dict({**other.state_dict(), **({"mistakes": head.mistakes} if kind == "ridge" else {})})
        expected, found = other._solve()(x[i : i + 1].double())[0].double(), scores[i].double()
        # The statistics' mean variance, by which shrinkage and penalty are measured, is that with the sample.
        expected, found = expected - expected.mean(), found - found.mean()
        assert (expected - found).norm() <= {"ncm": 1e-9, "lda": 0.05, "ridge": 0.05}[kind] * expected.norm()
