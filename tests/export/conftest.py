import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hamcl.machine import Machine
from hamcl.methods.ham import HAM
from hamcl.nn.backbones import Backbone, load_backbone
from hamcl.streams.base import Samples, Task
from hamcl.streams.lazy import image_files

SCRIPT = Path(__file__).parents[1] / "oracles" / "stock.py"
SMALL = {"epochs": 1, "batch_size": 8, "rank": 2, "lr": 5e-3, "projection": 64}
MACHINE = Machine(device="cpu", precision="fp32")


def learned(
    backbone: Backbone | str,
    tasks: Sequence[Task],
    *,
    image_size: int | None = None,
    max_length: int | None = None,
    **options: Any,
) -> HAM:
    """A learner that has learned `tasks` with the smallest settings.

    Args:
        backbone: one that the options fit, or what is loaded with the sizes and what they read.
    """
    config = HAM.configured(options, SMALL)
    if isinstance(backbone, str):
        sizes = {"image_size": image_size, "max_length": max_length}
        backbone = load_backbone(backbone, depths=config.depths_to_read, **sizes)
    model = HAM(backbone, config, MACHINE)
    for task in tasks:
        model.learn(task)
    return model


def exported(model: HAM, folder: Path, name: str, kinds: Sequence[Any]) -> dict[Path, np.ndarray]:
    """Export to `folder/NAME-KIND` and give the learner's scores for each, which reads images as `ham predict` does; a
    base in a local folder is laid inside.
    """
    inputs = json.loads((folder / "inputs.json").read_text())
    if inputs[0].endswith(".png"):
        inputs = image_files([folder / file for file in inputs])
    scores = model.logits(Samples(inputs, [0] * len(inputs))).numpy()
    outs = [folder / f"{name}-{kind}" for kind in kinds]
    for kind, out in zip(kinds, outs, strict=True):
        model.export(out, kind)
    return dict.fromkeys(outs, scores)


def inputs(folder: Path, samples: Sequence[Any]) -> Path:
    """A new folder with `inputs.json`, and the images as files."""
    folder.mkdir()
    names = list(samples)
    if not isinstance(samples[0], str):
        names = [f"{i}.png" for i in range(len(samples))]
        for name, image in zip(names, samples, strict=True):
            image.save(folder / name, exif=image.getexif())
    (folder / "inputs.json").write_text(json.dumps(names))
    return folder


def check_cards(expected: Mapping[Path, np.ndarray]) -> None:
    """Run the code of all cards in a process that cannot import hamcl, and compare the scores.

    They differ by less than 1e-4 of their scale, and the best class of every sample is the same.
    """
    folders = dict.fromkeys(str(path.parent) for path in expected)
    done = subprocess.run([sys.executable, str(SCRIPT), *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for path, scores in expected.items():
        got = np.load(path.with_name(f"{path.name}.npy"))
        assert got.shape == scores.shape and len(scores) > 10, path
        assert np.abs(got - scores).max() < 1e-4 * np.abs(scores).max(), path
        assert (got.argmax(1) == scores.argmax(1)).all(), path


def pictures() -> dict[str, Image.Image]:
    """Pictures that a stock library sees otherwise than hamcl, or cuts or enlarges otherwise."""
    random = np.random.default_rng(0)

    def noise(width: int, height: int, channels: int, top: int = 255) -> np.ndarray:
        coarse = random.random((-(-height // 8), -(-width // 8), channels)) * top
        return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].squeeze().round()

    def picture(*size: int, top: int = 255) -> Image.Image:
        return Image.fromarray(noise(*size, top=top).astype(np.uint8 if top == 255 else np.uint16))

    turned = picture(40, 24, 3)
    turned.getexif()[0x0112] = 6
    masked = picture(50, 50, 3)
    masked.putalpha(picture(50, 50, 1))
    return {
        "wide": picture(96, 32, 3),
        "tall": picture(33, 100, 3),
        "large": picture(200, 150, 3),
        "small": picture(9, 12, 3),
        "16 bits": picture(60, 44, 1, top=65535),
        "12 bits in 16": picture(60, 44, 1, top=4095),
        "transparent": masked,
        "palette": masked.quantize(16),
        "turned": turned,
        "grey": picture(30, 41, 1),
        "very long": picture(1000, 8, 3),
    }


@pytest.fixture(scope="session")
def work() -> SimpleNamespace:
    """`learned`, `pictures`, `inputs`, `exported` and `check_cards`, see there."""
    return SimpleNamespace(
        learned=learned, pictures=pictures, inputs=inputs, exported=exported, check_cards=check_cards
    )


IMAGES = ("vit", "swin", "resnet", "ijepa", "clip", "timm-test_vit", "timm-test_convnext", "timm-test_efficientnet")
TEXTS = ("bert", "distilbert", "llama", "t5", "xlnet")
WORDS = ("the", "fat", "cat", "sat", "on", "mats")


@pytest.fixture(scope="session")
def family_learner(family: Callable[[str], Path], toy: Any) -> Callable[..., tuple[HAM, list[Any]]]:
    """A function from a kind of network (see `family`) and options to a learner of three classes and 18 inputs.

    One learner for each kind and options serves all tests; do not change it.
    """
    made: dict[tuple[Any, ...], tuple[HAM, list[Any]]] = {}

    def learner(kind: str, **options: Any) -> tuple[HAM, list[Any]]:
        key = (kind, *sorted(options.items()))
        if key not in made:
            task = toy.task("one", ["ca", "cb", "cc"])
            if kind in TEXTS:
                labels = [i % 3 for i in range(18)]
                texts = [" ".join(WORDS[(y + j % 2) % 6] for j in range(2 + i % 7)) for i, y in enumerate(labels)]
                task = Task("one", ("ca", "cb", "cc"), Samples(texts, labels), modality="text")
            size: dict[str, Any] = {"image_size": 32} if kind in IMAGES else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no settings of an image processor
                model = learned(str(family(kind)), [task], **size, **options)
            made[key] = model, list((task.test if len(task.test) else task.train).inputs)[:18]
        return made[key]

    return learner
