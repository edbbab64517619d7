"""What the package needs: versions that are looked after, and for each of them one that the tests run with."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
REQUIREMENTS = {canonicalize_name(r.name): r for r in map(Requirement, [*PROJECT["dependencies"], *EXTRAS])}
PINNED = {
    canonicalize_name(name): Version(version)
    for name, version in (
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
}
HOLES = {
    "filelock": "3.20.2",  # links planted at the lock's name are followed
    "numpy": "1.26.4",  # not maintained any more
    "onnx": "1.20.1",  # files outside the model's folder
    "pillow": "12.3",  # crafted images; only the newest series is looked after
    "pyarrow": "23.0.0",  # memory used after it is freed
    "scikit-learn": "1.4.2",  # training data kept in a vectorizer
    "torch": "2.9.1",  # code run by weights_only loading
    "transformers": "4.57.6",  # code run by checkpoints of the trainer
}
"""The last version with what is said here."""


@pytest.mark.parametrize("name", sorted(REQUIREMENTS.keys() - {"hamcl"}))
def test_every_requirement_is_pinned_to_a_version_it_allows(name):
    assert name in PINNED and PINNED[name] in REQUIREMENTS[name].specifier


@pytest.mark.parametrize("name", HOLES)
def test_versions_with_known_holes_are_not_allowed(name):
    assert Version(HOLES[name]) not in REQUIREMENTS[name].specifier
