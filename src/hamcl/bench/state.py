"""A method's state between tasks in one file: tensors as safetensors, the rest as JSON in its header, and no pickle.

The file carries the number of tasks learned in its name, and `result.json`, written after it, says which one counts:
whatever a crash leaves half done is never read.
"""

import json
from pathlib import Path

from hamcl.errors import DataError
from hamcl.files import new_file
from hamcl.learning.learner import State
from hamcl.plain import plain
from hamcl.tensors import read_tensors, write_tensors

FOLDER = "state"


def save_state(out: Path, learned: int, state: State) -> None:
    """Write the state after `learned` tasks to `out/state/`."""
    path = _path(out, learned)
    path.parent.mkdir(exist_ok=True)
    meta = json.dumps(plain(state["meta"]), allow_nan=False)
    with new_file(path) as temporary:
        write_tensors(temporary, {name: value for name, value in state.items() if name != "meta"}, {"meta": meta})


def load_state(out: Path, learned: int) -> State:
    """Read what `save_state` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = _path(out, learned)
    try:
        found, texts = read_tensors(path)
        return {**found, "meta": json.loads(texts["meta"])}
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); start the run again with --overwrite") from error


def drop_states(out: Path, *, keep: int | None = None) -> None:
    """Delete the states of all steps but `keep`."""
    kept = None if keep is None else _path(out, keep)
    for path in (out / FOLDER).glob("[0-9]*.*"):
        if path != kept:
            path.unlink()


def _path(out: Path, learned: int) -> Path:
    return out / FOLDER / f"{learned:04d}.safetensors"
