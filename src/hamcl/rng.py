"""One RNG policy: every random draw comes from a generator derived from (seed, purpose...).

A resumed run therefore equals an uninterrupted one: no draw depends on how many draws came before it.
"""

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Return a 63-bit seed that depends on `seed` and on every part of `purpose`."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: int | str) -> torch.Generator:
    """Return a CPU generator for one purpose, for example `generator(seed, task_index, "shuffle")`."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


_ONE = threading.RLock()
"""The generators are those of the whole process, so one thread at a time draws from them."""


@contextmanager
def scoped(seed: int, *purpose: int | str) -> Iterator[None]:
    """Seed the global generators inside the block and restore them after it; other threads' blocks wait.

    For code that takes no generator (torchvision's transforms, dropout).
    """
    derived = derive_seed(seed, *purpose)
    with _ONE:
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


def capture(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of the global generators, as tensors and plain JSON, for `restore`."""
    tensors = {"torch": torch.get_rng_state()}
    if device.type != "cpu":
        tensors["device"] = torch.get_device_module(device).get_rng_state()
    kind, key, *rest = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(key).astype(np.int64))
    version, words, gauss = random.getstate()
    tensors["python"] = torch.tensor(words)
    return tensors, {
        "numpy": [kind, *(x.item() if isinstance(x, np.generic) else x for x in rest)],
        "python": [version, gauss],
    }


def restore(tensors: dict[str, Tensor], meta: dict[str, Any], device: torch.device) -> None:
    """Put the global generators into the states that `capture` took."""
    torch.set_rng_state(tensors["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(tensors["device"])
    kind, *rest = meta["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), *rest))
    version, gauss = meta["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
