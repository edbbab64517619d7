"""A method's state between tasks: tensors as safetensors, everything else as JSON, no pickle.

The files carry the number of tasks learned in their names, and `result.json`, written after them, says which pair
counts: whatever a crash leaves half done is never read.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hamcl.errors import DataError
from hamcl.files import new_file
from hamcl.learning.learner import State
from hamcl.plain import read_json, write_json

FOLDER = "state"


def save_state(out: Path, learned: int, state: State) -> None:
    """Write the state after `learned` tasks to `out/state/`."""
    tensors, meta = _paths(out, learned)
    tensors.parent.mkdir(exist_ok=True)
    with new_file(tensors) as temporary:
        # Copies, because safetensors refuses tensors that share memory.
        save_file(
            {name: v.detach().cpu().contiguous().clone() for name, v in state.items() if name != "meta"}, temporary
        )
    write_json(meta, state["meta"])


def load_state(out: Path, learned: int) -> State:
    """Read what `save_state` wrote.

    Raises:
        DataError: a file is missing or damaged.
    """
    tensors, meta = _paths(out, learned)
    try:
        loaded: dict[str, Tensor] = load_file(tensors)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{tensors} cannot be read ({error}); start the run again with --overwrite") from error
    return {**loaded, "meta": read_json(meta)}


def drop_states(out: Path, *, keep: int | None = None) -> None:
    """Delete the states of all steps but `keep`."""
    kept = _paths(out, keep) if keep is not None else ()
    for path in (out / FOLDER).glob("[0-9]*.*"):
        if path not in kept:
            path.unlink()


def _paths(out: Path, learned: int) -> tuple[Path, Path]:
    return out / FOLDER / f"{learned:04d}.safetensors", out / FOLDER / f"{learned:04d}.json"
