"""What a forged store costs whoever opens it: memory and time until it is refused.

A store on the demonstration's image backbone learns two small tasks. Its copies then tell, with all checksums right,
of far more or far larger things than there are; files of that size are made where it takes no space on the disk. Each
copy is opened, its model put together, verified, and asked to go back, in a process of its own, until one of these
refuses it. Printed are the most memory above that of the process before, and the seconds of processor time; one that
nothing refuses, or that costs more than 500 MiB or 20 seconds, is a problem.

    python tests/soak/forged_store.py
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from small_store import finish, pictures

from hamcl.config import HAMConfig
from hamcl.errors import HamError
from hamcl.store import Store
from hamcl.store.document import sealed

MEMORY, SECONDS = 500, 20
Json = Any


def sparse(store: Path, record: Json) -> None:
    """Give an object the size that its record tells of, without taking place on the disk."""
    os.truncate(store / "objects" / f"{record['sha256']}.safetensors", record["size"])


def entries(store: Path, m: Json) -> None:
    m["history"] = [{}] * 2_000_000


def faults(store: Path, m: Json) -> None:
    m["history"] = [{}] * 100_000


def scores(store: Path, m: Json) -> None:
    kept = {"accuracy": 5, "samples": 1}
    one = {"time": "", "learned": 1, "overall": {"accuracy": 1, "samples": 1}, "tasks": {}, "confusions": []}
    m["state"]["evaluations"] = [{**one, "classes": {str(i): kept for i in range(100_000)}}]


def classes(store: Path, m: Json) -> None:
    """A million classes of which nothing else tells."""
    m["state"]["classes"] = [f"{i}" for i in range(500_000)]
    m["state"]["tasks"][0]["columns"] = [*range(500_000)]


def rows(store: Path, m: Json) -> None:
    """As many classes, and rows of zeros for them, but another head."""
    classes(store, m)
    record = m["state"]["rows"]
    for tensor in record["tensors"].values():
        tensor["shape"][0] = 500_000
    record["size"] = sum(4 * t["shape"][0] * (t["shape"][1:] or [1])[0] for t in record["tensors"].values()) + 1000
    sparse(store, record)


def rank(store: Path, m: Json) -> None:
    record = m["state"]["groups"][0]["file"]
    for name, tensor in record["tensors"].items():
        tensor["shape"][0 if name.endswith(".A") else 1] = 2**16
    record["size"] = sum(4 * t["shape"][0] * t["shape"][1] for t in record["tensors"].values()) + 9000
    sparse(store, record)


def gram(store: Path, m: Json) -> None:
    record = m["state"]["head"]["ridge.gram"]
    record["tensors"]["ridge.gram"].update(shape=[56_000, 56_000], packed=False)
    record["size"] = 4 * 56_000**2 + 1000
    sparse(store, record)


def content(store: Path, m: Json) -> None:
    """Right in all but the content, which is zeros."""
    record = m["state"]["head"]["ridge.gram"]
    path = store / "objects" / f"{record['sha256']}.safetensors"
    path.write_bytes(bytes(record["size"]))


def projection(store: Path, m: Json) -> None:
    m["config"]["projection"] = 32768


def size(store: Path, m: Json) -> None:
    m["backbone"]["options"]["image_size"] = 4096
    m["backbone"]["fingerprint"] = "0" * 64


def layers(store: Path, m: Json) -> None:
    m["backbone"]["layers"] = [f"layer{i}" for i in range(900_000)]


def earlier(store: Path, m: Json) -> None:
    entry = m["earlier"][-1]
    state = json.loads((store / "objects" / f"{entry['sha256']}.json").read_bytes())
    record = state["head"]["ridge.gram"]
    record["tensors"]["ridge.gram"].update(shape=[56_000, 56_000], packed=False)
    record["size"] = 4 * 56_000**2 + 1000
    sparse(store, record)
    data = json.dumps(state).encode()
    entry.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (store / "objects" / f"{entry['sha256']}.json").write_bytes(data)


CASES = (entries, faults, scores, classes, rows, rank, gram, content, projection, size, layers, earlier)


def cost(work: Callable[[], str]) -> tuple[str, float, float]:
    """What `work` says, the MiB it takes above what there is, and its processor time, in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            before, start = pages * resource.getpagesize() / 2**20, time.process_time()
            said = work()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(writer, json.dumps([said, peak - before, time.process_time() - start]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    said, memory, seconds = json.loads(answer)
    return said, memory, seconds


def use(path: Path) -> str:
    """The sentence that refuses the store; empty if nothing does."""
    try:
        store = Store.open(path)
        store.model()
        store.verify()
        store.undo()
    except HamError as error:
        return str(error).replace(str(path), "STORE")
    return ""


def run(folder: Path) -> dict[str, Any]:
    """The cost of every case, and first that of a store as it should be, by name; and the problems."""
    good = folder / "good.ham"
    config = HAMConfig(epochs=1, max_groups=2)
    store = Store.create(good, backbone="efficientnet-lite0", backbone_options={"image_size": 64}, config=config)
    for i in range(2):
        store.learn(pictures(f"task-{i}", (f"{i}a", f"{i}b"), 8))
    figures: dict[str, Any] = {}
    problems = []
    for case in (None, *CASES):
        path = folder / "forged.ham"
        shutil.copytree(good, path)
        if case:
            manifest = path / "manifest.json"
            value = json.loads(manifest.read_bytes())
            value.pop("checksum")
            case(path, value)
            manifest.write_bytes(sealed(value))
            del value
        said, memory, seconds = cost(partial(use, path))
        shutil.rmtree(path)
        name = case.__name__ if case else "as it should be"
        figures[name] = {"mib": round(memory), "seconds": round(seconds, 2), "said": said[:160]}
        if memory > MEMORY or seconds > SECONDS or bool(said) != bool(case):
            problems.append(f"{name}: {figures[name]}")
    return {**figures, "problems": problems}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        finish(run(Path(folder)))


if __name__ == "__main__":
    main()
