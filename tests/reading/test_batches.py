"""Batches of a training: every sample once an epoch, texts of similar length together."""

import math
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.reading.batches import Buckets
from hamcl.rng import generator


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=120), batch_size=st.integers(1, 9), text=st.booleans()
)
def test_every_sample_comes_once_an_epoch(lengths, batch_size, text):
    count = len(lengths)
    buckets = Buckets(count, batch_size, generator(0), lengths if text else None)
    for _ in range(2):
        batches = list(buckets)
        assert sorted(i for batch in batches for i in batch) == list(range(count))
        assert len(batches) == len(buckets) == math.ceil(count / batch_size)
        assert sorted(map(len, batches)) == sorted(
            [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0)
        )


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=64))
def test_texts_of_similar_length_share_a_batch(lengths):
    """Within one window the batches split the samples, in order of length, without overlap."""
    batches = sorted(sorted(lengths[i] for i in batch) for batch in Buckets(len(lengths), 4, generator(0), lengths))
    assert all(a[-1] <= b[0] for a, b in pairwise(batches))


def test_buckets_save_padding_and_still_shuffle():
    lengths = torch.randint(1, 60, (1000,), generator=generator(0, "lengths")).tolist()

    def padded(batches: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    buckets = Buckets(1000, 8, generator(0), lengths)
    first, second = list(buckets), list(buckets)
    assert padded(first) < 1.15 * sum(lengths) < padded(list(Buckets(1000, 8, generator(0), None)))
    assert first != second
    assert set(map(frozenset, first)) != set(map(frozenset, second)), "batches are mixed anew in every epoch"
    assert list(Buckets(1000, 8, generator(0), lengths)) == first
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in first]
    assert max(means[:20]) > 2 * min(means[:20]), "short batches must not all come first"
