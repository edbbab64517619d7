"""The hub of Hugging Face, asked once whether it answers before libraries ask it again and again."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SECONDS = 5.0
"""How long the hub may take to answer."""


@contextmanager
def hub() -> Iterator[None]:
    """Go offline inside the block, as with `HF_HUB_OFFLINE=1`, if the hub does not answer.

    Each library would else try five times for every file, and say so each time.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers():
        yield
        return
    switches = [constants, *(m for m in [sys.modules.get("datasets.config")] if m)]
    for module in switches:
        module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in switches:
            module.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]


def _answers() -> bool:
    """Whether the hub, or the mirror or the proxy that is set, answers at all."""
    from huggingface_hub import constants, get_session

    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # the errors of HTTP libraries share no base
            get_session().head(constants.ENDPOINT, timeout=SECONDS)
            answered.set()

    # In a thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answered.is_set()
