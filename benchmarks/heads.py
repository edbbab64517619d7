"""Many heads on the features of one HAM run: what each reads out of them, and what fresh statistics would.

One model is trained; every head is fed the same features task by task, as it would be in a learner of its own. The
rows "oracle" take their statistics from all training data with the final model, which continual learning may not:
they show what the features hold.

    python benchmarks/heads.py --stream icd10 --backbone minilm --tasks 10 --classes-per-task 8 --out heads.json
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.learner import HAM
from hamcl.nn.backbones import load_backbone
from hamcl.nn.heads import Drift, Head, build_head, within_task
from hamcl.streams import Samples, load_stream

FEATURES = ("frozen", "adapted", "both")


class ManyHeads(HAM):
    """HAM whose every task also updates a table of further heads: (kind, features, drift map) -> head."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.heads: dict[tuple[str, str, bool], Head] = {}
        for kind in ("ncm", "lda", "ridge"):
            for features in FEATURES:
                for drift in (False, True):
                    if not drift or (features != "frozen" and kind != "ridge"):
                        self.heads[kind, features, drift] = self.fresh(kind, features)

    def fresh(self, kind: str, features: str) -> Head:
        width = self.backbone.width * (2 if features == "both" else 1)
        return build_head(kind, width, projection=self.config.projection, shrinkage=self.config.shrinkage)

    def part(self, x: Tensor, features: str) -> Tensor:
        width = self.backbone.width
        return {"frozen": x[:, :width], "adapted": x[:, width:], "both": x}[features]

    def _update_head(self, old: Tensor | None, new: Tensor, labels: Tensor) -> None:
        super()._update_head(old, new, labels)
        fresh = int(labels.max()) + 1 - len(self.classes)
        for (_, features, drift), head in self.heads.items():
            head.add_classes(max(0, fresh))
            if drift and old is not None:
                head.move(Drift.fit(self.part(old, features), self.part(new, features)))
            head.update(self.part(new, features), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", default="icd10")
    parser.add_argument("--data-dir")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--classes-per-task", type=int, default=8)
    parser.add_argument("--train-per-class", type=int)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--config", type=json.loads, default={}, help="HAMConfig options as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    stream = load_stream(
        args.stream,
        tasks=args.tasks,
        classes_per_task=args.classes_per_task,
        train_per_class=args.train_per_class,
        seed=args.seed,
        data_dir=args.data_dir,
    )
    options = {**args.config, "seed": args.seed, "head": "lda", "head_features": "both", "drift_map": True}
    model = ManyHeads(load_backbone(args.backbone, image_size=args.image_size), HAMConfig.from_dict(options))
    for task in stream:
        report = model.learn(task)
        print(f"{task.name}: loss {report.losses[-1]:.3f}, {report.seconds:.0f} s", flush=True)

    def gather(split: str) -> tuple[Tensor, Tensor]:
        parts: list[Samples] = [getattr(task, split) for task in stream]
        labels = [model.classes.index(t.classes[y]) for t, p in zip(stream, parts, strict=True) for y in p.labels]
        return torch.cat([model._extract(model._features, part) for part in parts]), torch.tensor(labels)

    (train, train_labels), (test, labels) = gather("train"), gather("test")
    owner = {column: i for i, columns in enumerate(model.tasks) for column in columns}
    foreign = torch.tensor([[owner[c] != owner[int(y)] for c in range(len(model.classes))] for y in labels])

    def accuracy(scores: Tensor) -> float:
        return round(100 * (scores.argmax(1) == labels).double().mean().item(), 2)

    rows = model.rows.logits(model.part(test, "adapted"))
    table = {"linear": accuracy(rows), "linear, told the task": accuracy(rows.masked_fill(foreign, -torch.inf))}
    for (kind, features, drift), head in model.heads.items():
        name = f"{kind}, {features}" + (", drift map" if drift else "")
        scores = head.logits(model.part(test, features))
        table[name] = accuracy(scores)
        if kind == "lda":
            table[name + ", + within-task scores"] = accuracy(scores + within_task(rows, model.tasks))
    for kind in ("lda", "ridge"):
        for features in FEATURES:
            head = model.fresh(kind, features)
            head.add_classes(len(model.classes))
            head.update(model.part(train, features), train_labels)
            table[f"oracle {kind}, {features}"] = accuracy(head.logits(model.part(test, features)))
    for name, value in table.items():
        print(f"{name:45} {value:6.2f} %")
    if args.out:
        record = {
            "arguments": {**vars(args), "out": str(args.out)},
            "config": model.config.to_dict(),
            "accuracy": table,
        }
        args.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
