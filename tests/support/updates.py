"""Small low-rank updates, and the dense reference computations they are compared with."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from oracles import dense as reference

from hamcl.ham import Factors

Make = Callable[..., dict[str, Factors]]
SHAPES = {"blocks.0.qkv": (9, 5), "blocks.0.fc": (4, 11), "head": (6, 6)}


@pytest.fixture(scope="session")
def dense() -> ModuleType:
    """The reference computations of tests/oracles/dense.py."""
    return reference


@pytest.fixture(scope="session")
def make() -> Make:
    """make(seed, rank): Gaussian factors for three small layers, wide, tall and square."""

    def build(seed: int, rank: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Factors]:
        g = torch.Generator().manual_seed(seed)
        return {
            name: Factors(
                torch.randn(rank, width, generator=g).to(dtype), torch.randn(out, rank, generator=g).to(dtype)
            )
            for name, (out, width) in SHAPES.items()
        }

    return build


@pytest.fixture(scope="session")
def pairs() -> Callable[[dict[str, Factors]], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Turn an update into the (A, B) pairs the reference computations take."""
    return lambda layers: {name: (f.A, f.B) for name, f in layers.items()}
