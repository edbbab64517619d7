"""What the benchmarks of one training share: the options that choose a stream, and the stream."""

import argparse
import json
from pathlib import Path

import torch

from hamcl.streams import Stream, load_stream


def stream_options(description: str | None, *, tasks: int) -> argparse.ArgumentParser:
    """A parser of the options of the stream, the backbone and the learner.

    Args:
        tasks: the default of `--tasks`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", default="icd10")
    parser.add_argument("--data-dir")
    parser.add_argument("--train-shards", type=int)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--tasks", type=int, default=tasks)
    parser.add_argument("--classes-per-task", type=int, default=8)
    parser.add_argument("--train-per-class", type=int)
    parser.add_argument("--test-per-class", type=int)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--config", type=json.loads, default={}, help="HAMConfig options as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser


def read_stream(args: argparse.Namespace) -> Stream:
    """The stream that `args` describes; PyTorch then uses `--threads` threads."""
    torch.set_num_threads(args.threads)
    options = {} if args.train_shards is None else {"train_shards": args.train_shards}
    return load_stream(
        args.stream,
        tasks=args.tasks,
        classes_per_task=args.classes_per_task,
        train_per_class=args.train_per_class,
        test_per_class=args.test_per_class,
        seed=args.seed,
        data_dir=args.data_dir,
        **options,
    )


def write_record(args: argparse.Namespace, config: dict[str, object], accuracy: object) -> None:
    """Write the arguments, the configuration and the accuracies so far as JSON to `--out`, where that is given."""
    if args.out:
        record = {"arguments": {**vars(args), "out": str(args.out)}, "config": config, "accuracy": accuracy}
        args.out.write_text(json.dumps(record, indent=2) + "\n")
