"""What adapters of later tasks are worth when the data changes: two streams of a grid, learned one after the other.

Each method learns the first tasks of one stream and then those of another, in the configuration it has on the first.
Printed is the mean of its accuracies on the tasks of each stream, among the classes of both.

    python benchmarks/shift.py benchmarks/grids/first-task.yaml omniglot-20x12 tiny-20x5 --data DATA \\
      --methods default settled frozen
"""

import argparse
import os
import statistics
from pathlib import Path

import torch
from transformers.utils import logging

from hamcl.bench.grid import load_data, read_grid
from hamcl.methods.registry import load_method


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a grid")
    parser.add_argument("streams", nargs=2, help="their names in the grid, both for one backbone")
    parser.add_argument("--methods", nargs="+", required=True, help="their names in the grid")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--data", type=Path, default=os.environ.get("HAMCL_DATA"), help="default: $HAMCL_DATA")
    parser.add_argument("--tasks", nargs=2, type=int, default=(4, 12), help="tasks of each stream")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable_progress_bar()

    named = {cell.name: cell for cell in read_grid(args.config)}
    first = {method: named[f"{args.streams[0]}/{method}/s{args.seed}"] for method in args.methods}
    parts = [
        list(load_data(named[f"{stream}/{args.methods[0]}/s{args.seed}"], args.data and Path(args.data)))[:count]
        for stream, count in zip(args.streams, args.tasks, strict=True)
    ]
    for method, cell in first.items():
        learner = load_method(cell.method).from_backbone(cell.backbone, cell.config, **cell.read)
        for done, part in enumerate(parts, 1):
            for task in part:
                learner.learn(task)
            means = [
                f"{stream} {100 * statistics.mean(learner.evaluate(task) for task in seen):.1f} %"
                for stream, seen in zip(args.streams[:done], parts[:done], strict=True)
            ]
            print(method, f"after {len(learner.tasks)} tasks:", ", ".join(means), flush=True)


if __name__ == "__main__":
    main()
