"""One small task: classes that are told apart after a few samples each, by `stack` and by `ridge`.

Two kinds of draws. "synthetic": two blocks of 32 features, unit noise, in each class 8 of the 64 shifted by 1. "photos":
classes of Tiny-ImageNet as a frozen efficientnet-lite0 sees them at several depths (two views of a training image),
of which classes and training images are drawn anew each time. Accuracy is that on images the heads have not seen.

    python benchmarks/small_tasks.py --data-dir PATH --features features.pt --out small_tasks.json

The features are computed once and kept in `--features`. A cell that is in `--out` already is not computed again.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.methods.frozen import Frozen
from hamcl.metrics import calibration_error, reliability
from hamcl.nn.backbones import load_backbone
from hamcl.nn.heads import Stack, build_head
from hamcl.rng import generator
from hamcl.streams import load_stream


class Draw(NamedTuple):
    """A task: features of all views of the training samples and of test samples, their labels, and the blocks."""

    train: Tensor
    labels: Tensor
    test: Tensor
    truth: Tensor
    blocks: tuple[int, ...]
    views: int


def synthetic(classes: int, each: int, random: torch.Generator) -> Draw:
    means = torch.zeros(classes, 64)
    for row in means:
        row[torch.randperm(64, generator=random)[:8]] = 1.0
    labels, truth = torch.arange(classes).repeat_interleave(each), torch.arange(classes).repeat_interleave(50)
    train, test = (means[y] + torch.randn(len(y), 64, generator=random) for y in (labels, truth))
    return Draw(train, labels, test, truth, (32, 32), 1)


class Photos:
    """Features of 25 training and 25 test images of each of 200 classes."""

    def __init__(self, data: str | None, size: int, kept: Path) -> None:
        if not kept.exists():
            task = load_stream(
                "tiny-imagenet",
                tasks=1,
                classes_per_task=200,
                train_per_class=25,
                test_per_class=25,
                seed=100,
                data_dir=data,
                train_shards=1,
            )[0]
            model = Frozen(load_backbone("efficientnet-lite0", image_size=size), HAMConfig())
            model.augmentation = task.augmentation
            train, test = model._statistics(task.train, 0), model._extract(model._features, task.test)
            found = {"train": train, "labels": torch.tensor(task.train.labels), "test": test}
            torch.save({**found, "truth": torch.tensor(task.test.labels), "blocks": model.backbone.blocks}, kept)
        self.kept = torch.load(kept)

    def __call__(self, classes: int, each: int, random: torch.Generator) -> Draw:
        kept = self.kept
        chosen = torch.randperm(200, generator=random)[:classes].tolist()
        train, test = [], []
        for column in chosen:
            own = (kept["labels"] == column).nonzero().flatten()
            train.append(own[torch.randperm(len(own), generator=random)[:each]])
            test.append((kept["truth"] == column).nonzero().flatten())
        first = torch.cat(train)
        both = torch.cat([first, first + len(kept["labels"])])
        labels = torch.arange(classes).repeat_interleave(each)
        truth = torch.cat([torch.full((len(part),), column) for column, part in enumerate(test)])
        return Draw(kept["train"][both], labels, kept["test"][torch.cat(test)], truth, tuple(kept["blocks"]), 2)


def measured(draw: Draw) -> dict[str, dict[str, float]]:
    """Accuracy, mean confidence and calibration error of the stack and of the ridge in it, which is `ridge` itself."""
    stack = build_head("stack", draw.blocks)
    assert isinstance(stack, Stack)
    stack.add_classes(int(draw.labels.max()) + 1)
    stack.update(draw.train, draw.labels.repeat(draw.views), draw.views)
    found = {}
    for name, head in (("stack", stack), ("ridge", stack.ridge)):
        best = head.logits(draw.test).double().softmax(1).max(1)
        right = (best.indices == draw.truth).numpy()
        found[name] = {
            "accuracy": float(right.mean()),
            "confidence": best.values.mean().item(),
            "error": calibration_error(reliability(best.values.numpy(), right)),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--features", type=Path, default=Path("features.pt"))
    parser.add_argument("--kinds", nargs="*", choices=("synthetic", "photos"), default=["synthetic", "photos"])
    parser.add_argument("--classes", type=int, nargs="*", default=[2, 5, 10])
    parser.add_argument("--samples", type=int, nargs="*", default=[3, 5, 10, 20])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("small_tasks.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds: dict[str, Callable[[int, int, torch.Generator], Draw]] = {"synthetic": synthetic}
    if "photos" in args.kinds:
        kinds["photos"] = Photos(args.data_dir, args.image_size, args.features)
    cells = json.loads(args.out.read_text()) if args.out.exists() else {}
    for kind in args.kinds:
        for classes in args.classes:
            for each in args.samples:
                name = f"{kind}, {classes} x {each}"
                if name in cells:
                    continue
                rows = [
                    measured(kinds[kind](classes, each, generator(i, "draw", kind, classes, each)))
                    for i in range(args.draws)
                ]
                means = {
                    head: {
                        key: round(100 * sum(row[head][key] for row in rows) / len(rows), 1) for key in rows[0][head]
                    }
                    for head in rows[0]
                }
                gains = torch.tensor([row["stack"]["accuracy"] - row["ridge"]["accuracy"] for row in rows])
                # Of the mean difference of two heads on the same draws.
                noise = round(100 * (gains.double().std() / len(rows) ** 0.5).item(), 2)
                cells[name] = {**means, "draws": len(rows), "standard error": noise}
                args.out.write_text(json.dumps(cells, indent=1) + "\n")
                print(name, cells[name], flush=True)


if __name__ == "__main__":
    main()
