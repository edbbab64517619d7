"""What going on from the final merge costs, against going on from the groups.

One learner goes through the stream; after the tasks given with --at, a second one starts from its merged model, with
its head but without its groups (`HAM.rebased`), and learns the rest of the stream as well. With --every k, a further
one starts again from its own merged model after every k tasks.

    python benchmarks/after_merge.py --stream icd10 --backbone minilm --tasks 20 --classes-per-task 8 --out merge.json
"""

from one_stream import read_stream, stream_options, write_record

from hamcl.config import HAMConfig
from hamcl.methods.ham import HAM
from hamcl.streams import Stream


def average_accuracy(learner: HAM, stream: Stream) -> float:
    """In percent, over the tasks learned so far."""
    tasks = list(stream)[: len(learner.tasks)]
    return round(100 * sum(learner.evaluate(task) for task in tasks) / len(tasks), 2)


def main() -> None:
    parser = stream_options(__doc__, tasks=20)
    parser.add_argument("--at", type=int, nargs="*", default=[5, 10], help="merge once, after that many tasks")
    parser.add_argument("--every", type=int, nargs="*", default=[5], help="merge again and again")
    args = parser.parse_args()
    stream = read_stream(args)
    config = HAMConfig.from_dict({**args.config, "seed": args.seed})
    learners = {"groups": HAM.from_backbone(args.backbone, config, image_size=args.image_size)}
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
        write_record(args, config.to_dict(), table)
    for name, row in table.items():
        print(name.ljust(20), "  ".join(f"{count}: {value:.1f}" for count, value in row.items()))


if __name__ == "__main__":
    main()
