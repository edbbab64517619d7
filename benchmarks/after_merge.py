"""What going on from the final merge costs, against going on from the groups.

One learner goes through the stream; after the tasks given with --at, a second one starts from its merged model, with
its head but without its groups (`HAM.rebased`), and learns the rest of the stream as well. With --every k, a further
one starts again from its own merged model after every k tasks.

    python benchmarks/after_merge.py --stream icd10 --backbone minilm --tasks 20 --classes-per-task 8 --out merge.json
"""

import argparse
import json
from pathlib import Path

import torch

from hamcl.config import HAMConfig
from hamcl.learner import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.streams import Stream, load_stream


def average_accuracy(learner: HAM, stream: Stream) -> float:
    """In percent, over the tasks learned so far."""
    tasks = list(stream)[: len(learner.tasks)]
    return round(100 * sum(learner.evaluate(task) for task in tasks) / len(tasks), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", default="icd10")
    parser.add_argument("--data-dir")
    parser.add_argument("--train-shards", type=int)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--classes-per-task", type=int, default=8)
    parser.add_argument("--train-per-class", type=int)
    parser.add_argument("--test-per-class", type=int)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--at", type=int, nargs="*", default=[5, 10], help="merge once, after that many tasks")
    parser.add_argument("--every", type=int, nargs="*", default=[5], help="merge again and again")
    parser.add_argument("--config", type=json.loads, default={}, help="HAMConfig options as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    options = {} if args.train_shards is None else {"train_shards": args.train_shards}
    stream = load_stream(
        args.stream,
        tasks=args.tasks,
        classes_per_task=args.classes_per_task,
        train_per_class=args.train_per_class,
        test_per_class=args.test_per_class,
        seed=args.seed,
        data_dir=args.data_dir,
        **options,
    )
    config = HAMConfig.from_dict({**args.config, "seed": args.seed})
    learners = {"groups": HAM(load_backbone(args.backbone, image_size=args.image_size), config)}
    table: dict[str, dict[int, float]] = {}
    for count, task in enumerate(stream, 1):
        for name, learner in learners.items():
            learner.learn(task)
            if count % 5 == 0 or count == len(stream):
                table.setdefault(name, {})[count] = average_accuracy(learner, stream)
        if count in args.at:
            learners[f"merged after {count}"] = learners["groups"].rebased()
        for k in args.every:
            if count % k == 0:
                name = f"merged every {k}"
                learners[name] = learners.get(name, learners["groups"]).rebased()
        print(f"{task.name}: {len(learners)} learners", flush=True)
        if args.out:
            record = {
                "arguments": {**vars(args), "out": str(args.out)},
                "config": config.to_dict(),
                "accuracy": table,
            }
            args.out.write_text(json.dumps(record, indent=2) + "\n")
    for name, row in table.items():
        print(name.ljust(20), "  ".join(f"{count}: {value:.1f}" for count, value in row.items()))


if __name__ == "__main__":
    main()
