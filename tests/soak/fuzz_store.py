"""Damage stores in every way, and look at what opening them does: a right answer, or one sentence.

Accidents (a flipped bit, a file cut, lengthened, emptied, deleted, or exchanged for another) must be refused wherever
the damage touches what is read, and give the very same answers where it does not. Forgeries (a manifest or tensors
changed by somebody who sets all checksums right, links, pipes) must be refused or be a consistent store; which they
are, nobody can tell. Neither may end in a traceback, hang, write outside of the store, or take much memory: the
process may not allocate more than a fixed amount above what it has at the beginning.

    python tests/soak/fuzz_store.py --stores 2000
"""

import argparse
import copy
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from small_store import create, finish, loaded_once, opened, three

from hamcl.errors import HamError
from hamcl.store.document import sealed
from hamcl.streams.base import Samples, Task
from hamcl.tensors import pack, unpack

MEMORY = 500 * 2**20
SECONDS = 20
"""Of processor time."""
Json = Any
Damage = Callable[["Victim"], None]


class Victim:
    """A store to damage, with the dice."""

    def __init__(self, path: Path, outside: Path, draw: random.Random) -> None:
        self.path, self.outside, self.draw = path, outside, draw

    def files(self) -> list[Path]:
        return sorted(p for p in self.path.rglob("*") if p.is_file() and p.name not in (".lock", "writer.json"))

    def any_file(self) -> Path:
        """The two JSON files half of the time: they are what an attacker looks at first."""
        documents = [p for p in self.files() if p.parent == self.path]
        return self.draw.choice(documents if self.draw.random() < 0.5 else self.files())

    def document(self) -> Path:
        return self.draw.choice([p for p in self.files() if p.suffix == ".json" and p.parent == self.path])


# Accidents.


def flip(victim: Victim) -> None:
    path = victim.any_file()
    data = bytearray(path.read_bytes())
    for _ in range(victim.draw.choice([1, 1, 1, 8])):
        data[victim.draw.randrange(len(data))] ^= 1 << victim.draw.randrange(8)
    path.write_bytes(data)


def cut(victim: Victim) -> None:
    path = victim.any_file()
    os.truncate(path, victim.draw.randrange(path.stat().st_size))


def lengthen(victim: Victim) -> None:
    path = victim.any_file()
    if victim.draw.random() < 0.3:
        os.truncate(path, 2**36)  # sparse: no disk space, but memory if it were read
    else:
        path.write_bytes(path.read_bytes() + victim.draw.randbytes(victim.draw.choice([1, 100, 5000])))


def delete(victim: Victim) -> None:
    """Nobody can tell that there was an unfinished `learn` if its document is gone."""
    victim.draw.choice([path for path in victim.files() if path.name != "unfinished.json"]).unlink()


def exchange(victim: Victim) -> None:
    a, b = victim.draw.sample(victim.files(), 2)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def overwrite(victim: Victim) -> None:
    path = victim.any_file()
    good = path.read_bytes()
    data = bytearray(good)
    while data == good:  # zeros may be zeros already
        start, size = victim.draw.randrange(len(data)), victim.draw.randrange(1, 200)
        data[start : start + size] = victim.draw.randbytes(size) if victim.draw.random() < 0.5 else bytes(size)
    path.write_bytes(data)


# Forgeries.


def link(victim: Victim) -> None:
    """A file or folder that leads out of the store, to something of the same content."""
    target = victim.draw.choice([victim.any_file(), victim.path / "objects", victim.path / "tmp"])
    outside = victim.outside / target.name
    if target.is_dir():
        shutil.copytree(target, outside)
        shutil.rmtree(target)
    else:
        shutil.copy(target, outside)
        target.unlink()
    target.symlink_to(outside)


def special(victim: Victim) -> None:
    path = victim.any_file()
    path.unlink()
    (os.mkfifo if victim.draw.random() < 0.7 else os.mkdir)(path)


def broken_json(victim: Victim) -> None:
    """Text that tries the parser: depth, size, encodings, repeated keys, numbers."""
    path = victim.document()
    text = path.read_bytes()
    path.write_bytes(
        victim.draw.choice(
            [
                b"[" * 200_000,
                b'{"a":' * 100_000,
                b'{"format": 1, "x": ' + b"9" * 100_000 + b"}",
                b'{"format": 1e999}',
                b'{"format": NaN}',
                b"\xef\xbb\xbf" + text,
                text.decode().encode("utf-16"),
                text.replace(b'"format"', b'"format": 1, "format"', 1),
                b"null",
                b"",
                b"\xff\xfe" + text,
                b'{"format": 1, "a": "' + b"x" * 2**25 + b'"}',
                b'{"format": 1, "a": [' + b"[]," * 2**22 + b"[]]}",
            ]
        )
    )


def forged_json(victim: Victim) -> None:
    """A document whose checksum is right, with one to three values changed."""
    path = victim.document()
    value = json.loads(path.read_bytes())
    value.pop("checksum")
    for _ in range(victim.draw.choice([1, 1, 2, 3])):
        _mutate(value, victim.draw)
    try:
        path.write_bytes(sealed(value))
    except ValueError:
        path.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))


def _mutate(root: Json, draw: random.Random) -> None:
    places: list[tuple[Json, Json]] = []

    def walk(value: Json) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in list(items):
            places.append((value, key))
            walk(item)

    walk(root)
    if not places:
        return
    # At every depth as likely: most places are shapes of tensors.
    depths: dict[int, list[tuple[Json, Json]]] = {}
    for where, key in places:
        depths.setdefault(len(json.dumps(where[key], default=str)) // 40, []).append((where, key))
    where, key = draw.choice(draw.choice(list(depths.values())))
    match draw.randrange(6):
        case 0:
            del where[key]
        case 1 if isinstance(where, dict):
            where[draw.choice(["x", "__proto__", "../x", key + " "])] = where[key]
        case 2:
            other, name = draw.choice(places)
            where[key] = copy.deepcopy(other[name])
        case 3 if isinstance(where, list):
            where.insert(key, copy.deepcopy(where[key]))
        case _:
            where[key] = draw.choice(
                [
                    None, True, False, 0, 1, -1, 2, 3, 4, 2**31, 2**53, 2**63, 10**30, 0.5, -1e308, float("nan"),
                    "", "x", "../../../etc/passwd", "/etc/passwd", "..", "a\0b", "\ud800", "\x1b[2J", "x" * 10_000,
                    "(a|a|a|a|a|a?)*" * 5 + "$", "F64", "BOOL", "I64", "0" * 64, [], {}, [1, 2], [[[]]], ["x"] * 1000,
                    {"x": 1}, [2**40, 2**40], [-1, 5],
                ]
            )  # fmt: skip


def forged_sizes(victim: Victim) -> None:
    """A document whose checksum is right and that tells of far more than there is, or of far larger things."""
    draw = victim.draw
    path = victim.path / "manifest.json"
    value = json.loads(path.read_bytes())
    value.pop("checksum")
    state, huge = value["state"], draw.choice([2**20, 2**24, 2**31, 12 * 2**30])
    match draw.randrange(8):
        case 0:
            draw.choice([value, state])[draw.choice(["history", "earlier", "tasks", "decisions", "groups"])] = [
                draw.choice([{}, [], 1, None, "x"])
            ] * draw.choice([50_000, 130_000, 1_000_000, 2_500_000])
        case 1:
            value["config"][draw.choice(["projection", "rank", "max_groups", "merge_rank"])] = draw.choice(
                [2**10, 2**12, 2**15, huge]
            )
        case 2:
            value["backbone"]["options"]["image_size"] = draw.choice([1024, 4096])
        case 3:
            value["backbone"]["layers"] = [f"x{i}" for i in range(draw.choice([1000, 200_000]))]
        case 4:
            state["classes"] = [f"x{i}" for i in range(draw.choice([1000, 500_000]))]
            state["tasks"][0]["columns"] = [*range(len(state["classes"]))]
        case 5:
            scores = {f"x{i}": {"accuracy": 2, "samples": -1} for i in range(60_000)}
            state["evaluations"] = [{"time": "", "learned": 1, "overall": scores["x0"], "tasks": scores}]
        case _:  # one object with more rows, of any state
            records = [state["rows"], *state["head"].values(), *(group["file"] for group in state["groups"])]
            record = draw.choice(records)
            for tensor in record["tensors"].values():
                if tensor["shape"]:
                    tensor["shape"][draw.randrange(len(tensor["shape"]))] = huge
                    tensor["packed"] = False
            numbers = [math.prod(tensor["shape"]) for tensor in record["tensors"].values()]
            record["size"] = sum(numbers) * 4 + 1000
            file = victim.path / "objects" / f"{record['sha256']}.safetensors"
            if record["size"] < 2**40:
                os.truncate(file, record["size"])  # sparse
    path.write_bytes(sealed(value))


def forged_tensors(victim: Victim) -> None:
    """An object with other tensors, under its right name, in a manifest whose checksum is right."""
    draw = victim.draw
    path = draw.choice([p for p in victim.files() if p.suffix == ".safetensors"])
    tensors = unpack(path.read_bytes())
    name = draw.choice(list(tensors))
    value = tensors[name]
    match draw.randrange(7):
        case 0:
            tensors[name] = value.to(draw.choice([torch.float64, torch.float16, torch.int32, torch.bool]))
        case 1:
            tensors[name] = value.reshape(-1)
        case 2:
            tensors[name] = torch.zeros(*value.shape, 2)
        case 3:
            del tensors[name]
        case 4:
            tensors[name + ".extra"] = value.clone()
        case 5:
            tensors[name] = value.flatten()[: value.numel() // 2].clone()
        case 6:
            tensors[name] = torch.full_like(value, -1 if value.dtype == torch.bool else -7)
    data = pack(tensors)
    if draw.random() < 0.2:  # a header that promises more than there is
        size = draw.choice([2**63 - 1, 2**40, len(data), 10, 0])
        data = size.to_bytes(8, "little") + data[8:]
    old, new = path.stem, hashlib.sha256(data).hexdigest()
    path.unlink()
    (path.parent / f"{new}.safetensors").write_bytes(data)
    for document in ("manifest.json", "unfinished.json"):
        file = victim.path / document
        value_ = json.loads(file.read_bytes())
        value_.pop("checksum")
        text = json.dumps(value_).replace(old, new)
        content = json.loads(text)
        _resize(content, new, len(data))
        file.write_bytes(sealed(content))


def _resize(value: Json, sha256: str, size: int) -> None:
    if isinstance(value, dict):
        if value.get("sha256") == sha256:
            value["size"] = size
        for item in value.values():
            _resize(item, sha256, size)
    elif isinstance(value, list):
        for item in value:
            _resize(item, sha256, size)


ACCIDENTS: tuple[Damage, ...] = (flip, cut, lengthen, delete, exchange, overwrite)
FORGERIES: tuple[Damage, ...] = (link, special, broken_json, forged_json, forged_json, forged_tensors, forged_sizes)


def use(path: Path, task: Task, probe: Samples) -> tuple[torch.Tensor | None, bool, str]:
    """Open, predict, verify, and try to learn and to undo: the answers if there are any, whether the whole store was
    found right, and the first sentence that refused it.
    """
    said, answers, right = "", None, False
    try:
        store = opened(path)
        answers = store.model().logits(probe)
    except HamError as error:
        said = str(error)
    try:
        store = opened(path)
        store.verify()
        right = True
    except HamError as error:
        said = said or str(error)
    for work in (lambda: opened(path).learn(task), lambda: opened(path).undo()):
        try:
            work()
        except HamError as error:
            said = said or str(error)
    return answers, right, said


def run(folder: Path, stores: int, seed: int = 0) -> dict[str, Any]:
    """Damage `stores` copies of one store in `folder`, which must be empty; the figures, by name."""
    start, draw = time.perf_counter(), random.Random(seed)
    with loaded_once():
        return _run(folder, stores, draw, start)


class Killed(Exception):
    """What stands for the death of a process."""


def _run(folder: Path, stores: int, draw: random.Random, start: float) -> dict[str, Any]:
    store = create(folder / "good.ham", epochs=2)
    for i in range(3):
        store.learn(three(i, count=4))
    probe = three(0, count=2).test
    task = three(3, count=4)

    def progress(step: Any) -> None:
        if step.epoch == 2:
            raise Killed

    with suppress(Killed):
        store.learn(task, progress=progress)
    truth = store.model().logits(probe)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(status["VmSize"].split()[0]) * 1024 + MEMORY, limits[1]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds of processor time, or ten times as many of any")

    for late in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(late, too_long)
    counts: Counter[str] = Counter()
    problems: list[str] = []
    sentences: set[str] = set()
    try:
        for number in range(stores):
            path, outside = folder / "bad.ham", folder / "outside"
            shutil.copytree(store.path, path)
            outside.mkdir()
            damage = draw.choice(ACCIDENTS if number % 2 else FORGERIES)
            damage(Victim(path, outside, draw))
            elsewhere = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
            problem, right, said = "", False, ""
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(10 * SECONDS)  # also where nothing is computed; machines may be busy with other work
            try:
                answers, right, said = use(path, task, probe)
                if answers is not None and damage in ACCIDENTS and not torch.equal(answers, truth):
                    problem = "a wrong answer"
                elif answers is not None and not (answers.ndim == 2 and len(answers) == len(probe)):
                    problem = "no answer for each input"
                elif damage in ACCIDENTS and right:
                    problem = "verify found nothing"
                elif "\n" in said or len(said) > 1000 or not (right or said):
                    problem = f"no sentence: {said!r}"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()} != elsewhere:
                problem = problem or "something outside was changed"
            if problem:
                problems.append(f"{number} {damage.__name__}: {problem[:300]}")
            counts[f"{damage.__name__}: {'accepted' if right else 'refused'}"] += 1
            sentences.add(said.replace(str(folder), "")[:60])
            for left in (path, outside):
                shutil.rmtree(left)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for late in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(late, signal.SIG_DFL)
    return {
        "stores": stores,
        "problems": problems,
        "outcomes": dict(sorted(counts.items())),
        "sentences": len(sentences),
        "memory_growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        finish(run(Path(folder), options.stores, options.seed))


if __name__ == "__main__":
    main()
