"""The methods by name; a method's module is imported only when it is asked for."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from hamcl.errors import UsageError

if TYPE_CHECKING:
    from hamcl.learning.learner import Learner

METHODS = {
    "ham": "hamcl.methods.ham:HAM",
    "seq-lora": "hamcl.methods.seq_lora:SeqLoRA",
    "joint": "hamcl.methods.joint:Joint",
    "frozen": "hamcl.methods.frozen:Frozen",
    "ranpac": "hamcl.methods.ranpac:RanPAC",
    "lora-per-task": "hamcl.methods.lora_per_task:LoRAPerTask",
    "sd-lora": "hamcl.methods.sd_lora:SDLoRA",
    "inflora": "hamcl.methods.inflora:InfLoRA",
    "ease": "hamcl.methods.ease:EASE",
    "slca": "hamcl.methods.slca:SLCA",
}


def load_method(name: str) -> "type[Learner]":
    """The class of a method.

    Raises:
        UsageError: there is no such method.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"methods are {', '.join(METHODS)}"
        raise UsageError(f"there is no method {name!r}; {hint}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)
