"""One small task: accuracy and confidence of the heads after a few samples of a few classes.

"synthetic": two blocks of 32 features, unit noise; in each class 8 of the 64 features are shifted by 1. "wide": 256
features, unit noise; the means of the classes differ in 8 directions. "photos", "texts": classes of Tiny-ImageNet and
of icd10 as a frozen efficientnet-lite0 (at several depths, two views of a training image) and minilm see them; classes
and training samples are drawn anew each time. Test samples are never those learned from. "elsewhere" is the mean
confidence on samples of classes that were not learned.

    python benchmarks/small_tasks.py --data-dir PATH --out small_tasks.json
    python benchmarks/small_tasks.py --data-dir PATH --out confidence.json --kinds wide photos --classes 6 \\
        --samples 20 --heads ncm lda ridge stack --draws 10
    python benchmarks/small_tasks.py --out confidence.json --kinds texts --classes 16 --samples 30 \\
        --heads ncm lda ridge stack --draws 10

Features are computed once and kept in `--features`; a cell that is in `--out` already is not computed again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.heads import Head, Stack, build_head
from hamcl.methods.frozen import Frozen
from hamcl.metrics import calibration_error, reliability
from hamcl.rng import generator
from hamcl.streams import load_stream


class Draw(NamedTuple):
    """A task: features of all views of the training samples, of test samples and of other classes, and the blocks."""

    train: Tensor
    labels: Tensor
    test: Tensor
    truth: Tensor
    elsewhere: Tensor
    blocks: tuple[int, ...]
    views: int


def noisy(means: Tensor, blocks: tuple[int, ...], each: int, random: torch.Generator) -> Draw:
    """Unit noise around means, of which the last is that of a class not learned."""
    classes = len(means) - 1
    labels, truth = torch.arange(classes).repeat_interleave(each), torch.arange(classes).repeat_interleave(50)
    other = torch.full((50,), classes)
    parts = [means[y] + torch.randn(len(y), means.shape[1], generator=random) for y in (labels, truth, other)]
    return Draw(parts[0], labels, parts[1], truth, parts[2], blocks, 1)


def synthetic(classes: int, each: int, random: torch.Generator) -> Draw:
    means = torch.zeros(classes + 1, 64)
    for row in means:
        row[torch.randperm(64, generator=random)[:8]] = 1.0
    return noisy(means, (32, 32), each, random)


def wide(classes: int, each: int, random: torch.Generator) -> Draw:
    means = torch.zeros(classes + 1, 256)
    means[:, :8] = torch.randn(classes + 1, 8, generator=random)
    return noisy(means, (128, 128), each, random)


SOURCES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "photos": (
        "tiny-imagenet",
        "efficientnet-lite0",
        {"image_size": 96},
        {"classes_per_task": 200, "train_per_class": 25, "test_per_class": 25, "train_shards": 1},
    ),
    "texts": (
        "icd10",
        "minilm",
        {},
        {"classes_per_task": 160, "train_per_class": 40, "test_per_class": 10},
    ),
}


class Frozen200:
    """Features of many classes, from which tasks are drawn."""

    def __init__(self, kind: str, data: str | None, kept: Path) -> None:
        if not kept.exists():
            stream, backbone, options, request = SOURCES[kind]
            folder = {"data_dir": data} if kind == "photos" else {}
            task = load_stream(stream, tasks=1, seed=100, **folder, **request)[0]
            model = Frozen.from_backbone(backbone, HAMConfig(), **options)
            model.objective.augmentation = task.augmentation
            train, test = model.objective.statistics(model.open(task, None, None, None)), model.look(task.test)
            found = {"train": train, "labels": torch.tensor(task.train.labels), "test": test}
            torch.save({**found, "truth": torch.tensor(task.test.labels), "blocks": model.backbone.blocks}, kept)
        self.kept = torch.load(kept)

    def __call__(self, classes: int, each: int, random: torch.Generator) -> Draw:
        kept = self.kept
        order = torch.randperm(int(kept["labels"].max()) + 1, generator=random)
        chosen, others = order[:classes].tolist(), order[classes : 2 * classes]
        train, test = [], []
        for column in chosen:
            own = (kept["labels"] == column).nonzero().flatten()
            train.append(own[torch.randperm(len(own), generator=random)[:each]])
            test.append((kept["truth"] == column).nonzero().flatten())
        views = len(kept["train"]) // len(kept["labels"])
        first = torch.cat(train)
        rows = torch.cat([first + view * len(kept["labels"]) for view in range(views)])
        truth = torch.cat([torch.full((len(part),), column) for column, part in enumerate(test)])
        return Draw(
            kept["train"][rows],
            torch.arange(classes).repeat_interleave(each),
            kept["test"][torch.cat(test)],
            truth,
            kept["test"][torch.isin(kept["truth"], others)],
            tuple(kept["blocks"]),
            views,
        )


class Answers(NamedTuple):
    """Confidence and whether it was right, of each test sample; confidence on classes not learned."""

    confidence: Tensor
    right: Tensor
    elsewhere: Tensor


def measured(draw: Draw, kinds: Sequence[str]) -> dict[str, Answers]:
    """What each head answers."""
    heads: dict[str, Head] = {}
    for kind in kinds:
        # The ridge in a stack is a `ridge` with a projection of 1,024.
        if kind == "ridge" and "stack" in kinds:
            continue
        heads[kind] = build_head(kind, draw.blocks)
        heads[kind].add_classes(int(draw.labels.max()) + 1)
        heads[kind].update(draw.train, draw.labels.repeat(draw.views), draw.views)
    if isinstance(stack := heads.get("stack"), Stack) and "ridge" in kinds:
        heads["ridge"] = stack.ridge
    found = {}
    for kind, head in heads.items():
        best = head.logits(draw.test).double().softmax(1).max(1)
        other = head.logits(draw.elsewhere).double().softmax(1).max(1).values
        found[kind] = Answers(best.values, best.indices == draw.truth, other)
    return found


def summary(draws: Sequence[Answers]) -> dict[str, float]:
    """Percentages over the answers of all draws."""
    confidence, right, elsewhere = (torch.cat(parts) for parts in zip(*draws, strict=True))
    values = {
        "accuracy": right.double().mean(),
        "confidence": confidence.mean(),
        "where wrong": confidence[~right].mean(),
        "elsewhere": elsewhere.mean(),
        "calibration error": calibration_error(reliability(confidence.numpy(), right.numpy())),
    }
    return {name: round(100 * float(value), 1) for name, value in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--features", default="features-{}.pt", help="where features are kept; {} becomes the kind")
    parser.add_argument("--kinds", nargs="*", choices=("synthetic", "wide", *SOURCES), default=["synthetic", "photos"])
    parser.add_argument("--heads", nargs="*", choices=("ncm", "lda", "ridge", "stack"), default=["ridge", "stack"])
    parser.add_argument("--classes", type=int, nargs="*", default=[2, 5, 10])
    parser.add_argument("--samples", type=int, nargs="*", default=[3, 5, 10, 20])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("small_tasks.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    draws: dict[str, Callable[[int, int, torch.Generator], Draw]] = {"synthetic": synthetic, "wide": wide}
    for kind in set(args.kinds) & set(SOURCES):
        draws[kind] = Frozen200(kind, args.data_dir, Path(args.features.format(kind)))
    cells = json.loads(args.out.read_text()) if args.out.exists() else {}
    for kind, classes, each in product(args.kinds, args.classes, args.samples):
        name = f"{kind}, {classes} x {each}"
        if name in cells:
            continue
        seeds = [generator(i, "draw", kind, classes, each) for i in range(args.draws)]
        rows = [measured(draws[kind](classes, each, random), args.heads) for random in seeds]
        cells[name] = {head: summary([row[head] for row in rows]) for head in args.heads} | {"draws": len(rows)}
        if {"stack", "ridge"} <= {*args.heads}:
            gains = [(row["stack"].right.double() - row["ridge"].right.double()).mean().item() for row in rows]
            # Of the mean difference of the two on the same draws.
            cells[name]["standard error"] = round(100 * stdev(gains) / len(rows) ** 0.5, 2)
        args.out.write_text(json.dumps(cells, indent=1) + "\n")
        print(name, cells[name], flush=True)


if __name__ == "__main__":
    main()
