"""Two writers and a reader on one store: no reader waits or sees a mixture, and no two writers write at once.

Two processes learn a task and take it back, again and again; the one that comes second is refused. Meanwhile this
process reads the manifest and all tensors again and again. Then the same while a third process deletes `.lock` every
now and then, as nobody should: a writer may now be refused at its end, too, but none that ended well may be missing in
the history.

    python tests/soak/concurrent_store.py --reads 1000
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_store import create, finish, loaded_once, opened, three

from hamcl.errors import HamError
from hamcl.store import Manifest
from hamcl.store.folder import Folder, read_manifest
from hamcl.store.lock import LOCK
from hamcl.store.objects import load_object

REASONS = ("is being written by", "already", "keeps no state")
LOST = ("so it stops", "changed by another command")


def write(path: Path, refused: Path, done: Path) -> None:
    """Learn and undo until the process is killed; a byte in the file `refused` for every time somebody was first, and
    one in `done` for every change made.
    """
    store, task = opened(path), three(2)
    while True:
        try:
            if len(store.refresh().state.tasks) == 2:
                store.learn(task)
            else:
                store.undo()
            with done.open("ab") as file:
                file.write(b"x")
        except HamError as error:
            # The other writer may also have done it between the look and the lock.
            if not any(reason in str(error) for reason in (*REASONS, *LOST)):
                raise
            with refused.open("ab") as file:
                file.write(b"x")
            time.sleep(0.05)


def count(path: Path) -> int:
    """The bytes of a file that `write` adds to; none before the first."""
    return path.stat().st_size if path.exists() else 0


def read(path: Path) -> Manifest:
    """Read the manifest and every tensor it names."""

    def load(manifest: Manifest) -> Manifest:
        for record in manifest.state.files.values():
            load_object(path, record)
        return manifest

    return Folder(path, read_manifest(path)).read(load)


def delete(path: Path, done: Path) -> None:
    """Delete the lock once for every change made, until the process is killed."""
    draw = random.Random(0)
    while True:
        before = count(done)
        time.sleep(draw.uniform(0, 1))
        (path / LOCK).unlink(missing_ok=True)
        while count(done) == before:
            time.sleep(0.01)


def run(folder: Path, reads: int, writes: int) -> dict[str, Any]:
    """Read at least `reads` times, and until `writes` changes were seen, in `folder`, which must be empty; then half
    as much while the lock is deleted.
    """
    with loaded_once():
        figures = _run(folder / "locked", reads, writes)
        figures["without_lock"] = _run(folder / "unlocked", reads // 2, writes // 2, delete)
    return figures


def _run(folder: Path, reads: int, writes: int, disturb: Callable[[Path, Path], None] | None = None) -> dict[str, Any]:
    folder.mkdir()
    store = create(folder / "shared.ham")
    for i in range(2):
        store.learn(three(i))
    states, events = {2: store.manifest.state.key}, len(store.manifest.history)
    refused, done, others = folder / "refused", folder / "done", []
    works = [lambda: write(store.path, refused, done)] * 2 + [lambda: disturb(store.path, done)] * bool(disturb)
    for work in works:
        pid = os.fork()
        if pid == 0:
            try:
                work()
            finally:
                os._exit(1)
        others.append(pid)
    problems: list[str] = []
    changes: set[int] = set()
    slowest, read_ = 0.0, 0
    try:
        while read_ < reads or len(changes) <= writes:
            start = time.perf_counter()
            try:
                state, seen = (m := read(store.path)).state, len(m.history)
                known = 2 if len(state.tasks) == 2 else seen  # every time a task is learned it has another date
                if states.setdefault(known, state.key) != state.key:
                    problems.append(f"a state of {len(state.tasks)} tasks is not the one before")
                changes.add(seen)
            except HamError as error:
                problems.append(str(error))
            slowest, read_ = max(slowest, time.perf_counter() - start), read_ + 1
            if any(os.waitpid(pid, os.WNOHANG)[0] for pid in others):
                raise RuntimeError("a writer failed")
    finally:
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        for pid in others:
            os.waitpid(pid, 0)
    store.verify()
    made, told = len(store.refresh().history) - events, count(done)
    if not 0 <= made - told <= 2:  # each writer may have been killed between its change and the byte for it
        problems.append(f"{told} changes were made, but the history has {made}")
    return {
        "reads": read_,
        "changes_seen": len(changes) - 1,
        "changes": told,
        "refused": count(refused),
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
        finish(run(Path(folder), options.reads, options.writes))


if __name__ == "__main__":
    main()
