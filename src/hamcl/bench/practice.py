"""Small data to try the commands on: digits as images and diagnoses as texts, as they come week by week."""

import csv
from collections.abc import Callable
from pathlib import Path

from hamcl.errors import UsageError
from hamcl.streams import Samples, Source, load_source

IMAGES, TEXTS, INBOX = "digits", "diagnoses", "inbox"
WEEKS, CLASSES, TRAIN, TEST = 2, 4, 20, 10
"""How many weeks there are, the new classes of each, and the training and test samples of a class."""


def practice(out: Path) -> None:
    """Write the data of two weeks, a test split of all of them, and an inbox without labels, of both kinds.

    Below `out`: `digits/week-1/CLASS/N.png`, `digits/test/CLASS/N.png`, `digits/inbox/N.png`; `diagnoses/week-1.csv`
    and `test.csv` (columns text, label), `diagnoses/inbox.txt` (a text a line); the same with `week-2`.

    Raises:
        UsageError: there is something at `out` already, or what the data come from is not installed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already; give a new folder")
    digits, codes = load_source("digits"), load_source("icd10")
    _write(digits, out / IMAGES, _images)
    _write(codes, out / TEXTS, _texts)


def _write(source: Source, folder: Path, write: Callable[[Source, Samples, list[int], Path], None]) -> None:
    everything = range(WEEKS * CLASSES)
    for week in range(WEEKS):
        classes = [*everything[week * CLASSES : (week + 1) * CLASSES]]
        write(source, source.train, _first(source.train, classes, TRAIN), folder / f"week-{week + 1}")
    tests = _first(source.test, [*everything], TEST)
    write(source, source.test, tests, folder / "test")
    write(source, source.test, tests[:: TEST - 1], folder / INBOX)


def _first(samples: Samples, classes: list[int], count: int) -> list[int]:
    """The positions of the first `count` samples of each class, class by class."""
    of_class = {y: [i for i, label in enumerate(samples.labels) if label == y][:count] for y in classes}
    return [i for y in classes for i in of_class[y]]


def _images(source: Source, samples: Samples, indices: list[int], folder: Path) -> None:
    for number, i in enumerate(indices, 1):
        below = folder if folder.name == INBOX else folder / source.classes[samples.labels[i]]
        below.mkdir(parents=True, exist_ok=True)
        samples.inputs[i].save(below / f"{number:03d}.png")


def _texts(source: Source, samples: Samples, indices: list[int], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name == INBOX:
        lines = [f"{samples.inputs[i]}\n" for i in indices]
        file.with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
        return
    with file.with_suffix(".csv").open("w", encoding="utf-8", newline="") as table:
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["text", "label"])
        writer.writerows([samples.inputs[i], source.classes[samples.labels[i]]] for i in indices)
