"""The command line in this process, and a model that learned two tasks through it."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hamcl.cli.main import app

TRAINING = (
    *("--epochs", 2, "--later-tasks", "free", "--lr", 0.01),
    *("--projection", 32, "--batch-size", 4),
)


class Ham:
    """Runs commands."""

    def __call__(self, *line: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(part) for part in line], input=stdin)

    def shown(self, *line: object, **options: Any) -> str:
        """What a command that must not fail prints, as one line."""
        result = self(*line, **options)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    def told(self, *line: object, **options: Any) -> Any:
        """The JSON that a command that must not fail prints."""
        result = self(*line, "--json", **options)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    @staticmethod
    def sentence(result: Result) -> str:
        """What stderr says, as one line."""
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.stderr
        return " ".join(result.stderr.replace("│", " ").split())

    def refused(self, *line: object, code: int, **options: Any) -> str:
        """The one sentence of a command that must fail."""
        result = self(*line, **options)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
        return result.stderr


def save_images(toy: Any, folder: Path, classes: Sequence[str], count: int = 5) -> Path:
    """Class folders of images that `toy` draws."""
    samples = toy.samples(classes, [count] * len(classes), "image", folder.name)
    for i, (image, y) in enumerate(zip(samples.inputs, samples.labels, strict=True)):
        (folder / classes[y]).mkdir(parents=True, exist_ok=True)
        image.save(folder / classes[y] / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def ham() -> Ham:
    """The command line."""
    return Ham()


@pytest.fixture(scope="session")
def life(ham, toy, tmp_path_factory) -> SimpleNamespace:
    """`store` learned `weeks`; `later` is a task not learned yet, `test` has other images; do not change them."""
    from hamcl.export.parts import save_merged

    root = tmp_path_factory.mktemp("life")
    save_merged(root / "vit", toy.vit())
    weeks = [
        save_images(toy, root / "data" / "week-01", ["green", "red"]),
        save_images(toy, root / "data" / "week-02", ["blue"]),
    ]
    store = root / "birds.ham"
    ham.shown("init", store, "--backbone", root / "vit", *TRAINING)
    for week in weeks:
        ham.shown("learn", store, week)
    later = save_images(toy, root / "data" / "week-03", ["black", "white"])
    test = save_images(toy, root / "data" / "test", ["blue", "green", "red"], 4)
    return SimpleNamespace(backbone=root / "vit", store=store, weeks=weeks, later=later, test=test)


@pytest.fixture
def copy(life, tmp_path) -> Callable[..., Path]:
    """Make a copy of the store that may be changed."""
    return lambda name="copy.ham": Path(shutil.copytree(life.store, tmp_path / name))
