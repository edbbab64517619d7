"""Where a model computes, how precisely, and what it does about bad samples: nothing of it is part of the model."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hamcl.config import check_types, option, require
from hamcl.errors import UsageError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Machine:
    """What belongs to the machine and the data at hand: another choice gives the same model up to rounding.

    Neither a store nor a record is told apart by it.

    Raises:
        UsageError: a value has the wrong type or lies outside its range.
    """

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps, ...; auto takes an accelerator where there is one.")
    precision: Literal["auto", "fp32", "bf16"] = option(
        "auto", "Arithmetic of the backbone; auto takes bf16 autocast where the processor has it."
    )
    eval_batch_size: int = option(128, "Samples per forward pass without gradients.")
    threads: int | None = option(None, "Processor threads of PyTorch, in the whole process; none: as they are.")
    on_bad_sample: Literal["error", "skip"] = option("error", "What to do with a single unreadable sample.")

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "eval_batch_size", self.eval_batch_size >= 1, "at least 1")
        require(self, "threads", self.threads is None or 1 <= self.threads <= 4096, "from 1 to 4096, or none")

    def resolved(self) -> "torch.device":
        """The device that `device` comes to.

        Raises:
            UsageError: there is no such device here.
        """
        import torch

        try:
            if self.device == "auto":
                current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
                return current or torch.device("cpu")
            device = torch.device(self.device)
            torch.empty(0, device=device)
            if device.type == "meta":
                raise RuntimeError("it computes nothing")
            return device
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"device {self.device!r} cannot be used here: {str(error).splitlines()[0]}") from error

    def arithmetic(self, device: "torch.device") -> str:
        """What `precision` comes to on a device, "fp32" or "bf16"."""
        import torch

        if self.precision != "auto":
            return self.precision
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            # Older versions of torch do not tell.
            capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
            fast = device.type == "cpu" and capabilities.get("avx512_bf16", False)
        return "bf16" if fast else "fp32"

    def autocast(self, device: "torch.device") -> AbstractContextManager[Any]:
        """The autocast context of `precision` on a device."""
        import torch

        bf16 = self.arithmetic(device) == "bf16"
        return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()

    def use_threads(self) -> None:
        """Set the number of threads of the process, where one was asked for."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
