"""What the programs that try a store share: a small store that loads in a moment, tasks for it, and their end."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import Image

from hamcl.config import HAMConfig
from hamcl.machine import Machine
from hamcl.nn.backbones import load_backbone
from hamcl.rng import generator
from hamcl.store import Store
from hamcl.store import model as rooms
from hamcl.streams.base import Samples, Task

OPTIONS: dict[str, Any] = {
    "rank": 2,
    "merge_rank": 3,
    "max_groups": 2,
    "targets": "qkv|fc1",
    "epochs": 3,
    "later_tasks": "free",  # steps to be stopped at
    "batch_size": 8,
    "projection": 64,
}


BACKBONE: dict[str, Any] = {"pretrained": False, "image_size": 32}


@contextmanager
def loaded_once() -> Iterator[None]:
    """Load the backbone of `create` once; every model inside the block gets a copy of it."""
    real, loaded = rooms.load_backbone, load_backbone("timm/test_vit", **BACKBONE)

    def load(spec: str, expected: str | None = None, **options: Any) -> Any:
        same = spec == "timm/test_vit" and options == {**BACKBONE, "max_length": None, "depths": "auto"}
        same = same and expected in (None, loaded.fingerprint)
        return copy.deepcopy(loaded) if same else real(spec, expected=expected, **options)

    rooms.load_backbone = load
    try:
        yield
    finally:
        rooms.load_backbone = real


def create(path: Path, **options: Any) -> Store:
    """An empty store on a ViT of some 300,000 random weights that reads images of 32 pixels."""
    config = HAMConfig(**{**OPTIONS, **options})
    Store.create(path, backbone="timm/test_vit", backbone_options=BACKBONE, config=config)
    return opened(path)


def opened(path: Path) -> Store:
    """A store whose model computes on the processor, in a process of which copies are made."""
    return Store.open(path, machine=Machine(device="cpu"))


def pictures(name: str, classes: tuple[str, ...], count: int = 16) -> Task:
    """A task of small noisy pictures; a class has the same pattern in every task."""

    def samples(purpose: str) -> Samples:
        draw, images, labels = generator(0, name, purpose), [], []
        for y, c in enumerate(classes):
            pattern = torch.randint(40, 216, (4, 4, 3), generator=generator(0, c)).repeat_interleave(4, 0)
            for _ in range(count):
                pixels = pattern.repeat_interleave(4, 1) + torch.randint(-40, 40, (16, 16, 3), generator=draw)
                images.append(Image.fromarray(pixels.to(torch.uint8).numpy()))
                labels.append(y)
        return Samples(images, labels)

    return Task(name, classes, samples("train"), test=samples("test"), augmentation="photo")


def three(i: int, count: int = 16) -> Task:
    """The i-th task of three classes of its own."""
    return pictures(f"task-{i}", tuple(f"{i}{c}" for c in "abc"), count)


def finish(figures: dict[str, Any]) -> NoReturn:
    """Print the figures and end the program: with 1 where there are problems, in them or in a part of them."""
    print(json.dumps(figures))
    parts = [figures, *(part for part in figures.values() if isinstance(part, dict))]
    raise SystemExit(any(part.get("problems") for part in parts))
