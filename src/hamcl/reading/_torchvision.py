"""Make `import torchvision` work where its compiled operators do not fit the installed torch."""

import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")


@cache
def ensure_torchvision() -> torch.library.Library | None:
    """Declare the operators that torchvision annotates on import, if its own library cannot declare them.

    A torchvision built for CUDA next to a CPU build of torch skips its compiled library silently and then fails with
    "operator torchvision::nms does not exist", which also breaks timm and transformers. The image transforms used
    here need none of these operators, so declaring the names without kernels is enough. The library is tried before
    torchvision is imported, because a failed import would leave half-imported modules behind.

    Call it before any import of torchvision, timm or transformers; calls after the first do nothing.

    Returns:
        The library that owns the declarations (kept alive by the cache), or None where nothing was needed.
    """
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    if spec is None or spec.origin is None or _compiled_library_loads(Path(spec.origin).parent):
        return None
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


def _compiled_library_loads(folder: Path) -> bool:
    files = [path for suffix in EXTENSION_SUFFIXES if (path := folder / f"_C{suffix}").is_file()]
    try:
        for path in files:
            torch.ops.load_library(str(path))
    except OSError:
        return False
    return bool(files)
