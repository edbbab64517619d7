"""The head that weighs the depths of a backbone against each other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hamcl.errors import DataError
from hamcl.nn.heads import LDA, Stack, build_head, held_out, stacking_weights
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
    torch.testing.assert_close(head.logits(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_every_sample_counts_in_the_statistics():
    x, y = data(1)
    head, alone = learned(x, y), LDA(BLOCKS[1])
    alone.add_classes(CLASSES)
    alone.update(x[:, BLOCKS[0] :], y)
    torch.testing.assert_close(head.moments[1].logits(x[:, BLOCKS[0] :]), alone.logits(x[:, BLOCKS[0] :]))


def test_weights_have_the_smallest_cross_entropy():
    g = generator(0, "logits")
    labels = torch.arange(4).repeat(50)
    logits = torch.stack([s * torch.randn(200, 4, generator=g).double() for s in (1.0, 30.0)])
    logits[0, torch.arange(200), labels] += 2
    weights = stacking_weights(logits, labels, prior=1e-6)

    def loss(w: Tensor) -> float:
        return F.cross_entropy((w[:, None, None] * logits).sum(0), labels).item()

    for i in (0, 1):
        for factor in (0.8, 1.25):
            other = weights.clone()
            other[i] *= factor
            assert loss(other) >= loss(weights) - 1e-4
    assert weights[0] > 10 * weights[1].abs()


def test_a_strong_prior_weighs_experts_equally_in_their_own_units():
    g = generator(0, "logits")
    labels = torch.arange(4).repeat(50)
    logits = torch.stack([s * torch.randn(200, 4, generator=g).double() for s in (1.0, 30.0)])
    logits[0, torch.arange(200), labels] += 2
    weights = stacking_weights(logits, labels, prior=1e6)
    units = (logits - logits.mean(2, keepdim=True)).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(*(weights * units), rtol=1e-3, atol=1e-6)


def test_too_few_samples_to_hold_any_out_leave_the_ridge_alone():
    x, y = data(0, each=1)
    head = Stack(BLOCKS, projection=40)
    head.add_classes(4)
    head.update(x[:4], y[:4])
    assert head.weights.tolist() == [0, 0, 1]
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


def test_the_split_is_a_fifth_and_nothing_twice():
    fit, held = held_out(23, seed=1)
    assert len(held) == 4
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(23))
    assert torch.equal(held, held_out(23, seed=1)[1])
    assert not torch.equal(held, held_out(23, seed=2)[1])


def test_views_of_one_sample_are_held_out_together():
    fit, held = held_out(3 * 20, seed=1, views=3)
    assert sorted([*fit.tolist(), *held.tolist()]) == list(range(60))
    once = held_out(20, seed=1)[1]
    assert torch.equal(held, torch.cat([once, once + 20, once + 40]))
    assert not {i % 20 for i in fit.tolist()} & set(once.tolist())


@pytest.mark.parametrize("kind", ["ridge", "stack"])
def test_heads_are_judged_on_samples_as_they_are_and_learn_from_all_views(kind):
    x, y = data(0)
    wild = x + 50 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    head = build_head(kind, BLOCKS, projection=0)
    head.add_classes(CLASSES)
    head.update(torch.cat([x, wild]), y.repeat(2), views=2)
    ridge = head.ridge if isinstance(head, Stack) else head
    assert ridge.count == 2 * len(x)
    alone = build_head("ridge", BLOCKS, projection=0)
    alone.add_classes(CLASSES)
    fit, held = held_out(2 * len(x), 0, 2)
    alone.add(torch.cat([x, wild])[fit], y.repeat(2)[fit])
    alone.validate(x[held[: len(held) // 2]], y[held[: len(held) // 2]])
    assert torch.equal(ridge.mistakes, alone.mistakes)
    torch.testing.assert_close(ridge.losses, alone.losses)
