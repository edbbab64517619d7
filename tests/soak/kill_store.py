"""Kill `Store.learn` at random moments and look at what is left: nothing may be lost, and nothing half done.

A store of two tasks learns a third, again and again. Each time the learning process gets SIGKILL: in one half of the
cases at a random time after a phase of `learn` has begun, in the other half just before or after a random file
operation, or with the file it was writing cut anywhere. Then the store is opened, verified, and asked to classify; it
must be the one before, bit for bit, or the one after. Once it is the one after it must equal that of an uninterrupted
`learn`, is taken back by `undo`, and must then equal the one before again.

Then the learning process is stopped at random file operations, and while it stands still either `.lock` is deleted and
another process learns another task, or another folder is put in the place of the store; it goes on after that.
Whoever ended well must have kept its task, whoever was refused must have changed nothing, and the exchanged folder
must be as it was. Last, an export over an earlier one is killed at random moments: what is at its place must be whole,
and the next export must succeed and leave nothing hidden.

    python tests/soak/kill_store.py --kills 200 --stops 60 --exports 40
"""

import argparse
import json
import mmap
import os
import random
import shutil
import signal
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_store import create, finish, loaded_once, opened, three

import hamcl.learning.learner
from hamcl.errors import HamError
from hamcl.learning.classify import Classify
from hamcl.methods.ham import HAM
from hamcl.store import Store
from hamcl.store import store as rooms
from hamcl.store.folder import Folder
from hamcl.store.manifest import State
from hamcl.streams.base import Task

PHASES = ("loading", "training", "merging", "head", "writing", "renaming", "cleaning")
REFUSED = 3
"""The exit code of a process whose `learn` was refused."""


class Watch:
    """The phase and the number of file operations of a learning process, in memory shared with it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)

    @property
    def phase(self) -> str:
        return PHASES[self.memory[0]]

    @phase.setter
    def phase(self, name: str) -> None:
        self.memory[0] = PHASES.index(name)

    @contextmanager
    def during(self, name: str) -> Any:
        before, self.phase = self.phase, name
        yield
        self.phase = before

    def install(self, on_operation: Callable[[str, str, int | None], None]) -> None:
        """Follow the phases, and call `on_operation(phase, "before" or "after", open file)` around file operations.

        For a process that is about to learn and to die; nothing is put back.
        """

        def phased(owner: Any, name: str, phase: str) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **options: Any) -> Any:
                with self.during(phase):
                    return real(*args, **options)

            setattr(owner, name, call)

        phased(hamcl.learning.learner, "train", "training")
        phased(HAM, "end", "merging")
        phased(Classify, "leave", "head")
        phased(rooms, "save_object", "writing")
        phased(Folder, "remember", "writing")
        phased(Folder, "write", "renaming")
        phased(Folder, "clean", "cleaning")
        for name in ("fsync", "replace", "unlink"):
            real = getattr(os, name)

            def operation(*args: Any, real: Any = real, name: str = name, **options: Any) -> Any:
                on_operation(self.phase, "before", args[0] if name == "fsync" else None)
                result = real(*args, **options)
                on_operation(self.phase, "after", None)
                return result

            setattr(os, name, operation)


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a process of its own, which ends with 0 if it returned."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def measure(store: Store, task: Task) -> tuple[dict[str, float], dict[str, int]]:
    """The seconds from the beginning of each phase of a `learn` to its end, and its file operations."""
    watch, reader, writer = Watch(), *os.pipe()

    def work() -> None:
        operations: Counter[str] = Counter()
        times: dict[str, list[float]] = {}
        inner = watch.during

        @contextmanager
        def during(name: str) -> Any:
            times.setdefault(name, []).append(time.perf_counter())
            with inner(name):
                yield
            times[name].append(time.perf_counter())

        watch.during = during  # type: ignore[method-assign]
        watch.install(lambda phase, when, file: operations.update([phase] if when == "before" else []))
        start = time.perf_counter()
        store.learn(task)
        times["loading"] = [start, times["training"][0]]
        seconds = {name: max(t) - min(t) for name, t in times.items()}
        os.write(writer, json.dumps([seconds, operations]).encode())

    pid = forked(work)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        measured = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return measured[0], measured[1]


def kill(store: Store, task: Task, draw: random.Random, seconds: dict[str, float], operations: dict[str, int]) -> str:
    """Start a `learn`, kill it, and return the phase in which it died; "finished" if it was faster."""
    watch, timed = Watch(), draw.random() < 0.5
    phase = draw.choice([name for name in PHASES if timed or operations.get(name)])
    delay, target = draw.uniform(0, seconds[phase]), 0 if timed else draw.randrange(2 * operations[phase])
    restart, minutes, cut = draw.random() < 0.3, draw.choice([0, 10]), draw.random()
    seen: Counter[str] = Counter()

    def on_operation(now: str, when: str, file: int | None) -> None:
        if now == phase and not timed:
            if seen[now] == target:
                if file is not None and stat.S_ISREG(os.fstat(file).st_mode):
                    os.truncate(file, int(os.fstat(file).st_size * cut))
                os.kill(os.getpid(), signal.SIGKILL)
            seen[now] += 1

    def work() -> None:
        watch.install(on_operation)
        store.learn(task, restart=restart, checkpoint_minutes=minutes)

    pid, due = forked(work), None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if os.WIFSIGNALED(status):
                return watch.phase
            if status:
                raise RuntimeError("learning failed by itself")
            return "finished"
        if timed and due is None and watch.phase == phase:
            due = time.perf_counter() + delay
        if due is not None and time.perf_counter() >= due:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)


def stop(
    store: Store, task: Task, draw: random.Random, operations: dict[str, int], meanwhile: Callable[[], None]
) -> tuple[str, bool]:
    """Start a `learn`, stop it at a random file operation, do `meanwhile`, and let it go on; the phase in which it was
    stopped ("none" if it never was), and whether it ended well.
    """
    watch, phase = Watch(), draw.choice([name for name in PHASES if operations.get(name)])
    target, minutes, seen = draw.randrange(2 * operations[phase]), draw.choice([0, 10]), Counter[str]()

    def on_operation(now: str, when: str, file: int | None) -> None:
        if now == phase:
            if seen[now] == target:
                os.kill(os.getpid(), signal.SIGSTOP)
            seen[now] += 1

    pid = forked(lambda: refusable(watch, on_operation, store, task, minutes))
    _, status = os.waitpid(pid, os.WUNTRACED)
    stopped = os.WIFSTOPPED(status)
    if stopped:
        meanwhile()
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, REFUSED):
        raise RuntimeError(f"learning ended with {code}")
    return (phase if stopped else "none"), code == 0


def refusable(watch: Watch | None, on_operation: Any, store: Store, task: Task, minutes: float) -> None:
    """Learn in a process of its own, which ends with `REFUSED` if it is refused."""
    if watch:
        watch.install(on_operation)
    try:
        store.learn(task, checkpoint_minutes=minutes)
    except HamError:
        os._exit(REFUSED)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def interfere(folder: Path, stops: int, draw: random.Random, operations: dict[str, int]) -> dict[str, Any]:
    """Take the lock or the folder away from writers that stand still; `folder` holds `whole.ham`, of two tasks."""
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    path, away, tasks = folder / "stopped.ham", folder / "away.ham", (three(2), three(3))
    for number in range(stops):
        shutil.copytree(folder / "whole.ham", path)
        kind, other, before = ("lock", "folder")[number % 2], [], {}

        def delete(other: list[bool] = other) -> None:
            (path / ".lock").unlink(missing_ok=True)
            pid = forked(lambda: refusable(None, None, opened(path), tasks[1], 10))
            other.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0)

        def exchange(before: dict[str, bytes] = before) -> None:
            path.rename(away)
            shutil.copytree(folder / "whole.ham", path)
            before.update(contents(path))

        try:
            phase, first = stop(opened(path), tasks[0], draw, operations, delete if kind == "lock" else exchange)
            kept = away if before else path
            left = opened(kept)
            left.verify()
            names = [task.name for task in left.manifest.state.tasks]
            if ("task-2" in names, "task-3" in names) != (first, other == [True]):
                problems.append(f"{kind} at {phase}: {names} after {first} and {other}")
            if before and contents(path) != before:
                problems.append(f"{kind} at {phase}: the exchanged folder was changed")
            second = "" if not other else ", the second kept" if other[0] else ", the second refused"
            outcomes[f"{kind}: the first {'kept' if first else 'refused'}{second}"] += 1
        except (HamError, RuntimeError) as error:
            problems.append(f"{kind}: {error}")
        for each in (path, away):
            shutil.rmtree(each, ignore_errors=True)
    return {"stops": stops, "outcomes": dict(sorted(outcomes.items())), "problems": problems}


def exports(folder: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill exports over an earlier export; `folder` holds `whole.ham`."""

    def written() -> dict[str, int]:
        """Names and sizes: in what order safetensors writes its metadata is left to chance."""
        return {name: len(data) for name, data in contents(out).items()}

    model, out = opened(folder / "whole.ham").model(), folder / "exported" / "out"
    problems: list[str] = []

    def write() -> None:
        model.export(out, "adapters", overwrite=True)

    write()
    start = time.perf_counter()
    os.waitpid(forked(write), 0)
    seconds, whole, killed = time.perf_counter() - start, written(), 0
    for _ in range(kills):
        pid = forked(write)
        time.sleep(draw.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        if written() != whole:
            problems.append(f"what is at the place of the export is {written()}")
        if draw.random() < 0.3:
            write()
            if written() != whole:
                problems.append("an export after a killed one is another one")
            if hidden := [item.name for item in out.parent.iterdir() if item != out]:
                problems.append(f"an export after a killed one leaves {hidden}")
    write()
    hidden = [item.name for item in out.parent.iterdir() if item != out]
    return {"kills": killed, "problems": problems + [f"at last {hidden} are left"] * bool(hidden)}


def learned(state: State) -> tuple[object, ...]:
    """All of a state but its times and evaluations."""
    tasks = tuple(replace(task, learned="") for task in state.tasks)
    return state.classes, tasks, state.groups, state.decisions, state.calibration, state.rows, state.head


def run(folder: Path, kills: int, seed: int = 0, stops: int = 0, exported: int = 0) -> dict[str, Any]:
    """Do it all in `folder`, which must be empty; the figures, by name."""
    with loaded_once():
        return _run(folder, kills, seed, stops, exported)


def _run(folder: Path, kills: int, seed: int, stops: int, exported: int) -> dict[str, Any]:
    start, draw = time.perf_counter(), random.Random(seed)
    tasks = [three(i) for i in range(3)]
    store = create(folder / "killed.ham")
    for task in tasks[:2]:
        store.learn(task)
    before = store.manifest.state
    shutil.copytree(store.path, folder / "whole.ham")
    whole = opened(folder / "whole.ham")
    seconds, operations = measure(whole, tasks[2])
    after = whole.refresh().state
    probe = tasks[0].test
    scores = {"before": store.model().logits(probe), "after": whole.model().logits(probe)}

    phases: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    problems: list[str] = []
    while phases.total() < kills:
        phase = kill(store, tasks[2], draw, seconds, operations)
        if phase != "finished":
            phases[phase] += 1
        try:
            left = opened(store.path)
            left.verify()
            state = left.manifest.state
            end = "before" if state == before else "after" if learned(state) == learned(after) else "mixed"
            if end != "mixed" and not torch.equal(left.model().logits(probe), scores[end]):
                end = "mixed"
            if end == "after" and (left.undo() != ["task-2"] or left.manifest.state != before):
                end = "mixed"
        except HamError as error:
            end = "lost"
            problems.append(f"{phase}: {error}")
        if phase != "finished":
            ends[end] += 1
        if end in ("lost", "mixed"):
            problems.append(f"{phase}: {end}")
            shutil.rmtree(store.path)
            shutil.copytree(folder / "whole.ham", store.path)
            opened(store.path).undo()
    whole.undo()
    return {
        "kills": phases.total(),
        "phases": {name: phases[name] for name in PHASES},
        "before": ends["before"],
        "after": ends["after"],
        "mixed": ends["mixed"],
        "lost": ends["lost"],
        "problems": problems,
        "interference": interfere(folder, stops, draw, operations),
        "exports": exports(folder, exported, draw),
        "learn_seconds": sum(seconds[name] for name in ("loading", "training")),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--stops", type=int, default=60)
    parser.add_argument("--exports", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        finish(run(Path(folder), options.kills, options.seed, options.stops, options.exports))


if __name__ == "__main__":
    main()
