"""The size of a store as tasks come: what grows with classes, what with tasks, and what not at all.

python tests/soak/store_size.py --tasks 200
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from small_store import create, loaded_once, pictures

from hamcl.store import Store


def sizes(store: Store) -> dict[str, Any]:
    """Bytes of the present state by what they are for; and of the whole folder, earlier states included."""
    found, manifest = store.sizes(), store.manifest
    growing = sum(
        r.size for r in manifest.state.head.values() for t in r.tensors.values() if _by_class(store, t.shape)
    )
    return {
        "tasks": len(manifest.state.tasks),
        "classes": len(manifest.state.classes),
        "groups": found.groups,
        "groups_bound": found.groups_bound,
        "head_fixed": found.head - growing,
        "head_by_class": growing,
        "rows_by_class": found.rows,
        "manifest": (store.path / "manifest.json").stat().st_size,
        "folder": sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file()),
    }


def _by_class(store: Store, shape: tuple[int, ...]) -> bool:
    return len(store.manifest.state.classes) in shape


def run(folder: Path, tasks: int, early: int = 10) -> dict[str, Any]:
    """Learn `tasks` tasks of two classes in `folder`; the sizes after `early` and after all, by name."""
    start, found = time.perf_counter(), []
    with loaded_once():
        # A projection of 97 is no number of classes, which are even.
        store = create(folder / "grown.ham", epochs=1, max_groups=5, projection=97)
        for i in range(tasks):
            store.learn(pictures(f"task-{i}", (f"{i}a", f"{i}b"), count=4))
            if i + 1 in (early, tasks):
                found.append(sizes(store))
        store.verify()
    return {"early": found[0], "late": found[-1], "seconds": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), options.tasks)))


if __name__ == "__main__":
    main()
