"""Plain JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hamcl.errors import DataError
from hamcl.plain import plain, read_json, write_json


def test_plain_turns_nan_into_null_and_dataclasses_into_objects():
    @dataclass
    class Pair:
        a: float
        b: tuple[int, ...]

    value = {"m": np.array([[1.0, np.nan]]), "p": Pair(float("inf"), (1, 2)), 3: Path("x"), "n": np.float64(0.5)}
    assert plain(value) == {"m": [[1.0, None]], "p": {"a": None, "b": [1, 2]}, "3": "x", "n": 0.5}
    with pytest.raises(TypeError, match="object"):
        plain(object())


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), trees))
def test_plain_is_what_json_gives_back(value):
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, float("nan")], "ü": True})
    assert read_json(path) == {"x": [1, None], "ü": True}
    path.write_text(path.read_text()[:-4])
    with pytest.raises(DataError, match=r"a\.json cannot be read"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="JSON object"):
        read_json(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path / "missing.json")
