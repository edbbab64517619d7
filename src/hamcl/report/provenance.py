"""Where and with what a run is made, and the memory it takes."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import hamcl

PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "peft", "accelerate", "datasets", "safetensors"),
    *("numpy", "pillow", "pyarrow"),
)
"""Those whose version a result may depend on."""


def provenance(device: torch.device, precision: str) -> dict[str, Any]:
    """Versions, processor and device of a run that is made now."""
    return {
        "hamcl": hamcl.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "precision": precision,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def peak_memory() -> dict[str, int | None]:
    """Bytes of the largest resident set of this process, and of device memory allocated, so far."""
    device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    if sys.platform == "win32":  # no getrusage there
        return {"host": None, "device": device}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "device": device}


def _cpu() -> str:
    """The processor's name; `platform` does not know it on Linux."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
