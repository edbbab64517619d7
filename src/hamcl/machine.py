"""Where a model computes, and in what arithmetic."""

from contextlib import nullcontext
from typing import Any

import torch

from hamcl.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """Turn the option `device` into a device; "auto" takes an accelerator where there is one.

    Raises:
        UsageError: there is no such device here.
    """
    try:
        if name == "auto":
            current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            return current or torch.device("cpu")
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
        return device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error


def arithmetic(device: torch.device, precision: str) -> str:
    """What the option `precision` comes to on a device, "fp32" or "bf16"."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        # Older versions of torch do not tell.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        fast = device.type == "cpu" and capabilities.get("avx512_bf16", False)
    return "bf16" if fast else "fp32"


def autocast(device: torch.device, precision: str) -> Any:
    """The autocast context of the option `precision` on a device."""
    bf16 = arithmetic(device, precision) == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
