"""One RNG policy: every random draw comes from a generator derived from (seed, purpose...).

A resumed run therefore equals an uninterrupted one: no draw depends on how many draws came before it.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Return a 63-bit seed that depends on `seed` and on every part of `purpose`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """Return a CPU generator for one purpose, for example `generator(seed, task_index, "shuffle")`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def scoped(seed: int, *purpose: int | str) -> Iterator[None]:
    """Seed the global generators inside the block and restore them after it.

    For code that takes no generator (torchvision's transforms, dropout).
    """
    derived = derive_seed(seed, *purpose)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(derived)
            random.seed(derived)
            np.random.seed(derived % 2**32)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
