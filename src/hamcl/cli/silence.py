"""What image libraries tell their developers is kept off the terminal: what they cannot read is a sentence of ours."""

import contextlib
import ctypes
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path


def silence_pillow() -> None:
    """Ignore what Pillow finds odd in a file that it reads all the same, and what libtiff writes to stderr itself.

    For the whole process, so it is for the command and not for the library.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    found = find_spec("PIL")
    beside = Path(found.origin).parents[1] / "pillow.libs" if found and found.origin else Path()
    for library in beside.glob("libtiff*"):  # in Pillow's own packages for Linux
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)
