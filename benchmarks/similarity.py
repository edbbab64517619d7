"""What the measures of similarity tell apart: the same task from others, and related tasks from unrelated ones.

From each superclass of a data set come two tasks of different classes, and the training samples of each task are cut
in two halves. One adapter is trained on each half, from the bare backbone and the same initialisation. A measure is
judged over all pairs of adapters by

- the test-retest AUC: two halves of one task against adapters of different tasks;
- the superclass AUC: different tasks of one superclass against those of different superclasses;
- the adjusted Rand index between the superclasses and as many clusters of adapters (average linkage), and the same
  for the tasks;
- the seconds a pair takes, for `cka` with the features of `--probe` samples under both adapters.

Then `ham` learns the tasks in random orders, with as many groups as superclasses, which each measure fills (every
adapter opens a group while there is room, then joins the most similar one), and with groups told to it: superclasses
("oracle"), or pairs of tasks drawn at random. What counts is the accuracy over all classes after the last task, of the
head and of the rows that the tasks trained, mean and standard deviation over the orders.

    python benchmarks/similarity.py icd10 --backbone minilm
    python benchmarks/similarity.py omniglot:DATA/omniglot-8 --backbone efficientnet-lite0 --image-size 64 \
        --classes-per-task 6 --config '{"epochs": 5}'
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import cka, factor
from one_stream import write_record
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from torch import Tensor

from hamcl.config import HAMConfig
from hamcl.ham import Adapter, Assignment, Group, Groups, Layers, Merged, weight
from hamcl.heads import TrainedRows
from hamcl.methods.ham import HAM
from hamcl.rng import generator
from hamcl.streams import Samples, Task
from hamcl.streams.registry import load_source
from hamcl.streams.source import Source

MEASURES = ("weight", "factor", "cka")


Measure = Callable[[Adapter, list[Group]], list[float]]
"""How alike an adapter and each of the groups are, in [-1, 1]."""


class By(Groups):
    """Groups that are filled by a measure of one's own, without a threshold.

    An adapter opens a group while there is room, unless it is as similar as can be (1) to one; else it joins the most
    similar one.

    Attributes:
        measure: of the adapter that comes next.
    """

    def __init__(self, most: int, measure: Measure | None = None) -> None:
        super().__init__(most, math.inf)
        self.measure = measure or weights

    def absorb(self, assignment: Assignment, adapter: Adapter, **options: Any) -> Merged:
        """Merge the adapter where the measure says, of which the learner knows nothing."""
        values = self.measure(adapter, self.groups)
        best = max(range(len(values)), key=values.__getitem__, default=0)
        opened = len(values) < self.max_groups and (not values or values[best] < 1)
        own = Assignment(len(values) if opened else best, opened, values, [None] * len(values))
        return super().absorb(own, adapter, **options)


def weights(adapter: Adapter, groups: list[Group]) -> list[float]:
    """What `ham` groups by."""
    return [weight(adapter, group.layers) for group in groups]


def told(labels: dict[str, int]) -> Measure:
    """1 for the group that holds tasks of the same label, else 0."""
    return lambda adapter, groups: [float(labels[group.tasks[0]] == labels[adapter.task]) for group in groups]


def measures(learner: HAM, samples: Samples) -> dict[str, Measure]:
    """The measures by name; `cka` compares what adapter and group change in the features of at most 256 samples."""

    def kernels(adapter: Adapter, groups: list[Group]) -> list[float]:
        learner.model.end_task()
        own, *others = changes(learner, [adapter.layers, *(group.layers for group in groups)], spread(samples, 256))
        return [cka(own, other) for other in others]

    return {
        "weight": weights,
        "factor": lambda adapter, groups: [factor(adapter, group.layers) for group in groups],
        "cka": kernels,
    }


def spread(samples: Samples, most: int) -> Samples:
    """At most so many, evenly spread, because samples often come class by class."""
    count = min(most, len(samples))
    return samples.select([i * len(samples) // count for i in range(count)])


def changes(learner: HAM, adapters: list[Layers], probe: Samples) -> list[Tensor]:
    """What each adapter alone changes in the features of `probe`."""
    found = []
    for shown in ([], *([layers] for layers in adapters)):
        learner.model.load_groups(shown, [1.0] * len(shown))
        found.append(learner.look(probe))
    return [features - found[0] for features in found[1:]]


def tasks_of(source: Source, superclasses: int, classes_per_task: int, per_class: int, seed: int) -> list[Task]:
    """Two tasks of each of the largest superclasses, one superclass after another."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in source.classes:
        members[source.superclasses[name]].append(name)
    large = sorted((names for names in members.values() if len(names) >= 2 * classes_per_task), key=len, reverse=True)
    if len(large) < superclasses:
        raise SystemExit(f"only {len(large)} superclasses have {2 * classes_per_task} classes")
    random = generator(seed, "similarity")
    tasks: list[Task] = []
    for names in large[:superclasses]:
        order = torch.randperm(len(names), generator=random).tolist()
        for t in range(2):
            classes = tuple(names[i] for i in order[t * classes_per_task : (t + 1) * classes_per_task])
            tasks.append(
                Task(
                    f"{source.superclasses[classes[0]]}, {t + 1}",
                    classes,
                    drawn(source, source.train, classes, 2 * per_class, random),
                    test=drawn(source, source.test, classes, None, random),
                    modality=source.modality,
                    augmentation=source.augmentation,
                )
            )
    return tasks


def drawn(
    source: Source, split: Samples, classes: tuple[str, ...], most: int | None, random: torch.Generator
) -> Samples:
    """At most so many samples of each of the classes, labelled by their position among them."""
    found: dict[str, list[int]] = {name: [] for name in classes}
    for i, y in enumerate(split.labels):
        if source.classes[y] in found:
            found[source.classes[y]].append(i)
    indices = [rows[i] for rows in found.values() for i in torch.randperm(len(rows), generator=random)[:most].tolist()]
    return split.select(indices, {source.classes.index(name): c for c, name in enumerate(classes)})


def half(task: Task, which: int) -> Task:
    """Every second training sample of each class."""
    counts: dict[int, int] = defaultdict(int)
    indices = []
    for i, y in enumerate(task.train.labels):
        if counts[y] % 2 == which:
            indices.append(i)
        counts[y] += 1
    return replace(task, name=f"{task.name}, half {which + 1}", train=task.train.select(indices))


def judge(values: np.ndarray) -> dict[str, float]:
    """AUCs and Rand indices of a matrix of similarities (adapters, adapters), four adapters of each superclass."""
    count = len(values)
    symmetric = (values + values.T) / 2
    superclass, task = np.arange(count) // 4, np.arange(count) // 2
    a, b = np.triu_indices(count, 1)
    pair, same_task, same_super = symmetric[a, b], task[a] == task[b], superclass[a] == superclass[b]

    def clustered(labels: np.ndarray) -> float:
        clusters = AgglomerativeClustering(int(labels.max()) + 1, metric="precomputed", linkage="average")
        return float(adjusted_rand_score(labels, clusters.fit_predict(symmetric.max() - symmetric)))

    return {
        "test-retest AUC": float(roc_auc_score(same_task, pair)),
        "superclass AUC": float(roc_auc_score(same_super[~same_task], pair[~same_task])),
        "task ARI": clustered(task),
        "superclass ARI": clustered(superclass),
        "mean, same task": float(pair[same_task].mean()),
        "mean, same superclass": float(pair[same_super & ~same_task].mean()),
        "mean, others": float(pair[~same_super].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="data with superclasses, as for `hamcl.streams.load_source`")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--superclasses", type=int, default=8)
    parser.add_argument("--classes-per-task", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=30, help="samples of a class in each half, at most")
    parser.add_argument("--probe", type=int, default=64, help="samples on which cka compares")
    parser.add_argument("--orders", type=int, default=3, help="orders of the tasks in which ham learns them; 0: none")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--config", type=json.loads, default={}, help="HAMConfig options as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    whole = tasks_of(load_source(args.source), args.superclasses, args.classes_per_task, args.per_class, args.seed)
    table = compare([half(task, which) for task in whole for which in range(2)], args)
    for line in table["weight"]:
        print(line.ljust(24), *(f"{name} {table[name][line]:.3f}".ljust(18) for name in table), flush=True)
    learned = learn(whole, args) if args.orders else {}
    for line, values in learned.items():
        print(line.ljust(24), *(f"{name} {value:.1f}".ljust(18) for name, value in values.items()))
    write_record(args, args.config, {"measures": table, "learned": learned})


def learn(tasks: list[Task], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """How groups are found -> accuracies in percent after the last task."""
    accuracies: dict[str, dict[str, list[float]]] = {}
    for number in range(args.orders):
        random = generator(args.seed, "similarity", "order", number)
        order = torch.randperm(len(tasks), generator=random).tolist()
        paired = torch.randperm(len(tasks), generator=random).tolist()
        labels = {
            "oracle": told({task.name: i // 2 for i, task in enumerate(tasks)}),
            "random": told({tasks[i].name: position // 2 for position, i in enumerate(paired)}),
        }
        for kind in (*MEASURES, *labels, "one group"):
            most = 1 if kind == "one group" else args.superclasses
            config: dict[str, object] = {"epochs": 3, **args.config, "seed": args.seed, "max_groups": most}
            learner = HAM.from_backbone(args.backbone, HAMConfig.from_dict(config), image_size=args.image_size)
            learner.groups = groups = By(most)
            for i in order:
                groups.measure = {**measures(learner, tasks[i].train), **labels}.get(kind, weights)
                learner.learn(tasks[i])
            scores: dict[str, list[Tensor]] = {"head": [], "rows": []}
            for i in order:
                truth = torch.tensor([learner.classes.index(tasks[i].classes[y]) for y in tasks[i].test.labels])
                rows = TrainedRows(learner.objective.rows).logits(learner.look(tasks[i].test))
                for name, logits in (("head", learner.logits(tasks[i].test)), ("rows", rows)):
                    scores[name].append((logits.argmax(1) == truth).double())
            own = accuracies.setdefault(kind, {"head": [], "rows": []})
            for name, right in scores.items():
                own[name].append(100 * torch.cat(right).mean().item())
    return {
        kind: {
            f"{name}, {what}": float(statistic(values))
            for name, values in own.items()
            for what, statistic in (("mean", np.mean), ("deviation", lambda v: np.std(v, ddof=min(1, len(v) - 1))))
        }
        for kind, own in accuracies.items()
    }


def compare(tasks: list[Task], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure -> how it is judged over adapters of `tasks`, four of each superclass."""
    config = {"epochs": 3, "head": "linear", "merge_rank": None, **args.config, "seed": args.seed}
    model = HAM.from_backbone(args.backbone, HAMConfig.from_dict(config), image_size=args.image_size)
    bare = model.state_dict()
    adapters: list[Layers] = []
    for task in tasks:
        model.learn(task)
        adapters.append(model.groups.groups[0].layers)
        model.load_state_dict(bare)

    model.objective.augmentation = tasks[0].augmentation
    start, rows = time.perf_counter(), []
    for task in tasks:
        rows.append(changes(model, adapters, spread(task.train, args.probe)))
    reading = (time.perf_counter() - start) / len(tasks) ** 2

    pairs: dict[str, Callable[[int, int], float]] = {
        "weight": lambda i, j: weight(adapters[i], adapters[j]),
        "factor": lambda i, j: factor(adapters[i], adapters[j]),
        "cka": lambda i, j: cka(rows[i][i], rows[i][j]),
    }
    table: dict[str, dict[str, float]] = {}
    for name, measure in pairs.items():
        start = time.perf_counter()
        values = np.array([[measure(i, j) for j in range(len(tasks))] for i in range(len(tasks))])
        seconds = (time.perf_counter() - start) / len(tasks) ** 2
        table[name] = {**judge(values), "seconds a pair": seconds + (reading if name == "cka" else 0.0)}
    return table


if __name__ == "__main__":
    main()
