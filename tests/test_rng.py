"""Every draw depends on the seed and its purpose, and on nothing drawn before."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hamcl.rng import derive_seed, generator, scoped

purposes = st.lists(st.one_of(st.integers(-(2**63), 2**63), st.text(max_size=8)), max_size=4)


def draws() -> tuple[float, float, list[float]]:
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


@given(st.integers(), purposes, st.integers(), purposes)
def test_different_purposes_have_different_seeds(seed, purpose, other_seed, other_purpose):
    a, b = derive_seed(seed, *purpose), derive_seed(other_seed, *other_purpose)
    assert 0 <= a < 2**63
    assert (a == b) == ((seed, purpose) == (other_seed, other_purpose))


def test_purposes_do_not_run_into_each_other():
    seeds = [(0, 1, 2), (0, 12), (0, "1", "2"), (0, "1, 2"), (0, 1, "2"), (1, 2), (0, "('a',)"), (0, "a", "")]
    assert len({derive_seed(*seed) for seed in seeds}) == len(seeds)


def test_seeds_are_the_same_in_every_process_and_version():
    assert derive_seed(0) == 5254295370254170289
    assert derive_seed(3, 5, "shuffle") == 2042670274268671492


def test_a_generator_depends_on_its_purpose_alone():
    first = torch.randn(5, generator=generator(3, 1, "shuffle"))
    torch.randn(100)
    assert torch.equal(first, torch.randn(5, generator=generator(3, 1, "shuffle")))
    assert not torch.equal(first, torch.randn(5, generator=generator(3, 2, "shuffle")))
    assert not torch.equal(first, torch.randn(5, generator=generator(4, 1, "shuffle")))


def test_a_scope_seeds_all_three_generators():
    with scoped(1, "train"):
        first = draws()
    draws()
    with scoped(1, "train"):
        assert draws() == first
    with scoped(1, "test"):
        assert all(a != b for a, b in zip(draws(), first, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_a_scope_leaves_no_trace(fails):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = draws()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    try:
        with scoped(1, "train"), scoped(2, "inner"):
            draws()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert draws() == expected
