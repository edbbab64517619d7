"""Two writers and a reader on one store: no reader waits or sees a mixture, and no two writers write at once.

Two processes learn a task and take it back, again and again; the one that comes second is refused. Meanwhile this
process reads the manifest and all tensors again and again.

    python benchmarks/concurrent_store.py --reads 1000
"""

import argparse
import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from small_store import create, three

from hamcl.errors import HamError
from hamcl.store import Manifest, Store
from hamcl.store.folder import Folder, read_manifest
from hamcl.store.objects import load_object


def write(path: Path, refused: Path) -> None:
    """Learn and undo until the process is killed; a byte in the file `refused` for every time somebody was first."""
    store, task = Store.open(path), three(2)
    while True:
        try:
            if len(store.refresh().state.tasks) == 2:
                store.learn(task)
            else:
                store.undo()
        except HamError as error:
            # The other writer may also have done it between the look and the lock.
            if not any(reason in str(error) for reason in ("is being written by", "already")):
                raise
            with refused.open("ab") as file:
                file.write(b"x")
            time.sleep(0.05)


def read(path: Path) -> Manifest:
    """Read the manifest and every tensor it names."""

    def load(manifest: Manifest) -> Manifest:
        for record in manifest.state.files.values():
            load_object(path, record)
        return manifest

    return Folder(path, read_manifest(path)).read(load)


def run(folder: Path, reads: int, writes: int) -> dict[str, Any]:
    """Read at least `reads` times, and until `writes` changes were seen, in `folder`, which must be empty."""
    store = create(folder / "shared.ham")
    for i in range(2):
        store.learn(three(i))
    states = {2: store.manifest.state.key}
    refused, writers = folder / "refused", []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                write(store.path, refused)
            finally:
                os._exit(1)
        writers.append(pid)
    problems: list[str] = []
    changes: set[int] = set()
    slowest, done = 0.0, 0
    try:
        while done < reads or len(changes) <= writes:
            start = time.perf_counter()
            try:
                state, events = (m := read(store.path)).state, len(m.history)
                known = 2 if len(state.tasks) == 2 else events  # every time a task is learned it has another date
                if states.setdefault(known, state.key) != state.key:
                    problems.append(f"a state of {len(state.tasks)} tasks is not the one before")
                changes.add(events)
            except HamError as error:
                problems.append(str(error))
            slowest, done = max(slowest, time.perf_counter() - start), done + 1
            if any(os.waitpid(pid, os.WNOHANG)[0] for pid in writers):
                raise RuntimeError("a writer failed")
    finally:
        for pid in writers:
            os.kill(pid, signal.SIGKILL)
        for pid in writers:
            os.waitpid(pid, 0)
    store.verify()
    return {
        "reads": done,
        "changes_seen": len(changes) - 1,
        "refused": refused.stat().st_size if refused.exists() else 0,
        "slowest_read_seconds": slowest,
        "problems": problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=1000)
    parser.add_argument("--writes", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), options.reads, options.writes)))


if __name__ == "__main__":
    main()
