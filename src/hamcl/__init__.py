"""hamcl: a pre-trained model that keeps learning new tasks with a fixed number of merged adapters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamcl.config import HAMConfig
    from hamcl.machine import Machine
    from hamcl.methods.ham import HAM
    from hamcl.nn.backbones import load_backbone
    from hamcl.store import Store
    from hamcl.streams import load_stream, load_task
    from hamcl.streams.base import Samples, Stream, Task

__version__ = "0.2.0"

__all__ = [
    "HAM",
    "HAMConfig",
    "Machine",
    "Samples",
    "Store",
    "Stream",
    "Task",
    "__version__",
    "load_backbone",
    "load_stream",
    "load_task",
]

# Imported when first asked for: PyTorch and the model libraries take seconds, and `ham --help` needs none of them.
_HOMES = {
    "HAM": "hamcl.methods.ham",
    "HAMConfig": "hamcl.config",
    "Machine": "hamcl.machine",
    "Samples": "hamcl.streams.base",
    "Store": "hamcl.store",
    "Stream": "hamcl.streams.base",
    "Task": "hamcl.streams.base",
    "load_backbone": "hamcl.nn.backbones",
    "load_stream": "hamcl.streams",
    "load_task": "hamcl.streams",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
