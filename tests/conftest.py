"""Set-up all tests share: one thread per worker, no network, where the larger data sets lie."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers or datasets is imported

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data sets kept outside the repository (`HAMCL_DATA`, or shared/data beside the checkout)."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HAMCL_DATA", beside))
    if not folder.is_dir():
        pytest.skip("the larger data sets are not here (set HAMCL_DATA to their folder)")
    return folder
