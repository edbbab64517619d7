"""Probabilities: the temperature, and what every head's confidence is worth on samples it has not seen."""

import pytest
import torch
from torch import Tensor

from hamcl.heads import Rows, TrainedRows, build_head
from hamcl.heads.calibration import TEMPERATURES, doubt, evidence, temperature
from hamcl.metrics import calibration_error, reliability
from hamcl.rng import generator

KINDS = ("ncm", "lda", "ridge", "stack")


def error(logits: Tensor, labels: Tensor) -> float:
    best = logits.double().softmax(1).max(1)
    return calibration_error(reliability(best.values.numpy(), (best.indices == labels).numpy()))


def synthetic(seed: int, classes: int = 6, each: int = 20, width: int = 256) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes whose means differ in 8 directions, and unit noise in all: training and test samples."""
    g = generator(seed, "synthetic")
    means = torch.zeros(classes, width)
    means[:, :8] = torch.randn(classes, 8, generator=g)
    labels, truth = torch.arange(classes).repeat_interleave(each), torch.arange(classes).repeat_interleave(100)
    x, probes = (means[y] + torch.randn(len(y), width, generator=g) for y in (labels, truth))
    return x, labels, probes, truth


def test_the_temperature_is_the_one_scores_were_multiplied_by():
    g = generator(0, "temperature")
    logits = 2 * torch.randn(4000, 5, generator=g).double()
    labels = torch.distributions.Categorical(logits=logits).probs.multinomial(1, generator=g).flatten()
    for factor in (1e-3, 1.0, 37.0, 2000.0):
        found = temperature(evidence(factor * logits, labels), len(labels))
        assert found == pytest.approx(factor, rel=0.1)


def test_evidence_in_pieces_is_that_of_all_at_once():
    g = generator(0, "pieces")
    logits, labels = torch.randn(30, 4, generator=g), torch.randint(4, (30,), generator=g)
    pieces = sum(evidence(z, y) for z, y in zip(logits.split(7), labels.split(7), strict=True))
    torch.testing.assert_close(evidence(logits, labels), pieces)
    cross = torch.nn.functional.cross_entropy(logits.double() / TEMPERATURES[40], labels, reduction="sum")
    torch.testing.assert_close(evidence(logits, labels)[0, 40], cross)


@pytest.mark.parametrize("count", [1, 5, 50])
def test_samples_that_are_all_right_make_no_certainty(count):
    logits = torch.tensor([[1.0, -1.0]]).repeat(count, 1)
    sure = (logits[0] / temperature(evidence(logits, torch.zeros(count, dtype=torch.long)), count)).softmax(0)[0]
    assert 1 - 1 / (count + 2) < sure + 0.03 < 1.03 - 0.25 / (count + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_confidence_is_the_accuracy_on_samples_never_seen(kind):
    """One task, then three of two classes each, in 256 dimensions with 20 samples a class."""
    for tasks in (1, 3):
        gaps, errors = [], []
        for seed in range(3):
            x, y, probes, truth = synthetic(seed)
            head = build_head(kind, (128, 128) if kind == "stack" else (256,), projection=256)
            for columns in torch.arange(6).chunk(tasks):
                head.add_classes(len(columns))
                mine = torch.isin(y, columns)
                head.update(x[mine], y[mine])
            logits = head.logits(probes)
            best = logits.softmax(1).max(1)
            gaps.append((best.values.mean() - (best.indices == truth).float().mean()).item())
            errors.append(error(logits, truth))
            assert head.judged > (100 if tasks == 1 else 40)
        assert sum(errors) / 3 < (0.07 if tasks == 1 else 0.1)
        assert abs(sum(gaps)) / 3 < (0.05 if tasks == 1 else 0.08)


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_of_a_head_carries_its_calibration(kind):
    x, y, probes, _ = synthetic(0)
    head = build_head(kind, (128, 128) if kind == "stack" else (256,), projection=32)
    head.add_classes(6)
    head.update(x, y)
    torch.testing.assert_close(head.linear()(probes).float(), head.logits(probes), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        head._solve()(probes).float() / head.temperature.float(), head.logits(probes), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_few_classes_said_counts_less_when_more_come_and_the_state_keeps_its_size(kind):
    x, y, _, _ = synthetic(0)
    head = build_head(kind, (128, 128) if kind == "stack" else (256,), projection=32)
    shapes = []
    for columns in torch.arange(6).chunk(3):
        before = head.judged
        head.add_classes(2)
        assert head.judged <= before
        mine = torch.isin(y, columns)
        head.update(x[mine], y[mine])
        assert head.judged > 39
        shapes.append([v.shape for name, v in head.state_dict().items() if "evidence" in name or "held" in name])
    assert shapes[0] == shapes[2]
    again = build_head(kind, (128, 128) if kind == "stack" else (256,), projection=32)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.logits(x), head.logits(x))


@pytest.mark.parametrize("cosine", [False, True])
def test_rows_guess_their_temperature_and_say_so(cosine):
    x, y, _, _ = synthetic(0)
    rows = Rows(256, cosine=cosine)
    rows.add_classes(6)
    rows.weight = 30 * torch.stack([x[y == c].mean(0) for c in range(6)])
    head = TrainedRows(rows)
    before = head.logits(x)
    plain = rows.state_dict()
    head.update(x, y)
    assert torch.equal(head.logits(x).argmax(1), before.argmax(1))
    assert error(head.logits(x), y) < 0.1
    assert head.judged == 0
    again = TrainedRows(Rows(256, cosine=cosine))
    again.rows.load_state_dict(rows.state_dict())
    assert torch.equal(again.logits(x), head.logits(x))
    again.rows.load_state_dict(plain)
    torch.testing.assert_close(again.logits(x), before)


def test_doubt_is_one_sentence_and_ends_at_a_hundred():
    assert doubt(100) == ""
    assert (
        doubt(12.3) == "probabilities are not known well: they rest on 12 samples that were left out, fewer than 100"
    )
    assert doubt(0) == "probabilities are not known well: they rest on no left-out sample"


def test_shrinkage_follows_the_samples():
    """Of 5 samples a class in 256 dimensions the covariance is mostly the identity; of many it is their own."""
    few, many = (build_head("lda", (64,)) for _ in range(2))
    for head, each in ((few, 5), (many, 4000)):
        x, y, _, _ = synthetic(0, each=each, width=64)
        head.add_classes(6)
        head.update(x * torch.linspace(0.2, 3, 64), y)
    assert few._shrinkage > 0.5 > 0.05 > many._shrinkage
    assert build_head("lda", (64,), shrinkage=0.3)._shrinkage == 0.3
