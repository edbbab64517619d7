"""Many heads on the features of one HAM run: what each reads out of them, and what fresh statistics would.

One model is trained; every head is fed the same features task by task, as it would be in a learner of its own. The
rows "oracle" take their statistics from all training data with the model of the moment, which continual learning may
not: they show what the features hold. The rows "memory" keep a few samples of every class to see how the features
move, which `hamcl` does not offer.

    python benchmarks/heads.py --stream icd10 --backbone minilm --tasks 20 --classes-per-task 8 --out heads.json
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from one_stream import read_stream, stream_options, write_record
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.heads import Drift, Head, build_head, within_task
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.streams import Samples, Stream, Task

FEATURES = ("frozen", "adapted", "both")
KINDS = ("ncm", "lda", "ridge", "stack")
ANSWERS = ("none", "map", "low-rank map", "noise", "both")
MEMORY = (1, 5)


@dataclass
class Candidate:
    """One head and what it does about drift.

    Attributes:
        answer: "none", "map" and "noise" as in `HAMConfig.drift`; "low-rank map", the same map, its change cut to rank
            `RANK`; "both", the map and then what it leaves unexplained as noise.
        memory: samples of each earlier class whose moves are seen besides those of the task.
    """

    RANK = 16

    head: Head
    features: str
    answer: str = "none"
    memory: int = 0

    def follow(self, old: Tensor, new: Tensor) -> None:
        if self.answer == "none":
            return
        if self.answer == "noise":
            self.head.blur(old, new)
            return
        drift = Drift.fit(old, new)
        if self.answer == "low-rank map":
            eye = torch.eye(len(drift.matrix), dtype=drift.matrix.dtype)
            u, s, v = torch.linalg.svd(drift.matrix - eye)
            matrix = eye + u[:, : self.RANK] * s[: self.RANK] @ v[: self.RANK]
            drift = Drift(matrix, new.double().mean(0) - old.double().mean(0) @ matrix)
        self.head.move(drift)
        if self.answer == "both":
            self.head.blur(drift(old.double()).float(), new)


@dataclass
class Memory:
    """The first samples of every class learned so far."""

    inputs: list[object] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)

    def add(self, samples: Samples, columns: Tensor, per_class: int) -> None:
        for column in columns.unique().tolist():
            kept = (columns == column).nonzero().flatten()[:per_class].tolist()
            self.inputs += [samples.inputs[i] for i in kept]
            self.columns += [column] * len(kept)

    def samples(self) -> Samples:
        return Samples(self.inputs, self.columns)


class ManyHeads(HAM):
    """HAM whose every task also updates a table of further heads.

    Args:
        kinds, features, answers: what is combined.
        memory: samples kept of every class, one row each; only where `answers` are asked for.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: HAMConfig,
        *,
        kinds: Sequence[str] = KINDS,
        features: Sequence[str] = FEATURES,
        answers: Sequence[str] = ANSWERS,
        memory: Sequence[int] = (),
    ) -> None:
        super().__init__(backbone, config)
        self.kinds, self.read_from = kinds, features
        self.memories = {size: Memory() for size in memory}
        self._before: dict[int, Tensor] = {}
        self.heads: dict[str, Candidate] = {}
        for kind in kinds:
            for part in self.read_from:
                for answer in answers if part != "frozen" else ("none",):
                    head = self.fresh(kind, part)
                    needs = {"both": {"map", "noise"}, "low-rank map": {"map"}, "none": set()}.get(answer, {answer})
                    if needs <= head.follows:
                        title = f"{kind}, {part}" + ("" if part == "frozen" else f", drift {answer}")
                        self.heads[title] = Candidate(head, part, answer)
        for size in memory:
            for kind, answer in (("lda", "map"), ("ridge", "noise"), ("stack", "noise")):
                if kind not in kinds or answer not in answers:
                    continue
                title = f"{kind}, adapted, drift {answer}, memory {size}"
                self.heads[title] = Candidate(self.fresh(kind, "adapted"), "adapted", answer, size)

    def fresh(self, kind: str, features: str) -> Head:
        blocks = self.backbone.blocks * (2 if features == "both" else 1)
        return build_head(kind, blocks, projection=self.config.projection, shrinkage=self.config.shrinkage)

    def part(self, x: Tensor, features: str) -> Tensor:
        width = self.backbone.width
        return {"frozen": x[:, :width], "adapted": x[:, width:], "both": x}[features]

    def learn(self, task: Task, *args: object) -> object:  # type: ignore[override]
        self._before = {size: self.read(memory.samples()) for size, memory in self.memories.items() if memory.inputs}
        report = super().learn(task, *args)  # type: ignore[arg-type]
        columns = torch.tensor(self.tasks[-1])[torch.tensor(list(task.train.labels))]
        for size, memory in self.memories.items():
            memory.add(task.train, columns, size)
        return report

    def read(self, samples: Samples) -> Tensor:
        """Frozen and adapted features side by side."""
        return self.extract(self._features, samples)

    def _update_head(self, old: Tensor | None, new: Tensor, labels: Tensor) -> None:
        super()._update_head(old, new, labels)
        fresh = max(0, int(labels.max()) + 1 - len(self.classes))
        after = {size: self.read(self.memories[size].samples()) for size in self._before}
        for candidate in self.heads.values():
            candidate.head.add_classes(fresh)
            if old is not None:
                x, y = old, new[: len(old)]
                if candidate.memory:
                    # The current classes are no better informed about the moves of the earlier ones than these are.
                    x, y = self._before[candidate.memory], after[candidate.memory]
                candidate.follow(self.part(x, candidate.features), self.part(y, candidate.features))
            candidate.head.update(self.part(new, candidate.features), labels, self._views)

    def table(self, stream: Stream) -> dict[str, float]:
        """Accuracies in percent over all classes learned so far, by row."""
        learned = list(stream)[: len(self.tasks)]

        def gather(split: str) -> tuple[Tensor, Tensor]:
            parts: list[Samples] = [getattr(task, split) for task in learned]
            labels = [self.classes.index(t.classes[y]) for t, p in zip(learned, parts, strict=True) for y in p.labels]
            return torch.cat([self.read(part) for part in parts]), torch.tensor(labels)

        (train, train_labels), (test, labels) = gather("train"), gather("test")
        owner = {column: i for i, columns in enumerate(self.tasks) for column in columns}
        foreign = torch.tensor([[owner[c] != owner[int(y)] for c in range(len(self.classes))] for y in labels])

        def accuracy(scores: Tensor) -> float:
            return round(100 * (scores.argmax(1) == labels).double().mean().item(), 2)

        rows = self.rows.logits(self.part(test, "adapted"))
        table = {"linear": accuracy(rows), "linear, told the task": accuracy(rows.masked_fill(foreign, -torch.inf))}
        for name, candidate in self.heads.items():
            scores = candidate.head.logits(self.part(test, candidate.features))
            table[name] = accuracy(scores)
            if (candidate.features, candidate.answer) == ("adapted", "noise") and not candidate.memory:
                log = scores.log_softmax(1) if "lda" not in name else scores
                table[name + ", + within-task scores"] = accuracy(log + within_task(rows, self.tasks))
        for kind in self.kinds:
            for features in self.read_from:
                head = self.fresh(kind, features)
                head.add_classes(len(self.classes))
                head.update(self.part(train, features), train_labels)
                table[f"oracle {kind}, {features}"] = accuracy(head.logits(self.part(test, features)))
        return table


def main() -> None:
    parser = stream_options(__doc__, tasks=10)
    parser.add_argument("--at", type=int, nargs="*", default=[5, 10, 20, 40], help="tasks after which to look")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--features", nargs="*", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--answers", nargs="*", choices=ANSWERS, default=list(ANSWERS))
    parser.add_argument("--memory", type=int, nargs="*", default=list(MEMORY), help="samples kept of each class")
    args = parser.parse_args()
    stream = read_stream(args)
    # A head that follows drift makes the learner read the features from before each task.
    config = {**args.config, "seed": args.seed, "head": "ridge", "head_features": "both", "drift": "noise"}
    backbone = load_backbone(args.backbone, image_size=args.image_size)
    model = ManyHeads(
        backbone,
        HAMConfig.from_dict(config),
        kinds=args.kinds,
        features=args.features,
        answers=args.answers,
        memory=args.memory,
    )
    tables: dict[int, dict[str, float]] = {}
    for count, task in enumerate(stream, 1):
        report = model.learn(task)
        print(f"{task.name}: {report.seconds:.0f} s", flush=True)  # type: ignore[attr-defined]
        if count in args.at or count == args.tasks:
            tables[count] = model.table(stream)
            write_record(args, model.config.to_dict(), tables)
    print("after tasks".ljust(50), *(f"{count:>6}" for count in tables))
    for name in tables[max(tables)]:
        print(name.ljust(50), *(f"{table[name]:6.1f}" for table in tables.values()))


if __name__ == "__main__":
    main()
