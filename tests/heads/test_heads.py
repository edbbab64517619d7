"""The heads against dense float64 references; statistics in pieces, in any order, and blurred by a drift."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hamcl.errors import DataError, UsageError
from hamcl.heads import LDA, Head, NearestMean, Ridge, Rows, TrainedRows, build_head
from hamcl.rng import generator

WIDTH, CLASSES = 6, 4
ANALYTIC = ("ncm", "lda", "ridge")


def data(seed: int = 0, each: int = 10, classes: int = CLASSES, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Features of classes with different means and one correlated spread, in no order."""
    g = generator(seed, "data")
    centres, mix = 2 * torch.randn(classes, width, generator=g), torch.randn(width, width, generator=g)
    labels = torch.arange(classes).repeat_interleave(each)[torch.randperm(classes * each, generator=g)]
    return 3 + centres[labels] + torch.randn(len(labels), width, generator=g) @ mix, labels


def learned(kind: str, features: Tensor, labels: Tensor, classes: int = CLASSES, **options: float) -> Head:
    head = build_head(kind, [features.shape[1]], **({"projection": 20} | options))
    head.add_classes(classes)
    head.update(features, labels)
    return head


def raw(head: Head, features: Tensor) -> Tensor:
    """Scores before the temperature."""
    return head.logits(features) * head.temperature


def close(a: Head, b: Head, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """The same statistics, whatever the heads judged on the way to them."""
    for (name, x), (other, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other
        if name in ("temperature", "evidence", "held"):
            continue
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


def spread(features: Tensor, labels: Tensor) -> np.ndarray:
    """The within-class scatter, class by class."""
    x, y = features.double().numpy(), labels.numpy()
    return sum((x[y == c] - x[y == c].mean(0)).T @ (x[y == c] - x[y == c].mean(0)) for c in np.unique(y))


def test_moments_are_float64_ridge_sums_float32_and_logits_float32():
    for kind in ANALYTIC:
        head = learned(kind, *data())
        expected = {torch.float32, torch.int64, torch.float64} if kind == "ridge" else {torch.float64}
        assert {value.dtype for value in head.state_dict().values()} == expected
        assert head.logits(data()[0]).dtype == torch.float32


def test_nearest_mean_is_the_cosine_to_the_means_up_to_the_length_of_the_features():
    x, y = data()
    head = learned("ncm", x, y)
    means = np.stack([x[y == c].double().numpy().mean(0) for c in range(CLASSES)])
    cosines = (
        x.double().numpy() @ means.T / np.outer(np.linalg.norm(x.double(), axis=1), np.linalg.norm(means, axis=1))
    )
    lengths = np.linalg.norm(x.double(), axis=1, keepdims=True)
    np.testing.assert_allclose(raw(head, x).numpy() / lengths, cosines, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_lda_is_that_of_numpy(shrinkage):
    x, y = data(each=9)
    counts = [3, 9, 6, 9]
    keep = torch.cat([(y == c).nonzero().flatten()[:n] for c, n in enumerate(counts)])
    x, y = x[keep], y[keep]
    covariance = spread(x, y) / (len(x) - CLASSES)
    scale = np.trace(covariance) / WIDTH
    shrunk = (1 - shrinkage) * covariance + (shrinkage + 1e-6) * scale * np.eye(WIDTH)
    means = np.stack([x[y == c].double().numpy().mean(0) for c in range(CLASSES)])
    weight = np.linalg.solve(shrunk, means.T).T
    expected = x.double().numpy() @ weight.T - 0.5 * (weight * means).sum(1)
    expected -= expected.mean(1, keepdims=True)
    np.testing.assert_allclose(raw(learned("lda", x, y, shrinkage=shrinkage), x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shrinkage", [0.05, 0.5])
def test_lda_is_that_of_scikit_learn_where_classes_are_equally_large(shrinkage):
    lda = pytest.importorskip("sklearn.discriminant_analysis", reason="scikit-learn is not installed")
    x, y = data(each=12)
    model = lda.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x.double().numpy(), y.numpy())
    # It divides the scatter by the number of samples, not by that less the number of classes.
    expected = (model.decision_function(x.double().numpy()) - np.log(1 / CLASSES)) * (1 - CLASSES / len(x))
    expected -= expected.mean(1, keepdims=True)
    np.testing.assert_allclose(raw(learned("lda", x, y, shrinkage=shrinkage), x), expected, rtol=1e-4, atol=2e-3)


def test_lda_uses_the_covariance_that_nearest_mean_ignores():
    g = generator(0, "long")
    y = torch.arange(2).repeat(100)
    along, across = torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0])
    sign = (2 * y - 1)[:, None]
    noise = 3 * torch.randn(200, 1, generator=g) * along + 0.05 * torch.randn(200, 1, generator=g) * across
    x = 5 + sign * (0.5 * across + 0.3 * along) + noise
    assert (learned("lda", x, y, 2, shrinkage=0.001).logits(x).argmax(1) == y).float().mean() > 0.99
    assert (learned("ncm", x, y, 2).logits(x).argmax(1) == y).float().mean() < 0.7


def test_ridge_is_that_of_numpy_with_the_penalty_of_the_fewest_mistakes_so_far():
    x, y = data()
    head = build_head("ridge", [WIDTH], projection=20)
    head.add_classes(CLASSES)
    phi = np.maximum(x.double().numpy() @ head.projection.double().numpy(), 0)
    targets = np.eye(CLASSES)[y]

    def solve(rows: np.ndarray, penalty: float, size: float) -> np.ndarray:
        gram = phi[rows].T @ phi[rows] + penalty * size * np.eye(20)
        return np.linalg.solve(gram, phi[rows].T @ targets[rows])

    def size(rows: np.ndarray) -> float:
        return (phi[rows] ** 2).sum() / 20

    mistakes, seen = np.zeros(len(Ridge.PENALTIES)), np.zeros(0, dtype=int)
    for part in np.array_split(np.random.default_rng(0).permutation(len(x)), 3):
        head.update(x[part], y[part])
        seen = np.concatenate([seen, part])
        for i in part:
            rest = seen[seen != i]
            mistakes += [(phi[i] @ solve(rest, p, size(seen))).argmax() != y[i] for p in Ridge.PENALTIES]
    np.testing.assert_array_equal(head.mistakes, mistakes)
    assert head.penalty == max(p for p, m in zip(Ridge.PENALTIES, mistakes, strict=True) if m == mistakes.min())
    expected = phi @ solve(seen, head.penalty, size(seen))
    np.testing.assert_allclose(raw(head, x), expected, rtol=1e-3, atol=1e-3)


def test_the_random_projection_depends_on_the_seed_alone():
    first = Ridge(WIDTH, 20, seed=3).projection
    torch.randn(5)
    assert torch.equal(first, Ridge(WIDTH, 20, seed=3).projection)
    assert not torch.equal(first, Ridge(WIDTH, 20, seed=4).projection)


def test_ridge_without_a_projection_regresses_on_the_features():
    x, y = data()
    head = learned("ridge", x, y, projection=0)
    plain = x.double().numpy()
    gram = plain.T @ plain
    gram += head.penalty * gram.diagonal().mean() * np.eye(WIDTH)
    expected = plain @ np.linalg.solve(gram, plain.T @ np.eye(CLASSES)[y])
    np.testing.assert_allclose(raw(head, x), expected, rtol=1e-4, atol=1e-4)
    assert head.linear().projection is None
    again = build_head("ridge", [WIDTH], projection=0)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.logits(x), head.logits(x))


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(1, 39), max_size=4), seed=st.integers(0, 1000))
def test_moments_in_pieces_equal_all_at_once(cuts, seed):
    x, y = data(seed)
    whole, pieces = learned("lda", x, y), build_head("lda", [WIDTH])
    pieces.add_classes(CLASSES)
    edges = [0, *sorted(set(cuts)), len(x)]
    for start, stop in pairwise(edges):
        pieces.update(x[start:stop], y[start:stop])
    close(whole, pieces)
    np.testing.assert_allclose(whole.state_dict()["scatter"], spread(x, y), rtol=1e-8, atol=1e-8)
    assert whole.state_dict()["counts"].tolist() == [10] * CLASSES


def test_moments_keep_their_digits_far_from_zero():
    x, y = data()
    far = x.double() + 1e6
    exact, head = spread(far, y), build_head("lda", [WIDTH])
    head.add_classes(CLASSES)
    for part, labels in zip(far.split(7), y.split(7), strict=True):
        head.update(part, labels)
    np.testing.assert_allclose(head.state_dict()["scatter"], exact, rtol=1e-6, atol=1e-6)


def test_ridge_sums_in_pieces_equal_all_at_once():
    x, y = data()
    whole, pieces = learned("ridge", x, y), learned("ridge", x[:13], y[:13])
    pieces.update(x[13:], y[13:])
    for name in ("gram", "targets", "projection"):
        torch.testing.assert_close(whole.state_dict()[name], pieces.state_dict()[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ncm", "lda"])
def test_the_order_of_samples_does_not_matter(kind):
    x, y = data()
    order = torch.randperm(len(x), generator=generator(0, "order"))
    close(learned(kind, x, y), learned(kind, x[order], y[order]))


@pytest.mark.parametrize("kind", ANALYTIC)
def test_the_order_of_classes_only_permutes_the_logits(kind):
    x, y = data()
    new = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        learned(kind, x, new[y]).logits(x)[:, new], learned(kind, x, y).logits(x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ANALYTIC)
def test_classes_that_come_task_by_task(kind):
    """With one penalty for ridge, whose choice counts mistakes task by task."""
    x, y = data()
    whole, parts = learned(kind, x, y), build_head(kind, [WIDTH], projection=20)
    for columns in ([0], [1, 2], [3]):
        parts.add_classes(len(columns))
        chosen = torch.isin(y, torch.tensor(columns))
        parts.update(x[chosen], y[chosen])
        assert parts.logits(x).shape == (len(x), columns[-1] + 1)
    if kind == "ridge":
        parts.load_state_dict({**parts.state_dict(), "mistakes": whole.state_dict()["mistakes"]})
    torch.testing.assert_close(raw(whole, x), raw(parts, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ANALYTIC)
def test_a_returning_class_is_updated_and_the_others_are_not_forgotten(kind):
    x, y = data(each=20)
    first = torch.cat([(y == c).nonzero().flatten()[: 5 if c == 0 else 20] for c in range(CLASSES)])
    rest = (y == 0).nonzero().flatten()[5:]
    head = learned(kind, x[first], y[first])
    before = head.logits(x)
    head.update(x[rest], y[rest])
    after = head.logits(x)
    assert after.shape == before.shape
    assert not torch.allclose(after, before)
    if kind != "ridge":
        close(head, learned(kind, x, y))
    others = y != 0
    assert (after.argmax(1) == y)[others].float().mean() > 0.6


@pytest.mark.parametrize("kind", ANALYTIC)
@pytest.mark.parametrize("width", [WIDTH, 40])
def test_one_sample_a_class_is_enough(kind, width):
    x, y = data(each=1, width=width)
    logits = learned(kind, x, y).logits(x)
    assert torch.isfinite(logits).all()
    assert torch.equal(logits.argmax(1), y)


def test_lda_of_one_sample_a_class_is_the_nearest_mean():
    x, y = data(each=1)
    probes = data(1)[0]
    nearest = torch.cdist(probes.double(), x[y.argsort()].double()).argmin(1)
    assert torch.equal(learned("lda", x, y).logits(probes).argmax(1), nearest)
    # Equal samples of a class have no spread but that of rounding.
    thrice = learned("lda", x.repeat(3, 1) / 3, y.repeat(3))
    assert torch.equal(thrice.logits(probes / 3).argmax(1), nearest)


@pytest.mark.parametrize(("kind", "accuracy"), [("ncm", 1.0), ("lda", 1.0), ("ridge", 0.6)])
def test_more_features_than_samples(kind, accuracy):
    x, y = data(each=3, width=60)
    logits = learned(kind, x, y).logits(x)
    assert torch.isfinite(logits).all()
    assert (logits.argmax(1) == y).float().mean() >= accuracy


@pytest.mark.parametrize("kind", ["linear", "cosine", "ncm", "lda", "ridge", "stack"])
def test_a_head_changes_with_the_drift_it_says_it_follows_and_no_other(kind):
    x, y = data()
    head = rows_of(kind) if kind in ("linear", "cosine") else learned(kind, x, y)
    before = head.logits(x)
    head.blur(x, x + torch.randn_like(x))
    assert torch.equal(head.logits(x), before) == ("noise" not in head.follows)


@pytest.mark.parametrize("kind", ["ncm", "lda", "ridge", "stack"])
def test_no_move_is_no_noise(kind):
    x, y = data()
    head = learned(kind, x, y)
    before = head.logits(x)
    head.blur(x[:5], x[:5])
    torch.testing.assert_close(head.logits(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["lda", "ridge"])
def test_noise_is_what_samples_with_moves_of_random_sign_would_add(kind):
    # Every sample twice, moved there and back, has the same means and the second moment of the moves on top.
    x, y = data()
    moves = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(4)).expand(len(x), -1)
    head, twice = build_head(kind, [WIDTH], projection=0), build_head(kind, [WIDTH], projection=0)
    head.add_classes(CLASSES)
    twice.add_classes(CLASSES)
    head.update(x.repeat(2, 1), y.repeat(2))
    twice.update(torch.cat([x + moves, x - moves]), y.repeat(2))
    head.blur(x[:3], x[:3] + moves[:3])
    name = {"lda": "scatter", "ridge": "gram"}[kind]
    torch.testing.assert_close(head.state_dict()[name], twice.state_dict()[name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["lda", "ridge", "stack"])
def test_a_direction_that_moves_loses_its_weight(kind):
    # The classes differ along two directions alike; noise along the first leaves only the second to tell them apart.
    random = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat(100)
    x = 0.3 * torch.randn(200, 4, generator=random)
    x[:, :2] += torch.where(y[:, None] == 0, 1.0, -1.0)
    head = build_head(kind, [4], projection=0)
    head.add_classes(2)
    head.update(x, y)
    moved = x[:50].clone()
    moved[:, 0] += 20 * torch.randn(50, generator=random)
    head.blur(x[:50], moved)
    conflicting = torch.tensor([[-0.8, 1.0, 0.0, 0.0], [0.8, -1.0, 0.0, 0.0]])
    assert head.logits(conflicting).argmax(1).tolist() == [0, 1]


def rows_of(kind: str) -> TrainedRows:
    rows = Rows(WIDTH, cosine=kind == "cosine")
    rows.add_classes(CLASSES)
    for columns in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        own = rows.trainable(columns, generator(0, "rows", columns[0].item()))
        with torch.no_grad():
            own.weight.add_(0.5)
            own.bias.add_(columns.float())
        rows.store(columns, own)
    return TrainedRows(rows)


def kept(head: Head) -> Head | Rows:
    """What keeps the state of a head."""
    return head.rows if isinstance(head, TrainedRows) else head


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_rows_in_training_give_the_logits_of_the_stored_rows(kind):
    x = data()[0]
    head = rows_of(kind)
    columns = torch.tensor([3, 1])
    rows = head.rows.trainable(columns, generator(9))
    torch.testing.assert_close(rows(x).detach(), head.logits(x)[:, columns], rtol=1e-5, atol=1e-5)


def test_cosine_rows_see_directions_only():
    x = data()[0]
    head = rows_of("cosine")
    torch.testing.assert_close(head.logits(7 * x), head.logits(x))
    assert head.logits(x).abs().max() <= Rows.SCALE + 1e-4
    assert not head.rows.trainable(torch.tensor([0]), generator(0)).bias.requires_grad
    assert rows_of("linear").rows.trainable(torch.tensor([0]), generator(0)).bias.requires_grad


def test_new_rows_start_small_and_random_and_learned_ones_where_they_were():
    head = rows_of("linear")
    head.rows.add_classes(2)
    start = head.rows.trainable(torch.tensor([4, 1, 5]), generator(0, "a"))
    again = head.rows.trainable(torch.tensor([4, 1, 5]), generator(0, "a"))
    other = head.rows.trainable(torch.tensor([4, 1, 5]), generator(0, "b"))
    assert torch.equal(start.weight, again.weight)
    assert not torch.equal(start.weight[0], other.weight[0])
    assert torch.equal(start.weight[1], head.rows.weight[1])
    assert 0 < start.weight[0].abs().max() < 0.1
    with torch.no_grad():
        start.weight.fill_(7)
    assert not (head.rows.weight == 7).any()


def test_storing_rows_touches_no_other_class():
    head = rows_of("linear")
    x, before = data()[0], rows_of("linear").logits(data()[0])
    head.logits(x)
    rows = head.rows.trainable(torch.tensor([2]), generator(0))
    with torch.no_grad():
        rows.weight.fill_(1)
    head.rows.store(torch.tensor([2]), rows)
    after = head.logits(x)
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    torch.testing.assert_close(after[:, 2], x.sum(1) + rows.bias.item(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [*ANALYTIC, "linear", "cosine"])
def test_the_linear_form_reproduces_the_logits(kind):
    x, y = data()
    head = learned(kind, x, y) if kind in ANALYTIC else rows_of(kind)
    linear = head.linear()
    phi = torch.nn.functional.normalize(x, dim=1) if kind == "cosine" else x
    phi = phi.to(linear.weight.dtype)
    assert (linear.projection is not None) == (kind == "ridge")
    if linear.projection is not None:
        phi = (phi @ linear.projection).relu()
    torch.testing.assert_close((phi @ linear.weight.T + linear.bias).float(), head.logits(x), rtol=1e-5, atol=1e-5)
    assert head.logits(x).abs().max() > 0


@pytest.mark.parametrize("kind", [*ANALYTIC, "linear", "cosine"])
def test_a_state_is_enough_to_go_on(kind):
    x, y = data()
    head = learned(kind, x, y) if kind in ANALYTIC else rows_of(kind)
    state = {name: value.clone() for name, value in kept(head).state_dict().items()}
    trained = TrainedRows(Rows(WIDTH, cosine=kind == "cosine"))
    again = build_head(kind, [WIDTH], projection=20) if kind in ANALYTIC else trained
    kept(again).load_state_dict(state)
    assert torch.equal(again.logits(x), head.logits(x))
    for one in (head, again):
        kept(one).add_classes(1)
        one.update(x[:7], torch.full((7,), CLASSES))
    assert torch.equal(again.logits(x), head.logits(x))
    assert head.logits(x).shape == (len(x), CLASSES + 1)
    kept(again).load_state_dict(state)
    assert again.logits(x).shape == (len(x), CLASSES), "going on must not change a saved state"


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(DataError, match=r"a LDA head holds .*, the saved one"):
        build_head("lda", [WIDTH]).load_state_dict(build_head("ridge", [WIDTH], projection=20).state_dict())


@pytest.mark.parametrize("kind", [*ANALYTIC, "linear", "cosine"])
@pytest.mark.parametrize("shape", [(3, WIDTH + 1), (WIDTH,), (2, 3, WIDTH)])
def test_features_of_another_width_are_refused(kind, shape):
    head = build_head(kind, [WIDTH], projection=20) if kind in ANALYTIC else rows_of(kind)
    kept(head).add_classes(1)
    with pytest.raises(DataError, match=rf"features of shape \(n, {WIDTH}\), got"):
        head.logits(torch.zeros(shape))
    if kind in ANALYTIC:
        with pytest.raises(DataError, match=rf"features of shape \(n, {WIDTH}\), got"):
            head.update(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long))


def test_an_unknown_head_is_refused():
    with pytest.raises(UsageError, match="no head 'svm'; choose ncm, lda, ridge or stack"):
        build_head("svm", [WIDTH])


@pytest.mark.parametrize(("kind", "build"), [("ncm", NearestMean), ("lda", LDA), ("ridge", Ridge)])
def test_heads_are_built_with_their_options(kind: str, build: Callable[..., Head]):
    head = build_head(kind, [WIDTH], shrinkage=0.3, projection=9, seed=4)
    assert type(head) is build
    assert getattr(head, "shrinkage", 0.3) == 0.3
    if kind == "ridge":
        assert torch.equal(head.state_dict()["projection"], Ridge(WIDTH, 9, 4).projection)


def test_a_damaged_gram_matrix_is_one_sentence():
    head = build_head("ridge", [4], projection=8)
    head.add_classes(2)
    head.update(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2)
    head.load_state_dict({**head.state_dict(), "gram": torch.full((8, 8), -1.0)})
    with pytest.raises(DataError, match="Gram matrix is damaged: it is not positive definite"):
        head.linear()
