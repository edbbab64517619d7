"""What a training step and inference cost, however many tasks were learned, against plain PEFT with one LoRA adapter.

Random adapters go through the same grouping and merging as learned ones (`Groups.absorb`); random similarities decide
the groups. A step is one forward and one backward pass. Every timing is paired with one of the reference right before
it, in the same process, and rounds go over all settings in turn, so that a change of the machine's load hits all of
them alike; the ratio is the median over the pairs.

    python benchmarks/step_time.py --out runs/step_time.json
"""

import argparse
import copy
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hamcl.ham import Adapter, Factors, Group, Groups, final
from hamcl.nn.attach import AdaptedBackbone
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.reading.prepare import ImagePreprocess
from hamcl.rng import generator

import peft  # isort: skip  # after hamcl.nn has prepared torchvision, which it imports

Batch = dict[str, Tensor]


@dataclass
class Timing:
    """Seconds of what is measured and of the reference right before it, pair by pair."""

    seconds: list[float]
    reference: list[float]

    def summary(self) -> dict[str, float]:
        return {
            "milliseconds": 1e3 * statistics.median(self.seconds),
            "ratio": statistics.median(a / b for a, b in zip(self.seconds, self.reference, strict=True)),
            "ratio_of_minima": min(self.seconds) / min(self.reference),
        }


@dataclass
class Setting:
    """The groups after `tasks` tasks with at most `max_groups` groups."""

    max_groups: int
    tasks: int
    groups: list[Group]
    merge_milliseconds: float


def vit_tiny() -> Backbone:
    """timm's vit_tiny_patch16_224 for images of 32 pixels in patches of 4, with random weights."""
    import timm

    module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, num_classes=0)
    return Backbone("vit-tiny", module, lambda model, batch: model(batch["pixel_values"]), ImagePreprocess(32))


def minilm() -> Backbone:
    return load_backbone("minilm", pretrained=False, depths="last")


def efficientnet_lite0() -> Backbone:
    return load_backbone("efficientnet-lite0", pretrained=False, image_size=64, depths="last")


TARGETS = {"vit-tiny": "qkv|fc1|fc2"}
"""Other than the backbone's default."""
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "vit-tiny": vit_tiny,
    "efficientnet-lite0": efficientnet_lite0,
    "minilm": minilm,
}
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
TOKENS = 32


def random_batch(backbone: Backbone, size: int) -> Batch:
    random = generator(0, "batch")
    if isinstance(backbone.preprocess, ImagePreprocess):
        side = backbone.preprocess.size
        return {"pixel_values": torch.randn(size, 3, side, side, generator=random)}
    ids = torch.randint(1000, 2000, (size, TOKENS), generator=random)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def random_adapter(model: AdaptedBackbone, task: int) -> Adapter:
    """A from the initialisation all tasks share, moved a little, and a small B."""
    random = generator(0, "adapter", task)
    layers = {}
    for name, layer in model.layers.items():
        out_features, in_features = layer.shape
        start = layer.task_A.detach().flatten(1)
        layers[name] = Factors(
            start + torch.randn(start.shape, generator=random) / math.sqrt(9 * in_features),
            0.01 * torch.randn(out_features, model.rank, generator=random),
        )
    return Adapter(f"task{task}", layers)


def learn(
    model: AdaptedBackbone, max_groups: int, counts: list[int], merge_rank: int, clock: Callable[[], float]
) -> list[Setting]:
    """The groups after each number of tasks."""
    model.start_task()
    groups, settings, seconds = Groups(max_groups, threshold=2.0), [], 0.0
    for task in range(max(counts)):
        adapter = random_adapter(model, task)
        similarities = torch.rand(len(groups.groups), generator=generator(0, "similarity", task)).tolist()
        start = clock()
        groups.absorb(groups.assign(similarities), adapter, rule="mean", rank=merge_rank)
        seconds += clock() - start
        if task + 1 in counts:
            settings.append(Setting(max_groups, task + 1, list(groups.groups), 1e3 * seconds / (task + 1)))
    return settings


def measure(
    backbone: Backbone,
    batch: Batch,
    settings: dict[int, list[Setting]],
    models: dict[int, AdaptedBackbone],
    rounds: int,
    clock: Callable[[], float],
) -> list[dict[str, float]]:
    """One row per setting. `backbone` is the bare one."""
    first = next(iter(models.values()))
    plain = copy.deepcopy(backbone)
    config = peft.LoraConfig(r=first.rank, target_modules=list(first.layers))
    plain.module = peft.get_peft_model(plain.module, config).train()

    def timed(run: Callable[[], object]) -> float:
        start = clock()
        run()
        return clock() - start

    def step(model: Callable[[Batch], Tensor]) -> None:
        model(batch).square().mean().backward()

    @torch.inference_mode()
    def infer(model: Callable[[Batch], Tensor]) -> None:
        model(batch)

    cases = [(setting, models[g]) for g, of_g in settings.items() for setting in of_g]
    merged = [model.folded(final(setting.groups)) for setting, model in cases]
    steps = [Timing([], []) for _ in cases]
    views = [Timing([], []) for _ in cases]
    folds = [Timing([], []) for _ in cases]
    backbone.eval()
    step(plain)
    for _ in range(rounds):
        for i, (setting, model) in enumerate(cases):
            model.load_groups([g.layers for g in setting.groups], [g.importance for g in setting.groups])
            model.train()
            steps[i].reference.append(timed(partial(step, plain)))
            steps[i].seconds.append(timed(partial(step, model)))
            plain.zero_grad()
            model.zero_grad()
            model.eval()
            with model.without_task():
                infer(model)
                reference = timed(partial(infer, backbone))
                views[i].seconds.append(timed(partial(infer, model)))
            folds[i].seconds.append(timed(partial(infer, merged[i])))
            views[i].reference.append(reference)
            folds[i].reference.append(reference)
    rows = []
    for (setting, model), training, view, fold in zip(cases, steps, views, folds, strict=True):
        factors = [f for group in setting.groups for f in group.layers.values()]
        tensors = [tensor for f in factors for tensor in (f.A, f.B)]
        rows.append(
            {
                "max_groups": setting.max_groups,
                "tasks": setting.tasks,
                "groups": len(setting.groups),
                "largest_total_rank": max(sum(g.layers[name].rank for g in setting.groups) for name in model.layers),
                "trainable": sum(p.numel() for p in model.adapter_parameters()) + 1 + len(setting.groups),
                "state_numbers": sum(tensor.numel() for tensor in tensors),
                "state_bytes": sum(tensor.nbytes for tensor in tensors),
                "merge_milliseconds": setting.merge_milliseconds,
                **{f"step_{key}": value for key, value in training.summary().items()},
                **{f"inference_{key}": value for key, value in view.summary().items()},
                **{f"folded_{key}": value for key, value in fold.summary().items()},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=BACKBONES, default="vit-tiny")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 5, 10, 20, 100, 1000])
    parser.add_argument("--max-groups", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--rank", type=int, default=8, help="of a task's adapter and of the reference")
    parser.add_argument("--merge-rank", type=int, default=16, help="of a group")
    parser.add_argument("--backend", choices=["auto", "packed", "dense"], default="auto")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu does not count waiting for other processes"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    clock = CLOCKS[options.clock]
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backbone = BACKBONES[options.backbone]()
    models, settings = {}, {}
    for max_groups in options.max_groups:
        models[max_groups] = AdaptedBackbone(
            copy.deepcopy(backbone),
            rank=options.rank,
            max_groups=max_groups,
            targets=TARGETS.get(options.backbone),
            backend=options.backend,
        )
        settings[max_groups] = learn(models[max_groups], max_groups, sorted(options.tasks), options.merge_rank, clock)
    rows = measure(backbone, random_batch(backbone, options.batch_size), settings, models, options.rounds, clock)

    print(
        f"{options.backbone}, batch {options.batch_size}, {options.threads} thread(s): ratio to one plain LoRA adapter"
    )
    print(f"{'G_max':>5} {'tasks':>5} {'rank':>4} {'step':>9} {'ratio':>6} {'folded':>7} {'state':>9} {'merge':>8}")
    for row in rows:
        print(
            f"{row['max_groups']:5d} {row['tasks']:5d} {row['largest_total_rank']:4d} "
            f"{row['step_milliseconds']:6.0f} ms {row['step_ratio']:6.2f} {row['folded_ratio']:7.2f} "
            f"{row['state_bytes'] / 2**20:5.1f} MiB {row['merge_milliseconds']:5.0f} ms"
        )
    if options.out:
        settings_used = {k: v for k, v in vars(options).items() if k != "out"}
        versions = {"torch": torch.__version__, "peft": peft.__version__, "python": platform.python_version()}
        result = {"settings": settings_used, "versions": versions, "machine": platform.machine(), "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
