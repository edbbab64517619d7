"""A grid of runs from a file: streams x methods x values of options x seeds, one record per cell.

    python benchmarks/grid.py benchmarks/grids/rivals.yaml runs/rivals --data DATA
    python benchmarks/grid.py benchmarks/grids/rivals.yaml runs/rivals --data DATA --shard 1/2   # and 2/2 beside it
    ham report runs/rivals --markdown rivals.md

DATA is the folder of tiny-imagenet-200/ and omniglot-8/. Finished cells are kept, unfinished ones resumed; a cell that
fails is told of and tried again the next time. The file's keys are those of `hamcl.bench.grid.read_grid`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from transformers.utils import logging

from hamcl.bench.grid import Cell, read_grid, run_grid, shard
from hamcl.errors import HamError, UsageError
from hamcl.machine import Machine
from hamcl.report.records import Result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("HAMCL_DATA"), help="default: $HAMCL_DATA")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th cell from the i-th on")
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--list", action="store_true", help="print the commands of the cells and stop")
    args = parser.parse_args()
    logging.disable_progress_bar()
    start, failed = time.perf_counter(), 0

    def tell(cell: Cell, result: Result | HamError) -> None:
        nonlocal failed
        if isinstance(result, HamError):
            failed += 1
            text = f"failed: {result}"
        else:
            seconds = sum(result.seconds.values())
            text = f"{100 * result.metrics['average_accuracy']:.1f} % in {seconds:.0f} s"
        print(f"[{time.perf_counter() - start:.0f} s] {cell.name}: {text}", flush=True)

    try:
        cells = [cell for cell in shard(read_grid(args.config), args.shard) if args.only in cell.name]
        if args.list:
            print("\n".join(" ".join([*cell.command(), "--out", str(args.out / cell.name)]) for cell in cells))
            return 0
        machine = Machine(args.device, args.precision, threads=args.threads)
        run_grid(cells, args.out, data=args.data and Path(args.data), machine=machine, on_cell=tell)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
