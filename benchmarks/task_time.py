"""Seconds that learning a task takes, method by method, on a stream of a grid.

Each method learns the first tasks of the stream in turn, task by task, so that a change of the machine's load hits all
of them alike; median and mean over the last tasks count. The CPU clock (the default) leaves out what other processes
took.

    python benchmarks/task_time.py benchmarks/grids/rivals.yaml tiny-20x5 --data DATA --methods ham seq-lora slca ease
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from hamcl.bench.grid import load_data, read_grid
from hamcl.methods.registry import load_method

CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a grid")
    parser.add_argument("stream", help="its name in the grid")
    parser.add_argument("--methods", nargs="+", required=True, help="their names in the grid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("HAMCL_DATA"), help="default: $HAMCL_DATA")
    parser.add_argument("--first", type=int, default=10, help="tasks learned")
    parser.add_argument("--last", type=int, default=5, help="of these, those that count")
    parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    clock = CLOCKS[args.clock]

    named = {cell.name: cell for cell in read_grid(args.config)}
    cells = {method: named[f"{args.stream}/{method}/s{args.seed}"] for method in args.methods}
    stream = load_data(cells[args.methods[0]], args.data and Path(args.data))
    learners = {
        method: load_method(cell.method).from_backbone(cell.backbone, cell.config, **cell.read)
        for method, cell in cells.items()
    }
    seconds: dict[str, list[float]] = {method: [] for method in learners}
    for task in stream[: args.first]:
        for method, learner in learners.items():
            start = clock()
            learner.learn(task)
            seconds[method].append(clock() - start)
        print(task.name, *(f"{method} {taken[-1]:.1f}" for method, taken in seconds.items()), flush=True)
    counted = {method: taken[-args.last :] for method, taken in seconds.items()}
    medians = {method: statistics.median(taken) for method, taken in counted.items()}
    means = {method: statistics.mean(taken) for method, taken in counted.items()}
    for method, median in sorted(medians.items(), key=lambda item: item[1]):
        print(f"{method:24} median {median:6.1f} s, mean {means[method]:6.1f} s")
    if args.out:
        record = {"arguments": {**vars(args), "config": str(args.config), "data": None, "out": str(args.out)}}
        args.out.write_text(
            json.dumps({**record, "seconds": seconds, "medians": medians, "means": means}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
