"""Many heads on the features of one HAM run: what each reads out of them, and what fresh statistics would.

One model is trained; every head is fed the same features task by task, as it would be in a learner of its own. The
rows "oracle" take their statistics from all training data with the model of the moment, which continual learning may
not: they show what the features hold.

    python benchmarks/heads.py --stream icd10 --backbone minilm --tasks 20 --classes-per-task 8 --out heads.json
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from one_stream import read_stream, stream_options, write_record
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.heads import Head, TrainedRows, build_head
from hamcl.learning.classify import Classify
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.streams import Samples, Stream
from hamcl.training.lesson import Lesson

FEATURES = ("frozen", "adapted")
KINDS = ("ncm", "lda", "ridge", "stack")
ANSWERS = ("none", "noise")


@dataclass
class Candidate:
    """One head, the features it reads, and what it does about their drift, as `HAMConfig.drift` says it."""

    head: Head
    features: str
    answer: str = "none"


class ManyHeads(Classify):
    """A classifier whose every task also updates a table of further heads.

    Args:
        kinds, features, answers: what is combined; the features of the bare backbone do not drift.
    """

    def __init__(self, learner: HAM, kinds: Sequence[str], features: Sequence[str], answers: Sequence[str]) -> None:
        super().__init__(learner)
        self.kinds, self.read_from = kinds, features
        self.heads: dict[str, Candidate] = {}
        for kind in kinds:
            for part in features:
                for answer in answers if part != "frozen" else ("none",):
                    head = self.fresh(kind)
                    if answer == "none" or answer in head.follows:
                        title = f"{kind}, {part}" + ("" if part == "frozen" else f", drift {answer}")
                        self.heads[title] = Candidate(head, part, answer)

    def fresh(self, kind: str) -> Head:
        """An empty head for the learner's features."""
        options = self.learner.config
        return build_head(
            kind, self.learner.backbone.blocks, projection=options.projection, shrinkage=options.shrinkage
        )

    def teach(self, lesson: Lesson, features: Tensor, labels: Tensor) -> None:
        super().teach(lesson, features, labels)
        seen = {"adapted": features}
        if "frozen" in self.read_from:
            with self.learner.model.frozen():  # type: ignore[attr-defined]
                seen["frozen"] = self.statistics(lesson)
        for candidate in self.heads.values():
            candidate.head.add_classes(max(0, int(labels.max()) + 1 - len(self.classes)))
            if lesson.before is not None and candidate.answer == "noise":
                candidate.head.blur(lesson.before, features[: len(lesson.before)])
            candidate.head.update(seen[candidate.features], labels, self.views)

    def read(self, samples: Samples, features: str) -> Tensor:
        """Features of the bare backbone, or those of the model as it is."""
        if features == "adapted":
            return self.learner.look(samples)
        with self.learner.model.frozen():  # type: ignore[attr-defined]
            return self.learner.look(samples)

    def table(self, stream: Stream) -> dict[str, float]:
        """Accuracies in percent over all classes learned so far, by row."""
        learned = list(stream)[: len(self.tasks)]

        def gather(split: str, features: str) -> tuple[Tensor, Tensor]:
            parts: list[Samples] = [getattr(task, split) for task in learned]
            labels = [self.classes.index(t.classes[y]) for t, p in zip(learned, parts, strict=True) for y in p.labels]
            return torch.cat([self.read(part, features) for part in parts]), torch.tensor(labels)

        test, labels = {}, torch.empty(0)
        for features in {*self.read_from, "adapted"}:
            test[features], labels = gather("test", features)
        owner = {column: i for i, columns in enumerate(self.tasks) for column in columns}
        foreign = torch.tensor([[owner[c] != owner[int(y)] for c in range(len(self.classes))] for y in labels])

        def accuracy(scores: Tensor) -> float:
            return round(100 * (scores.argmax(1) == labels).double().mean().item(), 2)

        rows = TrainedRows(self.rows).logits(test["adapted"])
        table = {"linear": accuracy(rows), "linear, told the task": accuracy(rows.masked_fill(foreign, -torch.inf))}
        for name, candidate in self.heads.items():
            table[name] = accuracy(candidate.head.logits(test[candidate.features]))
        for features in self.read_from:
            train, train_labels = gather("train", features)
            for kind in self.kinds:
                head = self.fresh(kind)
                head.add_classes(len(self.classes))
                head.update(train, train_labels)
                table[f"oracle {kind}, {features}"] = accuracy(head.logits(test[features]))
        return table


def main() -> None:
    parser = stream_options(__doc__, tasks=10)
    parser.add_argument("--at", type=int, nargs="*", default=[5, 10, 20, 40], help="tasks after which to look")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--features", nargs="*", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--answers", nargs="*", choices=ANSWERS, default=list(ANSWERS))
    args = parser.parse_args()
    stream = read_stream(args)
    # A head that follows drift makes the learner read the features from before each task.
    config = HAMConfig.from_dict({**args.config, "seed": args.seed, "head": "ridge", "drift": "noise"})
    backbone = load_backbone(args.backbone, image_size=args.image_size, depths=config.depths_to_read)
    model = HAM(backbone, config)
    heads = model.objective = ManyHeads(model, args.kinds, args.features, args.answers)
    tables: dict[int, dict[str, float]] = {}
    for count, task in enumerate(stream, 1):
        report = model.learn(task)
        print(f"{task.name}: {report.seconds:.0f} s", flush=True)
        if count in args.at or count == args.tasks:
            tables[count] = heads.table(stream)
            write_record(args, config.to_dict(), tables)
    print("after tasks".ljust(50), *(f"{count:>6}" for count in tables))
    for name in tables[max(tables)]:
        print(name.ljust(50), *(f"{table[name]:6.1f}" for table in tables.values()))


if __name__ == "__main__":
    main()
