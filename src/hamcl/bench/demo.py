"""The demonstration: two real streams, four methods each, a few minutes on two cores, no network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hamcl.bench.run import RunOptions, check_folder, run
from hamcl.bench.state import load_state
from hamcl.config import HAMConfig
from hamcl.export import Kind
from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.methods.registry import load_method
from hamcl.nn.backbones import load_backbone
from hamcl.report.compare import Setting, compare, report_plot
from hamcl.report.records import Result
from hamcl.streams import Stream, load_stream
from hamcl.training.lesson import Progress

COMPARISON, MODEL = "comparison.png", "model"
KINDS: tuple[Kind, ...] = ("peft", "merged")


@dataclass(frozen=True)
class Part:
    """One stream of the demonstration and how it is learned.

    Attributes:
        options: of `load_stream`.
        backbone_options: of `load_backbone`.
        config: options of every method that reads them.
        seconds: what each method took on two cores, from which the time left is told.
    """

    stream: str
    backbone: str
    options: dict[str, Any] = field(default_factory=dict)
    backbone_options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


JOINT = {**{name: getattr(HAMConfig(), name) for name in ("depths", "head", "views")}, "epochs": 4}
"""The features and the head of HAM, and more epochs: with less, training on all data at once would bound nothing."""
METHODS: Mapping[str, Mapping[str, Any]] = {"ham": {}, "seq-lora": {}, "frozen": {}, "joint": JOINT}
PARTS = (
    Part(
        "digits",
        "efficientnet-lite0",
        {"tasks": 5, "train_per_class": 40, "test_per_class": 30},
        {"image_size": 64},
        {"epochs": 3, "projection": 1024},
        {"ham": 20, "seq-lora": 20, "frozen": 3, "joint": 25},
    ),
    Part(
        "icd10",
        "minilm",
        {"tasks": 12, "classes_per_task": 4, "train_per_class": 20, "test_per_class": 8},
        {"max_length": 32},
        {"epochs": 2, "projection": 2048},
        {"ham": 42, "seq-lora": 25, "frozen": 7, "joint": 59},
    ),
)


def demo(
    out: Path,
    *,
    parts: Sequence[Part] = PARTS,
    methods: Mapping[str, Mapping[str, Any]] = METHODS,
    machine: Machine | None = None,
    command: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[str, int, float, float], None] | None = None,
    progress: Progress | None = None,
    on_task: Callable[[Result], None] | None = None,
) -> list[Setting]:
    """Run every method on every stream, compare them, and export HAM's model.

    Leaves `out/STREAM/METHOD/` (see `run`), `out/STREAM/comparison.png` and `out/STREAM/model/`.

    Args:
        parts: the streams, in the order in which they are learned.
        methods: name -> options of its own.
        on_start: told of each run that begins: its label, its number of tasks, and the parts of the demonstration's
            time, in [0, 1], that come before it and that it takes itself.

    Returns:
        One setting per stream, its rows in the order of the methods.

    Raises:
        UsageError, DataError, TrainingError: as `run`; folders are checked before any work is done.
    """
    for part in parts:
        for name in methods:
            check_folder(out / part.stream / name, resume=resume, overwrite=overwrite)
    settings = []
    takes = {(part.stream, name): part.seconds.get(name, 1.0) for part in parts for name in methods}
    whole, before = sum(takes.values()), 0.0
    for part in parts:
        stream, results = load_stream(part.stream, **part.options), []
        for name, own in methods.items():
            share = takes[part.stream, name] / whole
            if on_start:
                on_start(f"{part.stream}: {name}", len(stream), before, share)
            before += share
            kind, folder = load_method(name), out / part.stream / name
            config = kind.configured(own, part.config)
            backbone = load_backbone(part.backbone, depths=config.depths_to_read, **part.backbone_options)
            method = kind(backbone, config, machine)
            options = RunOptions(
                method=name,
                stream={"spec": part.stream, **part.options},
                backbone=part.backbone_options,
                command=command,
                resume=resume,
                overwrite=overwrite,
            )
            results.append(run(stream, method, folder, options=options, progress=progress, on_task=on_task))
            if isinstance(method, HAM):
                _export(method, stream, folder, out / part.stream / MODEL)
        compared = compare(results)
        report_plot(out / part.stream / COMPARISON, compared)
        settings += compared
    return settings


def _export(method: HAM, stream: Stream, folder: Path, model: Path) -> None:
    """Export the learner; one whose run was finished before is read from its state."""
    if not method.classes:
        method.load_state_dict(load_state(folder, len(stream)))
    for kind in KINDS:
        method.export(model / kind, kind, overwrite=True)
